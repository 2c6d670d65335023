// Usage as the meter counts it, summed by day, model or key, and written as CSV. Pure.

import { creditsFrom, prlx } from "../money/amounts";

export interface UsageRow {
  /** UTC day, `YYYY-MM-DD`. */
  readonly day: string;
  readonly model: string;
  /** Name of the key; null for the page itself. */
  readonly key: string | null;
  /** Two keys may have one name. */
  readonly keyId: string | null;
  readonly requests: bigint;
  readonly promptTokens: bigint;
  readonly completionTokens: bigint;
  /** Credits. */
  readonly cost: bigint;
}

export type Grouping = "day" | "model" | "key";

export interface UsageSum {
  /** What it is the sum of: a day, a model, a key's id. */
  readonly id: string;
  readonly name: string;
  readonly requests: bigint;
  readonly promptTokens: bigint;
  readonly completionTokens: bigint;
  readonly cost: bigint;
}

const DAY_MS = 86_400_000;
/** The meter answers for so many days at most. */
export const DAYS_MAX = 366;
export const WITHOUT_KEY = "This page";

/** Reads `GET /v1/usage`. Throws when a number is none that JSON keeps exactly. */
export function readUsage(reply: unknown): UsageRow[] {
  const { data } = (reply ?? {}) as { data?: Record<string, unknown>[] };
  if (!Array.isArray(data)) throw new TypeError("the meter's usage has no `data` list");
  return data.map((row) => ({
    day: String(row["day"]).slice(0, 10),
    model: String(row["model"]).slice(0, 200),
    key: typeof row["key_name"] === "string" ? row["key_name"] : typeof row["key_id"] === "string" ? row["key_id"] : null,
    keyId: typeof row["key_id"] === "string" ? row["key_id"] : null,
    requests: creditsFrom(row["requests"]),
    promptTokens: creditsFrom(row["prompt_tokens"]),
    completionTokens: creditsFrom(row["completion_tokens"]),
    cost: creditsFrom(row["cost"]),
  }));
}

const EMPTY = { requests: 0n, promptTokens: 0n, completionTokens: 0n, cost: 0n };

/** Sums of the rows; days descending, models and keys by cost. */
export function sumsBy(rows: readonly UsageRow[], grouping: Grouping): UsageSum[] {
  const sums = new Map<string, UsageSum>();
  for (const row of rows) {
    const name = grouping === "key" ? (row.key ?? WITHOUT_KEY) : row[grouping];
    const id = grouping === "key" ? (row.keyId ?? "") : name;
    sums.set(id, add(sums.get(id) ?? { id, name, ...EMPTY }, row));
  }
  const byCost = (a: UsageSum, b: UsageSum): number => (a.cost === b.cost ? a.name.localeCompare(b.name) : a.cost > b.cost ? -1 : 1);
  return [...sums.values()].sort(grouping === "day" ? (a, b) => b.name.localeCompare(a.name) : byCost);
}

function add(sum: UsageSum, row: UsageRow): UsageSum {
  return {
    id: sum.id,
    name: sum.name,
    requests: sum.requests + row.requests,
    promptTokens: sum.promptTokens + row.promptTokens,
    completionTokens: sum.completionTokens + row.completionTokens,
    cost: sum.cost + row.cost,
  };
}

export const totalOf = (rows: readonly UsageRow[]): UsageSum => rows.reduce<UsageSum>(add, { id: "", name: "Total", ...EMPTY });

/** Every day of a range, so that days without usage are seen as such. */
export function daysBetween(from: string, to: string): string[] {
  const [first, last] = [Date.parse(`${from}T00:00:00Z`), Date.parse(`${to}T00:00:00Z`)];
  const days: string[] = [];
  for (let at = first; at <= last && days.length < DAYS_MAX; at += DAY_MS) days.push(new Date(at).toISOString().slice(0, 10));
  return days;
}

/** The last `count` UTC days, the present one included. */
export function lastDays(count: number, nowMs: number): { from: string; to: string } {
  const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10);
  return { from: day(nowMs - (count - 1) * DAY_MS), to: day(nowMs) };
}

/** One CSV cell. A spreadsheet would run what begins like a formula: an apostrophe stops it (OWASP ASVS 1.2.10). */
export function csvCell(text: string): string {
  const safe = /^[=+\-@\t\r\uFF1D\uFF0B\uFF0D\uFF20]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
}

export function usageCsv(rows: readonly UsageRow[]): string {
  const head = ["day", "model", "key", "requests", "prompt_tokens", "completion_tokens", "cost_credits", "cost_prlx"];
  const lines = rows.map((row) =>
    [row.day, row.model, row.key ?? "", String(row.requests), String(row.promptTokens), String(row.completionTokens), String(row.cost), prlx(row.cost)].map(csvCell).join(","),
  );
  return [head.join(","), ...lines, ""].join("\r\n");
}
