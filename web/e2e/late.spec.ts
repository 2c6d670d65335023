/** Parts of the page that are fetched later, where the connection fails just then. */

import type { Page } from "playwright-core";
import { expect, test } from "vitest";

import { browser, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { visiting } from "./visits";

useBrowser();

/** The connection fails for the file of one part, until the returned function is called. */
async function keptAway(page: Page, part: string): Promise<{ asked: () => number; letThrough: () => Promise<void> }> {
  const files = new RegExp(`/assets/${part}-[^/]+\\.js$`);
  let asked = 0;
  await page.route(files, (route) => {
    asked += 1;
    return route.abort("connectionfailed");
  });
  return { asked: () => asked, letThrough: () => page.unroute(files) };
}

test("the header's credits come by themselves once their code can be fetched", async () => {
  const depositor = await Depositor.create();
  await visiting(
    browser,
    depositor,
    async ({ page }) => {
      const pill = await keptAway(page, "CreditsPill");
      await page.evaluate(() => (location.hash = "#/chat"));
      await page.reload();
      await page.getByRole("link", { name: "Account", exact: true }).waitFor();
      expect(await page.getByRole("button", { name: /^Credits:/ }).count()).toBe(0);
      await pill.letThrough();
      await page.getByRole("button", { name: /^Credits:/ }).waitFor();
      expect(pill.asked()).toBeGreaterThan(0);
    },
    { place: "#/pool" },
  );
});

test("a dialog that can't be fetched says so, keeps the draft, and opens at the next try", async () => {
  // Too little for one usual answer, so that the page offers a deposit by itself.
  const depositor = await Depositor.create({ deposit: "0.003", exposure: 1n, cap: 10n });
  await visiting(browser, depositor, async ({ page }) => {
    const dialog = await keptAway(page, "Deposit");
    const message = page.getByRole("textbox", { name: "Message" });
    await message.fill("What does this cost?");
    const deposit = page.locator("[data-low=credits]").getByRole("button", { name: "Deposit" });
    await deposit.click();
    await page.getByText("This could not be opened: the connection failed").waitFor();
    expect(await page.getByRole("dialog", { name: "Deposit PRLX" }).count()).toBe(0);
    expect(await message.inputValue()).toBe("What does this cost?");
    expect(dialog.asked()).toBeGreaterThan(0);
    await dialog.letThrough();
    await deposit.click();
    await page.getByRole("dialog", { name: "Deposit PRLX" }).waitFor();
  });
});
