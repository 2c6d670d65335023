/**
 * A wallet that a page finds by EIP-6963, whose keys are in the test's process and which can misbehave on purpose.
 *
 * The page sees an EIP-1193 provider; every call goes to the test, which signs, sends, refuses, or never answers.
 */

import type { BrowserContext, Page } from "playwright-core";
import { createWalletClient, hexToBigInt } from "viem";
import type { Hex } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import type { PrivateKeyAccount } from "viem/accounts";

import { CREDITS_PER_PRLX, chain, endow, reader, transport } from "./chain";
import { facts } from "./facts";

/** What the person at the wallet does when it asks. */
export type Mood = "approves" | "rejects" | "hangs";

/** Calls at which a wallet opens its window and asks for a signature or a transaction. */
const SIGNING = ["personal_sign", "eth_signTypedData_v4", "eth_sendTransaction"] as const;
type Signing = (typeof SIGNING)[number];

interface Answer {
  result?: unknown;
  error?: { code: number; message: string; data?: unknown };
}

interface TransactionRequest {
  to?: Hex;
  data?: Hex;
  value?: Hex;
  gas?: Hex;
  nonce?: Hex;
}

const refusal = (code: number, message: string, data?: unknown): Answer => ({ error: { code, message, ...(data === undefined ? {} : { data }) } });

/** What the chain said beside the message, such as the data of a revert: wallets hand it on. */
function dataOf(error: unknown): unknown {
  const { data, cause } = (error ?? {}) as { data?: unknown; cause?: unknown };
  return data ?? (cause ? dataOf(cause) : undefined);
}

export class TestWallet {
  readonly accounts: PrivateKeyAccount[];
  /** What was asked for, in order: the name of the typed data, or the call. */
  readonly asked: string[] = [];
  mood: Mood = "approves";
  /** Moods that differ for one call, or for typed data of one name (`Permit`). */
  readonly moods = new Map<string, Mood>();
  /** Calls, and names of typed data, that this wallet does not know. */
  readonly unknown = new Set<string>();
  chainId = facts.chainId;
  private selected = 0;
  private connected = false;

  private constructor(count: number) {
    this.accounts = Array.from({ length: count }, () => privateKeyToAccount(generatePrivateKey()));
  }

  /** A wallet of new accounts, each with gas and `prlx` PRLX. */
  static async create(prlx = 100n, count = 2): Promise<TestWallet> {
    const wallet = new TestWallet(count);
    for (const account of wallet.accounts) await endow(account.address, prlx * CREDITS_PER_PRLX);
    return wallet;
  }

  get account(): PrivateKeyAccount {
    const account = this.accounts[this.selected];
    if (!account) throw new Error(`this wallet has no account ${this.selected}`);
    return account;
  }

  /** Announces the wallet in every page of `context`, from its next load on. */
  async install(context: BrowserContext, name = "Test Wallet"): Promise<void> {
    await context.exposeFunction("__walletCall", (method: string, params: unknown[]) => this.call(method, params));
    await context.addInitScript(announce, name);
  }

  /** The person chooses another account. */
  async choose(page: Page, index: number): Promise<void> {
    this.selected = index;
    await this.emit(page, "accountsChanged", [this.account.address]);
  }

  /** The person chooses another chain. */
  async switchChain(page: Page, chainId: number): Promise<void> {
    this.chainId = chainId;
    await this.emit(page, "chainChanged", `0x${chainId.toString(16)}`);
  }

  /** The person takes the page's permission away. */
  async disconnect(page: Page): Promise<void> {
    this.connected = false;
    await this.emit(page, "accountsChanged", []);
  }

  private async emit(page: Page, event: string, value: unknown): Promise<void> {
    await page.evaluate(([name, payload]) => (globalThis as unknown as { __walletEmit(name: unknown, payload: unknown): void }).__walletEmit(name, payload), [event, value] as const);
  }

