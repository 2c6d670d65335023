/** Nodes that fall silent or die, and nobody there to answer (they are cut off for real and come back at the end). */

import type { Page } from "playwright-core";
import { beforeAll, expect, test } from "vitest";

import { browser, openWindow, visit, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, limitAnswers, send } from "./flows";
import { fallback, freeze, kill, registered, revive, thaw } from "./nodes";
import type { NodeFacts } from "./facts";
import { visiting } from "./visits";
import { eventually } from "./wait";

const LONG = "Write a long story about a lighthouse keeper, with many chapters.";

/** Long enough to be interrupted, short enough for a slow machine. */
const ANSWER_TOKENS = 200;

useBrowser();
let depositor: Depositor;
beforeAll(async () => {
  depositor = await Depositor.create();
});

interface Pool {
  nodes: { tflops: { value: number | null } }[];
  nodes_online: number;
  fallback_nodes_online: number;
}
const pool = () => depositor.ask<Pool>("GET", "/v1/pool");

const modelButton = (page: Page, model: string) => page.getByRole("button", { name: new RegExp(`^${model}`) });

async function choose(page: Page, model: string): Promise<void> {
  await modelButton(page, facts.model).first().click();
  await page.getByRole("dialog", { name: "Choose a model" }).getByRole("button", { name: model }).click();
}

/** The node that alone serves the second model. */
function first(): NodeFacts {
  const [node] = registered;
  if (!node) throw new Error("the network has no registered node");
  return node;
}

test("the pool shows the TFLOPS that the meter measured, and nobody paid for the measuring", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await visit(page, "#/pool");
  const measured = async () => (await pool()).nodes.map(({ tflops }) => tflops.value).filter((value) => value !== null);
  await eventually("every node to be measured", async () => (await measured()).length === facts.nodes.length);
  for (const node of facts.nodes) {
    const card = page.getByRole("article").filter({ has: page.getByTitle(node.address) });
    await card.locator("div").filter({ has: page.getByText("TFLOPS, int8", { exact: true }) }).last().getByText("measured").waitFor();
  }
  const total = page.locator("dl.totals .card").filter({ hasText: "TFLOPS, int8 weights" });
  await total.getByText("measured by the meter").waitFor();
  expect(Number.parseFloat(await total.locator(".number").innerText())).toBeGreaterThan(0);
  expect((await depositor.credits()).held_credits).toBe(0);
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});

test("a node that stops reporting is greyed and not dropped, and picker and composer say what that means", () =>
  visiting(browser, depositor, async ({ page, context }) => {
    const console = await context.newPage();
    await visit(console, "#/pool");
    const card = console.getByRole("article").filter({ has: console.getByTitle(first().address) });
    await card.getByText("Idle", { exact: true }).waitFor();
    await choose(page, facts.twin.id);
    const dialog = page.getByRole("dialog", { name: "Choose a model" });
    const silent = "1 not heard for 15 seconds: no messages go there until it is";
    freeze(first());
    try {
      await card.getByText("Stale", { exact: true }).waitFor();
      expect(await console.getByRole("article").count()).toBe(facts.nodes.length);
      expect(await card.evaluate((element) => getComputedStyle(element).filter)).toBe("grayscale(1)");
      await modelButton(page, facts.twin.id).click();
      await dialog.getByRole("button", { name: facts.twin.id }).getByText(silent).waitFor();
      expect(await dialog.getByRole("button", { name: facts.model }).innerText()).toContain(`2 nodes online\n${silent}`);
      await page.keyboard.press("Escape");
      await page.getByText(`No node of ${facts.twin.id} was heard for 15 seconds, so none gets a message. Nothing is charged until one is heard again.`).waitFor();
      // Its own connection still stands, and nothing is sent into it.
      await send(page, "Is anybody there?");
      await page.getByRole("alert").filter({ hasText: `0 nodes serve ${facts.twin.id}. Nothing is charged.` }).waitFor();
      expect((await depositor.credits()).held_credits).toBe(0);
    } finally {
      thaw(first());
    }
    await card.getByText("Idle", { exact: true }).waitFor();
    await modelButton(page, facts.twin.id).click();
    await dialog.getByText(silent).first().waitFor({ state: "detached" });
    await page.getByText("was heard for 15 seconds").waitFor({ state: "detached" });
  }));

test("where nobody serves one model the message waits, or goes to another one at its price", () =>
  visiting(browser, depositor, async ({ page }) => {
    await choose(page, facts.twin.id);
    kill(first());
    try {
      await eventually("the meter to see that nobody serves the second model", async () => {
        const { nodes_online } = await depositor.ask<{ nodes_online: number }>("GET", `/v1/models/${facts.twin.id}`);
        return nodes_online === 0;
      });
      await send(page, "Is anybody there?");
      const notice = page.getByRole("alert").filter({ hasText: `0 nodes serve ${facts.twin.id}. Nothing is charged.` });
      await notice.waitFor();
      expect(await page.getByRole("textbox", { name: "Message" }).inputValue()).toBe("Is anybody there?");
      const other = `Use ${facts.model}, 1 node, ${facts.modelRate / 1e9} PRLX per 1M tokens`;
      // Who is there is asked again at a refusal.
      await notice.getByRole("button", { name: other }).waitFor();
      expect(await notice.getByRole("button").allInnerTexts()).toEqual(["Wait for a node, no charge", other, "Dismiss"]);
      const before = (await depositor.receipts()).length;
      await notice.getByRole("button", { name: other }).click();
      await answered(page, facts.model);
      expect(await answers(page, facts.model).count()).toBe(1);
      expect((await depositor.receipts()).length).toBe(before + 1);
      await modelButton(page, facts.model).click();
      expect(await page.getByRole("dialog").getByRole("button", { name: facts.twin.id }).innerText()).toContain("no node is online");
    } finally {
      await revive(first());
    }
  }));

