/** How the page feels on a slow machine: typing beside a long conversation and a fast answer. */

import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";

import { browser, openWindow, visit, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, send } from "./flows";
import { Relay } from "./relay";
import { eventually } from "./wait";

const MESSAGES = 300;
const SLOWER = 4;
const TOKENS_PER_SECOND = 100;
const KEYS = 150;
/** Of the event timing interface: shorter ones are not told. */
const SHORTEST_TOLD_MS = 16;

const PARAGRAPH = "A hash function maps *any* input to a value of fixed size; `sha256` is one, and **changing one bit** changes about half of the others.\n\n";
const LISTING = "```python\ndef digest(data: bytes) -> str:\n    return hashlib.sha256(data).hexdigest()\n```\n\n";
const ANSWER = PARAGRAPH.repeat(3) + LISTING + "| input | output |\n|---|---|\n| a | ca97 |\n| b | 3e23 |\n\n" + PARAGRAPH;

useBrowser();
let relay: Relay;
beforeAll(async () => {
  relay = await Relay.open();
});
afterAll(() => relay?.close());

const figure = (name: string, value: number, unit: string) => console.log(`figure ${name} ${value.toFixed(1)} ${unit}`);

/** The `share` of `values` that is smallest ends here. */
function quantile(values: number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

interface Observed {
  keys: number[];
  longTasks: number[];
}

/** Begins to note how long each key took to be painted, and each task that kept the page busy. */
function observe(page: Page): Promise<void> {
  return page.evaluate((threshold) => {
    const observed: Observed = { keys: [], longTasks: [] };
    (globalThis as unknown as { observed: Observed }).observed = observed;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) if (entry.name === "keydown") observed.keys.push(entry.duration);
    }).observe({ type: "event", durationThreshold: threshold } as PerformanceObserverInit);
    new PerformanceObserver((list) => observed.longTasks.push(...list.getEntries().map((entry) => entry.duration))).observe({ type: "longtask" });
  }, SHORTEST_TOLD_MS);
}

test("typing beside a long conversation and a fast answer", async () => {
  const depositor = await Depositor.create();
  const { context, page } = await openWindow(browser, { url: relay.url });
  await depositor.enter(context);
  await visit(page, "#/chat");
  relay.script = { pieces: [ANSWER], pauseMs: 0 };
  for (let index = 0; index < MESSAGES / 2; index += 1) {
    await send(page, `Question ${index}`);
    await answered(page, facts.model);
  }
  await page.reload();
  await answered(page, facts.model);

  const debug = await context.newCDPSession(page);
  await debug.send("Emulation.setCPUThrottlingRate", { rate: SLOWER });
  const words = ANSWER.repeat(30).match(/\S+\s*|\s+/g) ?? [];
  relay.script = { pieces: words, pauseMs: 1_000 / TOKENS_PER_SECOND };
  await send(page, "One more");
  const last = answers(page, facts.model).last();
  await eventually("the answer to begin", async () => (await last.getAttribute("aria-busy")) === "true" && (await last.innerText()).length > 100);
  await observe(page);
  const field = page.getByRole("textbox", { name: "Message" });
  await field.focus();
  for (let key = 0; key < KEYS; key += 1) await page.keyboard.press(key % 6 === 5 ? "Space" : "KeyA");
  expect(await last.getAttribute("aria-busy"), "the answer has to outlast the typing").toBe("true");
  expect((await field.inputValue()).length).toBe(KEYS);

  const observed = await page.evaluate(() => (globalThis as unknown as { observed: Observed }).observed);
  // What is not told was shorter than the shortest that is.
  const keys = [...observed.keys, ...Array<number>(Math.max(0, KEYS - observed.keys.length)).fill(SHORTEST_TOLD_MS)];
  figure("page_typing_p50", quantile(keys, 0.5), "ms");
  figure("page_typing_p95", quantile(keys, 0.95), "ms");
  figure("page_typing_worst", Math.max(...keys), "ms");
  figure("page_longest_task", Math.max(0, ...observed.longTasks), "ms");
  await context.close();
});

test("a first visit", async () => {
  const { context, page } = await openWindow(browser);
  const debug = await context.newCDPSession(page);
  await debug.send("Emulation.setCPUThrottlingRate", { rate: SLOWER });
  await visit(page);
  await page.getByRole("textbox", { name: "Message" }).waitFor();
  const times = await page.evaluate(() => ({ paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? Number.NaN, usable: performance.now() }));
  figure("page_first_paint", times.paint, "ms");
  figure("page_usable", times.usable, "ms");
  await context.close();
});
