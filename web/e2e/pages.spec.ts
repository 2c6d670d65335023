/** Every page in both themes and two sizes: readable to everybody, no wider than the window, and pictured. */

import { beforeAll, describe, expect, test } from "vitest";

import { browser, SIZES, THEMES, openWindow, visit, useBrowser } from "./browser";
import type { Size } from "./browser";
import { seriousFindings } from "./axe";
import { Depositor } from "./depositor";
import { picture } from "./pictures";

const PLACES = { chat: "#/chat", pool: "#/pool", usage: "#/usage", keys: "#/keys", account: "#/account", deposit: "#/deposit", withdraw: "#/withdraw" } as const;

useBrowser();
let depositor: Depositor;
beforeAll(async () => {
  depositor = await Depositor.create();
});

for (const visitor of ["stranger", "depositor"] as const) {
  describe(`for a ${visitor}`, () => {
    for (const theme of THEMES) {
      for (const size of Object.keys(SIZES) as Size[]) {
        test(`${theme}, ${size}`, async () => {
          const { context, page, misdeeds } = await openWindow(browser, { theme, size });
          if (visitor === "depositor") await depositor.enter(context);
          const findings: string[] = [];
          for (const [name, place] of Object.entries(PLACES)) {
            await visit(page, place);
            await page.waitForLoadState("networkidle").catch(() => {});
            await picture(page, `${name}-${visitor}`, theme, size);
            findings.push(...(await seriousFindings(page)).map((finding) => `${name}: ${finding}`));
            const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
            if (overflow > 0) findings.push(`${name}: ${overflow} px wider than the window`);
          }
          expect(findings).toEqual([]);
          expect(misdeeds.unexpected).toEqual([]);
          await context.close();
        });
      }
    }
  });
}
