/** What the page says before something runs out, and what it asks before something lasts. */

import type { Page } from "playwright-core";
import { beforeAll, expect, test } from "vitest";

import { seriousFindings } from "./axe";
import { browser, SIZES, openWindow, visit, giveAuthenticator, useBrowser } from "./browser";
import type { Size } from "./browser";
import { Depositor } from "./depositor";
import { problem } from "./flows";
import { visiting } from "./visits";
import { TestWallet } from "./wallet";

/** Five usual answers at the rate of the test network: 1,000 tokens cost 4,000,000 credits. */
const FIVE_ANSWERS_CREDITS = 20_000_000;

useBrowser();
let depositor: Depositor;
beforeAll(async () => {
  depositor = await Depositor.create();
});

/** The meter's word, with nearly everything spent. */
async function nearlySpent(page: Page): Promise<void> {
  await page.route("**/v1/credits", async (route) => {
    // Asked by the depositor's own token: a cookie counts in the page's own calls alone.
    await route.fulfill({ json: { ...(await depositor.credits()), available_credits: FIVE_ANSWERS_CREDITS, held_credits: 0, pending_credits: 0 } });
  });
}

test("a nearly empty balance is told once in plain words, with the button that helps, and can be put away", async () => {
  for (const size of Object.keys(SIZES) as Size[]) {
    const { context, page, misdeeds } = await openWindow(browser, { size });
    await depositor.enter(context);
    await visit(page, "#/chat");
    await page.getByRole("button", { name: /^Credits:/ }).waitFor();
    expect(await page.locator("[data-low]").count()).toBe(0);

    await nearlySpent(page);
    const warning = page.locator("[data-low=credits]");
    await warning.getByText("Your credits are enough for about 5 usual answers.").waitFor();
    expect(await page.getByRole("button", { name: /^Credits:.*about 5 usual answers/ }).count()).toBe(1);
    expect(await seriousFindings(page), size).toEqual([]);
    await warning.getByRole("button", { name: "Deposit" }).click();
    await page.getByRole("dialog", { name: "Deposit PRLX" }).waitFor();
    await page.keyboard.press("Escape");

    await warning.getByRole("button", { name: "Put this warning away for a day" }).click();
    await warning.waitFor({ state: "detached" });
    await page.reload();
    await page.getByRole("button", { name: /^Credits:/ }).waitFor();
    expect(await page.locator("[data-low]").count()).toBe(0);
    expect(misdeeds.unexpected).toEqual([]);
    await context.close();
  }
});

test("an old session proves itself by passkey, and what it asked for goes on by itself", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  const authenticator = await giveAuthenticator(page);
  await visit(page, "#/account");
  await page.getByRole("button", { name: "Create an account" }).click();
  await page.getByRole("heading", { name: "Signed in" }).waitFor();

  // As the meter answers ten minutes later; the second time it is asked itself.
  let refused = 0;
  await page.route(/\/v1\/passkeys\/[\w-]+$/, async (route) => {
    if (route.request().method() !== "DELETE" || refused > 0) return route.fallback();
    refused += 1;
    await route.fulfill({ status: 403, json: { error: { code: "reauthentication_required", message: "this session was opened long ago", type: "permission_error", param: null } } });
  });
  await page.getByRole("button", { name: /^Remove the passkey/ }).click();
  await page.getByRole("button", { name: "Remove it" }).click();
  const dialog = page.getByRole("dialog", { name: "Is it still you?" });
  await dialog.waitFor();
  expect(await seriousFindings(page)).toEqual([]);
  await dialog.getByRole("button", { name: "Use a passkey" }).click();
  expect(await problem(page)).toContain("only way into this account");
  expect(refused).toBe(1);

  // Who turns away is told that nothing happened.
  refused = 0;
  await page.getByRole("button", { name: /^Remove the passkey/ }).click();
  await page.getByRole("button", { name: "Remove it" }).click();
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await page.getByText("Nothing was changed.").waitFor();
  expect(misdeeds.unexpected).toEqual([]);
  await authenticator.detach();
  await context.close();
});

test("an old session proves itself by the wallet's signature, and what it asked for goes on by itself", async () => {
  const wallet = await TestWallet.create();
  const someone = await Depositor.create({ deposit: 1n, exposure: 1n }, wallet.account);
  await visiting(
    browser,
    someone,
    async ({ page }) => {
      // As the meter answers ten minutes later; the second time it is asked itself.
      let refused = 0;
      await page.route("**/v1/keys", async (route) => {
        if (route.request().method() !== "POST" || refused > 0) return route.fallback();
        refused += 1;
        await route.fulfill({ status: 403, json: { error: { code: "reauthentication_required", message: "this session was opened long ago", type: "permission_error", param: null } } });
      });
      await page.getByLabel("Name", { exact: true }).fill("made by signature");
      await page.getByRole("button", { name: "Make a key" }).click();
      const dialog = page.getByRole("dialog", { name: "Is it still you?" });
      await dialog.getByRole("button", { name: "Test Wallet" }).click();
      expect(await seriousFindings(page)).toEqual([]);

      wallet.mood = "rejects";
      await dialog.getByRole("button", { name: "Sign with the wallet" }).click();
      await dialog.getByRole("alert").filter({ hasText: /\S/ }).waitFor();
      wallet.mood = "approves";
      await dialog.getByRole("button", { name: "Sign with the wallet" }).click();
      await page.locator("code", { hasText: /^prlx_\w{40,}$/ }).first().waitFor();
      expect(await page.getByRole("row", { name: /made by signature/ }).count()).toBe(1);
      expect(refused).toBe(1);
      expect(wallet.asked).toEqual(["SignIn", "SignIn"]);
    },
    { place: "#/keys", prepare: (context) => wallet.install(context) },
  );
});
