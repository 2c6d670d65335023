// Reading the chain: through the wallet when one is connected, else through the meter's read proxy. The answers name their source.

import type { AbiFunction } from "viem";
import { decodeFunctionResult, encodeFunctionData } from "viem/utils";
import { token, vault } from "./abi";
import type { Deployment } from "./deployment";
import type { Eip1193 } from "./discovery";
import type { Hex } from "./typed";

/** Somebody who answers JSON-RPC reads. A wallet does not depend on the meter's word, the proxy does. */
export interface ChainSource {
  readonly kind: "wallet" | "meter";
  request(method: string, params: readonly unknown[]): Promise<unknown>;
}

/** The connected wallet's view of the chain. */
export const walletSource = (provider: Eip1193): ChainSource => ({
  kind: "wallet",
  request: (method, params) => provider.request({ method, params }),
});

/** The meter's read proxy; `post` sends one JSON-RPC call to `/v1/chain`. */
export function meterSource(post: (body: unknown) => Promise<unknown>): ChainSource {
  let id = 0;
  return {
    kind: "meter",
    async request(method, params) {
      id += 1;
      const reply = (await post({ jsonrpc: "2.0", id, method, params })) as { result?: unknown; error?: { code?: number; message?: string; data?: unknown } } | null;
      if (reply?.error) throw Object.assign(new Error(String(reply.error.message ?? "the chain refused the call").slice(0, 300)), { code: reply.error.code, data: reply.error.data });
      if (reply === null || !("result" in reply)) throw new Error("the meter's chain proxy gave no result; try again");
      return reply.result;
    },
  };
}

/** A hex quantity as bigint. Throws on anything else. */
export function quantity(value: unknown): bigint {
  if (typeof value !== "string" || !/^0x[0-9a-fA-F]{1,64}$/.test(value)) throw new Error(`the chain answered ${JSON.stringify(value)?.slice(0, 60)} where a number was expected`);
  return BigInt(value);
}

/** Calls one view function. Throws when the call reverts or the answer is not of its type. */
export async function call<T>(source: ChainSource, to: Hex, fn: AbiFunction, args: readonly unknown[], from?: Hex): Promise<T> {
  const data = encodeFunctionData({ abi: [fn], functionName: fn.name, args: [...args] });
  const answer = await source.request("eth_call", [from === undefined ? { to, data } : { from, to, data }, "latest"]);
  if (typeof answer !== "string" || answer === "0x") throw new Error(`${fn.name}: there is no such contract at ${to} on this chain`);
  return decodeFunctionResult({ abi: [fn], functionName: fn.name, data: answer as Hex }) as T;
}

/** Call data of one function. */
export const callData = (fn: AbiFunction, args: readonly unknown[]): Hex => encodeFunctionData({ abi: [fn], functionName: fn.name, args: [...args] });

/** An account as the vault has it. */
export interface VaultAccount {
  readonly id: number;
  readonly settled: bigint;
  readonly limit: bigint;
  readonly exposure: bigint;
  readonly settleDeadline: bigint;
  readonly netDeposited: bigint;
  readonly authorizedCum: bigint;
  readonly authNonce: number;
  /** What can be withdrawn now. */
  readonly free: bigint;
  /** What is kept back for unsettled usage. */
  readonly locked: bigint;
}

interface AccountView {
  settled: bigint;
  limit: bigint;
  exposure: number | bigint;
  settleDeadline: number | bigint;
  netDeposited: bigint;
  authorizedCum: bigint;
  authNonce: number;
}

/** The owner's account; null before its first deposit or authorization. */
export async function readVaultAccount(source: ChainSource, deployment: Deployment, owner: Hex): Promise<VaultAccount | null> {
  const id = Number(await call<number | bigint>(source, deployment.credits, vault.accountOf, [owner]));
  if (id === 0) return null;
  const [views, free, locked] = await Promise.all([
    call<readonly AccountView[]>(source, deployment.credits, vault.accounts, [[id]]),
    call<bigint>(source, deployment.credits, vault.free, [id]),
    call<bigint>(source, deployment.credits, vault.locked, [id]),
  ]);
  const [view] = views;
  if (view === undefined) return null;
  return {
    id,
    settled: view.settled,
    limit: view.limit,
    exposure: BigInt(view.exposure),
    settleDeadline: BigInt(view.settleDeadline),
    netDeposited: view.netDeposited,
    authorizedCum: view.authorizedCum,
    authNonce: Number(view.authNonce),
    free,
    locked,
  };
}

/** What the token says of an owner: its balance and what the vault may take, in wei. */
export async function readToken(source: ChainSource, deployment: Deployment, owner: Hex): Promise<{ balanceWei: bigint; allowanceWei: bigint }> {
  const [balanceWei, allowanceWei] = await Promise.all([
    call<bigint>(source, deployment.prlx, token.balanceOf, [owner]),
    call<bigint>(source, deployment.prlx, token.allowance, [owner, deployment.credits]),
  ]);
  return { balanceWei, allowanceWei };
}

/** Whether an address has code: then it may be unable to sign a permit (EIP-1271 accounts, some EIP-7702 delegates). */
export async function hasCode(source: ChainSource, owner: Hex): Promise<boolean> {
  const code = await source.request("eth_getCode", [owner, "latest"]);
  return typeof code === "string" && code.length > 2;
}
