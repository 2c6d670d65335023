// Which way a deposit takes, and what the wallet will ask for on it. Pure.

import { prlx } from "./amounts";
import { creditsOfWeiDown, weiOfCredits } from "./wei";

export interface DepositFacts {
  /** Credits; zero to sign an authorization alone. */
  readonly amount: bigint;
  readonly balanceWei: bigint;
  readonly allowanceWei: bigint;
  /** The account has code: it may be unable to sign a permit that the token accepts. */
  readonly hasCode: boolean;
  /** The token's permit domain is known and this wallet has not refused to sign one. */
  readonly canPermit: boolean;
  /** A new authorization goes along; its signature opens the session too. */
  readonly authorizes: boolean;
  /** There is no session of this wallet yet. */
  readonly signsIn: boolean;
}

export type Route = "permit" | "approve" | "allowance" | "authorize_only";

export interface DepositPlan {
  readonly route: Route;
  /** What the wallet asks, in order. */
  readonly prompts: readonly Prompt[];
}

export type Prompt = "sign_in" | "authorization" | "permit" | "approval" | "transaction";

/** The most prompts that the way to a first paid answer may have. */
export const PROMPTS_MAX = 3;

export function planOf(facts: DepositFacts): DepositPlan {
  const first: Prompt[] = facts.authorizes ? ["authorization"] : facts.signsIn ? ["sign_in"] : [];
  if (facts.amount === 0n) return { route: "authorize_only", prompts: [...first, "transaction"] };
  // An allowance that is there already (a permit that somebody relayed first, an earlier approval) is enough.
  if (facts.allowanceWei >= weiOfCredits(facts.amount)) return { route: "allowance", prompts: [...first, "transaction"] };
  if (facts.canPermit && !facts.hasCode) return { route: "permit", prompts: [...first, "permit", "transaction"] };
  return { route: "approve", prompts: [...first, "approval", "transaction"] };
}

/** Why an amount can't be deposited, in one sentence; null when it can. */
export function whyNotDeposit(amount: bigint | null, balanceWei: bigint): string | null {
  const balance = creditsOfWeiDown(balanceWei);
  if (amount === null) return "Write an amount in PRLX with at most nine digits after the point.";
  if (amount === 0n) return "Write how much to deposit.";
  if (amount > balance) return `The wallet has ${prlx(balance)} PRLX. Deposit at most that, or get more PRLX first.`;
  return null;
}

/** A share of the wallet's balance, in percent, rounded down to a credit. */
export const shareDown = (balanceWei: bigint, percent: bigint): bigint => (creditsOfWeiDown(balanceWei) * percent) / 100n;

/** Three parts of an EIP-2612 signature; null for one that no permit takes (a contract wallet's). EIP-2098's short form is spread out. */
export function permitParts(signature: string): { v: number; r: `0x${string}`; s: `0x${string}` } | null {
  const digits = signature.replace(/^0x/, "");
  if (!/^[0-9a-fA-F]+$/.test(digits)) return null;
  const r: `0x${string}` = `0x${digits.slice(0, 64)}`;
  if (digits.length === 130) return { r, s: `0x${digits.slice(64, 128)}`, v: Number.parseInt(digits.slice(128), 16) };
  if (digits.length !== 128) return null;
  const packed = BigInt(`0x${digits.slice(64)}`);
  const s = packed & ((1n << 255n) - 1n);
  return { r, s: `0x${s.toString(16).padStart(64, "0")}`, v: 27 + Number(packed >> 255n) };
}

/** Stands where no permit is needed: it fails inside the vault, which then finds the allowance. */
export const NO_PERMIT = { v: 27, r: `0x${"0".repeat(64)}`, s: `0x${"0".repeat(64)}` } as const;
