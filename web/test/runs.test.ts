// @vitest-environment jsdom
import { IDBFactory } from "fake-indexeddb";
import { afterEach, expect, test, vi } from "vitest";

import { ChatDatabase } from "../src/chat/db";
import { type Conversation, DEFAULT_OPTIONS, type JobRecord, type Message, newAnswer } from "../src/chat/model";
import { Runs } from "../src/chat/runs.svelte";

const TEXT = "An answer of several words, with 漢字 and 🦀 in it.";
const USAGE = { prompt_tokens: 7, completion_tokens: 5, cost_credits: 48_000 };
const SERVED = { receipt_id: "0xjob1", node: "0xnode", operator: "0xop", fallback: true, params: { seed: 1 } };

/** The whole log of a job as the meter keeps it: data by event, numbered from 1. */
function log({ failure = false } = {}): string[] {
  const chunks: object[] = [{ choices: [{ delta: { role: "assistant", content: "" } }] }];
  for (const piece of TEXT.match(/.{1,6}/gu) ?? []) chunks.push({ choices: [{ delta: { content: piece } }] });
  if (failure) chunks.push({ choices: [{ delta: {}, finish_reason: "error" }], error: { code: "answer_broke_off", message: "gone", metadata: { usage: USAGE, parallelix: SERVED } } });
  else {
    chunks.push({ choices: [{ delta: {}, finish_reason: "stop", token_ids: [1, 2, 3] }], prompt_token_ids: [4, 5] });
    chunks.push({ choices: [], usage: USAGE, parallelix: SERVED });
  }
  const lines = chunks.map((chunk) => JSON.stringify(chunk));
  if (!failure) lines[lines.length - 1] = lines.at(-1)!.replace('"seed":1', '"seed":18446744073709551615');
  return [...lines, "[DONE]"];
}

/** A meter behind `fetch` that counts jobs by key and can lose replies and cut streams. */
class Meter {
  readonly posts: { key: string; body: string }[] = [];
  readonly jobs = new Map<string, string>();
  readonly cancelled: string[] = [];
  loseReplies = 0;
  /** Events sent before each connection is cut; the last entry, null, is never cut. */
  cuts: (number | null)[] = [null];
  events: string[] | null = log();
  refusal: { status: number; code: string } | null = null;
  receipt: object | null = null;
  /** Replies to a new job wait for this. */
  gate: Promise<void> = Promise.resolve();

  readonly fetch = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const url = new URL(String(input), "http://meter");
    const json = (status: number, body: object) => new Response(JSON.stringify(body), { status });
    if (url.pathname === "/v1/jobs") {
      const key = new Headers(init.headers).get("idempotency-key") ?? "";
      this.posts.push({ key, body: String(init.body) });
      if (this.refusal) return json(this.refusal.status, { error: { code: this.refusal.code, message: "no" } });
      const id = this.jobs.get(key) ?? `0xjob${this.jobs.size + 1}`;
      this.jobs.set(key, id);
      await this.gate;
      if (this.loseReplies-- > 0) throw new TypeError("network");
      return json(201, { id, receipt_id: id, state: "queued" });
    }
    if (url.pathname.startsWith("/v1/receipts/")) return this.receipt ? json(200, this.receipt) : json(404, { error: { code: "receipt_not_found", message: "no" } });
    if (init.method === "DELETE") {
      this.cancelled.push(url.pathname);
      return json(202, {});
    }
    if (this.events === null) return json(404, { error: { code: "job_not_found", message: "no" } });
    return this.#stream(Number(url.searchParams.get("after")));
  };

  #stream(after: number): Response {
    const cut = this.cuts.length > 1 ? this.cuts.shift()! : this.cuts[0]!;
    const events = (this.events ?? []).slice(after, cut === null ? undefined : after + cut);
    // As the meter does it, the end has no number.
    const text = events.map((data, index) => (data === "[DONE]" ? `data: ${data}\n\n` : `id: ${after + index + 1}\ndata: ${data}\n\n`)).join("");
    // A cut comes in the middle of the next event, as networks do it.
    const bytes = new TextEncoder().encode(cut === null ? text : `${text}id: ${after + events.length + 1}\nda`);
    let at = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (at < bytes.length) controller.enqueue(bytes.slice(at, (at += 11)));
        else if (cut === null) controller.close();
        else controller.error(new TypeError("network"));
      },
    });
    return new Response(body, { status: 200 });
  }
}

