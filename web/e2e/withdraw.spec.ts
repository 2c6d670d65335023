/** Taking money out: a part, everything at once, after a revocation, and what is refused. */

import type { Page } from "playwright-core";
import { expect, test } from "vitest";

import { seriousFindings } from "./axe";
import { browser, openWindow, visit, useBrowser } from "./browser";
import { CREDITS_PER_PRLX, prlxWei, vaultCredits, WEI_PER_CREDIT } from "./chain";
import { facts } from "./facts";
import { answered, answers, askForDeposit, awaitCredited, deposit, limitAnswers, problem, send } from "./flows";
import { eventually } from "./wait";
import { TestWallet } from "./wallet";

const PRLX_WEI = 10n ** 18n;

useBrowser();

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

async function close(page: Page): Promise<void> {
  await page.getByRole("button", { name: "Close", exact: true }).click();
  await page.getByRole("button", { name: "Close and withdraw all" }).click();
}

interface MeterCredits {
  held_credits: number;
  unsettled_credits: number;
  authorization: { live: boolean; settle_deadline: number };
}

/** Waits until the meter, which follows the chain at its own pace, has it so. */
const asTheMeterSees = (page: Page, what: string, isSo: (credits: MeterCredits) => boolean): Promise<boolean> =>
  eventually(`${what}, as the meter sees it`, async () => isSo(await page.evaluate(async () => (await (await fetch("/v1/credits")).json()) as MeterCredits)));

const isOver = ({ authorization }: MeterCredits): boolean => !authorization.live;

const CLOSED = "Your account is closed and everything is in your wallet.";

test("who owes nothing closes at once and has everything back, and can come again", () =>
  deposited(async (wallet, page) => {
    await openWithdraw(page);
    await close(page);
    await page.getByText(CLOSED).waitFor();
    expect(await prlxWei(wallet.account.address)).toBe(100n * PRLX_WEI);
    expect(await vaultCredits(wallet.account.address)).toBe(0n);
    await page.getByText("Nothing is kept back.").waitFor();
    expect(await page.getByRole("button", { name: "Close", exact: true }).isDisabled()).toBe(true);
    await asTheMeterSees(page, "the closure", isOver);
    await visit(page, "#/chat");
    await send(page, "Is anything left?");
    await page.getByText("You have not set a spending limit").waitFor();
    await visit(page, "#/deposit");
    await page.getByRole("heading", { name: "How much?" }).waitFor();
    await askForDeposit(page, "30");
    await awaitCredited(page, "30");
    await visit(page, "#/chat");
    await limitAnswers(page, 8);
    await send(page, "And now?");
    await answered(page, facts.model);
  }));

test("what is outstanding is named and nothing moves, until it is settled", () =>
  deposited(async (wallet, page) => {
    await visit(page, "#/chat");
    await limitAnswers(page, 200);
    await send(page, "Write a long story about a lighthouse keeper, with many chapters.");
    await eventually("the answer to begin", async () => (await answers(page, facts.model).last().locator(".markdown").innerText()).length > 20);
    await openWithdraw(page);
    await close(page);
    expect(await problem(page)).toMatch(/^[\d.]+ PRLX are held for running requests and [\d.]+ PRLX are charged and not settled; let them end/);
    expect(await vaultCredits(wallet.account.address)).toBe(40n * CREDITS_PER_PRLX);
    expect(wallet.asked.filter((name) => name === "eth_sendTransaction").length).toBe(1);

    await asTheMeterSees(page, "the settlement", (credits) => credits.held_credits + credits.unsettled_credits === 0);
    const left = await vaultCredits(wallet.account.address);
    expect(left).toBeLessThan(40n * CREDITS_PER_PRLX);
    await close(page);
    await page.getByText(CLOSED).waitFor();
    expect(await prlxWei(wallet.account.address)).toBe(60n * PRLX_WEI + left * WEI_PER_CREDIT);
    expect(await vaultCredits(wallet.account.address)).toBe(0n);
  }));

test("an attestation that the wallet did not use keeps the account from spending, and closes it later", () =>
  deposited(async (wallet, page) => {
    await openWithdraw(page);
    wallet.moods.set("eth_sendTransaction", "rejects");
    await close(page);
    await page.getByText(/attestation may still be used, so nothing can be spent until/).waitFor();
    expect(await vaultCredits(wallet.account.address)).toBe(40n * CREDITS_PER_PRLX);
    await visit(page, "#/chat");
    await send(page, "Is anything left?");
    await page.getByText("This account is being closed").waitFor();
    await page.getByText(/nothing can be spent until .*20\d\d/).first().waitFor();
    wallet.moods.delete("eth_sendTransaction");
    await openWithdraw(page);
    await close(page);
    await page.getByText(CLOSED).waitFor();
    expect(await prlxWei(wallet.account.address)).toBe(100n * PRLX_WEI);
  }));

async function revoke(page: Page): Promise<void> {
  await openWithdraw(page);
  await page.getByRole("button", { name: "Revoke", exact: true }).click();
  await page.getByRole("button", { name: "Revoke now" }).click();
  await page.getByText("The authorization is revoked.").waitFor();
  await asTheMeterSees(page, "the revocation", isOver);
}

test("after a revocation nothing more can be spent, and the page says so", () =>
  deposited(async (_, page) => {
    await revoke(page);
    await visit(page, "#/chat");
    await send(page, "Is anything left?");
    await page.getByText(/spending limit|not enough credits|signed for/i).first().waitFor();
  }));

test("once nothing is kept back after a revocation, the page says what can leave, and leads there", () =>
  deposited(async (_, page) => {
    await revoke(page);
    await visit(page, "#/chat");
    await page.getByRole("button", { name: /^Credits:/ }).waitFor();
    expect(await page.locator("[data-low]").count()).toBe(0);

    // The exit delay is over on this device's clock; the chain's is everybody's, and stays.
    const { authorization } = await page.evaluate(async () => (await (await fetch("/v1/credits")).json()) as MeterCredits);
    await page.clock.setFixedTime((authorization.settle_deadline + 1) * 1000);
    const reminder = page.locator("[data-low=free]");
    await reminder.getByText("Nothing is kept back any more: 40 PRLX can leave the vault.").waitFor();
    expect(await page.getByRole("button", { name: /^Credits:.*40 PRLX can leave the vault/ }).count()).toBe(1);
    expect(await seriousFindings(page)).toEqual([]);
    await reminder.getByRole("link", { name: "Withdraw" }).click();
    await page.getByRole("heading", { name: "Withdraw", level: 1 }).waitFor();
    expect(await reminder.count()).toBe(0);
  }));
