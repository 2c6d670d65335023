/** Taking conversations along: as Markdown, as JSON with receipts, into another browser; and files that lie. */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Locator, Page } from "playwright-core";
import { beforeAll, expect, test } from "vitest";

import { browser, visit, useBrowser } from "./browser";
import { Depositor } from "./depositor";
import { facts } from "./facts";
import { answered, answers, limitAnswers, send } from "./flows";
import { eventually } from "./wait";
import { visiting } from "./visits";

const QUESTION = "Name a river.";
const ANSWER_TOKENS = 16;
const SCRIPT = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`;

interface Exported {
  format: string;
  version: number;
  exported_at: string;
  conversations: {
    conversation: Record<string, unknown> & { id: string; title: string; updatedAt: number; leafId: string };
    messages: (Record<string, unknown> & { id: string; conversationId: string; parentId: string | null; role: string; text: string; answer: { receiptId: string; completionTokens: number } | null })[];
    evidence: { receiptId: string }[];
    receipts: Record<string, { id: string; receipt: unknown }>;
  }[];
}

let depositor: Depositor;
/** What the first profile exported of its one conversation, and of everything. */
let one: Exported;
let all: Exported;
let markdown: string;

useBrowser();
beforeAll(async () => {
  depositor = await Depositor.create();
  await visiting(browser, depositor, async ({ page }) => {
    await limitAnswers(page, ANSWER_TOKENS);
    await send(page, QUESTION);
    await answered(page, facts.model);
    await page.getByRole("button", { name: "Regenerate" }).click();
    await page.getByText("2/2").waitFor();
    await answered(page, facts.model);
    markdown = await exported(page, async () => menu(page, "Export as Markdown"), /^Name a river\.md$/);
    one = JSON.parse(await exported(page, async () => menu(page, "Export as JSON with receipts"), /^Name a river\.json$/)) as Exported;
    all = JSON.parse(await exported(page, () => page.getByRole("button", { name: "Export all" }).click(), /^parallelix conversations\.json$/)) as Exported;
  });
});

async function menu(page: Page, item: string): Promise<void> {
  await page.getByRole("button", { name: `More for ${QUESTION}` }).click();
  await page.getByRole("button", { name: item }).click();
}

/** The text of the file that `act` makes the page offer. */
async function exported(page: Page, act: () => Promise<void>, name: RegExp): Promise<string> {
  const waiting = page.waitForEvent("download");
  await act();
  const download = await waiting;
  expect(download.suggestedFilename()).toMatch(name);
  return readFileSync(await download.path(), "utf8");
}

const listed = (page: Page): Locator => page.getByRole("complementary", { name: "Conversations" }).getByRole("listitem");

/** Gives the page a file, and returns what it says about it. */
async function imported(page: Page, content: string, before = 0): Promise<string> {
  const toasts = page.getByText(/^(Nothing was imported: .*|\d+ conversations? added\.|Everything in this file is here already\.)$/s);
  await page.getByLabel("File to import").setInputFiles({ name: "file.json", mimeType: "application/json", buffer: Buffer.from(content) });
  await eventually("the page to say what became of the file", async () => (await toasts.count()) > before);
  return toasts.last().innerText();
}

test("Markdown has the open branch with its receipt, JSON the whole tree, its evidence and the meter's receipts", async () => {
  const ids = (await depositor.receipts()).map(({ id }) => id);
  expect(ids.length).toBe(2);
  const [bundle] = one.conversations;
  expect([one.format, one.version, one.conversations.length]).toEqual(["parallelix-conversations", 1, 1]);
  expect(bundle?.messages.map(({ role }) => role).sort()).toEqual(["assistant", "assistant", "user"]);
  const question = bundle?.messages.find(({ role }) => role === "user");
  const both = bundle?.messages.filter(({ role }) => role === "assistant") ?? [];
  expect(both.map(({ parentId }) => parentId)).toEqual([question?.id, question?.id]);
  expect(Object.keys(bundle?.receipts ?? {}).sort()).toEqual([...ids].sort());
  expect(bundle?.evidence.map(({ receiptId }) => receiptId).sort()).toEqual([...ids].sort());
  const shown = both.find(({ id }) => id === bundle?.conversation.leafId);
  expect(markdown).toBe(
    `# ${QUESTION}\n\n## You\n\n${QUESTION}\n\n## ${facts.model}\n\n${shown?.text}\n\n_${String((shown?.answer as { promptTokens?: number } | null)?.promptTokens)} tokens in, ${shown?.answer?.completionTokens} out, receipt \`${shown?.answer?.receiptId}\`_\n`,
  );
  expect({ ...all, exported_at: "" }).toEqual({ ...one, exported_at: "", conversations: all.conversations });
  expect(all.conversations.map(({ conversation, messages }) => [conversation, messages])).toEqual(one.conversations.map(({ conversation, messages }) => [conversation, messages]));
});

