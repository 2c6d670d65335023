import { expect, test } from "vitest";

import { type Conversation, DEFAULT_OPTIONS, type Message, newAnswer } from "../src/chat/model";
import { type Bundle, exportable, fromJson, ImportError, importWrites, type Known, toJson, toMarkdown } from "../src/chat/transfer";

const conversation: Conversation = {
  id: "c1", title: "A title", named: true, pinned: false, createdAt: 1, updatedAt: 5, model: "m", options: { ...DEFAULT_OPTIONS, system: "Be kind" }, leafId: "a1", deletedAt: null,
};
const messages: Message[] = [
  { id: "q1", conversationId: "c1", parentId: null, role: "user", text: "Why?\n\n```\n<b>\n```", createdAt: 2, answer: null },
  {
    id: "a1", conversationId: "c1", parentId: "q1", role: "assistant", text: "Because 漢字 🦀", createdAt: 3,
    answer: { ...newAnswer("m"), state: "done", receiptId: "0x01", promptTokens: 4, completionTokens: 3, cost: "123456789012345678", tokensPerS: 12.5, eventsRead: 9 },
  },
  { id: "a2", conversationId: "c1", parentId: "q1", role: "assistant", text: "Other branch", createdAt: 4, answer: { ...newAnswer("m"), state: "failed", failure: { code: "x", message: "y" } } },
];
const bundle: Bundle = {
  conversation, messages, evidence: [{ receiptId: "0x01", promptTokenIds: [1, 2], tokenIds: [3], params: '{"seed":18446744073709551615}' }], receipts: { "0x01": { id: "0x01" } },
};
interface Parsed {
  format: string;
  version: number;
  conversations: { conversation: { title: unknown; options: object }; messages: { role: unknown; text: unknown; answer: object }[]; evidence: object[] }[];
}
const file = () => JSON.parse(toJson([bundle], "2026-01-01T00:00:00Z")) as Parsed;
const knowing = (known: Partial<Known> = {}): Known => ({ conversations: new Map(), messages: new Set(), evidence: new Set(), ...known });
const ids = () => {
  let next = 0;
  return () => `new${(next += 1)}`;
};

test("what is exported is imported as it was, receipts in the file", () => {
  const text = toJson([bundle], "2026-01-01T00:00:00Z");
  expect((JSON.parse(text) as { conversations: Bundle[] }).conversations[0]?.receipts).toEqual({ "0x01": { id: "0x01" } });
  expect(fromJson(text)).toEqual([bundle]);
  const writes = importWrites(fromJson(text), knowing(), ids());
  expect(writes).toEqual([
    { store: "conversations", put: conversation },
    ...messages.map((put) => ({ store: "messages", put })),
    { store: "evidence", put: bundle.evidence[0] },
    { store: "receipts", put: { receiptId: "0x01", receipt: { id: "0x01" } } },
  ]);
});

test("the same conversation is not added twice, a changed one is added beside it, and evidence is never replaced", () => {
  const conversations = new Map([["c1", conversation]]);
  expect(importWrites(fromJson(toJson([bundle], "")), knowing({ conversations }), ids())).toEqual([]);
  const changed = { ...bundle, conversation: { ...conversation, updatedAt: 6 } };
  const writes = importWrites([changed], knowing({ conversations, messages: new Set(["q1", "a1", "a2"]), evidence: new Set(["0x01"]) }), ids());
  expect(writes).toMatchObject([
    { store: "conversations", put: { id: "new4", leafId: "new2" } },
    { store: "messages", put: { id: "new1", conversationId: "new4", parentId: null } },
    { store: "messages", put: { id: "new2", conversationId: "new4", parentId: "new1" } },
    { store: "messages", put: { id: "new3", conversationId: "new4", parentId: "new1" } },
    { store: "receipts", put: { receiptId: "0x01" } },
  ]);
  expect(writes.length).toBe(5);
});