  private async call(method: string, params: unknown[]): Promise<Answer> {
    const typed = method === "eth_signTypedData_v4" ? (JSON.parse(String(params[1])) as { primaryType: string }) : null;
    const foreign = [method, typed?.primaryType ?? method].find((name) => this.unknown.has(name));
    if (foreign) return refusal(4200, `this wallet does not know ${foreign}`);
    const isSigning = (SIGNING as readonly string[]).includes(method);
    if (isSigning) this.asked.push(typed?.primaryType ?? method);
    if (isSigning || method === "eth_requestAccounts" || method.startsWith("wallet_")) {
      const mood = (typed && this.moods.get(typed.primaryType)) ?? this.moods.get(method) ?? this.mood;
      if (mood === "rejects") return refusal(4001, "the person said no");
      if (mood === "hangs") return new Promise(() => {});
    }
    try {
      return { result: isSigning ? await this.sign(method as Signing, params) : await this.answer(method, params) };
    } catch (error) {
      const known = error as { code?: number; shortMessage?: string; message?: string };
      return refusal(known.code ?? -32000, known.shortMessage ?? known.message ?? String(error), dataOf(error));
    }
  }

  private async answer(method: string, params: unknown[]): Promise<unknown> {
    switch (method) {
      case "eth_requestAccounts":
        this.connected = true;
        return [this.account.address];
      case "eth_accounts":
        return this.connected ? [this.account.address] : [];
      case "eth_chainId":
        return `0x${this.chainId.toString(16)}`;
      case "wallet_switchEthereumChain":
        this.chainId = Number((params[0] as { chainId: Hex }).chainId);
        return null;
      case "wallet_addEthereumChain":
        return null;
      case "wallet_revokePermissions":
        this.connected = false;
        return null;
      case "wallet_getCapabilities":
        return {};
      default:
        return reader.request({ method, params } as never);
    }
  }

  private async sign(method: Signing, params: unknown[]): Promise<unknown> {
    if (method === "personal_sign") return this.account.signMessage({ message: { raw: params[0] as Hex } });
    if (method === "eth_signTypedData_v4") return this.account.signTypedData(JSON.parse(String(params[1])) as never);
    if (this.chainId !== facts.chainId) throw new Error(`the wallet is on chain ${this.chainId}`);
    const wanted = params[0] as TransactionRequest;
    const number = (value: Hex | undefined) => (value === undefined ? undefined : hexToBigInt(value));
    const client = createWalletClient({ account: this.account, chain, transport: transport() });
    const request = { to: wanted.to ?? null, data: wanted.data, value: number(wanted.value), gas: number(wanted.gas) };
    return client.sendTransaction(Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined)) as never);
  }
}

/** Runs in the page before its own scripts. */
function announce(name: string): void {
  const page = globalThis as unknown as {
    __walletCall(method: string, params: unknown[]): Promise<{ result?: unknown; error?: { code: number; message: string; data?: unknown } }>;
    __walletEmit(event: string, value: unknown): void;
  };
  const listeners = new Map<string, Set<(value: unknown) => void>>();
  const provider = {
    async request({ method, params }: { method: string; params?: unknown[] }): Promise<unknown> {
      const { result, error } = await page.__walletCall(method, params ?? []);
      if (error) throw Object.assign(new Error(error.message), { code: error.code, data: error.data });
      // A wallet that never learnt this chain says null, not undefined.
      return result ?? null;
    },
    on(event: string, listener: (value: unknown) => void) {
      listeners.set(event, (listeners.get(event) ?? new Set()).add(listener));
      return provider;
    },
    removeListener(event: string, listener: (value: unknown) => void) {
      listeners.get(event)?.delete(listener);
      return provider;
    },
  };
  page.__walletEmit = (event, value) => {
    for (const listener of listeners.get(event) ?? []) listener(value);
  };
  const icon = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E%3Ccircle cx='4' cy='4' r='4'/%3E%3C/svg%3E";
  const info = Object.freeze({ uuid: "4f6c2a5e-3f5b-4c0e-9a62-5f1f6f0a9d11", name, icon, rdns: "test.parallelix.wallet" });
  const say = () => dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider }) }));
  addEventListener("eip6963:requestProvider", say);
  say();
}
