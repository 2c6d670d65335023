// @vitest-environment jsdom
import { afterEach, beforeEach, expect, it, vi } from "vitest";

import { LivePool } from "../src/pool/live.svelte";

let push: (text: string) => void;
let asked: string[];
let live: LivePool;
let streams = true;

const POOL = JSON.stringify({ nodes: [{ node: "0xab", operator: 1 }] });

beforeEach(() => {
  vi.useFakeTimers();
  asked = [];
  streams = true;
  vi.stubGlobal("fetch", (path: string) => {
    asked.push(path);
    if (path === "/v1/pool") return Promise.resolve(new Response(POOL));
    if (!streams) return Promise.resolve(new Response("{}", { status: 429 }));
    const body = new ReadableStream<Uint8Array>({ start: (controller) => void (push = (text) => controller.enqueue(new TextEncoder().encode(text))) });
    return Promise.resolve(new Response(body));
  });
});

afterEach(() => {
  live.stop();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

it("an unchanged pool that says so stays fresh, a silent one grows stale", async () => {
  live = new LivePool();
  await vi.advanceTimersByTimeAsync(10);
  push(`event: pool\ndata: ${POOL}\n\n`);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(live.pool?.nodes.length).toBe(1);
  for (let comment = 0; comment < 4; comment += 1) {
    await vi.advanceTimersByTimeAsync(10_000);
    push(": unchanged\n\n");
  }
  await vi.advanceTimersByTimeAsync(1_000);
  expect(live.isStale).toBe(false);
  expect(live.ageMs).toBeGreaterThan(40_000);
  await vi.advanceTimersByTimeAsync(16_000);
  expect(live.isStale).toBe(true);
  expect(asked).toEqual(["/v1/pool/events"]);
});

it("asks by hand where no stream is to be had", async () => {
  streams = false;
  live = new LivePool();
  await vi.advanceTimersByTimeAsync(100);
  expect(asked).toEqual(["/v1/pool/events", "/v1/pool"]);
  expect(live.pool?.nodes.length).toBe(1);
  expect(live.isUnreachable).toBe(false);
});
