// What is withdrawable, what is kept back and until when, in words. Pure.

import type { VaultAccount } from "../wallet/chain";
import { moment, prlx } from "./amounts";
import { isLive } from "./authorization";

export interface Holdings {
  readonly balance: bigint;
  readonly free: bigint;
  readonly locked: bigint;
  /** Why and until when something is kept back; null when nothing is. */
  readonly until: string | null;
  readonly canRevoke: boolean;
}

export function holdingsOf(account: VaultAccount, exitDelayS: bigint, nowS: bigint): Holdings {
  const balance = account.netDeposited - account.settled;
  const live = isLive(account, nowS);
  const endsSoon = account.settleDeadline <= nowS + exitDelayS;
  let until: string | null = null;
  if (account.locked > 0n) {
    until = endsSoon
      ? `${prlx(account.locked)} PRLX are kept back for usage that may still be settled. They are free on ${moment(account.settleDeadline)} at the latest.`
      : `${prlx(account.locked)} PRLX are kept back while your spending authorization lasts, at the latest until ${moment(account.settleDeadline)}. Revoke it and they are free after ${waitWords(exitDelayS)}.`;
  }
  return { balance, free: account.free, locked: account.locked, until, canRevoke: live && !endsSoon };
}

/** A delay for people: the largest unit that is whole. */
export function waitWords(seconds: bigint): string {
  const units: [bigint, string][] = [[86_400n, "day"], [3_600n, "hour"], [60n, "minute"], [1n, "second"]];
  const [size, name] = units.find(([unit]) => seconds >= unit && seconds % unit === 0n) ?? [1n, "second"];
  const count = seconds / size;
  return `${count} ${name}${count === 1n ? "" : "s"}`;
}

export interface Clearance {
  readonly account: number;
  readonly settled: bigint;
  readonly authNonce: number;
  readonly deadline: bigint;
}

/** Reads `POST /v1/account/clearance`. Throws when it is none. */
export function readClearance(reply: unknown): { clearance: Clearance; signature: `0x${string}` } {
  const { clearance, signature } = (reply ?? {}) as { clearance?: Record<string, unknown>; signature?: unknown };
  const whole = (...names: string[]): bigint => {
    const value = names.map((name) => clearance?.[name]).find((one) => one !== undefined);
    if ((typeof value === "number" && Number.isSafeInteger(value)) || (typeof value === "string" && /^\d{1,20}$/.test(value))) return BigInt(value);
    throw new Error(`the meter's clearance has ${String(value).slice(0, 40)} as \`${names[0]}\`, a whole number was expected; try again`);
  };
  if (typeof signature !== "string" || !/^0x[0-9a-fA-F]+$/.test(signature)) throw new Error("the meter's clearance has no signature; try again");
  return {
    clearance: { account: Number(whole("account")), settled: whole("settled"), authNonce: Number(whole("authNonce", "auth_nonce")), deadline: whole("deadline") },
    signature: signature as `0x${string}`,
  };
}
