/** Signed in at two places: each sees the other, and can end it. */

import type { Page } from "playwright-core";
import { expect, test } from "vitest";

import { seriousFindings } from "./axe";
import { browser, openWindow, useBrowser, visit } from "./browser";
import type { Window } from "./browser";
import { TestWallet } from "./wallet";

useBrowser();

async function signIn(wallet: TestWallet): Promise<Window> {
  const window = await openWindow(browser, { prepare: (context) => wallet.install(context) });
  await visit(window.page, "#/account");
  await window.page.getByRole("button", { name: "Test Wallet" }).click();
  const section = window.page.locator("section", { has: window.page.getByRole("heading", { name: "With a wallet" }) });
  await section.getByRole("button", { name: "Sign in" }).click();
  await here(window.page).waitFor();
  return window;
}

const here = (page: Page) => page.getByText("This browser", { exact: true });
const elsewhere = (page: Page) => page.getByText("Another browser or program", { exact: true });

test("who is signed in elsewhere is seen and signed out from here, and this browser stays", async () => {
  const wallet = await TestWallet.create(0n, 1);
  const first = await signIn(wallet);
  expect(await elsewhere(first.page).count()).toBe(0);
  const second = await signIn(wallet);
  expect(await elsewhere(second.page).count()).toBe(1);
  expect(await seriousFindings(second.page)).toEqual([]);

  await second.page.getByRole("button", { name: "Sign out everywhere else" }).click();
  await elsewhere(second.page).waitFor({ state: "detached" });
  expect(await here(second.page).count()).toBe(1);
  await visit(first.page, "#/chat");
  await first.page.getByRole("banner").getByRole("link", { name: "Sign in" }).waitFor();
  await visit(first.page, "#/account");

  const third = await signIn(wallet);
  await third.page.getByRole("button", { name: /^Sign out the session since/ }).click();
  await elsewhere(third.page).waitFor({ state: "detached" });
  await second.page.reload();
  await second.page.getByRole("banner").getByRole("link", { name: "Sign in" }).waitFor();

  await third.page.getByRole("button", { name: "Sign out", exact: true }).click();
  await third.page.getByRole("heading", { name: "With a wallet" }).waitFor();
  for (const window of [first, second, third]) {
    expect(window.misdeeds.unexpected).toEqual([]);
    await window.context.close();
  }
});
