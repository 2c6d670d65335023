import assert from "node:assert/strict";
import { test } from "node:test";

import { messageCostUp } from "../amounts.js";
import { answerThatFits, readChunk, readReceipt } from "../chat.js";
import { creditRows } from "../credits.js";
import { speedOf } from "../pool.js";
import { fieldsOf, stepsOf } from "../receipt.js";

const empty = () => ({ usage: null, served: {}, finishReason: null });

test("chunks add up to an answer with usage and receipt", () => {
  const answer = empty();
  const text = [
    { choices: [{ delta: { role: "assistant", content: "" }, finish_reason: null }], usage: null },
    { choices: [{ delta: { content: "He" } }] },
    { choices: [{ delta: { content: "llo" } }] },
    { choices: [{ delta: {}, finish_reason: "stop" }] },
    { choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, cost: "0.1" }, parallelix: { receipt_id: "0x1", fallback: true } },
  ].map((chunk) => readChunk(answer, chunk));
  assert.equal(text.join(""), "Hello");
  assert.deepEqual(answer, { usage: { prompt_tokens: 3, completion_tokens: 2, cost: "0.1" }, served: { receipt_id: "0x1", fallback: true }, finishReason: "stop" });
});

test("an error inside the stream keeps the usage that came with it", () => {
  const answer = empty();
  const chunk = { choices: [{ delta: {}, finish_reason: "error" }], usage: { completion_tokens: 7 }, parallelix: { receipt_id: "0x2" }, error: { code: "answer_broke_off", message: "m" } };
  assert.throws(() => readChunk(answer, chunk), { code: "answer_broke_off" });
  assert.equal(answer.usage.completion_tokens, 7);
  assert.equal(answer.served.receipt_id, "0x2");
});

test("the shorter answer that is offered costs no more than what is available", () => {
  const rate = 4_000_000_000;
  const needed = messageCostUp(rate, 100 + 512);
  const fits = answerThatFits({ available_credits: 1_000_000, needed_credits: Number(needed) }, rate, 512);
  assert.equal(fits, 150);
  assert.ok(messageCostUp(rate, 100 + fits) <= 1_000_000n);
  assert.equal(answerThatFits({ available_credits: 100, needed_credits: Number(needed) }, rate, 512), null);
  assert.equal(answerThatFits({}, rate, 512), null);
});

test("a receipt fills in what a stopped answer never heard", () => {
  const answer = empty();
  readReceipt(answer, { id: "0x3", cost: "0.1", cost_credits: 1, node: "0xab", fallback: false, receipt: { prompt_tokens: 3, completion_tokens: 2, operator: 1 } });
  assert.deepEqual(answer.usage, { prompt_tokens: 3, completion_tokens: 2, cost_credits: 1, cost: "0.1" });
  assert.equal(answer.served.receipt_id, "0x3");
});

test("a receipt's steps are reached in order", () => {
  const reached = (state) => stepsOf(state).filter((step) => step.reached).map((step) => step.name);
  assert.deepEqual(reached("awaiting_signature"), ["waiting for the node's signature"]);
  assert.deepEqual(reached("signed"), ["signed"]);
  assert.deepEqual(reached("settled"), ["signed", "batched", "settled"]);
  assert.ok(stepsOf("disputed")[0].bad);
});

test("a receipt's fields leave out what is not there yet", () => {
  const rows = fieldsOf({ receipt: { amount: 5_680_000, prompt_tokens: 1, completion_tokens: 2 }, batch: null });
  assert.deepEqual(rows[0], ["Charge", "0.00568 PRLX"]);
  assert.ok(!rows.some(([name]) => name === "Merkle path"));
});

test("measured speed wins over declared speed", () => {
  const measured = { value: 40.5, source: "measured" };
  const declared = { value: 90, source: "declared" };
  assert.equal(speedOf({ answer_tokens_per_s: measured, decode_tokens_per_s: declared }), measured);
  assert.equal(speedOf({ answer_tokens_per_s: { value: null, source: "measured" }, decode_tokens_per_s: declared }), declared);
  assert.equal(speedOf({}), null);
});

test("a wallet without an account has zero credits and is told what to do", () => {
  const rows = creditRows({ available: "0", spendable: "0", authorization: null });
  assert.deepEqual(rows.map(([name, amount]) => [name, amount]), [["Spendable", "0 PRLX"], ["Available", "0 PRLX"], ["Held", "0 PRLX"], ["Unsettled", "0 PRLX"], ["Authorization", "none"]]);
});
