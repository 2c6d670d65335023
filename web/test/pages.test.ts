// @vitest-environment jsdom
import { describe, expect, it } from "vitest";

import { base64url, bytesOf } from "../src/account/base64url";
import { creationOptions, credentialJson, requestOptions } from "../src/account/passkey";
import { expiryOf, type Key, LIFETIMES, stateOf } from "../src/keys/key";
import { snippets } from "../src/keys/snippets";
import { gib, percent, plain, plainName, readPool, span } from "../src/pool/pool";
import { stateWords, stepsOf } from "../src/receipt/states";
import { csvCell, daysBetween, lastDays, readUsage, sumsBy, totalOf, usageCsv } from "../src/usage/usage";

describe("usage", () => {
  const row = (changes: object = {}) => ({ day: "2026-11-01", model: "m", key_id: null, key_name: null, requests: 1, prompt_tokens: 10, completion_tokens: 5, cost: 60, ...changes });
  const rows = readUsage({ data: [row(), row({ day: "2026-11-02", key_id: "k", key_name: "bot", cost: 100 }), row({ model: "n", cost: 1 })] });

  it("sums by day, model and key without losing a credit", () => {
    expect(sumsBy(rows, "day").map(({ name, cost }) => [name, cost])).toEqual([["2026-11-02", 100n], ["2026-11-01", 61n]]);
    expect(sumsBy(rows, "model").map(({ name, cost }) => [name, cost])).toEqual([["m", 160n], ["n", 1n]]);
    expect(sumsBy(rows, "key").map(({ name, requests }) => [name, requests])).toEqual([["bot", 1n], ["This page", 2n]]);
    const namesakes = readUsage({ data: [row({ key_id: "k1", key_name: "bot" }), row({ key_id: "k2", key_name: "bot" }), row({ key_id: "k3", key_name: "This page" }), row()] });
    expect(sumsBy(namesakes, "key").map(({ name, requests }) => [name, requests])).toEqual([["bot", 1n], ["bot", 1n], ["This page", 1n], ["This page", 1n]]);
    expect(totalOf(rows)).toMatchObject({ cost: 161n, promptTokens: 30n, completionTokens: 15n, requests: 3n });
  });

  it("refuses figures that JSON may have rounded", () => {
    expect(() => readUsage({ data: [row({ cost: 2 ** 53 })] })).toThrow();
    expect(() => readUsage({})).toThrow(/data/);
  });

  it("lists every day of a range, over months and leap days", () => {
    expect(daysBetween("2028-02-28", "2028-03-01")).toEqual(["2028-02-28", "2028-02-29", "2028-03-01"]);
    expect(lastDays(7, Date.parse("2026-11-26T23:59:00Z"))).toEqual({ from: "2026-11-20", to: "2026-11-26" });
    expect(daysBetween("2000-01-01", "2026-01-01").length).toBe(366);
  });

  it("writes no cell that a spreadsheet would run", () => {
    for (const text of ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uFF1D1"]) expect(csvCell(text).replace(/^"/, "")[0]).toBe("'");
    expect(csvCell('a"b,c')).toBe('"a""b,c"');
    expect(csvCell("plain")).toBe("plain");
    const csv = usageCsv(readUsage({ data: [row({ key_name: '=HYPERLINK("http://x")' })] }));
    expect(csv.split("\r\n")[1]).toBe(`2026-11-01,m,"'=HYPERLINK(""http://x"")",1,10,5,60,0.00000006`);
  });
});

describe("keys", () => {
  const key = (changes: Partial<Key>): Key => ({ id: "key_1", name: "a", prefix: "prlx_", limit_credits: null, expires_at: null, models: null, created_at: 0, last_used_at: null, revoked_at: null, ...changes });

  it("last for ever unless somebody chose an end", () => {
    expect(LIFETIMES[0].id).toBe("");
    expect(LIFETIMES.map(({ id }) => expiryOf(id, 1_000))).toEqual([null, 605_800, 2_593_000, 7_777_000, 31_537_000]);
    expect(expiryOf("nonsense", 1_000)).toBeNull();
  });

  it("are over from their very second on, and revoked before they are over", () => {
    expect(stateOf(key({ expires_at: 50 }), 49.9)).toBe("live");
    expect(stateOf(key({ expires_at: 50 }), 50)).toBe("expired");
    expect(stateOf(key({ expires_at: 50, revoked_at: 10 }), 60)).toBe("revoked");
    expect(stateOf(key({}), 4_000_000_000)).toBe("live");
  });
});