test("a file that names somebody else's messages as its own overwrites none of them, nor its own", () => {
  const posing = { ...bundle, conversation: { ...conversation, id: "c2" } };
  const puts = (known: Known, given: readonly Bundle[]) =>
    importWrites(given, known, ids()).flatMap((write) => (write.store === "messages" && "put" in write ? [`${write.put.conversationId}/${write.put.id} after ${write.put.parentId}`] : []));
  const apart = ["new4/new1 after null", "new4/new2 after new1", "new4/new3 after new1"];
  expect(puts(knowing({ messages: new Set(["a2"]) }), [posing])).toEqual(apart);
  expect(puts(knowing(), [bundle, posing])).toEqual(["c1/q1 after null", "c1/a1 after q1", "c1/a2 after q1", ...apart]);
  expect(puts(knowing(), [bundle, { ...bundle, conversation: { ...conversation, updatedAt: 6 } }]).slice(3)).toEqual(apart);
});

test("Markdown holds the open branch as it was written", () => {
  const text = toMarkdown(conversation, messages);
  expect(text).toContain("# A title\n\n> System: Be kind\n\n## You\n\nWhy?\n\n```\n<b>\n```\n\n## m\n\nBecause 漢字 🦀");
  expect(text).toContain("`0x01`");
  expect(text).not.toContain("Other branch");
});

test("an answer under way is exported as far as it came", () => {
  const running: Message = { ...messages[1]!, answer: { ...newAnswer("m"), state: "running" } };
  expect(exportable([running])[0]?.answer?.state).toBe("stopped");
});

const broken = (change: (file: Parsed) => unknown): string => {
  const changed = file();
  change(changed);
  return JSON.stringify(changed);
};
const first = (all: Parsed) => all.conversations[0]!;

test.each<[string, string]>([
  ["no JSON", "{"],
  ["an array", "[]"],
  ["another format", broken((all) => (all.format = "x"))],
  ["a newer version", broken((all) => (all.version = 2))],
  ["no list", broken((all) => Object.assign(all, { conversations: {} }))],
  ["a title that is no text", broken((all) => Object.assign(first(all).conversation, { title: { toString: "x" } }))],
  ["a title without end", broken((all) => Object.assign(first(all).conversation, { title: "x".repeat(513) }))],
  ["a role of its own", broken((all) => Object.assign(first(all).messages[0]!, { role: "system" }))],
  ["a text that is no text", broken((all) => Object.assign(first(all).messages[0]!, { text: 5 }))],
  ["a cost that is no whole number", broken((all) => Object.assign(first(all).messages[1]!.answer, { cost: "1.5" }))],
  ["token ids that are none", broken((all) => Object.assign(first(all).evidence[0]!, { tokenIds: [-1] }))],
  ["a receipt that is none", broken((all) => Object.assign(all.conversations[0]!, { receipts: { "0x01": 5 } }))],
  ["a longest answer of nothing", broken((all) => Object.assign(first(all).conversation.options, { maxTokens: 0 }))],
  ["a depth that no export has", `${"[".repeat(100_000)}${"]".repeat(100_000)}`],
])("a file with %s is refused in words", (_, text) => {
  expect(() => fromJson(text)).toThrow(ImportError);
});

test("prototype keys and unknown fields of a file go nowhere", () => {
  const text = toJson([bundle], "").replace('"title"', '"__proto__": {"polluted": true}, "constructor": {"x": 1}, "extra": 1, "title"');
  const [read] = fromJson(text);
  expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  expect(Object.keys(read!.conversation).sort()).toEqual(Object.keys(conversation).sort());
  expect(Object.getPrototypeOf(read!.conversation)).toBe(Object.prototype);
});

test("receipts of other answers than the file's own are left out", () => {
  const text = toJson([{ ...bundle, receipts: { "0x01": { a: 1 }, "0x02": { b: 2 } } }], "").replace('"0x02"', '"__proto__"');
  expect(fromJson(text)[0]?.receipts).toEqual({ "0x01": { a: 1 } });
});

test("a bracket inside a text is no depth", () => {
  const deep = { ...bundle, messages: [{ ...messages[0]!, text: `${"[".repeat(5_000)}"\\` }], conversation: { ...conversation, leafId: "q1" } };
  expect(fromJson(toJson([deep], ""))[0]?.messages[0]?.text.length).toBe(5_002);
});
