/** Whatever a model says, in whatever pieces it comes: nothing of it runs, and nothing leaves the page. */

import { afterAll, beforeAll, expect, test } from "vitest";

import { HOSTILE } from "../test/corpus";
import { browser, openWindow, visit, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, send } from "./flows";
import { Relay, split } from "./relay";

const SEEDS = [1, 2, 3];

useBrowser();
let depositor: Depositor;
let relay: Relay;
beforeAll(async () => {
  depositor = await Depositor.create();
  relay = await Relay.open();
});
afterAll(() => relay?.close());

for (const seed of SEEDS) {
  test(`the corpus, cut by seed ${seed}`, async () => {
    const { context, page, misdeeds } = await openWindow(browser, { url: relay.url });
    await depositor.enter(context);
    await visit(page, "#/chat");
    const violations: string[] = [];
    await page.exposeFunction("__violated", (text: string) => violations.push(text));
    await page.evaluate(() =>
      addEventListener("securitypolicyviolation", (event) => {
        (globalThis as unknown as { __violated(text: string): void }).__violated(`${event.effectiveDirective} ${event.blockedURI}`);
      }),
    );
    for (const [index, answer] of HOSTILE.entries()) {
      relay.script = { pieces: split(answer, seed * 1_000 + index), pauseMs: 0 };
      await send(page, `number ${index}`);
      await answered(page, facts.model);
    }
    // Most of the corpus is kept apart from the page by being text; none of it may have become anything else.
    const found = await page.evaluate(() => {
      const inside = [...document.querySelectorAll("article")];
      const forbidden = inside.flatMap((article) => [...article.querySelectorAll("script,iframe,object,embed,form,input,style,svg,math,link,meta,base,video,audio,source,dialog,img[src]")]);
      const attributes = inside.flatMap((article) => [...article.querySelectorAll(".markdown *")]).flatMap((element) => [...element.attributes].filter(({ name }) => name.startsWith("on") || name === "style"));
      const links = inside.flatMap((article) => [...article.querySelectorAll<HTMLAnchorElement>(".markdown a[href]")]).map((link) => link.protocol);
      return { forbidden: forbidden.map((element) => element.outerHTML), attributes: attributes.map(({ name, value }) => `${name}=${value}`), protocols: [...new Set(links)] };
    });
    expect(found.forbidden).toEqual([]);
    expect(found.attributes).toEqual([]);
    expect(found.protocols.every((protocol) => protocol === "https:" || protocol === "http:" || protocol === "mailto:")).toBe(true);
    expect(await answers(page, facts.model).count()).toBeGreaterThan(10);
    expect(violations).toEqual([]);
    expect(misdeeds.unexpected).toEqual([]);
    await context.close();
  });
}
