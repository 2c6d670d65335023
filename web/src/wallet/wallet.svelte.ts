// The one connected wallet of the page: found, connected, signed in, authorised. The steps are in machine.ts; here is what is done at each.

import { sessionFrom } from "../account/session-reply";
import { call } from "../api/client";
import { ApiError } from "../api/error";
import { problemText } from "../money/problem";
import { session } from "../session.svelte";
import type { Session } from "../session.svelte";
import { meterSource, quantity, walletSource } from "./chain";
import type { ChainSource } from "./chain";
import { readDeployment } from "./deployment";
import type { Deployment } from "./deployment";
import { discover, lastUsedFirst, rememberedWallet, rememberWallet } from "./discovery";
import type { Eip1193, FoundWallet } from "./discovery";
import { walletProblem } from "./errors";
import { step } from "./machine";
import type { WalletEvent, WalletState } from "./machine";
import { creditsDomain, normalizedSignature, typedDataJson } from "./typed";
import type { Domain, Hex, TypeName } from "./typed";

const SIGN_WITHIN_S = 600;

/** A challenge of the meter: the secret stays here, its hash is signed. */
export interface Challenge {
  readonly secret: Hex;
  readonly challenge: Hex;
}

const listenersOf = (store: WalletStore) => ({
  accountsChanged: (accounts: unknown) => store.happened({ kind: "accountsChanged", accounts: Array.isArray(accounts) ? accounts.map(String) : [] }),
  chainChanged: (chainId: unknown) => store.happened({ kind: "chainChanged", chainId: quantity(chainId) }),
  disconnect: () => store.happened({ kind: "disconnected" }),
});

class WalletStore {
  state = $state.raw<WalletState>({ step: "none" });
  wallets = $state.raw<readonly FoundWallet[]>([]);
  deployment = $state.raw<Deployment | null>(null);
  provider: Eip1193 | null = null;
  #stop: (() => void) | null = null;
  #unlisten: (() => void) | null = null;

