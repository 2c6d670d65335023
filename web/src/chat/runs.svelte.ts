// Answers under way. The generation belongs to the meter: this only reads it, and reads on after a reload, a lost network or in another tab.

import { call, openStream } from "../api/client";
import { ApiError, isAbort } from "../api/error";
import { readSse } from "../api/sse";
import { creditsChanged, type Sink } from "./sink";
import type { ChatDatabase } from "./db";
import { endFromReceipt, failureOf, JobReader } from "./job";
import { isOver, type JobRecord, type Message } from "./model";
import { Pace } from "./pace";

/** How reading goes; "signed-out" waits for a sign-in. */
export type Connection = "reading" | "reconnecting" | "signed-out";

export interface Run {
  readonly key: string;
  readonly conversationId: string;
  readonly connection: Connection;
  readonly stopRequested: boolean;
}

interface RunDeps {
  readonly database: ChatDatabase;
  readonly sink: Sink;
  /** Waits, or ends early when the network is back. */
  readonly pause: (ms: number) => Promise<void>;
  readonly now: () => number;
  /** Does the work unless another tab does it under that name: undefined then. */
  readonly exclusively: <T>(name: string, work: () => Promise<T>) => Promise<T | undefined>;
  /** Who is here; null when that is not known. */
  readonly account: () => number | null;
}

const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 8_000;
const SAVE_PERIOD_MS = 1_000;

interface Job {
  readonly id: string;
  readonly receipt_id: string;
}

export class Runs {
  active = $state.raw<ReadonlyMap<string, Run>>(new Map());
  #records = new Map<string, JobRecord>();

  constructor(private readonly deps: RunDeps) {}

  /** Sends a stored record and reads its answer. Resolves when the meter took it (null) or refused it (why). */
  start(record: JobRecord, message: Message): Promise<ApiError | null> {
    return new Promise((resolve) => void this.#run(record, message, resolve));
  }

  /** Reads on what an earlier page, or another tab, began. A record whose sending was cut off is sent again under its own key. */
  async resume(conversationId?: string): Promise<void> {
    for (const record of await this.deps.database.all("jobs")) {
      if (this.active.has(record.key) || (conversationId !== undefined && record.conversationId !== conversationId)) continue;
      const account = this.deps.account();
      // To somebody else the meter would say that there is no such job.
      if (record.account !== null && account !== null && record.account !== account) continue;
      const message = await this.deps.database.get("messages", record.key);
      if (!message?.answer || isOver(message.answer.state)) await this.deps.database.write([{ store: "jobs", remove: record.key }]);
      else void this.#run(record, message, null);
    }
  }

  /** Asks the node to stop. What arrived stays and is charged, and nothing else. */
  async stop(key: string): Promise<void> {
    const record = this.#records.get(key);
    if (!record || record.stopRequested) return;
    const { jobId } = record;
    record.stopRequested = true;
    this.#show(record, this.active.get(key)?.connection ?? "reading");
    await this.deps.database.write([{ store: "jobs", put: { ...record } }]);
    if (jobId !== null) await this.#cancel(jobId); // otherwise it is asked for as soon as the job has a name
  }

  /** Goes on with the runs that waited for a sign-in. */
  async signedIn(): Promise<void> {
    for (const run of this.active.values()) if (run.connection === "signed-out") this.#forget(run.key);
    await this.resume();
  }

  /** `settled` is told whether the meter took it; null when nobody waits for that, so that the message itself says why not. */
  async #run(record: JobRecord, message: Message, settled: ((refusal: ApiError | null) => void) | null): Promise<void> {
    this.#records.set(record.key, record);
    this.#show(record, "reading");
    const pace = new Pace(this.deps.now, record.jobId === null && message.answer?.eventsRead === 0);
    const reader = new JobReader(message);
    try {
      if (record.jobId === null) {
        const refusal = await this.deps.exclusively(record.key, () => this.#sendOnce(record, message));
        // Another tab is at it, or was: when the job has a name, this one is told.
        if (refusal === undefined) {
          this.#forget(record.key);
          return settled?.(null);
        }
        if (refusal) {
          this.#forget(record.key);
          if (message.answer) Object.assign(message.answer, { state: "failed", failure: { code: refusal.code, message: refusal.message } });
          await this.#save(message);
          await this.deps.database.write([{ store: "jobs", remove: record.key }]);
          if (!settled) this.deps.sink.show(message, true);
          return settled?.(refusal);
        }
      }
      settled?.(null);
      await this.#read(record, message, reader, pace);
    } catch (error) {
      // A full disk or a closed database: what is on the screen stays, and the job can be read again after a reload.
      settled?.(failureOf(error));
      this.#forget(record.key);
    }
  }

  /** Sends what is still to be sent; undefined when another tab did so, or took it back, meanwhile. */
  async #sendOnce(record: JobRecord, message: Message): Promise<ApiError | null | undefined> {
    const stored = await this.deps.database.get("jobs", record.key);
    return stored?.jobId === null ? this.#send(record, message) : undefined;
  }

