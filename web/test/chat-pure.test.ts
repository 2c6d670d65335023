import { expect, test } from "vitest";

import { draftTokens, estimate, fittingAfterRefusal, promptTokens } from "../src/chat/estimate";
import { DEFAULT_OPTIONS, type Message, newAnswer, titleFrom } from "../src/chat/model";
import { rawMember } from "../src/chat/raw-json";
import { folded, SearchIndex } from "../src/chat/search";
import { partsOf } from "../src/chat/thinking";
import { leafBelow, newestLeaf, pathTo, siblingsOf, treeOf } from "../src/chat/tree";
import { routeOf } from "../src/app/routes";

const message = (id: string, parentId: string | null, createdAt: number, role: "user" | "assistant" = "user"): Message => ({
  id, parentId, createdAt, role, conversationId: "c", text: id, answer: role === "assistant" ? newAnswer("m") : null,
});

const MESSAGES = [
  message("q1", null, 1), message("a1", "q1", 2, "assistant"), message("q2", "a1", 3), message("a2", "q2", 4, "assistant"),
  message("a1b", "q1", 5, "assistant"), message("q1b", null, 6), message("a3", "q1b", 7, "assistant"),
];
const ids = (messages: readonly Message[]) => messages.map(({ id }) => id);

test("a path leads from the first message to the leaf", () => {
  const tree = treeOf(MESSAGES);
  expect(ids(pathTo(tree, "a2"))).toEqual(["q1", "a1", "q2", "a2"]);
  expect(ids(pathTo(tree, "a1b"))).toEqual(["q1", "a1b"]);
  expect(pathTo(tree, null)).toEqual([]);
  expect(pathTo(tree, "nobody")).toEqual([]);
});

test("siblings stand in the order they were made, and choosing one lands at its newest end", () => {
  const tree = treeOf(MESSAGES);
  expect(ids(siblingsOf(tree, "a1b"))).toEqual(["a1", "a1b"]);
  expect(ids(siblingsOf(tree, "q1"))).toEqual(["q1", "q1b"]);
  expect(leafBelow(tree, "a1")).toBe("a2");
  expect(leafBelow(tree, "q1")).toBe("a1b");
  expect(newestLeaf(tree)).toBe("a3");
  expect(newestLeaf(treeOf([]))).toBeNull();
});

test("a missing parent and a ring lose no message and end", () => {
  const tree = treeOf([message("x", "gone", 1), message("r1", "r2", 2), message("r2", "r1", 3)]);
  expect(ids(pathTo(tree, "x"))).toEqual(["x"]);
  expect(ids(siblingsOf(tree, "x"))).toEqual(["x"]);
  expect(pathTo(tree, "r1").length).toBe(2);
  expect(["r1", "r2"]).toContain(leafBelow(tree, "r1"));
});

test("an estimate counts bytes for what is new and the meter's own count for what was answered", () => {
  const answered = message("a", "q", 2, "assistant");
  Object.assign(answered.answer!, { promptTokens: 1000, completionTokens: 200 });
  expect(promptTokens("", [message("q", null, 1), answered])).toBe(1208);
  expect(draftTokens("漢字".repeat(30))).toBeGreaterThan(draftTokens("ab".repeat(30)));
  expect(draftTokens("")).toBe(0);
  expect(promptTokens("be kind", [])).toBeGreaterThan(promptTokens("", []));
});

test("an estimate above what can be spent names the longest answer that fits", () => {
  const rate = 4_000_000_000n; // 4,000 credits a token
  expect(estimate(rate, 100, 1000, 4_400_000n)).toMatchObject({ atMost: 4_400_000n, fits: true, fittingMaxTokens: null });
  const short = estimate(rate, 100, 1000, 4_399_999n);
  expect(short).toMatchObject({ fits: false, fittingMaxTokens: 999 });
  expect(estimate(rate, 100, short.fittingMaxTokens!, 4_399_999n).fits).toBe(true);
  expect(estimate(rate, 100, 1000, 400_000n)).toMatchObject({ fits: false, fittingMaxTokens: null });
  expect(estimate(rate, 100, 1000, null).fits).toBe(true);
  expect(estimate(0n, 100, 1000, 0n).fits).toBe(true);
});

test("a refusal's amounts tell the longest answer that would have passed", () => {
  const rate = 4_000_000_000n;
  expect(fittingAfterRefusal(rate, 3_000_000n, 4_400_000n, 1000)).toBe(650);
  expect(fittingAfterRefusal(rate, 300_000n, 4_400_000n, 1000)).toBeNull();
  expect(fittingAfterRefusal(rate, null, 4_400_000n, 1000)).toBeNull();
  expect(fittingAfterRefusal(0n, 1n, 2n, 1000)).toBeNull();
});

