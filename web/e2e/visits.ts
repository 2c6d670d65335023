/** Windows of somebody who is signed in already. */

import type { Browser, BrowserContext } from "playwright-core";
import { expect } from "vitest";

import { openWindow, visit } from "./browser";
import type { Window } from "./browser";
import type { Depositor } from "./depositor";

export interface VisitOptions {
  /** Where the visit begins. */
  place?: string;
  prepare?: (context: BrowserContext) => Promise<void>;
}

/** Works in a profile of its own where `depositor` is signed in, or nobody; at the end the page has done nothing that no page of ours may do. */
export async function visiting(browser: Browser, depositor: Depositor | null, work: (window: Window) => Promise<void>, { place = "#/chat", prepare }: VisitOptions = {}): Promise<void> {
  const window = await openWindow(browser, prepare ? { prepare } : {});
  await depositor?.enter(window.context);
  try {
    await visit(window.page, place);
    await work(window);
    expect(window.misdeeds.unexpected).toEqual([]);
  } finally {
    await window.context.close();
  }
}
