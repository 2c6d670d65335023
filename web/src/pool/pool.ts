// The pool as the meter tells it: every figure with where it comes from, every field optional, nothing trusted to be there.

export type Origin = "measured" | "declared";

export interface Figure {
  readonly value: number;
  readonly source: Origin;
}

export interface PoolNode {
  readonly id: string;
  readonly operator: string;
  readonly fallback: boolean;
  readonly models: readonly string[];
  /** What it runs on, by its own word. */
  readonly device: string;
  readonly kind: string;
  readonly version: string;
  /** Where it stands, by its operator's word; empty when not said. */
  readonly region: string;
  readonly stale: boolean;
  readonly draining: boolean;
  /** Why a device of the node computes nothing any more, by its own word. */
  readonly deviceError: string | null;
  readonly quarantine: string | null;
  readonly capacity: Figure | null;
  readonly streaming: Figure | null;
  readonly queued: Figure | null;
  readonly utilization: Figure | null;
  readonly memoryUsed: Figure | null;
  readonly memoryTotal: Figure | null;
  /** Measured by the meter; before that, the node's own word. */
  readonly tflops: Figure | null;
  /** Whether project hardware computed the measurement again and found the same. */
  readonly tflopsAudited: boolean;
  readonly speed: Figure | null;
  readonly served: Figure | null;
  readonly uptimeS: Figure | null;
  /** Percent of the last 30 days, by the meter's own watch. */
  readonly uptime: Figure | null;
  /** Since when the node is known, Unix seconds, where that is less than 30 days ago. */
  readonly knownSince: number | null;
}

export interface Pool {
  readonly nodes: readonly PoolNode[];
  readonly nodesOnline: number;
  readonly fallbackOnline: number;
  readonly streams: number;
  /** Sum of what was measured; null before anything was. */
  readonly tflops: number | null;
}

type Json = Record<string, unknown>;

/** Silent for longer than this, a node's figures are old. The meter says so; a page cut off from it must say so itself. */
export const STALE_AFTER_MS = 15_000;

const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);

export function figureOf(given: unknown): Figure | null {
  if (typeof given !== "object" || given === null) return null;
  const { value, source } = given as { value?: unknown; source?: unknown };
  return isNumber(value) ? { value, source: source === "measured" ? "measured" : "declared" } : null;
}

/** Nothing done so far says nothing. */
const positive = (figure: Figure | null): Figure | null => (figure !== null && figure.value > 0 ? figure : null);

const isAudited = (given: unknown): boolean => typeof given === "object" && given !== null && "audited" in given && given.audited === true;

const sinceOf = (given: unknown): number | null => (typeof given === "object" && given !== null && "since" in given && isNumber(given.since) ? given.since : null);

const valueOf = (given: unknown): unknown => (typeof given === "object" && given !== null && "value" in given ? given.value : given);

/** Names are the node's own: control and direction characters would let one pose as another. */
export const plainName = (given: unknown): string => String(given ?? "").replace(/[\p{Cc}\p{Cf}]/gu, "").slice(0, 80);

function nodeOf(given: Json): PoolNode {
  const device = (valueOf(given["device"]) ?? {}) as Json;
  const quarantine = given["quarantine"] as Json | null | undefined;
  const total = figureOf(given["gpu_memory_total_bytes"]) ?? (isNumber(device["memory_bytes"]) ? { value: device["memory_bytes"], source: "declared" as const } : null);
  return {
    id: plainName(given["node"]),
    operator: plainName(given["operator"]),
    fallback: given["fallback"] === true,
    models: Array.isArray(given["models"]) ? given["models"].map((model: Json) => plainName(model["id"])) : [],
    device: plainName(device["name"]) || "not said",
    kind: plainName(device["kind"]).toUpperCase(),
    version: plainName(valueOf(given["version"])),
    region: plainName(valueOf(given["region"]) ?? ""),
    stale: given["stale"] === true,
    draining: valueOf(given["draining"]) === true,
    deviceError: plainName(valueOf(given["device_error"])) || null,
    quarantine: quarantine ? plainName(quarantine["reason"]) || "quarantined" : null,
    capacity: figureOf(given["capacity"]),
    streaming: figureOf(given["streaming"]) ?? figureOf(given["active"]),
    queued: figureOf(given["queued"]),
    utilization: figureOf(given["utilization_percent"]),
    memoryUsed: figureOf(given["memory_used_bytes"]),
    memoryTotal: total,
    tflops: positive(figureOf(given["tflops"])) ?? positive(figureOf(given["tflops_declared"])),
    tflopsAudited: isAudited(given["tflops"]),
    // Measured by the meter; before the first answer, what the node says of itself.
    speed: positive(figureOf(given["answer_tokens_per_s"])) ?? positive(figureOf(given["decode_tokens_per_s"])),
    served: figureOf(given["answers_served"]),
    uptimeS: figureOf(given["uptime_s"]),
    uptime: figureOf(given["uptime_30d_percent"]),
    knownSince: sinceOf(given["uptime_30d_percent"]),
  };
}

/** Reads the body of `GET /v1/pool`. Throws when it is none. */
export function readPool(reply: unknown): Pool {
  const given = (reply ?? {}) as Json;
  if (!Array.isArray(given["nodes"])) throw new TypeError("the meter's pool has no `nodes` list");
  const nodes = (given["nodes"] as Json[]).map(nodeOf);
  const totals = (typeof given["totals"] === "object" && given["totals"] !== null ? given["totals"] : given) as Json;
  const number = (name: string, otherwise: number): number => {
    const value = valueOf(totals[name] ?? given[name]);
    return isNumber(value) ? value : otherwise;
  };
  const measured = nodes.reduce((sum, node) => sum + (node.tflops?.source === "measured" ? node.tflops.value : 0), 0);
  const tflops = number("tflops_total", measured);
  return {
    nodes,
    nodesOnline: number("nodes_online", nodes.filter((node) => !node.fallback).length),
    fallbackOnline: number("fallback_nodes_online", nodes.filter((node) => node.fallback).length),
    streams: number("streams_total", nodes.reduce((sum, node) => sum + (node.streaming?.value ?? 0), 0)),
    tflops: tflops > 0 ? tflops : null,
  };
}

const GIB = 2 ** 30;

/** Bytes as GiB. */
export const gib = (bytes: number): string => (bytes / GIB).toFixed(bytes >= 10 * GIB ? 0 : 1);

/** A figure for the eye: whole from ten on, one digit after the point below, two that say something below one. */
export const plain = (value: number): string => (Number.isInteger(value) || Math.abs(value) >= 10 ? Math.round(value).toLocaleString() : value >= 1 ? value.toFixed(1) : value.toPrecision(2));

/** A share of time: two digits below one hundred, rounded down, so that 100 means always. */
export const percent = (value: number): string => (value >= 100 ? "100" : (Math.floor(value * 100) / 100).toString());

/** A time span in its two largest units. */
export function span(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const parts: [number, string][] = [[Math.floor(whole / 86_400), "d"], [Math.floor(whole / 3_600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = parts.findIndex(([value]) => value > 0);
  return first < 0 ? "0 s" : parts.slice(first, first + 2).filter(([value]) => value > 0).map(([value, unit]) => `${value} ${unit}`).join(" ");
}
