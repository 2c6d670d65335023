import assert from "node:assert/strict";
import { test } from "node:test";

import { createSseParser, readSse } from "../sse.js";

const bytes = (text) => new TextEncoder().encode(text);

function parse(pieces) {
  const events = [];
  const parser = createSseParser((event) => events.push(event));
  for (const piece of pieces) parser.push(piece);
  return events;
}

const STREAM = ': waiting\n\ndata: {"a":"é漢🦀"}\n\nevent: x\r\ndata: one\r\ndata:two\r\n\r\ndata\rid: 7\rretry: 9\r\rdata: [DONE]\n\n';
const EVENTS = [
  { event: "message", data: '{"a":"é漢🦀"}' },
  { event: "x", data: "one\ntwo" },
  { event: "message", data: "" },
  { event: "message", data: "[DONE]" },
];

test("a whole stream gives its events", () => {
  assert.deepEqual(parse([bytes(STREAM)]), EVENTS);
});

test("a stream cut at any one byte gives the same events", () => {
  const whole = bytes(STREAM);
  for (let cut = 0; cut <= whole.length; cut += 1) {
    assert.deepEqual(parse([whole.slice(0, cut), whole.slice(cut)]), EVENTS, `cut at ${cut}`);
  }
});

test("a stream in single bytes gives the same events", () => {
  assert.deepEqual(parse([...bytes(STREAM)].map((byte) => Uint8Array.of(byte))), EVENTS);
});

test("a stream in pieces of any length gives the same events", () => {
  const whole = bytes(STREAM);
  let state = 7;
  for (let round = 0; round < 200; round += 1) {
    const pieces = [];
    for (let at = 0; at < whole.length; ) {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
      const length = 1 + (state % 9);
      pieces.push(whole.slice(at, at + length));
      at += length;
    }
    assert.deepEqual(parse(pieces), EVENTS);
  }
});

test("a leading byte order mark is dropped and an unfinished event is not given", () => {
  assert.deepEqual(parse([Uint8Array.of(0xef, 0xbb, 0xbf), bytes("data: a\n\ndata: b\n")]), [{ event: "message", data: "a" }]);
});

test("a line without end is refused", () => {
  const parser = createSseParser(() => {});
  assert.throws(() => {
    for (let mebibyte = 0; mebibyte < 3; mebibyte += 1) parser.push(bytes("x".repeat(1 << 20)));
  }, /line without end/);
});

test("a body is read to its end, and its break is an error", async () => {
  const events = [];
  await readSse(new Response(bytes(STREAM)).body, (event) => events.push(event));
  assert.deepEqual(events, EVENTS);

  const broken = new ReadableStream({
    start(controller) {
      controller.enqueue(bytes("data: a\n\n"));
      controller.error(new TypeError("network error"));
    },
  });
  await assert.rejects(readSse(broken, () => {}), TypeError);
});
