/** Somebody who has deposited and signed in already, without a click, for specs that are about something else. */

import type { BrowserContext } from "playwright-core";
import { createWalletClient, parseSignature, parseUnits } from "viem";
import type { Hex } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import type { PrivateKeyAccount } from "viem/accounts";

import { WEI_PER_CREDIT, chain, chainSeconds, endow, reader, token, transport, vault } from "./chain";
import { facts } from "./facts";
import { eventually } from "./wait";

const AUTHORIZATION = [
  { name: "owner", type: "address" },
  { name: "cap", type: "uint64" },
  { name: "exposure", type: "uint48" },
  { name: "validUntil", type: "uint40" },
  { name: "challenge", type: "bytes32" },
  { name: "nonce", type: "uint32" },
  { name: "signDeadline", type: "uint40" },
] as const;
const PERMIT = [
  { name: "owner", type: "address" },
  { name: "spender", type: "address" },
  { name: "value", type: "uint256" },
  { name: "nonce", type: "uint256" },
  { name: "deadline", type: "uint256" },
] as const;
const COOKIE = "prlx_session";
const MONTH_SECONDS = 30 * 86_400;

/** Amounts in PRLX, as whole numbers or as decimals. */
export interface Terms {
  deposit: bigint | string;
  exposure: bigint | string;
  /** As much as the deposit, unless it is said. */
  cap?: bigint | string;
}

const CREDIT_DIGITS = 9;
const creditsOf = (prlx: bigint | string): bigint => parseUnits(String(prlx), CREDIT_DIGITS);

export class Depositor {
  private constructor(
    readonly account: PrivateKeyAccount,
    private readonly token: string,
  ) {}

  /** With `account`, somebody whose wallet is in the browser as well. */
  static async create(terms: Terms = { deposit: 100n, exposure: 10n }, account = privateKeyToAccount(generatePrivateKey())): Promise<Depositor> {
    const [deposit, exposure, cap] = [terms.deposit, terms.exposure, terms.cap ?? terms.deposit].map(creditsOf) as [bigint, bigint, bigint];
    await endow(account.address, deposit);
    const given = await ask<{ secret: Hex; challenge: Hex }>("POST", "/v1/session/challenge", {});
    const now = await chainSeconds();
    const authorization = {
      owner: account.address,
      cap,
      exposure: Number(exposure),
      validUntil: now + MONTH_SECONDS,
      challenge: given.challenge,
      nonce: 0,
      signDeadline: now + 3_600,
    };
    const domain = { name: "ParalleliXAICredits", version: "1", chainId: facts.chainId, verifyingContract: facts.contracts.credits };
    const signature = await account.signTypedData({ domain, types: { SpendAuthorization: AUTHORIZATION }, primaryType: "SpendAuthorization", message: authorization });

    const deadline = BigInt(now + 1_200);
    const name = await reader.readContract({ address: facts.contracts.prlx, abi: token, functionName: "name" });
    const permit = await account.signTypedData({
      domain: { name, version: "1", chainId: facts.chainId, verifyingContract: facts.contracts.prlx },
      types: { Permit: PERMIT },
      primaryType: "Permit",
      message: { owner: account.address, spender: facts.contracts.credits, value: deposit * WEI_PER_CREDIT, nonce: 0n, deadline },
    });
    const { r, s, v } = parseSignature(permit);
    const client = createWalletClient({ account, chain, transport: transport() });
    const hash = await client.writeContract({
      address: facts.contracts.credits,
      abi: vault,
      functionName: "depositAndAuthorize",
      args: [deposit, deadline, Number(v), r, s, authorization, signature],
    });
    const receipt = await reader.waitForTransactionReceipt({ hash });
    if (receipt.status !== "success") throw new Error(`the deposit of ${account.address} was reverted in ${hash}`);

    const message = { ...authorization, cap: String(authorization.cap), exposure: String(authorization.exposure) };
    const opened = await ask<{ session_token: string }>("POST", "/v1/session", { secret: given.secret, authorization: message, signature });
    const depositor = new Depositor(account, opened.session_token);
    await eventually("the meter to credit the deposit", async () => BigInt((await depositor.credits()).spendable_credits) > 0n);
    return depositor;
  }

  /** Puts the session into a browser profile. */
  async enter(context: BrowserContext): Promise<void> {
    await context.addCookies([{ name: COOKIE, value: this.token, domain: "localhost", path: "/", httpOnly: true, sameSite: "Strict" }]);
  }

  credits(): Promise<{ spendable_credits: number; available_credits: number; held_credits: number; unsettled_credits: number }> {
    return this.ask("GET", "/v1/credits");
  }

  /** Receipts that the meter has of this account, the newest first. */
  async receipts(): Promise<{ id: string; state: string; cost_credits: number }[]> {
    return (await this.ask<{ data: { id: string; state: string; cost_credits: number }[] }>("GET", "/v1/receipts")).data;
  }

  ask<T>(method: string, path: string, body?: unknown): Promise<T> {
    return ask<T>(method, path, body, this.token);
  }
}

async function ask<T>(method: string, path: string, body?: unknown, bearer?: string): Promise<T> {
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (bearer) headers["authorization"] = `Bearer ${bearer}`;
  const response = await fetch(`${facts.apiUrl}${path}`, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return JSON.parse(text) as T;
}
