// What will stop the next answers soon, and what lies there to be taken, in plain words: credits, the limit that was signed, what waits for
// settlement, the authorization's end, credits that became free.

import type { Credits } from "../session.svelte";
import { messageCostUp, prlx } from "./amounts";

/** Prompt and answer of a usual message together. */
const ANSWER_TOKENS = 1_000n;
/** Fewer answers than this are few. */
const ANSWERS_MIN = 10n;
const DAY_S = 86_400;
/** An authorization that ends sooner than this ends soon. */
const EXPIRY_DAYS = 7;

export type LowKind = "expired" | "credits" | "cap" | "exposure" | "expiry" | "free";

export interface Low {
  readonly kind: LowKind;
  readonly text: string;
  /** What the one button says. It opens the deposit, where one deposits and signs, or the withdrawal for `free`. */
  readonly action: string;
}

const max0 = (value: bigint): bigint => (value < 0n ? 0n : value);

/** How many, in words. */
const answers = (count: bigint): string => (count === 0n ? "no usual answer" : `about ${count} usual ${count === 1n ? "answer" : "answers"}`);

/**
 * The most pressing shortage; null when there is none. `rate` is the chosen model's, in credits per 1,000,000 tokens; null when it is not known,
 * and then only time counts. Who never authorized, or revoked, chose so and is not warned; who revoked is told once everything is free, because
 * nobody remembers the day.
 */
export function lowOf(credits: Credits, rate: bigint | null, nowS: number): Low | null {
  const { authorization } = credits;
  if (authorization === null) return null;
  if (authorization.validUntil === 0) return freeOf(credits, authorization.settleDeadline, nowS);
  if (authorization.validUntil <= nowS) return { kind: "expired", text: "Your spending authorization is over: nothing can be sent until you sign a new one.", action: "Sign a new one" };

  const cost = rate === null ? 0n : messageCostUp(rate, ANSWER_TOKENS);
  if (cost > 0n) {
    const few = (amount: bigint): bigint | null => (max0(amount) / cost < ANSWERS_MIN ? max0(amount) / cost : null);
    // What is reserved for answers under way comes back in part, so it is not missing yet.
    const left = few(credits.available + credits.held + credits.pending);
    if (left !== null) return { kind: "credits", text: `Your credits are enough for ${answers(left)}.`, action: "Deposit" };
    const cap = few(authorization.room + credits.held);
    if (cap !== null) return { kind: "cap", text: `The spending limit that you signed is enough for ${answers(cap)}.`, action: "Sign a higher one" };
    const exposure = few(authorization.exposure - credits.unsettled);
    if (exposure !== null) return { kind: "exposure", text: `Until the next settlement there is room for ${answers(exposure)}. Wait for it, or raise the unsettled limit.`, action: "Raise it" };
  }

  const days = Math.floor((authorization.validUntil - nowS) / DAY_S);
  if (days >= EXPIRY_DAYS) return null;
  const when = days === 0 ? "within a day" : days === 1 ? "in a day" : `in ${days} days`;
  return { kind: "expiry", text: `Your spending authorization ends ${when}.`, action: "Renew it" };
}

/** What a revocation left in the vault, once nothing of it can be settled any more. */
function freeOf(credits: Credits, settleDeadline: number, nowS: number): Low | null {
  if (settleDeadline > nowS || credits.available <= 0n) return null;
  return { kind: "free", text: `Nothing is kept back any more: ${prlx(credits.available)} PRLX can leave the vault.`, action: "Withdraw" };
}

/** How long a warning that was put away stays away, seconds: it is a reminder, not a nag. */
export const AWAY_S = 86_400;

/** When each kind was put away, Unix seconds. */
export type PutAway = Readonly<Partial<Record<LowKind, number>>>;

/** Whether the warning is to be shown. */
export function isShown(low: Low, away: PutAway, nowS: number): boolean {
  const at = away[low.kind];
  return at === undefined || nowS - at >= AWAY_S || nowS < at;
}

/** Reads what was put away; nothing when it is unreadable. */
export function readPutAway(text: string | null): PutAway {
  try {
    const given: unknown = JSON.parse(text ?? "{}");
    if (typeof given !== "object" || given === null) return {};
    return Object.fromEntries(Object.entries(given).filter(([, at]) => typeof at === "number" && Number.isFinite(at)));
  } catch {
    return {};
  }
}
