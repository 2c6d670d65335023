// Reads a job's events into an answer: pure, so that replays, resumes and failures can be tested without a meter.

import type { SseEvent } from "../api/sse";
import { ApiError, errorFrom } from "../api/error";
import { creditsOrNull } from "../money/amounts";
import { type Evidence, isOver, type Message } from "./model";
import { rawMember } from "./raw-json";

type Json = Record<string, unknown>;

const object = (value: unknown): Json | null => (typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : null);
const text = (value: unknown): string | null => (typeof value === "string" ? value : null);
const count = (value: unknown): number | null => (typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : null);
/** An operator's number, as text. */
const operatorOf = (value: unknown): string | null => text(value) ?? count(value)?.toString() ?? null;
const ids = (value: unknown): number[] | null => (Array.isArray(value) && value.every((id) => count(id) !== null) ? (value as number[]) : null);

/** What one event did. `text` is what it added. */
export interface Step {
  readonly text: string;
  readonly over: boolean;
}

const NOTHING: Step = { text: "", over: false };

/** One reader of one job's events; goes on from where `message` stands. */
export class JobReader {
  #promptTokenIds: number[] | null = null;
  #tokenIds: number[] | null = null;
  #params: string | null = null;

  constructor(readonly message: Message) {}

  /** Takes in an event. One that was seen before changes nothing. Throws on an event that is no JSON. */
  read({ event, data, id }: SseEvent): Step {
    const { answer } = this.message;
    if (!answer || isOver(answer.state)) return { ...NOTHING, over: true };
    if (event === "state") return this.#readState(data);
    const position = id === null ? null : count(Number(id));
    // The end has no number of its own: the stream's last one still stands beside it, and is no sign of a repetition.
    if (data === "[DONE]") {
      if (answer.failure === null) answer.state = "done";
      return this.#end(position);
    }
    if (position !== null && position <= answer.eventsRead) return NOTHING;
    const step = this.#readChunk(data);
    if (position !== null) answer.eventsRead = position;
    return step;
  }

  /** The token ids, once the last chunk told them. */
  evidence(): Evidence | null {
    const receiptId = this.message.answer?.receiptId;
    if (!receiptId || !this.#promptTokenIds || !this.#tokenIds) return null;
    return { receiptId, promptTokenIds: this.#promptTokenIds, tokenIds: this.#tokenIds, params: this.#params };
  }

  #readState(data: string): Step {
    const answer = this.message.answer;
    const state = object(JSON.parse(data));
    if (!answer || answer.state === "running") return NOTHING;
    answer.state = state?.state === "queued" ? "queued" : answer.state;
    answer.ahead = count(state?.ahead);
    return NOTHING;
  }

  #readChunk(data: string): Step {
    const answer = this.message.answer;
    const chunk = object(JSON.parse(data));
    if (!answer || !chunk) return NOTHING;
    const choice = object(Array.isArray(chunk.choices) ? chunk.choices[0] : null);
    if (answer.state !== "running") answer.state = "running";
    answer.ahead = null;
    answer.finishReason = text(choice?.finish_reason) ?? answer.finishReason;
    this.#tokenIds = ids(choice?.token_ids) ?? this.#tokenIds;
    this.#promptTokenIds = ids(chunk.prompt_token_ids) ?? this.#promptTokenIds;
    if (object(chunk.parallelix)?.params) this.#params = rawMember(data, ["parallelix", "params"]);
    this.#readFacts(chunk);
    if (object(chunk.error)) this.#readFailure(chunk);
    const added = text(object(choice?.delta)?.content) ?? "";
    this.message.text += added;
    return { text: added, over: false };
  }

  #readFacts(chunk: Json): void {
    const answer = this.message.answer;
    const usage = object(chunk.usage);
    const served = object(chunk.parallelix);
    if (!answer) return;
    if (usage) {
      answer.promptTokens = count(usage.prompt_tokens);
      answer.completionTokens = count(usage.completion_tokens);
      answer.cost = creditsOrNull(usage.cost_credits)?.toString() ?? null;
    }
    if (served) {
      answer.receiptId = text(served.receipt_id) ?? answer.receiptId;
      answer.node = text(served.node);
      answer.operator = operatorOf(served.operator);
      answer.fallback = served.fallback === true;
    }
  }

  #readFailure(chunk: Json): void {
    const answer = this.message.answer;
    if (!answer) return;
    const error = errorFrom(200, chunk);
    // What was charged for what arrived comes with the refusal.
    const metadata = object(error.body.metadata);
    if (metadata) {
      this.#readFacts(metadata);
      this.#tokenIds = ids(metadata.token_ids) ?? this.#tokenIds;
      this.#promptTokenIds = ids(metadata.prompt_token_ids) ?? this.#promptTokenIds;
    }
    answer.failure = { code: error.code, message: error.message };
    answer.state = "failed";
  }

  #end(position: number | null): Step {
    if (position !== null && this.message.answer) this.message.answer.eventsRead = position;
    return { text: "", over: true };
  }
}

/** Ends an answer whose job the meter no longer has, with what its receipt says; null `stored` when there is none. */
export function endFromReceipt(message: Message, stored: Json | null): void {
  const { answer } = message;
  if (!answer) return;
  const receipt = object(stored?.receipt);
  answer.state = "failed";
  answer.ahead = null;
  answer.failure = receipt
    ? { code: "job_gone", message: "the meter no longer keeps this answer's text; its receipt says what was charged" }
    : { code: "job_lost", message: "the meter has neither this answer nor a receipt for it; nothing was charged for it so far" };
  if (!receipt || !stored) return;
  answer.promptTokens = count(receipt.prompt_tokens);
  answer.completionTokens = count(receipt.completion_tokens);
  answer.cost = creditsOrNull(stored.cost_credits)?.toString() ?? creditsOrNull(receipt.amount)?.toString() ?? null;
  answer.node = text(stored.node);
  answer.operator = operatorOf(receipt.operator);
  answer.fallback = stored.fallback === true;
  answer.receiptId = text(stored.id) ?? answer.receiptId;
}

/** The failure of a request that never became a job, or of reading one. */
export const failureOf = (error: unknown): ApiError =>
  error instanceof ApiError ? error : new ApiError({ code: "bad_reply", message: error instanceof Error ? error.message : String(error) });