  /** Makes the job. A lost reply is asked for again under the same key, so that nothing is paid twice. Returns a refusal. */
  async #send(record: JobRecord, message: Message): Promise<ApiError | null> {
    for (let wait = RETRY_FIRST_MS; ; wait = Math.min(wait * 2, RETRY_MAX_MS)) {
      if (record.stopRequested) return new ApiError({ code: "stopped_before_sent", message: "stopped before the meter took it" });
      try {
        const job = await call<Job>("POST", "/v1/jobs", { body: JSON.parse(record.request), headers: { "idempotency-key": record.key } });
        record.jobId = job.id;
        record.receiptId = job.receipt_id;
        if (message.answer) Object.assign(message.answer, { receiptId: job.receipt_id, state: "queued" });
        await this.deps.database.write([{ store: "jobs", put: { ...record } }]);
        await this.#save(message);
        this.deps.sink.show(message, true);
        if (record.stopRequested) await this.#cancel(job.id);
        return null;
      } catch (error) {
        const failure = failureOf(error);
        if (failure.code !== "offline") return failure;
        this.#show(record, "reconnecting");
        await this.deps.pause(wait);
        this.#show(record, "reading");
      }
    }
  }

  /** Reads to the end, over as many connections as it takes. */
  async #read(record: JobRecord, message: Message, reader: JobReader, pace: Pace): Promise<void> {
    const answer = message.answer;
    if (!answer || record.jobId === null) return;
    let savedAt = this.deps.now();
    for (let wait = RETRY_FIRST_MS; !isOver(answer.state); wait = Math.min(wait * 2, RETRY_MAX_MS)) {
      try {
        let over = false;
        const body = await openStream(`/v1/jobs/${encodeURIComponent(record.jobId)}/events?after=${answer.eventsRead}`);
        this.#show(record, "reading");
        await readSse(body, (event) => {
          if (over) return;
          const step = reader.read(event);
          if (step.text !== "") pace.token();
          if (event.id !== null) wait = RETRY_FIRST_MS;
          over = step.over;
          this.deps.sink.show(message, false);
          if (this.deps.now() - savedAt < SAVE_PERIOD_MS) return;
          savedAt = this.deps.now();
          void this.#save(message).catch(() => {}); // the end is saved again, and its failure is told then
        });
        // A failure chunk ends the answer even when the connection broke right behind it.
        if (over || isOver(answer.state)) break;
        pace.broken();
      } catch (error) {
        if (isAbort(error)) return;
        pace.broken();
        const failure = error instanceof ApiError ? error : null;
        if (failure?.status === 404) {
          await this.#gone(record, message);
          break;
        }
        if (failure?.status === 401 || failure?.status === 403) return this.#show(record, "signed-out");
      }
      this.#show(record, "reconnecting");
      await this.deps.pause(wait);
      // The first asking may have been lost with the connection; asking twice changes nothing.
      if (record.stopRequested) await this.#cancel(record.jobId);
    }
    await this.#finish(record, message, reader, pace);
  }

  async #finish(record: JobRecord, message: Message, reader: JobReader, pace: Pace): Promise<void> {
    const answer = message.answer;
    if (!answer) return;
    if (record.stopRequested && (answer.state === "done" || answer.failure?.code === "cancelled")) Object.assign(answer, { state: "stopped", failure: null });
    Object.assign(answer, pace.figures(answer.completionTokens));
    await this.#save(message);
    const evidence = reader.evidence();
    await this.deps.database.write([{ store: "jobs", remove: record.key }, ...(evidence ? [{ store: "evidence", put: evidence } as const] : [])]);
    this.#forget(record.key);
    this.deps.sink.show(message, true);
    this.deps.sink.ended(message);
    creditsChanged();
  }

  /** The meter keeps an ended job for a while only: after that, the receipt is what is left. */
  async #gone(record: JobRecord, message: Message): Promise<void> {
    const stored = record.receiptId
      ? await call<Record<string, unknown>>("GET", `/v1/receipts/${encodeURIComponent(record.receiptId)}`).catch(() => null)
      : null;
    endFromReceipt(message, stored);
  }

  async #cancel(jobId: string): Promise<void> {
    // An ended or unknown job has nothing to stop; a meter that can't be reached goes on, and the reader sees that it does.
    await call("DELETE", `/v1/jobs/${encodeURIComponent(jobId)}`).catch(() => null);
  }

  /** Stores what is known, and takes over what another tab knows better. */
  async #save(message: Message): Promise<void> {
    const kept = await this.deps.database.advance(message);
    if (kept?.answer && message.answer && isOver(kept.answer.state) && !isOver(message.answer.state)) {
      message.text = kept.text;
      Object.assign(message.answer, kept.answer);
    }
    this.deps.sink.stored(message);
  }

  #show(record: JobRecord, connection: Connection): void {
    const known = this.active.get(record.key);
    if (known?.connection === connection && known.stopRequested === record.stopRequested) return;
    const run = { key: record.key, conversationId: record.conversationId, connection, stopRequested: record.stopRequested };
    this.active = new Map(this.active).set(record.key, run);
  }

  #forget(key: string): void {
    this.#records.delete(key);
    const active = new Map(this.active);
    active.delete(key);
    this.active = active;
  }
}
