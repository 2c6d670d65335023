// Where an account is signed in, as the meter tells it.

import { call } from "../api/client";

export interface OpenSession {
  readonly id: string;
  /** Unix seconds. */
  readonly createdAt: number;
  /** Unix seconds, to about a minute. */
  readonly lastUsedAt: number;
  /** Whether it is this browser's. */
  readonly current: boolean;
}

/** Reads `GET /v1/sessions`. What is no session is left out. */
export function sessionsOf(reply: unknown): OpenSession[] {
  const { data } = (reply ?? {}) as { data?: unknown };
  if (!Array.isArray(data)) return [];
  return data.flatMap(({ id, created_at, last_used_at, current }: Record<string, unknown>) =>
    typeof id === "string" && typeof created_at === "number" && typeof last_used_at === "number" ? [{ id, createdAt: created_at, lastUsedAt: last_used_at, current: current === true }] : [],
  );
}

export const listSessions = async (): Promise<OpenSession[]> => sessionsOf(await call("GET", "/v1/sessions"));

export const endSession = (id: string): Promise<unknown> => call("DELETE", `/v1/sessions/${encodeURIComponent(id)}`);

export const endOtherSessions = (): Promise<unknown> => call("DELETE", "/v1/sessions");
