/** Answers that can't be paid: the reason, the way out, and the draft that is still there. */

import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";

import { giveAuthenticator, launch, openWindow, visit } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, send } from "./flows";
import { TestWallet } from "./wallet";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser?.close());

const message = "Name one colour of the rainbow.";

test("somebody without a wallet keeps the draft, deposits in place, and the message is sent", async () => {
  const wallet = await TestWallet.create();
  const { context, page, misdeeds } = await openWindow(browser, { prepare: (context) => wallet.install(context) });
  await giveAuthenticator(page);
  await visit(page, "#/account");
  await page.getByRole("button", { name: "Create an account" }).click();
  await page.getByRole("heading", { name: "Signed in" }).waitFor();
  await visit(page, "#/chat");
  await send(page, message);
  await page.getByText(/no wallet yet|Link a wallet/).first().waitFor();
  expect(await page.getByRole("textbox", { name: "Message" }).inputValue()).toBe(message);
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});

test("a worst case above the balance is said before sending, with a length that fits", async () => {
  // A hundredth of a PRLX pays for some 2,500 tokens.
  const depositor = await Depositor.create({ deposit: 1n, exposure: 1n });
  const { context, page, misdeeds } = await openWindow(browser);
  await depositor.enter(context);
  await visit(page, "#/chat");
  await page.getByRole("textbox", { name: "Message" }).fill(message);
  await page.getByText(/up to 0\.\d+ PRLX/i).first().waitFor();
  await send(page, message);
  await answered(page, facts.model);
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});

test("a stranger is asked to sign in and loses nothing", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await visit(page, "#/chat");
  await send(page, message);
  await page.getByRole("button", { name: "Create an account" }).waitFor();
  await visit(page, "#/chat");
  expect(await page.getByRole("textbox", { name: "Message" }).inputValue()).toBe(message);
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});

