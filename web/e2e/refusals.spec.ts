/** Messages that can't be sent as they are: the reason, the way out, and the draft that is still there. */

import { expect, test } from "vitest";

import { browser, giveAuthenticator, openWindow, visit, useBrowser } from "./browser";
import { CREDITS_PER_PRLX, vaultCredits } from "./chain";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, askForDeposit, send } from "./flows";
import { visiting } from "./visits";
import { TestWallet } from "./wallet";

useBrowser();

const message = "Name one colour of the rainbow.";

test("somebody without a wallet keeps the draft, deposits in place, and the message is sent", async () => {
  const wallet = await TestWallet.create();
  await visiting(
    browser,
    null,
    async ({ page }) => {
      await giveAuthenticator(page);
      await page.getByRole("button", { name: "Create an account" }).click();
      await page.getByRole("heading", { name: "Signed in" }).waitFor();
      await visit(page, "#/chat");
      await send(page, message);
      const notice = page.getByRole("alert").filter({ hasText: "This account has no wallet yet." });
      await notice.waitFor();
      expect(await page.getByRole("textbox", { name: "Message" }).inputValue()).toBe(message);
      await notice.getByRole("button", { name: "Deposit and send" }).click();
      await page.getByRole("dialog", { name: "Deposit PRLX" }).getByRole("button", { name: "Test Wallet" }).click();
      await askForDeposit(page, "25");
      await page.getByRole("heading", { name: "25 PRLX credited" }).waitFor();
      await page.getByRole("button", { name: "Go on" }).click();
      await answered(page, facts.model);
      expect(await answers(page, facts.model).count()).toBe(1);
      expect(await page.getByRole("textbox", { name: "Message" }).inputValue()).toBe("");
      expect(wallet.asked).toEqual(["SpendAuthorization", "Permit", "eth_sendTransaction"]);
      expect(await vaultCredits(wallet.account.address)).toBeGreaterThan(24n * CREDITS_PER_PRLX);
    },
    { place: "#/account", prepare: (context) => wallet.install(context) },
  );
});

test("a worst case above the balance is said before sending, with a length that fits", async () => {
  // The longest answer of a new chat costs more than this.
  const depositor = await Depositor.create({ deposit: "0.003", exposure: "0.003" });
  await visiting(browser, depositor, async ({ page }) => {
    await page.getByRole("textbox", { name: "Message" }).fill(message);
    await page.getByText(/^Up to 0\.004\d* PRLX, and you can spend 0\.003 PRLX now\.$/).waitFor();
    const lower = page.getByRole("button", { name: /^Lower max tokens to \d+$/ });
    const fitting = Number(/\d+/.exec(await lower.innerText())?.[0]);
    await lower.click();
    await page.getByText(/^up to 0\.00[23]\d* PRLX$/).waitFor();
    expect(await page.getByText(/you can spend/).count()).toBe(0);
    await page.getByRole("button", { name: "Settings", exact: true }).click();
    expect(await page.getByLabel("Longest answer, tokens").inputValue()).toBe(String(fitting));
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Send" }).click();
    await answered(page, facts.model);
    const receipts = await depositor.receipts();
    expect(receipts.length).toBe(1);
    expect((await depositor.credits()).available_credits).toBe(3_000_000 - (receipts[0]?.cost_credits ?? 0));
  });
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

test("offline nothing is sent, then or later by itself; back online the draft is there and goes out once", async () => {
  const depositor = await Depositor.create();
  await visiting(browser, depositor, async ({ page, context }) => {
    const jobs: string[] = [];
    page.on("request", (request) => {
      if (request.method() === "POST" && request.url().endsWith("/v1/jobs")) jobs.push(request.url());
    });
    const field = page.getByRole("textbox", { name: "Message" });
    await field.fill(message);
    await page.getByRole("button", { name: "Send" }).and(page.locator(":enabled")).waitFor();
    await context.setOffline(true);
    await page.getByRole("status").filter({ hasText: "You are offline. Nothing will be sent." }).waitFor();
    expect(await page.getByRole("button", { name: "Send" }).isDisabled()).toBe(true);
    await field.press("Enter");
    expect(await field.inputValue()).toBe(message);

    await context.setOffline(false);
    await page.getByText(/^up to 0\.\d+ PRLX$/).waitFor();
    expect(await field.inputValue()).toBe(message);
    expect(jobs).toEqual([]);
    expect(await depositor.receipts()).toEqual([]);
    await field.press("Enter");
    await answered(page, facts.model);
    expect(jobs.length).toBe(1);
    expect((await depositor.receipts()).length).toBe(1);
  });
});
