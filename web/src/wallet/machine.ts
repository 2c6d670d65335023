// The wallet's states and the only ways between them. Pure: what happened goes in, the next state comes out.

import type { WalletProblem } from "./errors";

export type WalletState =
  | { readonly step: "none" }
  | { readonly step: "discovered"; readonly count: number; readonly problem: WalletProblem | null }
  | { readonly step: "connecting"; readonly wallet: string }
  | { readonly step: "connected"; readonly wallet: string; readonly owner: string; readonly chainId: bigint; readonly problem: WalletProblem | null }
  | { readonly step: "signedIn"; readonly wallet: string; readonly owner: string; readonly chainId: bigint }
  | { readonly step: "authorised"; readonly wallet: string; readonly owner: string; readonly chainId: bigint };

export type WalletEvent =
  | { readonly kind: "found"; readonly count: number }
  | { readonly kind: "connect"; readonly wallet: string }
  | { readonly kind: "accepted"; readonly owner: string; readonly chainId: bigint }
  | { readonly kind: "failed"; readonly problem: WalletProblem }
  | { readonly kind: "signedIn" }
  | { readonly kind: "authorised" }
  | { readonly kind: "accountsChanged"; readonly accounts: readonly string[] }
  | { readonly kind: "chainChanged"; readonly chainId: bigint }
  | { readonly kind: "disconnected" };

/** A state, and whether the session at the meter must be ended because of the way there. */
export interface Step {
  readonly state: WalletState;
  readonly endSession: boolean;
}

const ENDED: Readonly<Record<"account" | "chain" | "lock", WalletProblem>> = {
  account: { code: "disconnected", text: "The wallet changed its account, so the session was ended. Sign in again." },
  chain: { code: "disconnected", text: "The wallet changed its chain, so the session was ended. Sign in again." },
  lock: { code: "disconnected", text: "The wallet is locked or disconnected, so the session was ended. Connect again." },
};

const same = (a: string, b: string | undefined): boolean => a.toLowerCase() === b?.toLowerCase();

/** The next state. An event that makes no sense in a state leaves it as it is. */
export function step(state: WalletState, event: WalletEvent, walletsKnown: number): Step {
  const stay: Step = { state, endSession: false };
  const idle = (problem: WalletProblem | null): WalletState =>
    walletsKnown === 0 ? { step: "none" } : { step: "discovered", count: walletsKnown, problem };
  const live = state.step === "signedIn" || state.step === "authorised";
  switch (event.kind) {
    case "found":
      if (state.step !== "none" && state.step !== "discovered") return stay;
      return { state: event.count === 0 ? { step: "none" } : { step: "discovered", count: event.count, problem: null }, endSession: false };
    case "connect":
      // Another wallet while one is signed in: the first one's session must not go on.
      return { state: { step: "connecting", wallet: event.wallet }, endSession: live };
    case "accepted":
      if (state.step !== "connecting") return stay;
      return { state: { step: "connected", wallet: state.wallet, owner: event.owner, chainId: event.chainId, problem: null }, endSession: false };
    case "failed":
      if (state.step === "connecting") return { state: idle(event.problem), endSession: false };
      return state.step === "connected" ? { state: { ...state, problem: event.problem }, endSession: false } : stay;
    case "signedIn":
      if (state.step !== "connected") return stay;
      return { state: { step: "signedIn", wallet: state.wallet, owner: state.owner, chainId: state.chainId }, endSession: false };
    case "authorised":
      if (state.step !== "connected" && state.step !== "signedIn") return stay;
      return { state: { step: "authorised", wallet: state.wallet, owner: state.owner, chainId: state.chainId }, endSession: false };
    case "accountsChanged":
      return accountsChanged(state, event.accounts, idle);
    case "chainChanged":
      if (!("chainId" in state) || state.chainId === event.chainId) return stay;
      return { state: connected(state, state.owner, event.chainId, live ? ENDED.chain : null), endSession: live };
    case "disconnected":
      return "owner" in state || state.step === "connecting" ? { state: idle(ENDED.lock), endSession: live } : stay;
  }
}

function accountsChanged(state: WalletState, accounts: readonly string[], idle: (problem: WalletProblem | null) => WalletState): Step {
  if (!("owner" in state) || same(state.owner, accounts[0])) return { state, endSession: false };
  const live = state.step !== "connected";
  const [owner] = accounts;
  if (owner === undefined) return { state: idle(ENDED.lock), endSession: live };
  return { state: connected(state, owner, state.chainId, live ? ENDED.account : null), endSession: live };
}

const connected = (state: { wallet: string }, owner: string, chainId: bigint, problem: WalletProblem | null): WalletState => ({
  step: "connected",
  wallet: state.wallet,
  owner,
  chainId,
  problem,
});