describe("pool", () => {
  const node = { node: "0xab", operator: 3, fallback: false, models: [{ id: "m" }], device: { value: { kind: "cuda", name: "H100", memory_bytes: 80 * 2 ** 30 }, source: "declared" }, active: { value: 2, source: "measured" }, capacity: { value: 8, source: "declared" }, tflops: { value: null, source: "measured" }, tflops_declared: { value: 40.5, source: "declared" }, answer_tokens_per_s: { value: 0, source: "measured" }, decode_tokens_per_s: { value: 90, source: "declared" }, stale: true };

  it("keeps each figure's origin, and prefers what was measured", () => {
    const [read] = readPool({ nodes: [node] }).nodes;
    expect(read).toMatchObject({ device: "H100", kind: "CUDA", stale: true, streaming: { value: 2, source: "measured" }, speed: { value: 90, source: "declared" }, queued: null });
    const [measured] = readPool({ nodes: [{ ...node, answer_tokens_per_s: { value: 70, source: "measured" } }] }).nodes;
    expect(measured?.speed).toEqual({ value: 70, source: "measured" });
    expect(read).toMatchObject({ tflops: { value: 40.5, source: "declared" }, tflopsAudited: false });
    const figure = (tflops: object) => readPool({ nodes: [{ ...node, tflops }] }).nodes[0];
    expect(figure({ value: 12, source: "measured", audited: true, model: "m" })).toMatchObject({ tflops: { value: 12, source: "measured" }, tflopsAudited: true });
    expect(figure({ value: 12, source: "measured", audited: false })).toMatchObject({ tflops: { value: 12, source: "measured" }, tflopsAudited: false });
  });

  it("says since when a node is known while that is not thirty days", () => {
    const figure = (uptime: object) => readPool({ nodes: [{ ...node, uptime_30d_percent: uptime, region: { value: "Porto, PT\u202E", source: "declared" } }] }).nodes[0];
    expect(figure({ value: 99.5, source: "measured", since: 1_800_000_000 })).toMatchObject({ uptime: { value: 99.5, source: "measured" }, knownSince: 1_800_000_000, region: "Porto, PT" });
    expect(figure({ value: null, source: "measured", since: null })).toMatchObject({ uptime: null, knownSince: null });
    expect(readPool({ nodes: [node] }).nodes[0]).toMatchObject({ uptime: null, knownSince: null, region: "" });
    expect([100, 99.999, 66.66, 0].map(percent)).toEqual(["100", "99.99", "66.66", "0"]);
  });

  it("takes the meter's totals, at the top or under `totals`, and sums where there are none", () => {
    expect(readPool({ nodes: [node, { ...node, fallback: true }] })).toMatchObject({ nodesOnline: 1, fallbackOnline: 1, streams: 4, tflops: null });
    const measured = { ...node, tflops: { value: 20, source: "measured" } };
    expect(readPool({ nodes: [node, measured, measured] }).tflops, "what is only declared is in no total").toBe(40);
    expect(readPool({ nodes: [node], tflops_total: 0 }).tflops).toBeNull();
    expect(readPool({ nodes: [], tflops_total: 7, streams_total: 2, nodes_online: 5 })).toMatchObject({ tflops: 7, streams: 2, nodesOnline: 5 });
    expect(readPool({ nodes: [], totals: { tflops_total: { value: 9, source: "measured" } } }).tflops).toBe(9);
    expect(() => readPool(null)).toThrow(/nodes/);
  });

  it("lets no name pose as another", () => {
    expect(plainName("a\u202Eb\u0007c\u200B")).toBe("abc");
    expect(plainName("x".repeat(500)).length).toBe(80);
  });

  it("writes figures short", () => {
    expect([gib(80 * 2 ** 30), gib(1.5 * 2 ** 30), plain(0.123), plain(0.5), plain(0.0042), plain(3), plain(41.6)]).toEqual(["80", "1.5", "0.12", "0.50", "0.0042", "3", "42"]);
    expect([span(0), span(59), span(3_660), span(90_061), span(3_600)]).toEqual(["0 s", "59 s", "1 h 1 min", "1 d 1 h", "1 h"]);
  });
});

