// What a reader does: send, regenerate, edit, stop. Joins the conversations, the running answers and the models.

import { ApiError } from "../api/error";
import { session } from "../session.svelte";
import { Beat } from "./beat";
import { Chats, newId } from "./chats.svelte";
import { database } from "./database";
import { NEW_DRAFT, storeDraft, storedDraft } from "./drafts";
import { BROKE_OFF, canGoOn, restTokens } from "./continuation";
import { type Conversation, isOver, type JobRecord, type Message, newAnswer } from "./model";
import { isServed, models } from "./models.svelte";
import { exclusively, untilOnline } from "./network.svelte";
import { chatRequest } from "./request";
import { Runs } from "./runs.svelte";
import { pathTo } from "./tree";

/** A message that the meter did not take: its draft is kept, and `retry` sends the same again. */
export interface Refusal {
  readonly error: ApiError;
  readonly retry: () => Promise<void>;
}

const NODE_PERIOD_MS = 3_000;

class Chat {
  refusal = $state.raw<Refusal | null>(null);
  /** What is being written, in the open conversation. */
  draft = $state("");
  /** The model whose node is waited for; null when nothing waits. */
  waitingFor = $state<string | null>(null);
  /** Read out when an answer is over. */
  announced = $state("");
  readonly #channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("parallelix.chat") : null;
  readonly chats = new Chats(database, { tell: (conversationId) => this.#channel?.postMessage(conversationId) });
  readonly runs = new Runs({
    database,
    pause: untilOnline,
    exclusively,
    now: () => performance.now(),
    account: () => session.credits?.account ?? null,
    sink: {
      show: (message, now) => this.#show(message, now),
      stored: (message) => this.#channel?.postMessage(message.conversationId),
      ended: (message) => this.#ended(message),
    },
  });
  /** The answer under way at the end of the open branch; null when there is none. */
  running = $derived.by(() => {
    const last = this.chats.path.at(-1);
    return last?.answer && !isOver(last.answer.state) ? last : null;
  });
  #frames = new Map<string, Message>();
  readonly #beat = new Beat(() => this.#flush());

  /** Reads what this browser keeps. What was under way goes on when it is known who is here. */
  async start(): Promise<void> {
    this.#channel?.addEventListener("message", ({ data }) => {
      if (typeof data !== "string") return;
      void this.#refreshed(data);
    });
    await this.chats.load();
  }