test("where a node dies in the middle another goes on, once, and both are named, charged and signed", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await depositor.enter(context);
  await visit(page, "#/chat");
  await limitAnswers(page, ANSWER_TOKENS);
  const before = await depositor.credits();
  await send(page, LONG);
  const last = answers(page, facts.model).last();
  await eventually("the answer to begin", async () => (await last.count()) === 1 && (await last.locator(".markdown").innerText()).length > 20);
  const begun = await last.locator(".markdown").innerText();
  for (const node of registered) kill(node);
  try {
    // Only the project's own hardware is left to go on.
    await last.getByText(/stopped answering after \d+ tokens\. Only what arrived is charged\. Continued on another node\./).waitFor();
    await answered(page, facts.model);
    expect(await answers(page, facts.model).count(), "one answer, not two").toBe(1);
    expect((await last.locator(".markdown").innerText()).startsWith(begun.slice(0, 20))).toBe(true);
    await last.getByText("Fallback").first().waitFor();
    const receipts = await last.getByRole("link", { name: "receipt" }).evaluateAll((links) => links.map((link) => link.getAttribute("href")));
    expect(new Set(receipts).size).toBe(2);
    const costs = await last.getByTitle("what this answer cost").allInnerTexts();
    // What is available: a settlement in between changes what may be spent, and not this.
    const charged = before.available_credits - (await depositor.credits()).available_credits;
    expect(costs.map((cost) => Number(cost.split(" ")[0])).reduce((sum, cost) => sum + cost, 0)).toBeCloseTo(charged / 1e9, 9);

    if (!fallback) throw new Error("the network has no fallback node");
    kill(fallback);
    await eventually("the meter to see that nobody is there", async () => {
      const { nodes_online, fallback_nodes_online } = await pool();
      return nodes_online + fallback_nodes_online === 0;
    });
    await send(page, "Is anybody there?");
    await page.getByText(`0 nodes serve ${facts.model}.`).waitFor();
    expect((await depositor.credits()).held_credits).toBe(0);
    await page.getByRole("button", { name: "Wait for a node, no charge" }).click();
    await page.getByText(/Waiting for a node that serves/).waitFor();
  } finally {
    await Promise.all(facts.nodes.map(revive));
  }
  // What waited is sent by itself.
  await page.getByText("Is anybody there?").first().waitFor();
  await eventually("the answer to what waited", async () => (await answers(page, facts.model).count()) === 2);
  await answered(page, facts.model);
  await eventually("the nodes to be back", async () => (await pool()).nodes_online === registered.length);
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});

test("where nobody can go on the answer keeps what came, and goes on when asked to", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await depositor.enter(context);
  await visit(page, "#/chat");
  await limitAnswers(page, ANSWER_TOKENS);
  await send(page, LONG);
  const last = answers(page, facts.model).last();
  const text = last.locator(".markdown");
  await eventually("the answer to begin", async () => (await last.count()) === 1 && (await text.innerText()).length > 20);
  for (const node of facts.nodes) kill(node);
  let arrived: string;
  try {
    await last.getByRole("alert").getByText(/stopped answering after \d+ tokens\. Only what arrived is charged/).waitFor();
    await page.getByRole("button", { name: "Go on" }).waitFor();
    arrived = (await text.innerText()).trim();
    expect(await page.getByText(/nodes serve/).count(), "nobody asked, so nothing is refused").toBe(0);
    await eventually("nothing to be held", async () => (await depositor.credits()).held_credits === 0);
  } finally {
    await Promise.all(facts.nodes.map(revive));
  }
  await eventually("the nodes to be back", async () => (await pool()).nodes_online === registered.length);
  await page.getByRole("button", { name: "Go on" }).click();
  await last.getByText(/Continued on (the same|another) node\./).waitFor();
  expect(((await text.textContent()) ?? "").trim().startsWith(arrived.slice(0, 20)), "what came before stays while the rest is waited for").toBe(true);
  await eventually("more of the answer", async () => (await text.innerText()).length > arrived.length);
  expect(await answers(page, facts.model).count()).toBe(1);
  expect(await last.getByRole("link", { name: "receipt" }).count()).toBe(2);

  // It is there after a reload, and an answer to it is given the whole of it.
  await page.reload();
  await last.getByText(/Continued on (the same|another) node\./).waitFor();
  await send(page, "Thank you");
  await eventually("the next answer", async () => (await answers(page, facts.model).count()) === 2);
  await answered(page, facts.model);
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});