function setUp() {
  const meter = new Meter();
  vi.stubGlobal("fetch", meter.fetch);
  const database = new ChatDatabase(new IDBFactory());
  let clock = 0;
  const held = new Set<string>();
  let account: number | null = null;
  const tab = () => {
    const ended: Message[] = [];
    let wake: (message: Message) => void = () => {};
    const end = new Promise<Message>((resolve) => (wake = resolve));
    const runs = new Runs({
      database,
      pause: () => Promise.resolve(),
      exclusively: async (name, work) => {
        if (held.has(name)) return undefined;
        held.add(name);
        return work().finally(() => held.delete(name));
      },
      now: () => (clock += 400),
      account: () => account,
      sink: { show: () => {}, stored: () => {}, ended: (message) => { ended.push(message); wake(message); } },
    });
    return { runs, ended, end };
  };
  return { meter, database, tab, signIn: (next: number) => (account = next) };
}

const conversation: Conversation = {
  id: "c", title: "t", named: false, pinned: false, createdAt: 1, updatedAt: 1, model: "m", options: DEFAULT_OPTIONS, leafId: "key1", deletedAt: null,
};

async function stored(database: ChatDatabase, patch: Partial<JobRecord> = {}) {
  const message: Message = { id: "key1", conversationId: "c", parentId: null, role: "assistant", text: "", createdAt: 2, answer: newAnswer("m") };
  const record: JobRecord = { key: "key1", conversationId: "c", request: '{"model":"m"}', jobId: null, receiptId: null, createdAt: 2, account: 7, stopRequested: false, ...patch };
  await database.write([{ store: "conversations", put: conversation }, { store: "messages", put: message }, { store: "jobs", put: record }]);
  return { message: structuredClone(message), record };
}

afterEach(() => vi.unstubAllGlobals());

test("an answer is read, stored with its figures and evidence, and its job forgotten", async () => {
  const { meter, database, tab } = setUp();
  const { message, record } = await stored(database);
  const { runs, end } = tab();
  expect(await runs.start(record, message)).toBeNull();
  await end;
  const kept = await database.get("messages", "key1");
  expect(kept?.text).toBe(TEXT);
  expect(kept?.answer).toMatchObject({ state: "done", promptTokens: 7, completionTokens: 5, cost: "48000", node: "0xnode", operator: "0xop", fallback: true, receiptId: "0xjob1" });
  expect(kept?.answer?.tokensPerS).toBeGreaterThan(0);
  expect(await database.get("evidence", "0xjob1")).toEqual({ receiptId: "0xjob1", promptTokenIds: [4, 5], tokenIds: [1, 2, 3], params: '{"seed":18446744073709551615}' });
  expect(await database.all("jobs")).toEqual([]);
  expect(meter.posts).toEqual([{ key: "key1", body: '{"model":"m"}' }]);
  expect(runs.active.size).toBe(0);
});

test("replies that are lost and streams that are cut anywhere give the same bytes, paid once, without a made-up speed", async () => {
  for (let cut = 0; cut <= 6; cut += 1) {
    const { meter, database, tab } = setUp();
    meter.loseReplies = 2;
    meter.cuts = [cut, 1, cut, null];
    const { message, record } = await stored(database);
    const { runs, end } = tab();
    await runs.start(record, message);
    await end;
    const kept = await database.get("messages", "key1");
    expect(kept?.text, `cut after ${cut}`).toBe(TEXT);
    expect(kept?.answer).toMatchObject({ state: "done", tokensPerS: null });
    expect(meter.jobs.size).toBe(1);
    expect(new Set(meter.posts.map(({ key }) => key))).toEqual(new Set(["key1"]));
  }
});

test("a page that was reloaded goes on where it was, also when its request's reply never came", async () => {
  for (const patch of [{}, { jobId: "0xjob1", receiptId: "0xjob1" }]) {
    const { meter, database, tab } = setUp();
    await stored(database, patch);
    meter.jobs.set("key1", "0xjob1");
    const { runs, end } = tab();
    await runs.resume();
    await end;
    expect((await database.get("messages", "key1"))?.text).toBe(TEXT);
    expect(meter.jobs.size).toBe(1);
  }
});

test("an answer of another account waits for that account", async () => {
  const { database, tab, signIn } = setUp();
  await stored(database, { jobId: "0xjob1", receiptId: "0xjob1" });
  const { runs, end } = tab();
  signIn(8);
  await runs.resume();
  expect(runs.active.size).toBe(0);
  expect((await database.get("messages", "key1"))?.answer?.state).toBe("sending");
  signIn(7);
  await runs.signedIn();
  await end;
  expect((await database.get("messages", "key1"))?.text).toBe(TEXT);
});