test("search finds every word without regard to case and accents, newest first, titles before texts", () => {
  const index = new SearchIndex();
  index.put({ conversationId: "c1", messageId: "m1", text: "The café in Zürich is open", at: 1 });
  index.put({ conversationId: "c2", messageId: "m2", text: "zurich has a CAFE too", at: 2 });
  index.put({ conversationId: "c3", messageId: null, text: "Cafes of Zürich", at: 0 });
  expect(index.find("zurich cafe", 10).map(({ conversationId }) => conversationId)).toEqual(["c3", "c2", "c1"]);
  expect(index.find("café open", 10)).toMatchObject([{ before: "The ", match: "café", after: " in Zürich is open" }]);
  expect(index.find("  ", 10)).toEqual([]);
  index.put({ conversationId: "c1", messageId: "m1", text: "closed", at: 1 });
  expect(index.find("open", 10)).toEqual([]);
  index.drop("c2");
  expect(index.find("cafe", 10).length).toBe(1);
});

test("search over ten thousand messages finds the few that match", () => {
  const index = new SearchIndex();
  for (let at = 0; at < 10_000; at += 1) index.put({ conversationId: `c${at % 50}`, messageId: `m${at}`, text: `message ${at} ${"lorem ipsum ".repeat(40)}`, at });
  expect(index.find("message 9999", 20).map(({ messageId }) => messageId)).toEqual(["m9999"]);
  expect(index.find("lorem", 20).length).toBe(20);
});

test("folding keeps every position", () => {
  for (const text of ["İstanbul", "ﬁn 漢字 🦀 é", "A\u0301B", "straße"]) expect(folded(text).length).toBe(text.length);
});

test("a title is the first line, cut at a word", () => {
  expect(titleFrom("  How?\nmore")).toBe("How?");
  expect(titleFrom("")).toBe("New chat");
  expect([...titleFrom("word ".repeat(40))].length).toBeLessThanOrEqual(61);
  expect(titleFrom("🦀".repeat(100))).toBe(`${"🦀".repeat(60)}…`);
});

test("a member's raw text keeps digits that JSON.parse would round", () => {
  const json = '{ "a": [1, {"params": 2}], "parallelix" : {"node":"x\\"}", "params": {"seed":18446744073709551615,"stop":["}"]} , "z":1}}';
  expect(rawMember(json, ["parallelix", "params"])).toBe('{"seed":18446744073709551615,"stop":["}"]}');
  expect(rawMember(json, ["parallelix", "params", "seed"])).toBe("18446744073709551615");
  expect(rawMember(json, ["parallelix", "z"])).toBe("1");
  expect(rawMember(json, ["a", "params"])).toBeNull();
  expect(rawMember('{"a":1,"a":2}', ["a"])).toBe("2");
  expect(() => rawMember('{"a":', ["a"])).toThrow(SyntaxError);
});

test("the options by default never reserve nothing", () => {
  expect(DEFAULT_OPTIONS.maxTokens).toBeGreaterThan(0);
});

test("routes are read from the fragment, and what is none is the chat", () => {
  expect(routeOf("#/receipt/0x12")).toEqual({ page: "receipt", argument: "0x12" });
  expect(routeOf("#/chat/a%2Fb")).toEqual({ page: "chat", argument: "a/b" });
  expect(routeOf("#/pool")).toEqual({ page: "pool", argument: null });
  for (const odd of ["", "#", "#/", "#/<script>", "#//x", "#/%E0%A4%A"]) expect(routeOf(odd).page).toBe("chat");
  expect(routeOf("#/chat/%E0%A4%A")).toEqual({ page: "chat", argument: null });
});

test("what a model thought aloud is apart from its answer, whole or under way", () => {
  expect(partsOf("plain <think>x</think>")).toEqual({ thought: null, closed: true, answer: "plain <think>x</think>" });
  expect(partsOf("<thi")).toEqual({ thought: null, closed: true, answer: "<thi" });
  expect(partsOf("\n<think>one")).toEqual({ thought: "one", closed: false, answer: "" });
  expect(partsOf("<think>\none\n</think>\n\ntwo")).toEqual({ thought: "one", closed: true, answer: "two" });
  expect(partsOf("<think>\n\n</think>\n\ntwo")).toEqual({ thought: null, closed: true, answer: "two" });
});
