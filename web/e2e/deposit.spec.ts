/** Depositing: with a permit, without one, refused, left hanging, interrupted by a reload, with the wrong chain or account. */

import { expect, test } from "vitest";

import { browser, openWindow, visit, useBrowser } from "./browser";
import type { Window } from "./browser";
import { CREDITS_PER_PRLX, development, prlxWei, vaultCredits } from "./chain";
import { askForDeposit, awaitCredited, connectForDeposit, deposit, problem } from "./flows";
import { picture } from "./pictures";
import { eventually } from "./wait";
import { TestWallet } from "./wallet";

useBrowser();

async function withWallet(work: (wallet: TestWallet, window: Window) => Promise<void>, prlx = 100n): Promise<void> {
  const wallet = await TestWallet.create(prlx);
  const window = await openWindow(browser, { prepare: (context) => wallet.install(context) });
  try {
    await work(wallet, window);
    expect(window.misdeeds.unexpected).toEqual([]);
  } finally {
    await window.context.close();
  }
}

const credits = (wallet: TestWallet) => vaultCredits(wallet.account.address);

test("one transaction brings deposit and authorization, after three prompts", () =>
  withWallet(async (wallet, { page }) => {
    await connectForDeposit(page);
    await page.getByLabel("Deposit, PRLX").fill("25");
    await picture(page, "deposit-amount", "light", "desktop");
    await askForDeposit(page, "25");
    await awaitCredited(page, "25");
    expect(wallet.asked).toEqual(["SpendAuthorization", "Permit", "eth_sendTransaction"]);
    expect(await credits(wallet)).toBe(25n * CREDITS_PER_PRLX);
    // What was authorized needs no second authorization.
    await page.getByRole("button", { name: "Deposit more" }).click();
    await askForDeposit(page, "5");
    await awaitCredited(page, "5");
    expect(wallet.asked.slice(3)).toEqual(["Permit", "eth_sendTransaction"]);
    expect(await credits(wallet)).toBe(30n * CREDITS_PER_PRLX);
  }));

test("a wallet without permits is asked for an approval instead", () =>
  withWallet(async (wallet, { page }) => {
    wallet.unknown.add("Permit");
    await deposit(page, "12.5");
    expect(wallet.asked.filter((name) => name === "eth_sendTransaction").length).toBe(2);
    expect(await credits(wallet)).toBe((25n * CREDITS_PER_PRLX) / 2n);
  }));

for (const [what, refused] of [["authorization", "SpendAuthorization"], ["permit", "Permit"], ["transaction", "eth_sendTransaction"]] as const) {
  test(`a refused ${what} moves nothing, says so, and can be tried again`, () =>
    withWallet(async (wallet, { page }) => {
      await connectForDeposit(page);
      wallet.moods.set(refused, "rejects");
      await askForDeposit(page, "10");
      expect(await problem(page)).toMatch(/reject|declin|refus|said no|nothing/i);
      expect(await credits(wallet)).toBe(0n);
      wallet.moods.clear();
      await page.getByRole("button", { name: "Try again" }).click();
      await askForDeposit(page, "10");
      await awaitCredited(page, "10");
      expect(await credits(wallet)).toBe(10n * CREDITS_PER_PRLX);
    }));
}

test("a wallet that never answers can be left", () =>
  withWallet(async (wallet, { page }) => {
    await connectForDeposit(page);
    wallet.moods.set("Permit", "hangs");
    await askForDeposit(page, "10");
    await page.getByRole("heading", { name: /Sign the permit/ }).waitFor();
    await page.getByRole("button", { name: "Stop waiting" }).click();
    wallet.moods.clear();
    await askForDeposit(page, "10");
    await awaitCredited(page, "10");
    expect(await credits(wallet)).toBe(10n * CREDITS_PER_PRLX);
  }));

test("a reload while the transaction is on its way finds it again, and nothing is paid twice", () =>
  withWallet(async (wallet, { page }) => {
    await connectForDeposit(page);
    await development.setIntervalMining({ interval: 0 });
    try {
      await askForDeposit(page, "10");
      await page.getByRole("heading", { name: "The deposit is on its way" }).waitFor();
      await page.reload();
      await page.getByRole("heading", { name: "The deposit is on its way" }).waitFor();
    } finally {
      await development.setIntervalMining({ interval: 1 });
    }
    await awaitCredited(page, "10");
    expect(wallet.asked.filter((name) => name === "eth_sendTransaction").length).toBe(1);
    expect(await credits(wallet)).toBe(10n * CREDITS_PER_PRLX);
    expect(await prlxWei(wallet.account.address)).toBe(90n * 10n ** 18n);
  }));

test("the wrong chain is named, and the wallet is asked to change it", () =>
  withWallet(async (wallet, { page }) => {
    wallet.chainId = 1;
    await visit(page, "#/deposit");
    await page.getByRole("button", { name: "Test Wallet" }).click();
    await page.getByRole("heading", { name: "Another chain is chosen in the wallet" }).waitFor();
    wallet.moods.set("wallet_switchEthereumChain", "rejects");
    await page.getByRole("button", { name: "Switch the wallet's chain" }).click();
    await problem(page);
    wallet.moods.clear();
    await page.getByRole("button", { name: "Switch the wallet's chain" }).click();
    await askForDeposit(page, "10");
    await awaitCredited(page, "10");
  }));

test("another account in the middle stops everything before it is sent", () =>
  withWallet(async (wallet, { page }) => {
    await connectForDeposit(page);
    wallet.moods.set("Permit", "hangs");
    await askForDeposit(page, "10");
    await page.getByRole("heading", { name: /Sign the permit/ }).waitFor();
    const first = wallet.account.address;
    await wallet.choose(page, 1);
    expect(await problem(page)).toMatch(/changed its account/);
    expect(await vaultCredits(first)).toBe(0n);
    expect(wallet.asked).not.toContain("eth_sendTransaction");
    await eventually("the session of the first account to end", async () => {
      const cookies = await page.context().cookies();
      return cookies.every((cookie) => cookie.name !== "prlx_session" || cookie.value === "");
    });
  }));

test("more than the wallet has can't be sent off", () =>
  withWallet(async (_, { page }) => {
    await connectForDeposit(page);
    await page.getByLabel("Deposit, PRLX").fill("8");
    expect(await problem(page)).toMatch(/3/);
    expect(await page.getByRole("button", { name: "Deposit 8 PRLX" }).isDisabled()).toBe(true);
  }, 3n));

test("without a wallet the page says what one is", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await visit(page, "#/deposit");
  await page.getByText("No wallet was found in this browser.").waitFor();
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});
