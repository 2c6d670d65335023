/** What becomes of an answer when the reader reloads, opens a second tab, loses the network, or has enough. */

import { beforeAll, expect, test } from "vitest";

import { browser, openWindow, visit, useBrowser } from "./browser";
import type { Window } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, limitAnswers, send } from "./flows";
import { eventually } from "./wait";

const LONG = "Write a long story about a lighthouse keeper, with many chapters.";
/** Long enough to be interrupted, short enough for a slow machine. */
const ANSWER_TOKENS = 200;
/** So much text, and an answer has surely begun. */
const BEGUN_CHARACTERS = 20;
const OFFLINE_MS = 5_000;

useBrowser();
let depositor: Depositor;
beforeAll(async () => {
  depositor = await Depositor.create();
});

async function signedIn(work: (window: Window) => Promise<void>): Promise<void> {
  const window = await openWindow(browser);
  await depositor.enter(window.context);
  try {
    await visit(window.page, "#/chat");
    await limitAnswers(window.page, ANSWER_TOKENS);
    await work(window);
    expect(window.misdeeds.unexpected).toEqual([]);
  } finally {
    await window.context.close();
  }
}

/** Until the last answer has text and is still growing. */
async function begun(page: Window["page"]): Promise<void> {
  const last = answers(page, facts.model).last();
  await eventually("the answer to begin", async () => (await last.count()) === 1 && (await last.locator(".markdown").innerText()).length > BEGUN_CHARACTERS);
  expect(await last.getAttribute("aria-busy")).toBe("true");
}

const textOf = (page: Window["page"]) => answers(page, facts.model).last().locator(".markdown").innerText();
const receiptCount = async () => (await depositor.receipts()).length;

test("a reload in the middle goes on where it was, and is charged once", () =>
  signedIn(async ({ page }) => {
    const before = await receiptCount();
    await send(page, LONG);
    await begun(page);
    const early = await textOf(page);
    await page.reload();
    await answered(page, facts.model);
    const whole = await textOf(page);
    expect(whole.startsWith(early.slice(0, BEGUN_CHARACTERS))).toBe(true);
    expect(whole.length).toBeGreaterThan(early.length);
    expect(await receiptCount()).toBe(before + 1);
  }));

test("a second tab shows the same answer, which is charged once", () =>
  signedIn(async ({ page, context }) => {
    const before = await receiptCount();
    await send(page, LONG);
    await begun(page);
    const second = await context.newPage();
    await second.goto(page.url());
    await answered(second, facts.model);
    await answered(page, facts.model);
    expect(await textOf(second)).toBe(await textOf(page));
    expect(await receiptCount()).toBe(before + 1);
  }));

test("five seconds without a network cost nothing of the answer", () =>
  signedIn(async ({ page, context }) => {
    const before = await receiptCount();
    await send(page, LONG);
    await begun(page);
    await context.setOffline(true);
    await page.getByText("You are offline. Nothing will be sent.").waitFor();
    // The length of the outage is what is tried here.
    await new Promise((resolve) => setTimeout(resolve, OFFLINE_MS));
    await context.setOffline(false);
    await answered(page, facts.model);
    expect(await receiptCount()).toBe(before + 1);
  }));

test("stop keeps what came, and charges no more", () =>
  signedIn(async ({ page }) => {
    await send(page, LONG);
    await begun(page);
    await page.getByRole("button", { name: "Stop" }).click();
    await page.getByText("Stopped. Only what arrived is charged.").waitFor();
    const kept = await textOf(page);
    expect(kept.length).toBeGreaterThan(BEGUN_CHARACTERS);
    const costs = await answered(page, facts.model);
    expect(Number(/(\d+) out/.exec(costs)?.[1])).toBeLessThan(ANSWER_TOKENS);
    await page.reload();
    await answered(page, facts.model);
    expect(await textOf(page)).toBe(kept);
  }));
