// The models that are served here, with price, nodes and speed.

import { call } from "../api/client";
import { creditsOrNull } from "../money/amounts";

export interface Model {
  readonly id: string;
  readonly contextTokens: number | null;
  /** Credits per 1,000,000 tokens, prompt and answer alike; null when no price is in force. */
  readonly rate: bigint | null;
  readonly quantization: string | null;
  readonly nodesOnline: number;
  readonly fallbackNodesOnline: number;
  /** Of these, the ones that stopped reporting: they get no messages until they are heard again. */
  readonly staleNodes: number;
  /** Medians over the last answers, measured by the meter; null when there were none. */
  readonly tokensPerS: number | null;
  readonly firstTokenMs: number | null;
  readonly queued: number | null;
}

type Json = Record<string, unknown>;

const STORAGE_KEY = "parallelix.model";
const PERIOD_MS = 15_000;

const number = (value: unknown): number | null => (typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : null);
const text = (value: unknown): string | null => (typeof value === "string" && value !== "" ? value : null);

/** Reads one entry of `GET /v1/models`; null for one without an id. */
export function modelFrom(entry: Json): Model | null {
  const id = text(entry.id);
  return id === null
    ? null
    : {
        id,
        contextTokens: number(entry.context_tokens),
        rate: creditsOrNull(entry.credits_per_million_tokens),
        quantization: text(entry.quantization),
        nodesOnline: number(entry.nodes_online) ?? 0,
        fallbackNodesOnline: number(entry.fallback_nodes_online) ?? 0,
        staleNodes: number(entry.stale_nodes) ?? 0,
        tokensPerS: number(entry.answer_tokens_per_s_median),
        firstTokenMs: number(entry.first_token_ms_median),
        queued: number(entry.queue),
      };
}

/** Whether somebody can answer now: a node of the network, or the project's own hardware, that was heard lately. */
export const isServed = (model: Model): boolean => model.nodesOnline + model.fallbackNodesOnline > model.staleNodes;

/** Whether those who could answer have all stopped reporting. */
export const isSilent = (model: Model): boolean => model.nodesOnline + model.fallbackNodesOnline > 0 && !isServed(model);

export type Order = "price" | "speed";

/** Those that can answer first, then by price or by measured speed; what is not known comes last. */
export function ordered(models: readonly Model[], order: Order): Model[] {
  const price = (model: Model) => (model.rate === null ? Number.POSITIVE_INFINITY : Number(model.rate));
  const slowness = (model: Model) => (model.tokensPerS === null ? Number.POSITIVE_INFINITY : -model.tokensPerS);
  const by = order === "price" ? price : slowness;
  const compare = (a: number, b: number) => (a === b ? 0 : a < b ? -1 : 1);
  return [...models].sort((a, b) => Number(isServed(b)) - Number(isServed(a)) || compare(by(a), by(b)) || (a.id < b.id ? -1 : 1));
}

class Models {
  list = $state.raw<readonly Model[]>([]);
  state = $state<"loading" | "ready" | "failed">("loading");
  #timer: ReturnType<typeof setInterval> | null = null;

  /** Reads the list now, and again every few seconds while the page is seen. */
  async start(): Promise<void> {
    this.#timer ??= setInterval(() => document.visibilityState === "visible" && void this.refresh(), PERIOD_MS);
    await this.refresh();
  }

  async refresh(): Promise<void> {
    try {
      const reply = await call<{ data?: unknown }>("GET", "/v1/models");
      const data = Array.isArray(reply?.data) ? (reply.data as Json[]) : [];
      this.list = data.flatMap((entry) => modelFrom(entry) ?? []);
      this.state = "ready";
    } catch {
      // What was known stays on the screen; only a page that never had a list says so.
      if (this.state === "loading") this.state = "failed";
    }
  }

  get(id: string): Model | null {
    return this.list.find((model) => model.id === id) ?? null;
  }

  /** The model of a new chat: the last one chosen on this device if it is still served here, else the cheapest that can answer. */
  preferred(): Model | null {
    return this.get(remembered() ?? "") ?? ordered(this.list, "price")[0] ?? null;
  }

  remember(id: string): void {
    try {
      localStorage.setItem(STORAGE_KEY, id);
    } catch {
      // No storage: chosen again next time.
    }
  }
}

function remembered(): string | null {
  try {
    return localStorage.getItem(STORAGE_KEY);
  } catch {
    return null;
  }
}

export const models = new Models();