  /** Begins to hear wallets; calling again changes nothing. */
  start(): void {
    this.#stop ??= discover((wallets) => {
      this.wallets = lastUsedFirst(wallets, rememberedWallet());
      this.happened({ kind: "found", count: wallets.length });
    });
  }

  /** The connected account; null before. */
  get owner(): Hex | null {
    return "owner" in this.state ? (this.state.owner as Hex) : null;
  }

  get onRightChain(): boolean {
    return "chainId" in this.state && this.deployment !== null && this.state.chainId === this.deployment.chainId;
  }

  /** Whether the session at the meter is this very account's. */
  get isSessionOwner(): boolean {
    return this.owner !== null && session.who?.wallet?.toLowerCase() === this.owner.toLowerCase();
  }

  happened(event: WalletEvent): void {
    const next = step(this.state, event, this.wallets.length);
    this.state = next.state;
    // A passkey's session is not the wallet's, and an API key speaks for itself.
    if (next.endSession && !session.byKey) void session.end();
  }

  /** Contract addresses, asked once. Throws when the meter can't be reached or answers nonsense. */
  async loadDeployment(): Promise<Deployment> {
    this.deployment ??= readDeployment(await call("GET", "/v1/deployment"));
    return this.deployment;
  }

  /** The chain through the wallet when it is on the right one, else through the meter. */
  get chain(): ChainSource {
    return this.provider !== null && this.onRightChain ? walletSource(this.provider) : meterChain;
  }

  /** Asks the wallet for its account. A refusal is in `state.problem`; true when it is connected. */
  async connect(wallet: FoundWallet): Promise<boolean> {
    this.happened({ kind: "connect", wallet: wallet.name });
    try {
      await this.loadDeployment();
      const accounts = (await wallet.provider.request({ method: "eth_requestAccounts" })) as string[];
      const owner = accounts[0];
      if (owner === undefined) throw Object.assign(new Error("the wallet gave no account"), { code: 4100 });
      const chainId = quantity(await wallet.provider.request({ method: "eth_chainId" }));
      if (this.state.step !== "connecting") return false;
      this.#listen(wallet.provider);
      rememberWallet(wallet);
      this.happened({ kind: "accepted", owner, chainId });
      if (this.isSessionOwner) this.happened({ kind: "signedIn" });
      return true;
    } catch (error) {
      // The meter may be what failed here, and the wallet must not be blamed for it.
      const problem = error instanceof ApiError ? { code: "failed" as const, text: problemText(error) } : walletProblem(error);
      this.happened({ kind: "failed", problem });
      return false;
    }
  }

  #listen(provider: Eip1193): void {
    this.#unlisten?.();
    const listeners = listenersOf(this);
    const each = Object.entries(listeners) as [string, (...args: never[]) => void][];
    for (const [event, listener] of each) provider.on?.(event, listener);
    this.#unlisten = () => each.forEach(([event, listener]) => provider.removeListener?.(event, listener));
    this.provider = provider;
  }

  /** Forgets the wallet that is connected, not the session. */
  disconnect(): void {
    this.#unlisten?.();
    this.#unlisten = null;
    this.provider = null;
    this.state = this.wallets.length === 0 ? { step: "none" } : { step: "discovered", count: this.wallets.length, problem: null };
  }

  /** Asks the wallet to change to the contracts' chain. Throws the wallet's refusal. */
  async switchChain(): Promise<void> {
    const { chainId } = await this.loadDeployment();
    await this.request("wallet_switchEthereumChain", [{ chainId: `0x${chainId.toString(16)}` }]);
    // Some wallets answer before they tell the page of the change.
    this.happened({ kind: "chainChanged", chainId: quantity(await this.request("eth_chainId", [])) });
  }

  async request(method: string, params: readonly unknown[]): Promise<unknown> {
    if (this.provider === null) throw Object.assign(new Error("no wallet is connected"), { code: 4900 });
    return this.provider.request({ method, params });
  }

  /** The wallet's signature of one typed message. Throws the wallet's refusal. */
  async sign(type: TypeName, message: Record<string, string | bigint>, domain: Domain): Promise<Hex> {
    const signature = await this.request("eth_signTypedData_v4", [this.owner, typedDataJson(type, message, domain)]);
    if (typeof signature !== "string" || !/^0x([0-9a-fA-F]{2})+$/.test(signature)) throw new Error("the wallet answered with something that is no signature");
    return normalizedSignature(signature as Hex);
  }

  challenge(): Promise<Challenge> {
    return call<Challenge>("POST", "/v1/session/challenge");
  }

  /** Opens a session with a signed message, or links the wallet to the user who is signed in by passkey. */
  async openSession(body: Record<string, unknown>): Promise<void> {
    // With a key in this tab the browser would not keep the session's cookie.
    if (session.byKey) await session.speakAs(null);
    const links = session.who !== null && session.who.user !== null && session.who.wallet === null;
    session.opened(sessionFrom(await call<Partial<Session>>("POST", links ? "/v1/session/wallet" : "/v1/session", { body })));
    this.happened({ kind: "signedIn" });
  }

  /** Signs in without touching the authorization: one signature. Throws the wallet's or the meter's refusal. */
  async signIn(): Promise<void> {
    const deployment = await this.loadDeployment();
    const given = await this.challenge();
    const message = { owner: this.owner ?? "", challenge: given.challenge, signDeadline: String(Math.floor(Date.now() / 1000) + SIGN_WITHIN_S) };
    const signature = await this.sign("SignIn", message, creditsDomain(deployment));
    await this.openSession({ secret: given.secret, sign_in: message, signature });
  }

  /** Sends a transaction after its simulation. Throws the simulation's or the wallet's refusal. */
  async send(to: Hex, data: Hex): Promise<Hex> {
    const transaction = { from: this.owner, to, data };
    await this.request("eth_estimateGas", [transaction]);
    const hash = await this.request("eth_sendTransaction", [transaction]);
    if (typeof hash !== "string" || !/^0x[0-9a-fA-F]{64}$/.test(hash)) throw new Error("the wallet answered with something that is no transaction hash");
    return hash as Hex;
  }
}

const meterChain = meterSource((body) => call("POST", "/v1/chain", { body }));

export const wallet = new WalletStore();
