/** What a first visit costs, and what it may do. */

import type { Request } from "playwright-core";
import { expect, test } from "vitest";

import { browser, openWindow, visit, useBrowser } from "./browser";
import { facts } from "./facts";

const FIRST_LOAD_BYTES_MAX = 110_000;
const FIRST_LOAD_REQUESTS_MAX = 6;

useBrowser();

test("the first load is small, packed, and from here alone", async () => {
  const { context, page, misdeeds } = await openWindow(browser);
  const files: Request[] = [];
  page.on("requestfinished", (request) => {
    if (!new URL(request.url()).pathname.startsWith("/v1/")) files.push(request);
  });
  await visit(page);
  await page.waitForLoadState("networkidle");
  const sizes = await Promise.all(files.map(async (request) => (await request.sizes()).responseBodySize));
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  expect(bytes).toBeGreaterThan(1_000);
  expect(bytes).toBeLessThanOrEqual(FIRST_LOAD_BYTES_MAX);
  expect(files.length, files.map((request) => new URL(request.url()).pathname).join(" ")).toBeLessThanOrEqual(FIRST_LOAD_REQUESTS_MAX);
  expect(misdeeds.unexpected).toEqual([]);
  await context.close();
});

test("the page comes under its policy, and what is named after its content is kept", async () => {
  const index = await fetch(`${facts.apiUrl}/`);
  const policy = index.headers.get("content-security-policy") ?? "";
  for (const rule of ["default-src 'none'", "script-src 'self'", "require-trusted-types-for 'script'", "frame-ancestors 'none'"]) expect(policy).toContain(rule);
  expect(index.headers.get("cache-control")).toBe("no-cache");
  const script = /src="(\/assets\/index-[^"]+\.js)"/.exec(await index.text())?.[1];
  const file = await fetch(`${facts.apiUrl}${script}`, { headers: { "accept-encoding": "gzip" } });
  expect(file.status).toBe(200);
  expect(file.headers.get("cache-control")).toContain("immutable");
  expect(file.headers.get("content-encoding")).toBe("gzip");
  const missing = await fetch(`${facts.apiUrl}/assets/index-00000000.js`);
  expect(missing.status).toBe(404);
  expect((await missing.json()).error.code).toBeTypeOf("string");
});

test("the browser refuses what the policy forbids", async () => {
  const { context, page } = await openWindow(browser);
  await visit(page);
  const refused = await page.evaluate(async () => {
    const tried: Record<string, boolean> = {};
    const attempt = async (name: string, work: () => unknown) => {
      try {
        await work();
        tried[name] = false;
      } catch {
        tried[name] = true;
      }
    };
    await attempt("innerHTML", () => (document.createElement("div").innerHTML = "<b>x</b>"));
    // The debugger, by which this runs, may use `eval`; a script that is text is refused to it as well.
    await attempt("text as a script", () => (document.createElement("script").textContent = "1"));
    await attempt("another policy", () => (globalThis as unknown as { trustedTypes: { createPolicy(name: string, rules: object): unknown } }).trustedTypes.createPolicy("mine", {}));
    await attempt("elsewhere", () => fetch("https://example.invalid/"));
    return tried;
  });
  expect(refused).toEqual({ innerHTML: true, "text as a script": true, "another policy": true, elsewhere: true });
  await context.close();
});

test("a chosen theme is there before anything is painted", async () => {
  const { context, page } = await openWindow(browser, { theme: "light" });
  await context.addInitScript(() => {
    // A body that is not there yet can't have been painted.
    new MutationObserver((_, observer) => {
      if (!document.body) return;
      (globalThis as unknown as { themeAtBody: string | undefined }).themeAtBody = document.documentElement.dataset["theme"];
      observer.disconnect();
    }).observe(document, { childList: true, subtree: true });
  });
  const themeAtBody = () => page.evaluate(() => (globalThis as unknown as { themeAtBody: string | undefined }).themeAtBody ?? null);
  await visit(page);
  expect(await themeAtBody()).toBeNull();
  await page.getByLabel("Theme").selectOption("dark");
  await page.reload();
  expect(await themeAtBody()).toBe("dark");
  await context.close();
});
