// Conversations as files: Markdown to read, JSON to keep. What comes in is checked field by field; nothing of a file is trusted.

import type { Write } from "./db";
import { type Answer, type Conversation, DEFAULT_OPTIONS, type Evidence, isOver, type Message, newAnswer } from "./model";
import { pathTo, textOf, treeOf, turnsOf } from "./tree";

const FORMAT = "parallelix-conversations";
const VERSION = 1;

const FILE_CHARS_MAX = 64 << 20;
const DEPTH_MAX = 32;
const CONVERSATIONS_MAX = 10_000;
const MESSAGES_MAX = 200_000;
const TEXT_CHARS_MAX = 4 << 20;
const NAME_CHARS_MAX = 512;
const TOKENS_MAX = 1 << 20;

type Json = Record<string, unknown>;

export interface Bundle {
  readonly conversation: Conversation;
  readonly messages: readonly Message[];
  readonly evidence: readonly Evidence[];
  /** Receipts as the meter gave them, by id. */
  readonly receipts: Readonly<Record<string, unknown>>;
}

/** One or all conversations as JSON. `exportedAt` in ISO 8601. */
export function toJson(bundles: readonly Bundle[], exportedAt: string): string {
  return JSON.stringify({ format: FORMAT, version: VERSION, exported_at: exportedAt, conversations: bundles }, null, 1);
}

/** The open branch of one conversation as Markdown, texts as they were written. */
export function toMarkdown(conversation: Conversation, messages: readonly Message[]): string {
  const parts = [`# ${conversation.title}`];
  if (conversation.options.system.trim()) parts.push(`> System: ${conversation.options.system.trim().replace(/\n/g, "\n> ")}`);
  for (const turn of turnsOf(pathTo(treeOf(messages), conversation.leafId))) {
    const { role, answer: first } = turn.parts[0];
    parts.push(`## ${role === "user" ? "You" : (first?.model ?? "Answer")}`, textOf(turn));
    for (const { answer } of turn.parts) {
      if (answer?.receiptId) parts.push(`_${answer.promptTokens ?? "?"} tokens in, ${answer.completionTokens ?? "?"} out, receipt \`${answer.receiptId}\`_`);
    }
  }
  return `${parts.join("\n\n")}\n`;
}

/** Why a file can't be imported, in words for the person who chose it. */
export class ImportError extends Error {
  override readonly name = "ImportError";
}

const fail = (message: string): never => {
  throw new ImportError(message);
};

/** Depth of brackets outside of strings, before anything is parsed: JSON.parse recurses. */
function checkDepth(text: string): void {
  let depth = 0;
  for (let at = 0; at < text.length; at += 1) {
    const char = text.charCodeAt(at);
    if (char === 0x22) {
      for (at += 1; at < text.length && text.charCodeAt(at) !== 0x22; at += 1) if (text.charCodeAt(at) === 0x5c) at += 1;
    } else if (char === 0x5b || char === 0x7b) {
      depth += 1;
      if (depth > DEPTH_MAX) fail(`the file nests deeper than ${DEPTH_MAX} levels; it is no export of this page`);
    } else if (char === 0x5d || char === 0x7d) depth -= 1;
  }
}

const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);

function objectAt(value: unknown, where: string): Json {
  return isObject(value) ? value : fail(`${where} is no object; the file is no export of this page`);
}

function textAt(value: unknown, where: string, charsMax = NAME_CHARS_MAX): string {
  if (typeof value !== "string") return fail(`${where} is no text; the file is no export of this page`);
  return value.length <= charsMax ? value : fail(`${where} has ${value.length} characters, more than ${charsMax}`);
}

const textOrNull = (value: unknown, where: string): string | null => (value === null || value === undefined ? null : textAt(value, where));

function numberAt(value: unknown, where: string, min: number, max: number): number {
  return typeof value === "number" && value >= min && value <= max ? value : fail(`${where} is no number from ${min} to ${max}`);
}

const numberOrNull = (value: unknown, where: string, max: number): number | null => (value === null || value === undefined ? null : numberAt(value, where, 0, max));

const TIME_MAX = 8.64e15;
const COUNT_MAX = Number.MAX_SAFE_INTEGER;

