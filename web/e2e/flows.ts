/** What people do on the page, by the names that they see. */

import type { Locator, Page } from "playwright-core";

import { visit } from "./browser";

/** Opens the deposit and connects the wallet. Ends at the question how much. */
export async function connectForDeposit(page: Page, walletName = "Test Wallet"): Promise<void> {
  await visit(page, "#/deposit");
  await page.getByRole("button", { name: walletName }).click();
  await page.getByRole("heading", { name: "How much?" }).waitFor();
}

/** Fills in the amount and sends it off. */
export async function askForDeposit(page: Page, prlx: string): Promise<void> {
  await page.getByLabel("Deposit, PRLX").fill(prlx);
  await page.getByRole("button", { name: `Deposit ${prlx} PRLX` }).click();
}

export async function awaitCredited(page: Page, prlx: string): Promise<void> {
  await page.getByRole("heading", { name: `${prlx} PRLX credited` }).waitFor();
}

/** The whole way from a connected wallet to credits. */
export async function deposit(page: Page, prlx: string): Promise<void> {
  await connectForDeposit(page);
  await askForDeposit(page, prlx);
  await awaitCredited(page, prlx);
}

/** Text of the alert that says why something did not go through. */
export async function problem(page: Page): Promise<string> {
  const alert = page.getByRole("alert").filter({ hasText: /\S/ }).first();
  await alert.waitFor();
  return (await alert.innerText()).trim();
}

/** Writes a message and sends it. */
export async function send(page: Page, text: string): Promise<void> {
  await page.getByRole("textbox", { name: "Message" }).fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}

/** The answers of the open conversation; their name is the model's. */
export function answers(page: Page, model: string): Locator {
  return page.getByRole("article", { name: model });
}

/** Waits for the end of the last answer and returns its line of costs: of one that was continued, of its last part. */
export async function answered(page: Page, model: string): Promise<string> {
  const last = answers(page, model).last();
  await last.getByRole("link", { name: "receipt" }).last().waitFor();
  return last.locator(".line").last().innerText();
}

/** Sets the longest answer of the open conversation. */
export async function limitAnswers(page: Page, tokens: number): Promise<void> {
  await page.getByRole("button", { name: "Settings", exact: true }).click();
  const field = page.getByLabel("Longest answer, tokens");
  await field.fill(String(tokens));
  await field.press("Tab");
  await page.keyboard.press("Escape");
  await field.waitFor({ state: "hidden" });
}
