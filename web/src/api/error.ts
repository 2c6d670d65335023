// A call that the meter refused, or that did not reach it.

import { creditsOrNull } from "../money/amounts";

const MESSAGE_CHARS_MAX = 600;

interface ErrorFields {
  readonly status?: number;
  readonly code?: string;
  readonly message?: string;
  readonly param?: string | null;
  readonly body?: Record<string, unknown>;
  readonly retryAfterS?: number | null;
}

export class ApiError extends Error {
  /** HTTP status; 0 when the meter was not reached, 200 for a failure inside a stream. */
  readonly status: number;
  /** The meter's code; "offline" when it was not reached, "http_STATUS" when it gave none. */
  readonly code: string;
  readonly param: string | null;
  /** The whole `error` object. */
  readonly body: Record<string, unknown>;
  readonly retryAfterS: number | null;

  constructor({ status = 0, code = "offline", message = "", param = null, body = {}, retryAfterS = null }: ErrorFields = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param;
    this.body = body;
    this.retryAfterS = retryAfterS;
  }

  /** Credits that were there for this; null when the meter did not say. */
  get available(): bigint | null {
    return this.#amount("available");
  }

  /** Credits that would have been needed; null when the meter did not say. */
  get needed(): bigint | null {
    return this.#amount("needed");
  }

  /** Unix seconds at which a closure under way is over; null when the meter did not say. */
  get closingUntil(): number | null {
    const until = record(this.body.metadata).closing_until;
    return typeof until === "number" ? until : null;
  }

  #amount(name: string): bigint | null {
    const metadata = record(this.body.metadata);
    return creditsOrNull(metadata[`${name}_credits`]) ?? creditsOrNull(this.body[`${name}_credits`]) ?? creditsOrNull(this.body[name]);
  }
}

const record = (value: unknown): Record<string, unknown> => (typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {});

/** The error that a refused response, or an error event inside a stream, stands for. */
export function errorFrom(status: number, reply: unknown, retryAfter: string | null = null): ApiError {
  const body = record(record(reply).error);
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  return new ApiError({
    status,
    code: typeof body.code === "string" ? body.code : `http_${status}`,
    message: String(body.message ?? "").slice(0, MESSAGE_CHARS_MAX),
    param: typeof body.param === "string" ? body.param : null,
    body,
    retryAfterS: Number.isFinite(seconds) ? seconds : null,
  });
}

export const isAbort = (error: unknown): boolean => error instanceof DOMException && error.name === "AbortError";