function answerFrom(value: unknown, where: string): Answer {
  const from = objectAt(value, where);
  const cost = textOrNull(from.cost, `${where}.cost`);
  if (cost !== null && !/^\d{1,39}$/.test(cost)) fail(`${where}.cost is no whole number of credits`);
  const failure = from.failure === null || from.failure === undefined ? null : objectAt(from.failure, `${where}.failure`);
  const states: readonly Answer["state"][] = ["done", "stopped", "failed"];
  return {
    ...newAnswer(textAt(from.model, `${where}.model`)),
    // An answer that was under way when it was exported is nobody's job any more.
    state: states.find((state) => state === from.state) ?? "stopped",
    receiptId: textOrNull(from.receiptId, `${where}.receiptId`),
    node: textOrNull(from.node, `${where}.node`),
    operator: textOrNull(from.operator, `${where}.operator`),
    fallback: from.fallback === true,
    promptTokens: numberOrNull(from.promptTokens, `${where}.promptTokens`, COUNT_MAX),
    completionTokens: numberOrNull(from.completionTokens, `${where}.completionTokens`, COUNT_MAX),
    cost,
    firstTokenMs: numberOrNull(from.firstTokenMs, `${where}.firstTokenMs`, COUNT_MAX),
    tokensPerS: numberOrNull(from.tokensPerS, `${where}.tokensPerS`, COUNT_MAX),
    finishReason: textOrNull(from.finishReason, `${where}.finishReason`),
    failure: failure && { code: textAt(failure.code, `${where}.failure.code`), message: textAt(failure.message, `${where}.failure.message`, 4_096) },
    eventsRead: numberOrNull(from.eventsRead, `${where}.eventsRead`, COUNT_MAX) ?? 0,
  };
}

function conversationFrom(value: unknown, where: string): Conversation {
  const from = objectAt(value, where);
  const options = objectAt(from.options, `${where}.options`);
  return {
    id: textAt(from.id, `${where}.id`),
    title: textAt(from.title, `${where}.title`),
    named: from.named === true,
    pinned: from.pinned === true,
    createdAt: numberAt(from.createdAt, `${where}.createdAt`, 0, TIME_MAX),
    updatedAt: numberAt(from.updatedAt, `${where}.updatedAt`, 0, TIME_MAX),
    model: textAt(from.model, `${where}.model`),
    options: {
      system: textAt(options.system ?? "", `${where}.options.system`, TEXT_CHARS_MAX),
      temperature: numberOrNull(options.temperature, `${where}.options.temperature`, 2),
      topP: numberOrNull(options.topP, `${where}.options.topP`, 1),
      maxTokens: Math.trunc(numberAt(options.maxTokens ?? DEFAULT_OPTIONS.maxTokens, `${where}.options.maxTokens`, 1, TOKENS_MAX)),
    },
    leafId: textOrNull(from.leafId, `${where}.leafId`),
    deletedAt: null,
  };
}

function messageFrom(value: unknown, conversationId: string, where: string): Message {
  const from = objectAt(value, where);
  if (from.role !== "user" && from.role !== "assistant") return fail(`${where}.role is neither "user" nor "assistant"`);
  return {
    id: textAt(from.id, `${where}.id`),
    conversationId,
    parentId: textOrNull(from.parentId, `${where}.parentId`),
    role: from.role,
    text: textAt(from.text, `${where}.text`, TEXT_CHARS_MAX),
    createdAt: numberAt(from.createdAt, `${where}.createdAt`, 0, TIME_MAX),
    answer: from.role === "assistant" ? answerFrom(from.answer, `${where}.answer`) : null,
  };
}

function evidenceFrom(value: unknown, where: string): Evidence {
  const from = objectAt(value, where);
  const ids = (name: "promptTokenIds" | "tokenIds"): number[] => {
    const list = from[name];
    const fine = Array.isArray(list) && list.length <= TOKENS_MAX && list.every((id) => Number.isInteger(id) && id >= 0 && id <= 0xffff_ffff);
    return fine ? (list as number[]) : fail(`${where}.${name} is no list of token ids`);
  };
  return {
    receiptId: textAt(from.receiptId, `${where}.receiptId`),
    promptTokenIds: ids("promptTokenIds"),
    tokenIds: ids("tokenIds"),
    params: from.params === null || from.params === undefined ? null : textAt(from.params, `${where}.params`, 1 << 20),
  };
}

/** Receipts of the file's own answers; any other is left out. */
function receiptsFrom(value: unknown, messages: readonly unknown[], where: string): Record<string, unknown> {
  const from = objectAt(value, where);
  const wanted = messages.flatMap((message) => (isObject(message) && isObject(message.answer) && typeof message.answer.receiptId === "string" ? [message.answer.receiptId] : []));
  const entries = wanted.filter((id) => id !== "__proto__" && Object.hasOwn(from, id)).map((id) => [id, objectAt(from[id], `${where}[${JSON.stringify(id)}]`)]);
  return Object.fromEntries(entries) as Record<string, unknown>;
}

