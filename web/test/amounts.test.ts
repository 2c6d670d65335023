import { expect, test } from "vitest";

import { creditsFrom, creditsOrNull, messageCostUp, parsePrlx, prlx, prlxShort, tokensForDown } from "../src/money/amounts";

test.each([
  [0n, "0"],
  [1n, "0.000000001"],
  [5_680_000n, "0.00568"],
  [1_000_000_000n, "1"],
  [9_223_372_036_854_775_807n, "9223372036.854775807"],
  [-1n, "-0.000000001"],
])("%s credits are %s PRLX", (credits, text) => {
  expect(prlx(credits)).toBe(text);
});

test.each([
  [42_123_456n, "0.04212"],
  [1n, "0.000000001"],
  [123_456_789_012n, "123.4"],
  [5_000_123_000_000n, "5000.12"],
  [1_000_000_000n, "1"],
  [-42_123_456n, "-0.04212"],
])("%s credits are %s PRLX in short", (credits, text) => {
  expect(prlxShort(credits)).toBe(text);
});

test("decimal PRLX is read exactly and anything else is refused", () => {
  expect(parsePrlx(" 0.00568 ")).toBe(5_680_000n);
  expect(parsePrlx("9223372036.854775807")).toBe(9_223_372_036_854_775_807n);
  for (const text of ["", "1.", ".5", "1e3", "-1", "0.1234567891", "1,5", "0x10"]) expect(parsePrlx(text), text).toBeNull();
});

test("what is written is read back", () => {
  for (const credits of [0n, 1n, 999_999_999n, 1_000_000_001n, 123_456_789_012n]) expect(parsePrlx(prlx(credits))).toBe(credits);
});

test("an amount out of JSON is exact or refused", () => {
  expect(creditsFrom(5)).toBe(5n);
  expect(creditsFrom("9223372036854775807")).toBe(9_223_372_036_854_775_807n);
  expect(creditsFrom(Number.MAX_SAFE_INTEGER)).toBe(9_007_199_254_740_991n);
  for (const value of [2 ** 53, 0.5, Number.NaN, "1e3", "", null, undefined, {}, true]) {
    expect(() => creditsFrom(value)).toThrow(TypeError);
    expect(creditsOrNull(value)).toBeNull();
  }
});

test("a message's cost is rounded up once", () => {
  expect(messageCostUp(4_000_000_000n, 1_420n)).toBe(5_680_000n);
  expect(messageCostUp(1n, 1n)).toBe(1n);
  expect(messageCostUp(1n, 1_000_000n)).toBe(1n);
  expect(messageCostUp(1n, 1_000_001n)).toBe(2n);
  expect(messageCostUp(0n, 5n)).toBe(0n);
});

test("tokens that credits pay for never cost more than the credits", () => {
  for (const [rate, credits] of [[4_000_000_000n, 5_680_000n], [3n, 7n], [999_999n, 1_000n]] as const) {
    const tokens = tokensForDown(rate, credits);
    expect(tokens).not.toBeNull();
    expect(messageCostUp(rate, tokens!) <= credits).toBe(true);
    expect(messageCostUp(rate, tokens! + 1n) > credits).toBe(true);
  }
  expect(tokensForDown(0n, 5n)).toBeNull();
});
