/** API keys: shown once, listed, tried with a real call, used up, revoked; and the lines to paste, which work as they stand. */

import type { Page } from "playwright-core";
import { beforeAll, expect, test } from "vitest";

import { browser, visit, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { visiting } from "./visits";

useBrowser();
let depositor: Depositor;
beforeAll(async () => {
  depositor = await Depositor.create();
});

/** Makes a key on the page and returns it. */
async function made(page: Page, name: string, limit: string): Promise<string> {
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Limit, PRLX").fill(limit);
  await page.getByRole("button", { name: "Make a key" }).click();
  const shown = page.getByRole("status").filter({ has: page.getByRole("heading", { name: "Copy it now. It is not shown again." }) });
  return (await shown.locator("code").innerText()).trim();
}

/** The table's row of a key, cell by cell. */
const row = (page: Page, name: string) => page.getByRole("row").filter({ has: page.getByRole("cell", { name, exact: true }) });

/** The reply and the costs that "Test it" shows. */
async function tested(page: Page): Promise<{ reply: string; costs: string }> {
  await page.getByRole("button", { name: "Test it" }).click();
  const reply = page.locator("blockquote");
  await reply.waitFor();
  return { reply: await reply.innerText(), costs: await page.locator("blockquote + p").innerText() };
}

interface Completion {
  choices: { message: { content: string } }[];
}

test("a key is shown once, testing it is a real call, and the lines to paste work as they stand", () =>
  visiting(
    browser,
    depositor,
    async ({ page }) => {
      const key = await made(page, "laptop", "0.5");
      expect(key).toMatch(/^prlx_[0-9A-Za-z]{20,}$/);
      const { reply, costs } = await tested(page);
      expect(reply).toMatch(/\w/);
      const [receipt] = await depositor.receipts();
      const cost = (receipt?.cost_credits ?? 0) / 1e9;
      expect(costs).toMatch(new RegExp(`^\\d+ in · \\d+ out · ${cost} PRLX$`));

      const base = `${new URL(facts.pageUrl).origin}/v1`;
      const curl = await page.getByLabel("curl example").innerText();
      const [, url, bearer, body] = /^curl (\S+) \\\s+-H "Authorization: Bearer (\S+)" \\\s+-H "Content-Type: application\/json" \\\s+-d '([^']+)'$/.exec(curl) ?? [];
      expect([url, bearer]).toEqual([`${base}/chat/completions`, key]);
      const pasted = await fetch(url ?? "", { method: "POST", headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json" }, body: body ?? "" });
      expect(pasted.status).toBe(200);
      expect(((await pasted.json()) as Completion).choices[0]?.message.content).toMatch(/\w/);
      for (const [language, named] of [["Python", `base_url="${base}", api_key="${key}"`], ["JavaScript", `baseURL: "${base}", apiKey: "${key}"`]] as const) {
        await page.getByRole("button", { name: language }).click();
        expect(await page.getByLabel(`${language} example`).innerText()).toContain(named);
      }

      await page.reload();
      await row(page, "laptop").waitFor();
      expect(await page.locator("body").innerText()).not.toContain(key);
      const spent = (await depositor.receipts()).reduce((sum, { cost_credits }) => sum + cost_credits, 0) / 1e9;
      const cells = await row(page, "laptop").getByRole("cell").allInnerTexts();
      expect(cells.slice(0, 4)).toEqual(["laptop", `${key.slice(0, cells[1]?.indexOf("…"))}…`, `${spent} PRLX`, "0.5 PRLX"]);
      expect(cells[5]).not.toBe("never");
    },
    { place: "#/keys" },
  ));

test("a key whose limit is used up says how much is left, and a revoked one that it is revoked", () =>
  visiting(
    browser,
    depositor,
    async ({ page, context }) => {
      // Enough for one such call at its dearest, and after it no more.
      const key = await made(page, "used up", "0.00035");
      expect((await tested(page)).reply).toMatch(/\w/);
      await page.getByRole("button", { name: "Test it" }).click();
      const problem = page.getByRole("alert").filter({ hasText: "key" });
      await problem.waitFor();
      expect(await problem.innerText()).toMatch(/^The API key's limit leaves 0\.000\d+ PRLX and 0\.000\d+ are needed; use another key, or make one with a higher limit\.$/);
      expect(await page.locator("blockquote").count()).toBe(0);

      // Revoked in another tab, while this one still shows it.
      const other = await context.newPage();
      await visit(other, "#/keys");
      await other.getByRole("button", { name: "Revoke the key used up" }).click();
      await row(other, "used up").getByRole("button", { name: "Revoke it" }).click();
      await row(other, "used up").getByText("revoked", { exact: true }).waitFor();
      await page.getByRole("button", { name: "Test it" }).click();
      await page.getByRole("alert").filter({ hasText: "revoked" }).waitFor();
      expect(await page.getByRole("alert").innerText()).toMatch(/^API key \S+ was revoked; make another one\.$/);
      const refused = await fetch(`${facts.apiUrl}/v1/credits`, { headers: { authorization: `Bearer ${key}` } });
      expect(refused.status).toBe(401);
    },
    { place: "#/keys" },
  ));
