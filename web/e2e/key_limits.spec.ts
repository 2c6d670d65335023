/** A key that ends by itself and is kept to a model, from the form to the meter's refusal. */

import { beforeAll, expect, test } from "vitest";

import { seriousFindings } from "./axe";
import { browser, openWindow, visit, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";

const WEEK_S = 7 * 86_400;

useBrowser();
let depositor: Depositor;
beforeAll(async () => {
  depositor = await Depositor.create();
});

test("a key is made for a week and one model, and the list says so", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  await depositor.enter(context);
  await visit(page, "#/keys");
  await page.getByLabel("Name", { exact: true }).fill("for a week");
  await page.getByLabel("Ends").selectOption("in 7 days");
  await page.getByText("For all models").click();
  await page.getByLabel(facts.model).check();
  await page.getByText(`Only for ${facts.model}`).waitFor();
  expect(await seriousFindings(page)).toEqual([]);
  await page.getByRole("button", { name: "Make a key" }).click();
  const key = await page.locator("code", { hasText: /^prlx_\w{40,}$/ }).first().innerText();

  const row = page.getByRole("row", { name: /for a week/ });
  expect(await row.innerText()).toContain(facts.model);
  const { data } = await depositor.ask<{ data: { expires_at: number; created_at: number; models: string[] }[] }>("GET", "/v1/keys");
  expect(data[0]?.models).toEqual([facts.model]);
  expect(Math.abs((data[0]?.expires_at ?? 0) - (data[0]?.created_at ?? 0) - WEEK_S)).toBeLessThan(60);
  const listed = await fetch(`${facts.apiUrl}/v1/models`, { headers: { authorization: `Bearer ${key}` } });
  expect(((await listed.json()) as { data: { id: string }[] }).data.map(({ id }) => id)).toEqual([facts.model]);

  await page.getByLabel("Name", { exact: true }).fill("without limits");
  await page.getByRole("button", { name: "Make a key" }).click();
  await page.getByRole("row", { name: /without limits/ }).getByText("all", { exact: true }).waitFor();
  const newest = (await depositor.ask<{ data: { expires_at: unknown; models: unknown }[] }>("GET", "/v1/keys")).data[0];
  expect(newest).toMatchObject({ expires_at: null, models: null });
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});