describe("passkeys without the browser's own JSON readers", () => {
  (globalThis as { PublicKeyCredential?: unknown }).PublicKeyCredential = function PublicKeyCredential() {};
  const buffer = (bytes: number[]) => Uint8Array.from(bytes).buffer;

  it("base64url goes there and back for every length", () => {
    for (let length = 0; length < 70; length += 1) {
      const bytes = Uint8Array.from({ length }, (_, index) => (index * 37 + length) & 255);
      expect([...bytesOf(base64url(bytes))]).toEqual([...bytes]);
      expect(base64url(bytes)).toMatch(/^[A-Za-z0-9_-]*$/);
    }
    expect(() => bytesOf("a+b")).toThrow(/base64url/);
  });

  it("turn the options' texts into bytes, wrapped or not", () => {
    const options = { challenge: "AQI", user: { id: "Aw", name: "n", displayName: "d" }, rp: { id: "x", name: "x" }, pubKeyCredParams: [], excludeCredentials: [{ type: "public-key", id: "BA" }] };
    for (const given of [options, { publicKey: options }]) {
      const read = creationOptions(given);
      expect([...new Uint8Array(read.challenge as ArrayBuffer)]).toEqual([1, 2]);
      expect([...new Uint8Array(read.user.id as ArrayBuffer)]).toEqual([3]);
      expect([...new Uint8Array(read.excludeCredentials?.[0]?.id as ArrayBuffer)]).toEqual([4]);
    }
    expect(requestOptions({ challenge: "AQI" }).allowCredentials).toEqual([]);
  });

  it("write the answer with the parts that its kind has", () => {
    const credential = (response: object) => ({ id: "id", rawId: buffer([9]), type: "public-key", response, getClientExtensionResults: () => ({}) }) as unknown as PublicKeyCredential;
    expect(credentialJson(credential({ clientDataJSON: buffer([1]), attestationObject: buffer([2]), getTransports: () => ["internal"], authenticatorData: undefined })).response).toEqual({ clientDataJSON: "AQ", attestationObject: "Ag", transports: ["internal"] });
    expect(credentialJson(credential({ clientDataJSON: buffer([1]), authenticatorData: buffer([2]), signature: buffer([3]), userHandle: null })).response).toEqual({ clientDataJSON: "AQ", authenticatorData: "Ag", signature: "Aw" });
  });
});

describe("keys and receipts", () => {
  it("snippets carry the real address, and a quote in a model's name breaks none", () => {
    const lines = snippets("https://meter.example", "prlx_x", 'it\'s "m"');
    expect(lines.every(({ text }) => text.includes("https://meter.example/v1") && text.includes("prlx_x"))).toBe(true);
    expect(lines[0]?.text).toContain(`"model":"it'\\''s \\"m\\""`);
    expect(snippets("https://x", null, "m")[1]?.text).toContain("YOUR_API_KEY");
  });

  it("steps stop where the receipt stands", () => {
    expect(stepsOf("batched").map(({ reached }) => reached)).toEqual([true, true, false]);
    expect(stepsOf("awaiting_signature").some(({ reached }) => reached)).toBe(false);
    expect(stepsOf("disputed")).toEqual([]);
    expect([stateWords("settled").isFinal, stateWords("signed").isFinal, stateWords("odd").name]).toEqual([true, false, "odd"]);
  });
});
