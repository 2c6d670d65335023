// An API key as its owner sees it: what it may do, and whether it still counts.

export interface Key {
  readonly id: string;
  readonly name: string;
  readonly prefix: string;
  readonly limit_credits: number | null;
  readonly spent_credits?: number;
  /** Unix seconds; null for a key that lasts until it is revoked. */
  readonly expires_at: number | null;
  /** Ids; null for all. */
  readonly models: readonly string[] | null;
  readonly created_at: number;
  readonly last_used_at: number | null;
  readonly revoked_at: number | null;
  readonly key?: string;
}

export const LIFETIMES = [
  { id: "", name: "never", days: null },
  { id: "7", name: "in 7 days", days: 7 },
  { id: "30", name: "in 30 days", days: 30 },
  { id: "90", name: "in 90 days", days: 90 },
  { id: "365", name: "in a year", days: 365 },
] as const;

const DAY_S = 86_400;

/** When a key of this lifetime ends, Unix seconds; null for one that doesn't end by itself. */
export function expiryOf(lifetime: string, nowS: number): number | null {
  const days = LIFETIMES.find(({ id }) => id === lifetime)?.days ?? null;
  return days === null ? null : nowS + days * DAY_S;
}

export type KeyState = "live" | "expired" | "revoked";

/** A key that was revoked before it ended is revoked: that is what its owner did. */
export function stateOf(key: Key, nowS: number): KeyState {
  if (key.revoked_at !== null) return "revoked";
  return key.expires_at !== null && key.expires_at <= nowS ? "expired" : "live";
}
