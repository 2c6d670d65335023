/** Somebody without account and wallet: what is served, what it costs, who computes, and one real answer that they check themselves. */

import { expect, test } from "vitest";

import { seriousFindings } from "./axe";
import { browser, SIZES, THEMES, openWindow, visit, useBrowser } from "./browser";
import type { Size } from "./browser";
import { facts } from "./facts";
import { eventually } from "./wait";

/** Lines that ask the chain about a batch; the rest needs none. */
const LINES_MIN = 6;

useBrowser();

test("a visitor reads a real answer and finds every claim of its receipt to hold, without a wallet", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await visit(page);
  const demo = page.getByRole("article", { name: "An answer from this network" });
  await demo.getByText(/\d+ in · \d+ out · 0\.\d+ PRLX/).waitFor();
  await demo.getByRole("link", { name: "Check the receipt" }).click();
  await page.getByRole("heading", { name: "Receipt", exact: true }).waitFor();
  const id = new URL(page.url()).hash.split("/").at(-1) ?? "";
  const state = async () => ((await (await fetch(`${facts.apiUrl}/v1/receipts/${id}`)).json()) as { state: string }).state;
  await eventually("the receipt to be settled", async () => (await state()) === "settled");
  await page.reload();

  await page.getByRole("button", { name: "Verify", exact: true }).click();
  const verification = page.getByRole("region", { name: "Verification" });
  await verification.getByRole("status").waitFor();
  const outcomes = await verification.locator("li[data-line]").evaluateAll((items) => items.map((item) => `${item.className.split(" ")[0]} ${(item as HTMLElement).dataset["line"]}`));
  expect(outcomes.filter((line) => line.startsWith("fail"))).toEqual([]);
  expect(outcomes).toEqual(expect.arrayContaining(["pass prompt", "pass answer", "pass params"]));
  expect(outcomes.length).toBeGreaterThanOrEqual(LINES_MIN);
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});

test("another receipt is nobody's but its payer's", async () => {
  const other = await fetch(`${facts.apiUrl}/v1/receipts/0x${"11".repeat(32)}`);
  expect(other.status).toBe(401);
  const list = await fetch(`${facts.apiUrl}/v1/receipts`);
  expect(list.status).toBe(401);
});

test("the answer for visitors is readable for everybody in every theme and size", async () => {
  for (const theme of THEMES) {
    for (const size of Object.keys(SIZES) as Size[]) {
      const { context, page, misdeeds } = await openWindow(browser, { theme, size });
      await visit(page);
      await page.getByRole("article", { name: "An answer from this network" }).waitFor();
      expect(await seriousFindings(page), `${theme} ${size}`).toEqual([]);
      expect(misdeeds.unexpected).toEqual([]);
      await context.close();
    }
  }
});
