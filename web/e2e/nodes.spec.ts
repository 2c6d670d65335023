/** Nodes that die, and nobody there to answer (they are cut off for real and come back at the end). */

import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";

import { launch, openWindow, visit } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, limitAnswers, send } from "./flows";
import { fallback, kill, registered, revive } from "./nodes";
import { eventually } from "./wait";

const LONG = "Write a long story about a lighthouse keeper, with many chapters.";

/** Long enough to be interrupted, short enough for a slow machine. */
const ANSWER_TOKENS = 200;

let browser: Browser;
let depositor: Depositor;
beforeAll(async () => {
  browser = await launch();
  depositor = await Depositor.create();
});
afterAll(() => browser?.close());

interface Pool {
  nodes_online: number;
  fallback_nodes_online: number;
}
const pool = () => depositor.ask<Pool>("GET", "/v1/pool");

test("a node that dies in the middle is named, what came is kept and charged, and another node can be asked", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await depositor.enter(context);
  await visit(page, "#/chat");
  await limitAnswers(page, ANSWER_TOKENS);
  await send(page, LONG);
  const last = answers(page, facts.model).last();
  await eventually("the answer to begin", async () => (await last.count()) === 1 && (await last.locator(".markdown").innerText()).length > 20);
  for (const node of registered) kill(node);
  try {
    await last.getByRole("alert").waitFor();
    expect(await last.getByRole("alert").innerText()).toMatch(/stopped answering after \d+ tokens\. Only what arrived is charged/);
    await page.getByRole("button", { name: "Ask another node" }).click();
    // Only the project's own hardware is left.
    await answered(page, facts.model);
    await answers(page, facts.model).last().getByText("Fallback").first().waitFor();

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
