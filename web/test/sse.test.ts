import { expect, test } from "vitest";

import { createSseParser, readSse, type SseEvent } from "../src/api/sse";

const bytes = (text: string) => new TextEncoder().encode(text);

function parse(pieces: Uint8Array[]) {
  const events: SseEvent[] = [];
  const parser = createSseParser((event) => events.push(event));
  for (const piece of pieces) parser.push(piece);
  return events;
}

const STREAM = ': waiting\n\ndata: {"a":"é漢🦀"}\n\nevent: x\r\ndata: one\r\ndata:two\r\n\r\ndata\rid: 7\rretry: 9\r\rdata: [DONE]\n\n';
const EVENTS = [
  { event: "message", data: '{"a":"é漢🦀"}', id: null },
  { event: "x", data: "one\ntwo", id: null },
  { event: "message", data: "", id: "7" },
  { event: "message", data: "[DONE]", id: "7" },
];

test("a whole stream gives its events", () => {
  expect(parse([bytes(STREAM)])).toEqual(EVENTS);
});

test("a stream cut at any one byte gives the same events", () => {
  const whole = bytes(STREAM);
  for (let cut = 0; cut <= whole.length; cut += 1) {
    expect(parse([whole.slice(0, cut), whole.slice(cut)]), `cut at ${cut}`).toEqual(EVENTS);
  }
});

test("a stream in single bytes gives the same events", () => {
  expect(parse([...bytes(STREAM)].map((byte) => Uint8Array.of(byte)))).toEqual(EVENTS);
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
    expect(parse(pieces)).toEqual(EVENTS);
  }
});

test("a leading byte order mark is dropped and an unfinished event is not given", () => {
  expect(parse([Uint8Array.of(0xef, 0xbb, 0xbf), bytes("data: a\n\ndata: b\n")])).toEqual([{ event: "message", data: "a", id: null }]);
});

test("a line without end is refused", () => {
  const parser = createSseParser(() => {});
  expect(() => {
    for (let mebibyte = 0; mebibyte < 3; mebibyte += 1) parser.push(bytes("x".repeat(1 << 20)));
  }).toThrow(/more than 1048576/);
});

test("a body is read to its end, and its break is an error", async () => {
  const events: SseEvent[] = [];
  await readSse(new Response(bytes(STREAM)).body!, (event) => events.push(event));
  expect(events).toEqual(EVENTS);

  const broken = new ReadableStream({
    start(controller) {
      controller.enqueue(bytes("data: a\n\n"));
      controller.error(new TypeError("network error"));
    },
  });
  await expect(readSse(broken, () => {})).rejects.toThrow(TypeError);
});
