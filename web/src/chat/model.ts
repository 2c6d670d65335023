// What this device keeps of a conversation. Amounts are strings of whole credits, because a database keeps them and JSON exports them.

export type Role = "user" | "assistant";

/** How an answer stands. "stopped" was ended by the reader; "failed" broke off by itself. */
export type AnswerState = "sending" | "queued" | "running" | "done" | "stopped" | "failed";

export interface AnswerFailure {
  readonly code: string;
  readonly message: string;
}

/** What is known of an answer beside its text. Null is "not known yet", never "none". */
export interface Answer {
  state: AnswerState;
  model: string;
  receiptId: string | null;
  node: string | null;
  operator: string | null;
  fallback: boolean;
  promptTokens: number | null;
  completionTokens: number | null;
  /** Whole credits. */
  cost: string | null;
  /** Measured by this page, from sending to the first token; null when the page did not see the beginning. */
  firstTokenMs: number | null;
  /** Measured by this page over the tokens after the first. */
  tokensPerS: number | null;
  finishReason: string | null;
  failure: AnswerFailure | null;
  /** Position in the job's events up to which `text` holds everything. */
  eventsRead: number;
  /** Jobs ahead in the queue; null when not queued or not told. */
  ahead: number | null;
}

export interface Message {
  readonly id: string;
  readonly conversationId: string;
  /** The message before it; null for the first. */
  readonly parentId: string | null;
  readonly role: Role;
  text: string;
  /** Unix milliseconds. */
  readonly createdAt: number;
  /** Present on answers alone. */
  answer: Answer | null;
}

/** Sampling and length. Null leaves a choice to the meter's default. */
export interface Options {
  system: string;
  temperature: number | null;
  topP: number | null;
  /** The longest answer, tokens: also what is reserved before sending. */
  maxTokens: number;
}

export interface Conversation {
  readonly id: string;
  title: string;
  /** Whether a person wrote the title; otherwise it follows the first message. */
  named: boolean;
  pinned: boolean;
  readonly createdAt: number;
  updatedAt: number;
  model: string;
  options: Options;
  /** The message at whose end the reader is; null while there is none. */
  leafId: string | null;
  /** When it was deleted, Unix milliseconds: it is gone for good soon after. Null while it stands. */
  deletedAt: number | null;
}

/** A job that was sent, or is about to be. Kept before sending, so that a reload neither loses nor doubles it. */
export interface JobRecord {
  /** Idempotency key: the answer's message id. */
  readonly key: string;
  readonly conversationId: string;
  /** The chat completion request exactly as it was first sent. */
  readonly request: string;
  jobId: string | null;
  receiptId: string | null;
  readonly createdAt: number;
  /** Who asked, as the meter numbers accounts; null when that was not known. Nobody else can read the job. */
  readonly account: number | null;
  stopRequested: boolean;
}

/** Token ids of a prompt and its answer: what the hashes in a receipt are checked against. */
export interface Evidence {
  readonly receiptId: string;
  readonly promptTokenIds: number[];
  readonly tokenIds: number[];
  /** The parameters as the meter wrote them, raw JSON text: the seed is a u64 that JSON.parse would round. */
  readonly params: string | null;
}

/** A receipt as a meter gave it, out of an imported file: kept so that the next export has it too. Never shown, never trusted. */
export interface KeptReceipt {
  readonly receiptId: string;
  readonly receipt: unknown;
}

export const DEFAULT_OPTIONS: Options = { system: "", temperature: 0.7, topP: null, maxTokens: 1024 };

const TITLE_CHARS_MAX = 60;

/** A title out of a first message: its first line, cut at a word where possible. Costs nobody anything. */
export function titleFrom(text: string): string {
  const line = text.trim().split(/\r?\n/, 1)[0]?.replace(/\s+/g, " ") ?? "";
  const chars = [...line];
  if (chars.length <= TITLE_CHARS_MAX) return line || "New chat";
  const cut = chars.slice(0, TITLE_CHARS_MAX).join("");
  const space = cut.lastIndexOf(" ");
  return `${space > TITLE_CHARS_MAX / 2 ? cut.slice(0, space) : cut}…`;
}

export function newAnswer(model: string): Answer {
  return {
    state: "sending", model, receiptId: null, node: null, operator: null, fallback: false, promptTokens: null, completionTokens: null, cost: null,
    firstTokenMs: null, tokensPerS: null, finishReason: null, failure: null, eventsRead: 0, ahead: null,
  };
}

export const isOver = (state: AnswerState): boolean => state === "done" || state === "stopped" || state === "failed";
