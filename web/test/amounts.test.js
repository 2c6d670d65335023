import assert from "node:assert/strict";
import { test } from "node:test";

import { estimateTokens, messageCostUp, parsePrlx, prlx, tokensForDown } from "../amounts.js";

test("credits are written as decimal PRLX without trailing zeros", () => {
  const cases = [[0, "0"], [1, "0.000000001"], [5_680_000, "0.00568"], [1_000_000_000, "1"], ["9223372036854775807", "9223372036.854775807"], [-1, "-0.000000001"]];
  for (const [credits, text] of cases) assert.equal(prlx(credits), text);
});

test("decimal PRLX is read exactly and anything else is refused", () => {
  assert.equal(parsePrlx(" 0.00568 "), 5_680_000n);
  assert.equal(parsePrlx("9223372036.854775807"), 9_223_372_036_854_775_807n);
  for (const text of ["", "1.", ".5", "1e3", "-1", "0.1234567891", "1,5", "0x10"]) assert.equal(parsePrlx(text), null, text);
});

test("what is written is read back", () => {
  for (const credits of [0n, 1n, 999_999_999n, 1_000_000_001n, 123_456_789_012n]) assert.equal(parsePrlx(prlx(credits)), credits);
});

test("a message's cost is rounded up once", () => {
  assert.equal(messageCostUp(4_000_000_000, 1_420), 5_680_000n);
  assert.equal(messageCostUp(1, 1), 1n);
  assert.equal(messageCostUp(1, 1_000_000), 1n);
  assert.equal(messageCostUp(1, 1_000_001), 2n);
  assert.equal(messageCostUp(0, 5), 0n);
});

test("tokens that credits pay for never cost more than the credits", () => {
  for (const [rate, credits] of [[4_000_000_000, 5_680_000], [3, 7], [999_999, 1_000]]) {
    const tokens = tokensForDown(rate, credits);
    assert.ok(messageCostUp(rate, tokens) <= BigInt(credits));
    assert.ok(messageCostUp(rate, tokens + 1n) > BigInt(credits));
  }
  assert.equal(tokensForDown(0, 5), null);
});

test("an estimate counts bytes, not characters", () => {
  assert.ok(estimateTokens([{ content: "漢字".repeat(30) }]) > estimateTokens([{ content: "ab".repeat(30) }]));
});