  /** Another tab wrote: its answers under way are read here too, while somebody looks. */
  async #refreshed(conversationId: string): Promise<void> {
    await this.chats.refreshed(conversationId);
    if (this.chats.current.id === conversationId) await this.runs.resume(conversationId);
  }

  /** Takes in what is being written, and keeps it over a reload. */
  write(text: string): void {
    this.draft = text;
    storeDraft(this.#draftKey, text);
  }

  /** Shows what was left unsent in the conversation that is open now. */
  readDraft(): void {
    this.draft = storedDraft(this.#draftKey);
  }

  get #draftKey(): string {
    return this.chats.isStored(this.chats.current.id) ? this.chats.current.id : NEW_DRAFT;
  }

  /** Puts a text that was not taken where it was written, unless something else is being written there. */
  #giveBack(conversationId: string, text: string | null): void {
    if (text === null) return;
    if (this.chats.current.id !== conversationId) storeDraft(conversationId, text);
    else if (this.draft === "") this.write(text);
  }

  /** Sends a new message at the end of the open branch. */
  async send(text: string): Promise<void> {
    if (this.running) return;
    const parent = this.chats.path.at(-1)?.id ?? null;
    // What is refused may be reworded before it is sent again.
    await this.#ask(text, parent, () => this.send(this.draft.trim() || text));
  }

  /** Asks the same again: the old answer stays as a sibling. */
  async regenerate(answerId: string): Promise<void> {
    const question = this.chats.tree.byId.get(answerId)?.parentId ?? null;
    if (question === null || this.running) return;
    await this.#answer([], question, () => this.regenerate(answerId), null);
  }

  /** Goes on with an answer that broke off or was cut: the same text goes on, and the new part has its own receipt. */
  async goOn(answerId: string): Promise<void> {
    const answer = this.chats.tree.byId.get(answerId);
    if (!answer || this.running || !canGoOn(answer)) return;
    await this.#answer([], answerId, () => this.goOn(answerId), null, restTokens(answer, this.chats.current.options));
  }

  /**
   * Another node takes over from one that died, once, in the open conversation: the first reservation allowed for as many tokens. Refused, it
   * leaves the answer broken off, with the button that asks for the same.
   */
  async #takeOver(broken: Message): Promise<void> {
    await exclusively(`take-over.${broken.id}`, async () => {
      const messages = await database.messagesOf(broken.conversationId);
      const parent = messages.find(({ id }) => id === broken.parentId);
      // Another tab was quicker, or this was the second node already.
      if (parent?.role !== "user" || messages.some(({ parentId }) => parentId === broken.id)) return;
      await this.goOn(broken.id);
      this.refusal = null;
    });
  }

  /** Puts another wording beside a question; `run` also has it answered. */
  async edit(questionId: string, text: string): Promise<void> {
    const question = this.chats.tree.byId.get(questionId);
    if (!question || this.running) return;
    await this.#ask(text, question.parentId, () => this.edit(questionId, text));
  }

  async stop(): Promise<void> {
    const { running } = this;
    this.stopWaiting();
    if (running) await this.runs.stop(running.id);
  }

  /** Waits until a node serves the model, and sends then. Nothing is sent and nothing is charged before. */
  async waitForNode(): Promise<void> {
    const refusal = this.refusal;
    const model = this.chats.current.model;
    if (!refusal) return;
    this.refusal = null;
    this.waitingFor = model;
    while (this.waitingFor === model) {
      await models.refresh();
      const found = models.get(model);
      if (found && isServed(found)) {
        this.waitingFor = null;
        return refusal.retry();
      }
      await untilOnline(NODE_PERIOD_MS);
    }
  }

  stopWaiting(): void {
    this.waitingFor = null;
  }

  async #ask(text: string, parentId: string | null, retry: () => Promise<void>): Promise<void> {
    const conversation = this.chats.current;
    const question: Message = {
      id: newId(), conversationId: conversation.id, parentId, role: "user", text, createdAt: Date.now(), answer: null,
    };
    await this.#answer([question], question.id, retry, text);
  }

  async #answer(before: readonly Message[], questionId: string, retry: () => Promise<void>, draft: string | null, maxTokens = this.chats.current.options.maxTokens): Promise<void> {
    const conversation: Conversation = this.chats.current;
    this.refusal = null;
    this.stopWaiting();
    const answer: Message = {
      id: newId(), conversationId: conversation.id, parentId: questionId, role: "assistant", text: "", createdAt: Date.now() + 1, answer: newAnswer(conversation.model),
    };
    const question = before[0];
    const path = question ? [...pathTo(this.chats.tree, question.parentId), question] : pathTo(this.chats.tree, questionId);
    const job: JobRecord = {
      key: answer.id, conversationId: conversation.id, request: JSON.stringify(chatRequest(conversation, path, maxTokens)), jobId: null, receiptId: null,
      createdAt: Date.now(), account: session.credits?.account ?? null, stopRequested: false,
    };
    try {
      await this.chats.append([...before, answer], job);
    } catch (error) {
      // What can't be kept is not sent either: a paid answer must not depend on this tab staying open.
      const message = `this browser could not store the message: ${error instanceof Error ? error.message : String(error)}`;
      this.refusal = { error: new ApiError({ code: "not_stored", message }), retry };
      this.#giveBack(conversation.id, draft);
      return;
    }
    if (this.draft.trim() === draft) this.write("");
    const refused = await this.runs.start(job, structuredClone(answer));
    if (!refused) return;
    await this.chats.takeBack(conversation, [...before.map(({ id }) => id), answer.id]);
    this.#giveBack(conversation.id, draft);
    if (refused.code !== "stopped_before_sent") this.refusal = { error: refused, retry };
    if (refused.status === 401) void session.refresh();
    // What is offered instead must be there, not have been there some seconds ago.
    if (refused.code === "no_node") void models.refresh();
  }

  #show(message: Message, now: boolean): void {
    this.#frames.set(message.id, message);
    if (now) return this.#flush();
    this.#beat.ask();
  }

  #flush(): void {
    for (const message of this.#frames.values()) this.chats.show(message);
    this.#frames.clear();
  }

  #ended(message: Message): void {
    void this.chats.ended(message);
    if (message.conversationId !== this.chats.current.id) return;
    if (message.answer?.failure?.code === BROKE_OFF && message.id === this.chats.current.leafId) void this.#takeOver(message);
    else this.announced = message.text === "" ? "The answer ended" : `Answer: ${message.text}`;
  }
}

export const chat = new Chat();
