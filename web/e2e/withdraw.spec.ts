/** Taking money out: a part, after a revocation, and what is refused. */

import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";

import { launch, openWindow, visit } from "./browser";
import { CREDITS_PER_PRLX, prlxWei, vaultCredits } from "./chain";
import { deposit, problem, send } from "./flows";
import { TestWallet } from "./wallet";

const PRLX_WEI = 10n ** 18n;

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser?.close());

async function deposited(work: (wallet: TestWallet, page: Page) => Promise<void>): Promise<void> {
  const wallet = await TestWallet.create();
  const { context, page, misdeeds } = await openWindow(browser, { prepare: (context) => wallet.install(context) });
  try {
    await deposit(page, "40");
    await work(wallet, page);
    expect(misdeeds.unexpected).toEqual([]);
  } finally {
    await context.close();
  }
}

async function openWithdraw(page: Page): Promise<void> {
  await page.evaluate(() => (location.hash = "#/withdraw"));
  await page.getByRole("heading", { name: "Withdraw", level: 1 }).waitFor();
  const known = page.getByRole("button", { name: "Test Wallet" });
  // The wallet may still be connected from the deposit.
  await known.or(page.getByLabel("Amount, PRLX")).first().waitFor();
  if (await known.isVisible()) await known.click();
  await page.getByLabel("Amount, PRLX").waitFor();
}

test("what is not kept back leaves at once, and no more can be asked for", () =>
  deposited(async (wallet, page) => {
    await openWithdraw(page);
    await page.getByLabel("Amount, PRLX").fill("40");
    await page.getByText(/can be withdrawn now\. Write at most that/).waitFor();
    expect(await page.getByRole("button", { name: "Withdraw", exact: true }).isDisabled()).toBe(true);
    await page.getByLabel("Amount, PRLX").fill("7");
    await page.getByRole("button", { name: "Withdraw", exact: true }).click();
    await page.getByText("7 PRLX are in your wallet.").waitFor();
    expect(await prlxWei(wallet.account.address)).toBe(67n * PRLX_WEI);
    expect(await vaultCredits(wallet.account.address)).toBe(33n * CREDITS_PER_PRLX);
  }));

test("a refused withdrawal leaves everything where it was", () =>
  deposited(async (wallet, page) => {
    await openWithdraw(page);
    wallet.moods.set("eth_sendTransaction", "rejects");
    await page.getByLabel("Amount, PRLX").fill("7");
    await page.getByRole("button", { name: "Withdraw", exact: true }).click();
    await page.getByRole("status").filter({ hasText: /reject|declin|refus|nothing/i }).waitFor();
    expect(await vaultCredits(wallet.account.address)).toBe(40n * CREDITS_PER_PRLX);
  }));

test("where the meter attests no closure, nothing moves and the other way is named", () =>
  deposited(async (wallet, page) => {
    await openWithdraw(page);
    await page.getByRole("button", { name: "Close", exact: true }).click();
    await page.getByRole("button", { name: "Close and withdraw all" }).click();
    expect(await problem(page)).toMatch(/attests no closures\. Revoke instead/);
    expect(await vaultCredits(wallet.account.address)).toBe(40n * CREDITS_PER_PRLX);
  }));

test("after a revocation nothing more can be spent, and the page says so", () =>
  deposited(async (_, page) => {
    await openWithdraw(page);
    await page.getByRole("button", { name: "Revoke", exact: true }).click();
    await page.getByRole("button", { name: "Revoke now" }).click();
    await page.getByText("The authorization is revoked.").waitFor();
    await visit(page, "#/chat");
    await send(page, "Is anything left?");
    await page.getByText(/spending limit|not enough credits|signed for/i).first().waitFor();
  }));