test("two tabs read one job: both see all of it, and it is stored once", async () => {
  const { meter, database, tab } = setUp();
  meter.cuts = [3, null, null];
  await stored(database, { jobId: "0xjob1", receiptId: "0xjob1" });
  const [one, two] = [tab(), tab()];
  await Promise.all([one.runs.resume(), two.runs.resume()]);
  await Promise.all([one.end, two.end]);
  for (const { ended } of [one, two]) expect(ended.map(({ text }) => text)).toEqual([TEXT]);
  expect((await database.get("messages", "key1"))?.text).toBe(TEXT);
  expect(await database.all("jobs")).toEqual([]);
});

test("two tabs never send one message twice: the one that comes late reads what the other sent", async () => {
  const { meter, database, tab } = setUp();
  const { message, record } = await stored(database);
  const [one, two] = [tab(), tab()];
  const sent = one.runs.start(record, message);
  await two.runs.resume();
  expect(await sent).toBeNull();
  await two.runs.resume();
  await one.end;
  expect(meter.posts.length).toBe(1);
  expect((await database.get("messages", "key1"))?.text).toBe(TEXT);
});

test("a slower tab never overwrites what a faster one stored", async () => {
  const { database } = setUp();
  const { message } = await stored(database);
  const ahead = { ...message, text: "all of it", answer: { ...message.answer!, state: "done" as const, eventsRead: 9 } };
  await database.advance(ahead);
  const behind = { ...message, text: "some", answer: { ...message.answer!, state: "running" as const, eventsRead: 4 } };
  expect((await database.advance(behind))?.text).toBe("all of it");
  expect((await database.get("messages", "key1"))?.text).toBe("all of it");
  expect(await database.advance({ ...ahead, id: "gone" })).toBeNull();
});

test("a refusal is given back and leaves no job behind", async () => {
  const { meter, database, tab } = setUp();
  meter.refusal = { status: 402, code: "insufficient_credits" };
  const { message, record } = await stored(database);
  const { runs } = tab();
  expect(await runs.start(record, message)).toMatchObject({ status: 402, code: "insufficient_credits" });
  expect(await database.all("jobs")).toEqual([]);
  expect(runs.active.size).toBe(0);
});

test("a node that dies leaves what arrived, with what was charged for it", async () => {
  const { meter, database, tab } = setUp();
  meter.events = log({ failure: true });
  const { message, record } = await stored(database);
  const { runs, end } = tab();
  await runs.start(record, message);
  await end;
  const kept = await database.get("messages", "key1");
  expect(kept?.text).toBe(TEXT);
  expect(kept?.answer).toMatchObject({ state: "failed", failure: { code: "answer_broke_off" }, completionTokens: 5, cost: "48000", node: "0xnode" });
});

test("stopping reaches the meter and marks the answer as stopped", async () => {
  const { meter, database, tab } = setUp();
  const { message, record } = await stored(database);
  const { runs, end } = tab();
  let open = () => {};
  meter.gate = new Promise((resolve) => (open = resolve));
  const started = runs.start(record, message);
  await vi.waitFor(() => expect(meter.posts.length).toBe(1), { timeout: 30_000 });
  await runs.stop("key1");
  open();
  await started;
  await end;
  expect(meter.cancelled).toEqual(["/v1/jobs/0xjob1"]);
  expect((await database.get("messages", "key1"))?.answer?.state).toBe("stopped");
});

test("what is stopped before it was sent is not sent", async () => {
  const { meter, database, tab } = setUp();
  const { message, record } = await stored(database);
  const { runs } = tab();
  const started = runs.start(record, message);
  await runs.stop("key1");
  expect(await started).toMatchObject({ code: "stopped_before_sent" });
  expect(meter.posts).toEqual([]);
  expect(await database.all("jobs")).toEqual([]);
});

test("a job that the meter no longer has ends with its receipt, or says that there is none", async () => {
  for (const receipt of [null, { id: "0xjob1", cost_credits: 9, node: "0xn", receipt: { prompt_tokens: 1, completion_tokens: 2, operator: "0xo" } }]) {
    const { meter, database, tab } = setUp();
    Object.assign(meter, { events: null, receipt });
    await stored(database, { jobId: "0xjob1", receiptId: "0xjob1" });
    const { runs, end } = tab();
    await runs.resume();
    await end;
    const { answer } = (await database.get("messages", "key1"))!;
    expect(answer?.state).toBe("failed");
    expect(answer?.failure?.code).toBe(receipt ? "job_gone" : "job_lost");
    expect(answer?.cost).toBe(receipt ? "9" : null);
  }
});

test("deleting a conversation leaves nothing of it", async () => {
  const { database, tab } = setUp();
  const { message, record } = await stored(database);
  const { runs, end } = tab();
  await runs.start(record, message);
  await end;
  await database.remove("c");
  for (const store of ["conversations", "messages", "jobs", "evidence", "receipts"] as const) expect(await database.all(store)).toEqual([]);
});
