/** From the first visit to the first paid answer, its receipt, and the second visit without a wallet. */

import { expect, test } from "vitest";

import { browser, giveAuthenticator, openWindow, visit, useBrowser } from "./browser";
import { CREDITS_PER_PRLX, vaultCredits } from "./chain";
import { facts } from "./facts";
import { answered, answers, askForDeposit, awaitCredited, send } from "./flows";
import { TestWallet } from "./wallet";

/** What a newcomer will bear. */
const PROMPTS_MAX = 3;

useBrowser();

test("a stranger signs up with a passkey, deposits, asks and gets a paid answer with a receipt", async () => {
  const wallet = await TestWallet.create();
  const { context, page, misdeeds } = await openWindow(browser, { prepare: (context) => wallet.install(context) });
  const authenticator = await giveAuthenticator(page);
  await visit(page, "#/account");
  await page.getByRole("button", { name: "Create an account" }).click();
  await page.getByRole("heading", { name: "Signed in" }).waitFor();
  expect(wallet.asked).toEqual([]);

  await page.getByRole("link", { name: "Deposit and link" }).click();
  await page.getByRole("button", { name: "Test Wallet" }).click();
  await askForDeposit(page, "25");
  await awaitCredited(page, "25");
  await page.getByRole("link", { name: "To the chat" }).click();

  await send(page, "Name one colour of the rainbow.");
  const costs = await answered(page, facts.model);
  expect(costs).toMatch(/\d+ in · [\d,]+ out/);
  expect(costs).toMatch(/0\.\d+ PRLX/);
  expect(costs).toMatch(/node 0x/);
  expect(wallet.asked.length).toBeLessThanOrEqual(PROMPTS_MAX);
  expect(await vaultCredits(wallet.account.address)).toBeLessThanOrEqual(25n * CREDITS_PER_PRLX);

  await answers(page, facts.model).last().getByRole("link", { name: "receipt" }).click();
  await page.getByRole("heading", { name: /receipt/i }).first().waitFor();

  // Later, on the same device, without the wallet.
  await visit(page, "#/account");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("button", { name: "Sign in", exact: true }).first().click();
  await page.getByRole("heading", { name: "Signed in" }).waitFor();
  await visit(page, "#/chat");
  await send(page, "And another one?");
  await answered(page, facts.model);
  expect(wallet.asked.length).toBeLessThanOrEqual(PROMPTS_MAX);
  expect(misdeeds.unexpected).toEqual([]);
  await authenticator.detach();
  await context.close();
});

test("a person who breaks off the passkey is told so, and can try again", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  const session = await context.newCDPSession(page);
  await session.send("WebAuthn.enable");
  const { authenticatorId } = await session.send("WebAuthn.addVirtualAuthenticator", {
    options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: false, automaticPresenceSimulation: true },
  });
  await visit(page, "#/account");
  await page.getByRole("button", { name: "Create an account" }).click();
  await page.getByRole("alert").waitFor();
  await session.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified: true });
  await page.getByRole("button", { name: "Create an account" }).click();
  await page.getByRole("heading", { name: "Signed in" }).waitFor();
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});
