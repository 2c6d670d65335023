/** The browser and its windows, with an ear for everything that a page must not do. */

import { chromium } from "playwright-core";
import type { Browser, BrowserContext, BrowserContextOptions, CDPSession, Page } from "playwright-core";
import { afterAll, beforeAll } from "vitest";

import { facts } from "./facts";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];
/** Longest wait for anything in a page; a model computes behind it, beside whatever else the machine does. */
export const PATIENCE_MS = 180_000;

export const THEMES = ["light", "dark"] as const;
export type Theme = (typeof THEMES)[number];
export const SIZES = { phone: { width: 360, height: 740 }, desktop: { width: 1280, height: 800 } } as const;
export type Size = keyof typeof SIZES;

/** The suite's browser, from before its first test to after its last. */
export let browser: Browser;

/** Called once by each suite, before its own preparations. */
export function useBrowser(): void {
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: facts.browser, args: FLAGS, headless: true });
  });
  afterAll(() => browser?.close());
}

/** What a page did that no page of ours may do. */
export class Misdeeds {
  readonly list: string[] = [];
  /** Console errors that a spec provokes on purpose, such as a refused request. */
  readonly expected: RegExp[] = [];

  watch(page: Page, origin: string): void {
    page.on("pageerror", (error) => this.list.push(`uncaught: ${error.message}`));
    page.on("dialog", (dialog) => {
      this.list.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on("console", (message) => {
      // The browser itself reports every refused request; what the page makes of it is what the specs look at.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) this.list.push(`console: ${message.text()}`);
    });
    page.on("request", (request) => {
      const url = request.url();
      if (!url.startsWith(origin) && !url.startsWith("data:") && !url.startsWith("blob:")) this.list.push(`request to ${url}`);
    });
  }

  get unexpected(): string[] {
    return this.list.filter((one) => !this.expected.some((known) => known.test(one)));
  }
}

export interface Window {
  context: BrowserContext;
  page: Page;
  misdeeds: Misdeeds;
}

export interface WindowOptions {
  theme?: Theme;
  size?: Size;
  url?: string;
  prepare?: (context: BrowserContext) => Promise<void>;
}

/** A browser profile of its own with one page, not yet loaded. */
export async function openWindow(browser: Browser, { theme = "light", size = "desktop", url = facts.pageUrl, prepare }: WindowOptions = {}): Promise<Window> {
  const options: BrowserContextOptions = { viewport: SIZES[size], colorScheme: theme, reducedMotion: "reduce", locale: "en-US", timezoneId: "UTC", baseURL: url };
  if (size === "phone") Object.assign(options, { hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE_MS);
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: new URL(url).origin });
  await prepare?.(context);
  const page = await context.newPage();
  const misdeeds = new Misdeeds();
  misdeeds.watch(page, new URL(url).origin);
  return { context, page, misdeeds };
}

/** Goes to a place of the page, `#/pool`, by its address. */
export async function visit(page: Page, place = ""): Promise<void> {
  await page.goto(`/${place}`);
  await page.locator("main").waitFor();
}

/** Gives the page a security key that needs no finger. */
export async function giveAuthenticator(page: Page): Promise<CDPSession> {
  const session = await page.context().newCDPSession(page);
  await session.send("WebAuthn.enable");
  await session.send("WebAuthn.addVirtualAuthenticator", {
    options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
  });
  return session;
}
