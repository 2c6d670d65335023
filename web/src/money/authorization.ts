// The spend authorization: sensible terms that are never zero, checked before anything is signed, and said in words.

import type { VaultAccount } from "../wallet/chain";
import { prlx } from "./amounts";

/** What the person chooses. */
export interface Terms {
  /** The most that may ever be debited under it, credits. */
  readonly cap: bigint;
  /** The most that may be used and unsettled at any moment, credits; also what the vault keeps back. */
  readonly exposure: bigint;
  readonly days: number;
}

/** The signed fields. */
export interface SpendAuthorization {
  readonly owner: `0x${string}`;
  readonly cap: bigint;
  readonly exposure: bigint;
  readonly validUntil: bigint;
  readonly challenge: `0x${string}`;
  readonly nonce: bigint;
  readonly signDeadline: bigint;
}

export const DAYS_DEFAULT = 30;
export const DAYS_MAX = 365;
/** A signature not used within this time is worth nothing, seconds. */
export const SIGN_WITHIN_S = 600n;
const DAY_S = 86_400n;
const CREDIT = 1_000_000_000n;
/** Least exposure that a default offers: below it, long answers of a usual rate are refused. */
const EXPOSURE_FLOOR = CREDIT / 2n;
const CAP_FLOOR = 10n * CREDIT;
const EXPOSURE_MAX = (1n << 48n) - 1n;
const CAP_MAX = (1n << 63n) - 1n;

const max = (...values: bigint[]): bigint => values.reduce((a, b) => (a > b ? a : b));
const min = (a: bigint, b: bigint): bigint => (a < b ? a : b);

/** Whether an authorization is in force: the vault still honours debits under it. */
export const isLive = (account: VaultAccount | null, nowS: bigint): boolean =>
  account !== null && account.settleDeadline >= nowS && account.authorizedCum > account.settled;

/** Whether new spending goes on for at least a minute: it ends `exitDelay` before the last debit. */
export const isSpendable = (account: VaultAccount | null, exitDelayS: bigint, nowS: bigint): boolean =>
  account !== null && account.settleDeadline > nowS + exitDelayS + 60n && account.authorizedCum > account.settled && account.exposure > 0n;

/** Terms that work for a balance: everything deposited may be spent, a tenth of it unsettled at a time. Never below what is in force. */
export function defaultTerms(balance: bigint, account: VaultAccount | null, exitDelayS: bigint, nowS: bigint): Terms {
  const live = isLive(account, nowS) ? account : null;
  const capInForce = live ? live.authorizedCum - live.settled : 0n;
  const daysInForce = live ? Number((live.settleDeadline - exitDelayS - nowS) / DAY_S) + 1 : 0;
  return {
    cap: min(max(balance, capInForce, CAP_FLOOR), CAP_MAX),
    exposure: min(max(balance / 10n, live?.exposure ?? 0n, EXPOSURE_FLOOR), EXPOSURE_MAX),
    days: Math.max(DAYS_DEFAULT, Math.min(daysInForce, DAYS_MAX)),
  };
}

/** Why terms can't be signed, in one sentence; null when they can. The vault has the same rules. */
export function whyNot(terms: Terms, account: VaultAccount | null, exitDelayS: bigint, nowS: bigint): string | null {
  if (terms.cap <= 0n) return "The cap is zero, so nothing could be spent. Write how much may be spent in all.";
  if (terms.exposure <= 0n) return "The unsettled limit is zero, so every message would be refused. Write at least a little.";
  if (terms.cap > CAP_MAX) return `The cap is ${prlx(terms.cap)} PRLX, at most ${prlx(CAP_MAX)} PRLX are possible. Write less.`;
  if (terms.exposure > EXPOSURE_MAX) return `The unsettled limit is ${prlx(terms.exposure)} PRLX, at most ${prlx(EXPOSURE_MAX)} PRLX are possible. Write less.`;
  if (terms.exposure > terms.cap) return `The unsettled limit (${prlx(terms.exposure)} PRLX) is above the cap (${prlx(terms.cap)} PRLX). Raise the cap or lower the limit.`;
  if (!Number.isInteger(terms.days) || terms.days < 1 || terms.days > DAYS_MAX) return `Days are ${terms.days}, 1 to ${DAYS_MAX} are possible.`;
  if (account === null || !isLive(account, nowS)) return null;
  const until = nowS + BigInt(terms.days) * DAY_S + exitDelayS;
  if (terms.exposure < account.exposure) return `The unsettled limit in force is ${prlx(account.exposure)} PRLX and can only grow. Write at least that, or revoke first.`;
  if (account.settled + terms.cap < account.authorizedCum) return `The cap in force has ${prlx(account.authorizedCum - account.settled)} PRLX left and can only grow. Write at least that, or revoke first.`;
  if (until < account.settleDeadline) return `The authorization in force lasts longer, and it can only grow. Choose more days, or revoke first.`;
  return null;
}

/** The fields to sign. */
export function authorizationOf(terms: Terms, owner: `0x${string}`, challenge: `0x${string}`, account: VaultAccount | null, nowS: bigint): SpendAuthorization {
  return {
    owner,
    cap: terms.cap,
    exposure: terms.exposure,
    validUntil: nowS + BigInt(terms.days) * DAY_S,
    challenge,
    nonce: BigInt(account?.authNonce ?? 0),
    signDeadline: nowS + SIGN_WITHIN_S,
  };
}

/** What the wallet is about to sign, in words a person can hold against the wallet's window. */
export function inWords(terms: Terms, nowS: bigint): string[] {
  const until = new Date(Number(nowS + BigInt(terms.days) * DAY_S) * 1000);
  return [
    `At most ${prlx(terms.cap)} PRLX may ever be taken under this signature.`,
    `At most ${prlx(terms.exposure)} PRLX may be used and not yet settled at any moment. The vault keeps that much back; you can withdraw everything above it at any time.`,
    `It ends on ${until.toLocaleDateString(undefined, { dateStyle: "long" })}. You can revoke it before, without anybody's leave.`,
  ];
}
