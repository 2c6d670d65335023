// The deposit under way, kept over reloads: without its hash a sent transaction would look lost.

import type { Hex } from "../wallet/typed";

/** A transaction to the vault or the token that was sent. */
export interface SentTransaction {
  readonly to: Hex;
  readonly owner: Hex;
  readonly hash: Hex;
  /** Its nonce; null when the wallet did not say. */
  readonly nonce: bigint | null;
  /** The call data, to know a sped-up transaction from a cancelled one. */
  readonly data: Hex;
  /** Head of the chain when it was sent. */
  readonly fromBlock: bigint;
}

export interface PendingDeposit extends SentTransaction {
  readonly chainId: bigint;
  /** Credits. */
  readonly amount: bigint;
}

const KEY = "parallelix.deposit";

type Store = Pick<Storage, "getItem" | "setItem" | "removeItem">;

/** Text of a pending deposit. */
export const pendingText = (pending: PendingDeposit): string =>
  JSON.stringify(pending, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value));

/** Reads it back; null for anything else. */
export function readPending(text: string | null): PendingDeposit | null {
  try {
    const given = JSON.parse(text ?? "null") as Record<string, unknown> | null;
    if (given === null) return null;
    const hex = (name: string, digits: RegExp): Hex => {
      const value = given[name];
      if (typeof value !== "string" || !digits.test(value)) throw new Error(name);
      return value as Hex;
    };
    const whole = (name: string): bigint => {
      const value = given[name];
      if (typeof value !== "string" || !/^\d{1,30}$/.test(value)) throw new Error(name);
      return BigInt(value);
    };
    return {
      chainId: whole("chainId"),
      to: hex("to", /^0x[0-9a-fA-F]{40}$/),
      owner: hex("owner", /^0x[0-9a-fA-F]{40}$/),
      hash: hex("hash", /^0x[0-9a-fA-F]{64}$/),
      nonce: given["nonce"] === null ? null : whole("nonce"),
      data: hex("data", /^0x[0-9a-fA-F]{8,}$/),
      amount: whole("amount"),
      fromBlock: whole("fromBlock"),
    };
  } catch {
    return null;
  }
}

/** Keeps it. A browser that refuses storage only loses the resuming. */
export function keepPending(pending: PendingDeposit, store: Store = localStorage): void {
  try {
    store.setItem(KEY, pendingText(pending));
  } catch {
    // The deposit itself goes on.
  }
}

/** The one kept, if it is for this chain and vault. */
export function keptPending(chainId: bigint, vault: string, store: Store = localStorage): PendingDeposit | null {
  let kept: PendingDeposit | null;
  try {
    kept = readPending(store.getItem(KEY));
  } catch {
    return null;
  }
  return kept !== null && kept.chainId === chainId && kept.to.toLowerCase() === vault.toLowerCase() ? kept : null;
}

export function forgetPending(store: Store = localStorage): void {
  try {
    store.removeItem(KEY);
  } catch {
    // Nothing was kept then.
  }
}
