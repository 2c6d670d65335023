/** Pictures of the page, for people to look at. */

import { mkdirSync } from "node:fs";
import { join } from "node:path";

import type { Page } from "playwright-core";

import type { Size, Theme } from "./browser";
import { facts } from "./facts";

export async function picture(page: Page, name: string, theme: Theme, size: Size): Promise<void> {
  mkdirSync(facts.pictures, { recursive: true });
  // Times and ids differ from run to run; nothing else that moves may be in a picture.
  await page.screenshot({ path: join(facts.pictures, `${name}-${theme}-${size}.png`), animations: "disabled", caret: "hide" });
}
