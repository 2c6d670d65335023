/** The causes of a 402, each made for real: told apart by its words and its way out, and the draft is still there. */

import type { Locator, Page } from "playwright-core";
import { expect, test } from "vitest";

import { browser, visit, useBrowser } from "./browser";
import { CREDITS_PER_PRLX, vaultCredits } from "./chain";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, send } from "./flows";
import { visiting } from "./visits";
import { TestWallet } from "./wallet";

const MESSAGE = "Name one colour of the rainbow.";
/** PRLX; too few for the longest answer of a new chat, and enough for a shorter one. */
const TOO_FEW = "0.003";
const TOO_FEW_CREDITS = 3_000_000;
const COSTS_TOO_MUCH = "This answer may cost up to 0\\.004\\d* PRLX and 0\\.003 PRLX";

useBrowser();

const draft = (page: Page) => page.getByRole("textbox", { name: "Message" }).inputValue();

/** Sends, and is refused with these words and ways out, in their order; the draft is back in its field and no receipt was made. */
async function refused(page: Page, title: string, words: RegExp, ways: (string | RegExp)[]): Promise<Locator> {
  await send(page, MESSAGE);
  const notice = page.getByRole("alert").filter({ hasText: `${title}.` });
  await notice.waitFor();
  expect(await notice.innerText()).toMatch(words);
  const buttons = await notice.getByRole("button").allInnerTexts();
  expect(buttons).toEqual([...ways.map((way) => (way instanceof RegExp ? expect.stringMatching(way) : way)), "Dismiss"]);
  expect(await draft(page)).toBe(MESSAGE);
  expect(await answers(page, facts.model).count()).toBe(0);
  return notice;
}

/** The refused message was answered, once, and its draft is gone. */
async function answeredOnce(page: Page, depositor: Depositor): Promise<void> {
  await answered(page, facts.model);
  expect(await page.getByRole("article").count()).toBe(2);
  expect(await draft(page)).toBe("");
  expect((await depositor.receipts()).length).toBe(1);
  // A page that comes back does not send it again.
  await page.reload();
  await answered(page, facts.model);
  expect((await depositor.receipts()).length).toBe(1);
  expect((await depositor.credits()).held_credits).toBe(0);
}

const SHORTER = /^Lower the longest answer to \d+ tokens and send$/;

test("too few credits: the deposit opens over the chat, and then the message is sent by itself, once", async () => {
  const wallet = await TestWallet.create(10n, 1);
  const depositor = await Depositor.create({ deposit: TOO_FEW, exposure: 1n, cap: 10n }, wallet.account);
  await visiting(
    browser,
    depositor,
    async ({ page }) => {
      const notice = await refused(page, "Not enough credits", new RegExp(`${COSTS_TOO_MUCH} is available`), ["Deposit and send", SHORTER]);
      await notice.getByRole("button", { name: "Deposit and send" }).click();
      const dialog = page.getByRole("dialog", { name: "Deposit PRLX" });
      await dialog.getByRole("button", { name: "Test Wallet" }).click();
      const amount = dialog.getByLabel("Deposit, PRLX");
      expect(await amount.inputValue()).toMatch(/^0\.004\d*$/);
      expect(await draft(page)).toBe(MESSAGE);
      await amount.fill("5");
      await dialog.getByRole("button", { name: "Deposit 5 PRLX" }).click();
      await dialog.getByRole("heading", { name: "5 PRLX credited" }).waitFor();
      await dialog.getByRole("button", { name: "Go on" }).click();
      await answeredOnce(page, depositor);
      expect(wallet.asked).toEqual(["Permit", "eth_sendTransaction"]);
      const { available_credits, unsettled_credits } = await depositor.credits();
      const spent = (await depositor.receipts())[0]?.cost_credits ?? 0;
      expect(spent).toBeGreaterThan(0);
      expect(available_credits + spent).toBe(TOO_FEW_CREDITS + 5e9);
      expect(unsettled_credits).toBeLessThanOrEqual(spent);
    },
    { prepare: (context) => wallet.install(context) },
  );
});

