// The pool, live: by the meter's event stream, and where that breaks off by asking again. What was heard last stays, greyed.

import { call, openStream } from "../api/client";
import { isAbort } from "../api/error";
import { readSse } from "../api/sse";
import { readPool, STALE_AFTER_MS } from "./pool";
import type { Pool } from "./pool";

const RETRY_MS = 3_000;
const TICK_MS = 1_000;

export class LivePool {
  pool = $state.raw<Pool | null>(null);
  /** When anything was heard last, and when the pool was, on the clock that only goes forward. */
  #aliveAtMs = 0;
  #heardAtMs = 0;
  silentMs = $state(0);
  /** How old the figures are: an unchanged pool is not sent again. */
  ageMs = $state(0);
  /** The last try failed. */
  isUnreachable = $state(false);
  #stop = new AbortController();
  #ticker = setInterval(() => this.#tick(), TICK_MS);

  constructor() {
    void this.#run();
  }

  get isStale(): boolean {
    return this.pool !== null && this.silentMs > STALE_AFTER_MS;
  }

  stop(): void {
    this.#stop.abort();
    clearInterval(this.#ticker);
  }

  #tick(): void {
    if (this.pool === null) return;
    const now = performance.now();
    this.silentMs = now - this.#aliveAtMs;
    this.ageMs = now - this.#heardAtMs;
  }

  #heard(body: unknown): void {
    this.pool = readPool(body);
    this.#aliveAtMs = this.#heardAtMs = performance.now();
    this.silentMs = this.ageMs = 0;
    this.isUnreachable = false;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        const body = await openStream("/v1/pool/events", { signal });
        await readSse(body.pipeThrough(this.#pulse()), ({ event, data }) => {
          if (event === "pool") this.#heard(JSON.parse(data));
        });
      } catch (error) {
        if (isAbort(error)) return;
        await this.#ask(signal);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  /** Every byte is a sign of life, comments too: while nothing changes there are no others. */
  #pulse(): TransformStream<Uint8Array, Uint8Array> {
    return new TransformStream({
      transform: (chunk, controller) => {
        this.#aliveAtMs = performance.now();
        controller.enqueue(chunk);
      },
    });
  }

  /** Once, by hand: a proxy in between may cut every stream. */
  async #ask(signal: AbortSignal): Promise<void> {
    try {
      this.#heard(await call("GET", "/v1/pool", { signal }));
    } catch (error) {
      if (!isAbort(error)) this.isUnreachable = true;
    }
  }
}