function listAt(value: unknown, where: string, max: number): unknown[] {
  if (!Array.isArray(value)) return fail(`${where} is no list; the file is no export of this page`);
  return value.length <= max ? value : fail(`${where} has ${value.length} entries, more than ${max}`);
}

/** Reads an exported file. Throws `ImportError` for one that this page did not write, or that asks for too much. */
export function fromJson(text: string): Bundle[] {
  if (text.length > FILE_CHARS_MAX) fail(`the file has ${text.length} characters, more than ${FILE_CHARS_MAX}`);
  checkDepth(text);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    fail("the file is no JSON");
  }
  const file = objectAt(parsed, "the file");
  if (file.format !== FORMAT) fail(`the file's format is ${JSON.stringify(file.format) ?? "not said"}, not "${FORMAT}"`);
  if (file.version !== VERSION) fail(`the file has version ${JSON.stringify(file.version)}, this page reads ${VERSION}`);
  let messages = 0;
  return listAt(file.conversations, "conversations", CONVERSATIONS_MAX).map((entry, index) => {
    const where = `conversations[${index}]`;
    const from = objectAt(entry, where);
    const conversation = conversationFrom(from.conversation, `${where}.conversation`);
    const list = listAt(from.messages, `${where}.messages`, MESSAGES_MAX);
    messages += list.length;
    if (messages > MESSAGES_MAX) fail(`the file has more than ${MESSAGES_MAX} messages`);
    return {
      conversation,
      messages: list.map((message, at) => messageFrom(message, conversation.id, `${where}.messages[${at}]`)),
      evidence: listAt(from.evidence ?? [], `${where}.evidence`, MESSAGES_MAX).map((one, at) => evidenceFrom(one, `${where}.evidence[${at}]`)),
      receipts: receiptsFrom(from.receipts ?? {}, list, `${where}.receipts`),
    };
  });
}

/** What this browser has already, of which a file may take nothing away. */
export interface Known {
  readonly conversations: ReadonlyMap<string, Conversation>;
  /** Ids. */
  readonly messages: ReadonlySet<string>;
  /** Receipt ids. */
  readonly evidence: ReadonlySet<string>;
}

/**
 * The writes that add what a file holds. A conversation that is here already, or one of whose messages is, is added beside it under new ids, unless it
 * is the same: a file whose ids are somebody else's must not overwrite theirs, of this browser or of the same file. Evidence is only added where there is none: a file must not replace what this browser saw itself.
 */
export function importWrites(bundles: readonly Bundle[], known: Known, newId: () => string): Write[] {
  const taken = { conversations: new Set(known.conversations.keys()), messages: new Set(known.messages) };
  return bundles.flatMap(({ conversation, messages, evidence, receipts }) => {
    if (known.conversations.get(conversation.id)?.updatedAt === conversation.updatedAt) return [];
    const clashes = taken.conversations.has(conversation.id) || messages.some(({ id }) => taken.messages.has(id));
    const renamed = new Map(clashes ? messages.map(({ id }) => [id, newId()]) : []);
    const idOf = (id: string) => renamed.get(id) ?? id;
    const conversationId = clashes ? newId() : conversation.id;
    taken.conversations.add(conversationId);
    for (const { id } of messages) taken.messages.add(idOf(id));
    const ids = new Set(messages.map(({ id }) => id));
    const leafId = conversation.leafId !== null && ids.has(conversation.leafId) ? idOf(conversation.leafId) : (messages.at(-1)?.id ?? null);
    return [
      { store: "conversations" as const, put: { ...conversation, id: conversationId, leafId } },
      ...messages.map((message) => ({
        store: "messages" as const,
        put: { ...message, id: idOf(message.id), conversationId, parentId: message.parentId === null ? null : idOf(message.parentId) },
      })),
      ...evidence.filter(({ receiptId }) => !known.evidence.has(receiptId)).map((one) => ({ store: "evidence" as const, put: one })),
      ...Object.entries(receipts).map(([receiptId, receipt]) => ({ store: "receipts" as const, put: { receiptId, receipt } })),
    ];
  });
}

/** Messages fit for an export: one under way is told as far as it came. */
export const exportable = (messages: readonly Message[]): Message[] =>
  messages.map((message) => (message.answer && !isOver(message.answer.state) ? { ...message, answer: { ...message.answer, state: "stopped" } } : message));