test("a deposit that is called off sends nothing", async () => {
  const wallet = await TestWallet.create(10n, 1);
  const depositor = await Depositor.create({ deposit: TOO_FEW, exposure: 1n, cap: 10n }, wallet.account);
  await visiting(
    browser,
    depositor,
    async ({ page }) => {
      const notice = await refused(page, "Not enough credits", /Deposit more/, ["Deposit and send", SHORTER]);
      await notice.getByRole("button", { name: "Deposit and send" }).click();
      await page.getByRole("dialog", { name: "Deposit PRLX" }).getByRole("button", { name: "Close" }).click();
      expect(await draft(page)).toBe(MESSAGE);
      await notice.getByRole("button", { name: "Dismiss" }).click();
      await notice.waitFor({ state: "detached" });
      expect(await draft(page)).toBe(MESSAGE);
      expect(await depositor.receipts()).toEqual([]);
      expect((await depositor.credits()).available_credits).toBe(TOO_FEW_CREDITS);
    },
    { prepare: (context) => wallet.install(context) },
  );
});

test("too low an unsettled limit: a shorter answer passes", async () => {
  const depositor = await Depositor.create({ deposit: 10n, exposure: TOO_FEW });
  await visiting(browser, depositor, async ({ page }) => {
    const notice = await refused(page, "Your unsettled limit leaves too little", new RegExp(`${COSTS_TOO_MUCH} can be used before the next settlement`), [
      "Try again",
      "Sign a higher limit",
      SHORTER,
    ]);
    await notice.getByRole("button", { name: SHORTER }).click();
    await answeredOnce(page, depositor);
  });
});

test("too low a spending limit: a new one is signed in place without a deposit, and the message is sent", async () => {
  const wallet = await TestWallet.create(0n, 1);
  const depositor = await Depositor.create({ deposit: 10n, exposure: 1n, cap: TOO_FEW }, wallet.account);
  await visiting(
    browser,
    depositor,
    async ({ page }) => {
      const notice = await refused(page, "Your spending limit leaves too little", new RegExp(`${COSTS_TOO_MUCH} is left of what you signed for`), [
        "Set a spending limit",
        SHORTER,
      ]);
      await notice.getByRole("button", { name: "Set a spending limit" }).click();
      const dialog = page.getByRole("dialog", { name: "Deposit PRLX" });
      await dialog.getByRole("button", { name: "Test Wallet" }).click();
      expect(await dialog.getByLabel("Deposit, PRLX").inputValue()).toBe("");
      await dialog.getByRole("button", { name: "Authorize" }).click();
      await dialog.getByRole("heading", { name: "Spending is authorized" }).waitFor();
      await dialog.getByRole("button", { name: "Go on" }).click();
      await answeredOnce(page, depositor);
      expect(wallet.asked).toEqual(["SpendAuthorization", "eth_sendTransaction"]);
      expect(await vaultCredits(wallet.account.address)).toBeGreaterThan(9n * CREDITS_PER_PRLX);
    },
    { prepare: (context) => wallet.install(context) },
  );
});

test("too low a limit of an API key: a shorter answer passes, and the key can be put away without losing the draft", async () => {
  const depositor = await Depositor.create();
  const { key } = await depositor.ask<{ key: string }>("POST", "/v1/keys", { name: "a tab's", limit_credits: TOO_FEW_CREDITS });
  const words = new RegExp(`${COSTS_TOO_MUCH} is left of the key's limit`);
  const ways = ["Use another key or sign in", SHORTER];
  await visiting(
    browser,
    null,
    async ({ page }) => {
      const notice = await refused(page, "This API key's own limit leaves too little", words, ways);
      await notice.getByRole("button", { name: SHORTER }).click();
      await answered(page, facts.model);
      expect((await depositor.receipts()).length).toBe(1);
      await page.getByRole("link", { name: "New chat" }).click();
      await page.getByRole("textbox", { name: "Message" }).fill(MESSAGE);
      await page.getByRole("button", { name: "Send" }).click();
      await notice.getByRole("button", { name: "Use another key or sign in" }).click();
      await page.getByRole("button", { name: "Put the key away" }).click();
      await page.getByRole("heading", { name: "With a wallet" }).waitFor();
      await visit(page);
      expect(await draft(page)).toBe(MESSAGE);
      expect(await page.evaluate(() => sessionStorage.getItem("parallelix.api_key"))).toBe(null);
      expect((await depositor.receipts()).length).toBe(1);
    },
    { place: `#key=${key}` },
  );
});
