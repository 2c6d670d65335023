import { expect, test } from "vitest";

import { canGoOn, endOf, restTokens } from "../src/chat/continuation";
import { type Answer, type Conversation, DEFAULT_OPTIONS, type Message, newAnswer } from "../src/chat/model";
import { chatRequest } from "../src/chat/request";
import { toMarkdown } from "../src/chat/transfer";
import { textOf, turnsOf } from "../src/chat/tree";

let clock = 0;
const question = (id: string, parentId: string | null, text: string): Message => ({ id, parentId, conversationId: "c", role: "user", text, createdAt: ++clock, answer: null });
const answer = (id: string, parentId: string, text: string, more: Partial<Answer> = {}): Message => ({
  id, parentId, conversationId: "c", role: "assistant", text, createdAt: ++clock, answer: { ...newAnswer("m"), state: "done", ...more },
});
const BROKEN = { state: "failed", node: "0x00000000000000000000000000000000000000aa", completionTokens: 3, failure: { code: "answer_broke_off", message: "" } } as const;
const conversation: Conversation = {
  id: "c", title: "T", named: false, pinned: false, createdAt: 1, updatedAt: 1, model: "m", options: { ...DEFAULT_OPTIONS, maxTokens: 10 }, leafId: "a3", deletedAt: null,
};
const PATH = [
  question("q1", null, "one"), answer("a1", "q1", "<think>hm</think>The kee", { ...BROKEN, receiptId: "0x1", promptTokens: 4 }), answer("a2", "a1", "per ", { receiptId: "0x2", promptTokens: 7, completionTokens: 2 }),
  question("q2", "a2", "two"), answer("a3", "q2", "  half an ans", BROKEN),
];

test("an answer and what went on with it are one turn, joined as they came", () => {
  const turns = turnsOf(PATH);
  expect(turns.map(({ parts }) => parts.map(({ id }) => id))).toEqual([["q1"], ["a1", "a2"], ["q2"], ["a3"]]);
  expect(turns.map(textOf)).toEqual(["one", "<think>hm</think>The keeper ", "two", "  half an ans"]);
  expect(turnsOf([])).toEqual([]);
});

test("a branch that ends in an answer asks for more of it, as it arrived; any other asks for a new one", () => {
  const continued = chatRequest(conversation, PATH, 7);
  expect(continued).toMatchObject({ continue_final_message: true, max_tokens: 7 });
  expect(continued.messages).toEqual([
    { role: "user", content: "one" }, { role: "assistant", content: "The keeper " }, { role: "user", content: "two" }, { role: "assistant", content: "  half an ans" },
  ]);
  const asked = chatRequest(conversation, PATH.slice(0, 4));
  expect(asked).not.toHaveProperty("continue_final_message");
  expect(asked).toMatchObject({ max_tokens: 10 });
  expect(asked.messages.at(-1)).toEqual({ role: "user", content: "two" });
});

test("what broke off, was stopped or was cut can go on, and nothing else", () => {
  const can = (text: string, more: Partial<Answer>) => canGoOn(answer("a", "q", text, more));
  expect(can("half", BROKEN)).toBe(true);
  expect(can("half", { state: "stopped" })).toBe(true);
  expect(can("half", { finishReason: "length" })).toBe(true);
  expect(can("whole", { finishReason: "stop" })).toBe(false);
  expect(can(" \n", BROKEN)).toBe(false);
  expect(can("half", { state: "running" })).toBe(false);
  expect(canGoOn(question("q", null, "half"))).toBe(false);
});

test("a continuation may be as long as what was left, and a whole one after the longest answer", () => {
  expect(restTokens(answer("a", "q", "x", BROKEN), conversation.options)).toBe(7);
  expect(restTokens(answer("a", "q", "x", { completionTokens: 10 }), conversation.options)).toBe(10);
  expect(restTokens(answer("a", "q", "x"), conversation.options)).toBe(10);
});

test("how a part ended is said in its own words", () => {
  const end = (more: Partial<Answer>) => endOf({ ...newAnswer("m"), ...more });
  expect(end(BROKEN)).toBe("Node 0x0000…00aa stopped answering after 3 tokens. Only what arrived is charged.");
  expect(end({ state: "failed" })).toBe("Broke off. Only what arrived is charged.");
  expect(end({ state: "stopped" })).toBe("Stopped. Only what arrived is charged.");
  expect(end({ state: "done" })).toBe("Cut at the longest answer.");
});

test("as Markdown a continued answer is one text with every receipt", () => {
  const text = toMarkdown({ ...conversation, leafId: "a2" }, PATH.slice(0, 3));
  expect(text).toBe("# T\n\n## You\n\none\n\n## m\n\n<think>hm</think>The keeper \n\n_4 tokens in, 3 out, receipt `0x1`_\n\n_7 tokens in, 2 out, receipt `0x2`_\n");
});