test("in another browser the file becomes the same tree with the same receipts, once", () =>
  visiting(browser, null, async ({ page }) => {
    expect(await imported(page, JSON.stringify(all))).toBe("1 conversation added.");
    await listed(page).getByRole("link", { name: QUESTION }).click();
    const shown = one.conversations[0]?.messages.find(({ id }) => id === one.conversations[0]?.conversation.leafId);
    await page.getByText("2/2").waitFor();
    expect(await answers(page, facts.model).getByRole("link", { name: "receipt" }).getAttribute("href")).toContain(shown?.answer?.receiptId ?? "no receipt");
    // Signed out, so what the meter would give now can't mend it.
    const again = JSON.parse(await exported(page, () => page.getByRole("button", { name: "Export all" }).click(), /json$/)) as Exported;
    expect({ ...again, exported_at: "" }).toEqual({ ...all, exported_at: "" });
    expect(await imported(page, JSON.stringify(all), 1)).toBe("Everything in this file is here already.");
    expect(await listed(page).count()).toBe(1);
  }));

test("a file that poses as a conversation of this browser takes nothing away from it", () =>
  visiting(browser, null, async ({ page }) => {
    expect(await imported(page, JSON.stringify(all))).toBe("1 conversation added.");
    const posing = structuredClone(all);
    const [bundle] = posing.conversations;
    if (!bundle) throw new Error("nothing was exported");
    bundle.conversation = { ...bundle.conversation, id: "another", title: SCRIPT, updatedAt: bundle.conversation.updatedAt + 1 };
    for (const message of bundle.messages) message.text = `${SCRIPT} and ![](https://evil.example/leak)`;
    for (const receipt of bundle.evidence) Object.assign(receipt, { tokenIds: [1], promptTokenIds: [1] });
    expect(await imported(page, JSON.stringify(posing), 1)).toBe("1 conversation added.");
    expect(await listed(page).count()).toBe(2);
    await listed(page).getByRole("link", { name: SCRIPT }).click();
    await answers(page, facts.model).waitFor();
    expect(await page.title()).toBe(`${SCRIPT} · ParalleliX AI`);
    expect(await page.locator("article img, article script, aside img").count()).toBe(0);
    const after = JSON.parse(await exported(page, () => page.getByRole("button", { name: "Export all" }).click(), /json$/)) as Exported;
    const mine = after.conversations.find(({ conversation }) => conversation.id === all.conversations[0]?.conversation.id);
    expect({ ...mine, receipts: {} }).toEqual({ ...all.conversations[0], receipts: {} });
    expect(after.conversations.length).toBe(2);
  }));

const broken: [what: string, content: () => string, words: RegExp][] = [
  ["is no JSON", () => "<html>", /the file is no JSON/],
  ["is of another program", () => JSON.stringify({ ...all, format: "chatbot" }), /the file's format is "chatbot"/],
  ["is of a later version", () => JSON.stringify({ ...all, version: 2 }), /version 2, this page reads 1/],
  ["nests without end", () => "[".repeat(100_000), /nests deeper than 32 levels/],
  ["has a cost that is none", () => JSON.stringify(all).replace(/"cost":"\d+"/, '"cost":"-1"'), /cost is no whole number of credits/],
  ["claims a system as an author", () => JSON.stringify(all).replace('"role":"user"', '"role":"system"'), /role is neither "user" nor "assistant"/],
  ["has a title without end", () => JSON.stringify(all).replace(`"title":"${QUESTION}"`, `"title":"${"x".repeat(10_000)}"`), /title has 10000 characters, more than 512/],
];

test("files that are no export, or lie, are named as such and change nothing", () =>
  visiting(browser, null, async ({ page }) => {
    for (const [what, content, words] of broken) {
      const toast = await imported(page, content());
      expect(toast, what).toMatch(words);
      expect(toast, what).toMatch(/^Nothing was imported: /);
      await visit(page, "#/pool");
      await visit(page, "#/chat");
      await page.reload();
      await page.getByText("Your conversations appear here.").waitFor();
    }
    const huge = join(facts.pictures, "..", "huge.json");
    writeFileSync(huge, "[".padEnd((64 << 20) + 1, " "));
    await page.getByLabel("File to import").setInputFiles(huge);
    await page.getByText(/^Nothing was imported: the file has 67108865 bytes, more than 67108864\.$/).waitFor();
    expect(await page.getByRole("button", { name: "Export all" }).isDisabled()).toBe(true);
  }));
