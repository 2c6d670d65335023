// @vitest-environment jsdom
import { expect, test } from "vitest";

import { type Block, BlockStream, blocksOf } from "../src/chat/markdown/blocks";
import { htmlOf, safeUrl } from "../src/chat/markdown/render";
import { sanitized, sanitizedCode } from "../src/chat/markdown/sanitize";
import { HOSTILE, ORDINARY } from "./corpus";

const html = (blocks: Block[]) => blocks.map((block) => (block.kind === "code" ? `[code ${block.language}]${block.text}` : htmlOf(block))).join("\n");

/** Deterministic cuts, so that a failure can be seen again. */
function* cuts(text: string, seed: number): Generator<string> {
  let state = seed;
  for (let end = 0; end < text.length; ) {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    end = Math.min(text.length, end + 1 + (state % 7));
    yield text.slice(0, end);
  }
}

test.each([...ORDINARY, ...HOSTILE].map((text) => [text]))("blocks of a stream end as those of the whole: %j", (text) => {
  for (const seed of [1, 7, 99]) {
    const stream = new BlockStream();
    let last: Block[] = [];
    for (const piece of cuts(text, seed)) last = stream.update(piece);
    expect(html(last)).toBe(html(blocksOf(text)));
  }
});

test("a frozen block is the same object until the end", () => {
  const stream = new BlockStream();
  const before = stream.update("# One\n\ntwo\n\nthree\n\nfo");
  const after = stream.update("# One\n\ntwo\n\nthree\n\nfour\n\nfive");
  expect(after[0]).toBe(before[0]);
  expect(after[1]).toBe(before[1]);
  expect(after.length).toBe(5);
});

test("a text that is not the last one grown is read from its beginning", () => {
  const stream = new BlockStream();
  stream.update("one\n\ntwo\n\nthree");
  expect(html(stream.update("other"))).toBe(html(blocksOf("other")));
});

test("an unfinished fence is code that is not closed", () => {
  expect(blocksOf("```rust\nfn a")).toMatchObject([{ kind: "code", language: "rust", text: "fn a", closed: false }]);
  expect(blocksOf("```rust\nfn a\n```")).toMatchObject([{ kind: "code", text: "fn a", closed: true }]);
  expect(blocksOf("~~~\na\n```\n~~~\n")).toMatchObject([{ kind: "code", text: "a\n```", closed: true }]);
  expect(blocksOf('```"><script>\na\n```')).toMatchObject([{ kind: "code", language: "" }]);
});

const FORBIDDEN = "script,img,iframe,svg,math,style,form,input,button,object,embed,link,meta,base,audio,video,picture,textarea,select,dialog,template,portal";

function checkInert(markup: string): void {
  const page = new DOMParser().parseFromString(`<body>${markup}`, "text/html");
  expect(page.querySelectorAll(FORBIDDEN).length, markup).toBe(0);
  for (const element of page.body.querySelectorAll("*")) {
    for (const { name, value } of element.attributes) {
      expect(["href", "rel", "target", "align", "start", "title"], `${name} in ${markup}`).toContain(name);
      if (name === "href") expect(safeUrl(value), value).not.toBeNull();
    }
    if (element.tagName === "A") expect(element.getAttribute("rel")).toBe("noopener noreferrer nofollow");
  }
}

test.each(HOSTILE.map((text) => [text]))("nothing of a hostile answer runs or loads, at any point of its stream: %j", (text) => {
  const stream = new BlockStream();
  for (const piece of cuts(text, 3)) {
    for (const block of stream.update(piece)) if (block.kind === "text") checkInert(htmlOf(block));
  }
  for (const block of blocksOf(text)) if (block.kind === "text") checkInert(htmlOf(block));
  // The last gate alone, as if the renderer let everything through.
  checkInert(sanitized(text));
  expect(new DOMParser().parseFromString(sanitizedCode(text), "text/html").querySelectorAll("body :not(span)").length).toBe(0);
});

test("a link shows the host it leads to, and one with credentials is no link", () => {
  expect(html(blocksOf("[your bank](https://evil.example/x)"))).toContain("(evil.example)");
  expect(html(blocksOf("<https://a.example/x>"))).not.toContain("<small>");
  expect(html(blocksOf("[a](https://bank.example@evil.example/)"))).not.toContain("<a ");
  expect(html(blocksOf("![pixel](https://evil.example/?q=secret)"))).toContain("open from evil.example");
});
