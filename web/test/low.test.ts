import { describe, expect, it } from "vitest";

import { AWAY_S, isShown, lowOf, readPutAway } from "../src/money/low";
import type { Credits } from "../src/session.svelte";

const NOW_S = 1_800_000_000;
const DAY_S = 86_400;
/** A usual answer of 1,000 tokens costs 1,000 credits. */
const RATE = 1_000_000n;
const COST = 1_000n;

const rich: Credits = {
  account: 7, spendable: 100n * COST, available: 100n * COST, held: 0n, unsettled: 0n, pending: 0n, closingUntil: null,
  authorization: { exposure: 100n * COST, room: 100n * COST, validUntil: NOW_S + 30 * DAY_S, settleDeadline: NOW_S + 31 * DAY_S, nextNonce: 1, live: true },
};
const authorized = (changes: Partial<NonNullable<Credits["authorization"]>>, credits: Partial<Credits> = {}): Credits => ({ ...rich, ...credits, authorization: { ...rich.authorization!, ...changes } });
const kind = (credits: Credits, rate: bigint | null = RATE) => lowOf(credits, rate, NOW_S)?.kind ?? null;

describe("what runs out", () => {
  it("is nothing while ten usual answers are left of everything", () => {
    expect(kind(rich)).toBeNull();
    expect(kind(authorized({ exposure: 10n * COST, room: 10n * COST }, { available: 10n * COST }))).toBeNull();
  });

  it("is named at one credit below ten answers, with the button that helps", () => {
    expect(lowOf({ ...rich, available: 10n * COST - 1n }, RATE, NOW_S)).toEqual({ kind: "credits", text: "Your credits are enough for about 9 usual answers.", action: "Deposit" });
    expect(lowOf(authorized({ room: 2n * COST - 1n }), RATE, NOW_S)).toEqual({ kind: "cap", text: "The spending limit that you signed is enough for about 1 usual answer.", action: "Sign a higher one" });
    expect(lowOf(authorized({}, { unsettled: 100n * COST }), RATE, NOW_S)).toMatchObject({ kind: "exposure", text: expect.stringContaining("room for no usual answer"), action: "Raise it" });
    expect(lowOf(authorized({ exposure: 5n * COST }, { unsettled: 9n * COST }), RATE, NOW_S)?.text).toContain("no usual answer");
  });

  it("does not count what only waits: reservations under way and deposits on their way", () => {
    expect(kind({ ...rich, available: 1n * COST, held: 9n * COST })).toBeNull();
    expect(kind({ ...rich, available: 1n * COST, pending: 9n * COST })).toBeNull();
    expect(kind(authorized({ room: 1n * COST }, { held: 9n * COST }))).toBeNull();
  });

  it("is the authorization from its seventh day to the end", () => {
    expect(kind(authorized({ validUntil: NOW_S + 7 * DAY_S }))).toBeNull();
    const words = (leftS: number) => lowOf(authorized({ validUntil: NOW_S + leftS }), RATE, NOW_S)?.text;
    expect(words(7 * DAY_S - 1)).toBe("Your spending authorization ends in 6 days.");
    expect(words(DAY_S)).toBe("Your spending authorization ends in a day.");
    expect(words(DAY_S - 1)).toBe("Your spending authorization ends within a day.");
    expect(kind(authorized({ validUntil: NOW_S, live: false }))).toBe("expired");
    expect(kind(authorized({ validUntil: NOW_S + DAY_S }), null), "time counts without a price").toBe("expiry");
  });

  it("is told one at a time, the most pressing one first", () => {
    expect(kind(authorized({ room: 0n, exposure: 0n, validUntil: NOW_S + 1 }, { available: 0n }))).toBe("credits");
    expect(kind(authorized({ room: 0n, exposure: 0n, validUntil: NOW_S + 1 }))).toBe("cap");
    expect(kind(authorized({ exposure: 0n, validUntil: NOW_S + 1 }))).toBe("exposure");
    expect(kind(authorized({ room: 0n, validUntil: NOW_S }, { available: 0n }))).toBe("expired");
  });

  it("is what a revocation left, from the moment at which nothing is kept back", () => {
    const revoked = (settleDeadline: number, available: bigint) => authorized({ validUntil: 0, live: false, settleDeadline }, { available });
    expect(lowOf(revoked(NOW_S, 1_500_000_000n), null, NOW_S)).toEqual({ kind: "free", text: "Nothing is kept back any more: 1.5 PRLX can leave the vault.", action: "Withdraw" });
    expect(kind(revoked(NOW_S + 1, 1_500_000_000n))).toBeNull();
    expect(kind(revoked(NOW_S, 0n))).toBeNull();
  });

  it("is nobody's business who never authorized or revoked, and no price is no shortage", () => {
    expect(kind({ ...rich, available: 0n, authorization: null })).toBeNull();
    expect(kind(authorized({ validUntil: 0, live: false }, { available: 0n }))).toBeNull();
    expect(kind({ ...rich, available: 0n }, null)).toBeNull();
    expect(kind({ ...rich, available: 0n }, 0n)).toBeNull();
  });
});

describe("a warning that was put away", () => {
  const low = { kind: "credits" as const, text: "", action: "" };

  it("stays away for a day, and no other one with it", () => {
    expect(isShown(low, { credits: NOW_S }, NOW_S + AWAY_S - 1)).toBe(false);
    expect(isShown(low, { credits: NOW_S }, NOW_S + AWAY_S)).toBe(true);
    expect(isShown(low, { expiry: NOW_S }, NOW_S)).toBe(true);
  });

  it("comes back when the clock was set back, and when the note is unreadable", () => {
    expect(isShown(low, { credits: NOW_S }, NOW_S - 1)).toBe(true);
    for (const text of [null, "", "[", "null", '{"credits":"x"}', '{"credits":null}']) expect(readPutAway(text)).toEqual({});
    expect(readPutAway('{"credits":5}')).toEqual({ credits: 5 });
  });
});
