/** An answer's receipt, from signed to settled on chain, and what the browser can check of it by itself. */

import { beforeAll, expect, test } from "vitest";

import { seriousFindings } from "./axe";
import { browser, SIZES, THEMES, openWindow, visit, useBrowser } from "./browser";
import type { Size } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, send } from "./flows";
import { picture } from "./pictures";
import { eventually } from "./wait";

const LINES_MIN = 6;

useBrowser();
let depositor: Depositor;
beforeAll(async () => {
  depositor = await Depositor.create();
});

test("every line holds once the receipt is settled, and the page says what that does not prove", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await depositor.enter(context);
  await visit(page, "#/chat");
  await send(page, "Why is the sky blue? Answer in one sentence.");
  await answered(page, facts.model);
  await answers(page, facts.model).last().getByText(/\d tok\/s/).waitFor();
  await picture(page, "answer", "light", "desktop");
  await answers(page, facts.model).last().getByRole("link", { name: "receipt" }).click();
  await page.getByRole("heading", { name: "Receipt" }).waitFor();
  const place = new URL(page.url()).hash;
  const id = place.split("/").at(-1) ?? "";
  await eventually("the receipt to be settled", async () => (await depositor.ask<{ state: string }>("GET", `/v1/receipts/${id}`)).state === "settled");
  await page.reload();
  await page.getByRole("button", { name: "Verify", exact: true }).click();
  const verification = page.getByRole("region", { name: "Verification" });
  await verification.getByRole("status").waitFor();
  const lines = await verification.locator("li[data-line]").evaluateAll((items) => items.map((item) => `${item.className.split(" ")[0]} ${(item as HTMLElement).dataset["line"]}: ${item.textContent?.replace(/\s+/g, " ").trim()}`));
  expect(lines.filter((line) => !line.startsWith("pass "))).toEqual([]);
  expect(lines.length).toBeGreaterThanOrEqual(LINES_MIN);
  await verification.getByText("What this does not prove").waitFor();

  for (const theme of THEMES) {
    for (const size of Object.keys(SIZES) as Size[]) {
      const other = await openWindow(browser, { theme, size });
      await depositor.enter(other.context);
      await visit(other.page, place);
      await other.page.getByRole("button", { name: "Verify", exact: true }).click();
      await other.page.getByRole("region", { name: "Verification" }).getByRole("status").waitFor();
      await picture(other.page, "receipt-depositor", theme, size);
      expect(await seriousFindings(other.page)).toEqual([]);
      await other.context.close();
    }
  }
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});

test("somebody else's receipt is not there", async () => {
  const stranger = await Depositor.create();
  const [receipt] = await depositor.receipts();
  const { context, page } = await openWindow(browser);
  await stranger.enter(context);
  await visit(page, `#/receipt/${receipt?.id}`);
  await page.getByText("There is no such receipt").waitFor();
  await context.close();
});
