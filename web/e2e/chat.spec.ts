/** The chat itself: versions, branches, the list, search, and taking conversations along. */

import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";

import { browser, openWindow, visit, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, send } from "./flows";
import { Relay } from "./relay";

useBrowser();
let depositor: Depositor;
let relay: Relay;
beforeAll(async () => {
  depositor = await Depositor.create();
  relay = await Relay.open();
});
afterAll(() => relay?.close());

async function chatting(work: (page: Page) => Promise<void>): Promise<void> {
  const { context, page, misdeeds } = await openWindow(browser, { url: relay.url });
  await depositor.enter(context);
  try {
    await visit(page, "#/chat");
    await work(page);
    expect(misdeeds.unexpected).toEqual([]);
  } finally {
    await context.close();
  }
}

/** Asks, and gets exactly this answer. */
async function exchange(page: Page, question: string, answer: string): Promise<void> {
  relay.script = { pieces: [answer], pauseMs: 0 };
  await send(page, question);
  await answered(page, facts.model);
}

test("an answer that is asked for again keeps the first one beside it", () =>
  chatting(async (page) => {
    const last = answers(page, facts.model).last();
    await exchange(page, "Which one?", "the first answer");
    relay.script = { pieces: ["the second answer"], pauseMs: 0 };
    await page.getByRole("button", { name: "Regenerate" }).click();
    await last.getByText("the second answer").waitFor();
    await answered(page, facts.model);
    await page.getByText("2/2").waitFor();
    await page.getByRole("button", { name: "Previous version" }).click();
    await last.getByText("the first answer").waitFor();
    await page.reload();
    await last.getByText("the first answer").waitFor();
    await page.getByText("1/2").waitFor();
  }));

test("a question that is edited becomes a branch and overwrites nothing", () =>
  chatting(async (page) => {
    const last = answers(page, facts.model).last();
    await exchange(page, "The first wording", "about the first");
    relay.script = { pieces: ["about the second"], pauseMs: 0 };
    await page.getByRole("button", { name: "Edit", exact: true }).click();
    await page.getByLabel("Edit the message").fill("The second wording");
    await page.getByRole("button", { name: "Send as a new branch" }).click();
    await last.getByText("about the second").waitFor();
    await page.getByRole("button", { name: "Previous version" }).first().click();
    await last.getByText("about the first").waitFor();
  }));

test("what is copied is what the model wrote, not what is drawn", () =>
  chatting(async (page) => {
    const source = "Some **bold** text\n\n```js\nlet a = 1;\n```";
    await exchange(page, "Write something", source);
    await answers(page, facts.model).last().getByRole("button", { name: "Copy", exact: true }).last().click();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(source);
  }));

test("a conversation is found by its words, renamed, deleted, and brought back", () =>
  chatting(async (page) => {
    await exchange(page, "Tell me of the axolotl", "It keeps its gills.");
    await page.getByRole("link", { name: "New chat" }).click();
    await exchange(page, "Tell me of the heron", "It stands in water.");
    await page.getByLabel("Search conversations").fill("gills");
    const list = page.getByRole("complementary", { name: "Conversations" });
    await list.getByRole("link", { name: /axolotl/ }).waitFor();
    expect(await list.getByRole("link", { name: /heron/ }).count()).toBe(0);
    await page.getByLabel("Search conversations").fill("");
    await list.getByRole("button", { name: "More for Tell me of the heron" }).click();
    await page.getByRole("button", { name: "Rename" }).click();
    await page.getByLabel("Title").fill("Birds");
    await page.getByRole("button", { name: "Save" }).click();
    await list.getByRole("button", { name: "More for Birds" }).click();
    await page.getByRole("button", { name: "Delete" }).first().click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await list.getByRole("link", { name: "Birds" }).waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Undo" }).click();
    await list.getByRole("link", { name: "Birds" }).waitFor();
  }));

test("the keyboard is enough: send, stop, search, a new chat, the last question again", () =>
  chatting(async (page) => {
    const field = page.getByRole("textbox", { name: "Message" });
    relay.script = { pieces: Array.from({ length: 600 }, (_, index) => `word${index} `), pauseMs: 50 };
    await field.fill("Begin");
    await field.press("Enter");
    await page.getByText("word3 ").first().waitFor();
    await page.keyboard.press("Escape");
    await page.getByText("Stopped. Only what arrived is charged.").waitFor();
    await page.keyboard.press("Control+k");
    expect(await page.getByLabel("Search conversations").evaluate((field) => field === document.activeElement)).toBe(true);
    await field.focus();
    await page.keyboard.press("ArrowUp");
    await page.getByLabel("Edit the message").waitFor();
  }));
