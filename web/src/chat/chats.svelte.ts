// The conversations of this browser and the one that is open. Components read it and call it; nothing else writes.

import type { ChatDatabase, Write } from "./db";
import { type Conversation, DEFAULT_OPTIONS, isOver, type JobRecord, type Message, type Options, titleFrom } from "./model";
import { SearchIndex, type Hit } from "./search";
import { leafBelow, newestLeaf, pathTo, treeOf } from "./tree";

/** How long a deletion can be taken back. */
export const UNDO_MS = 10_000;
const HITS_MAX = 50;

/** Tells the other tabs what changed. */
export interface Peers {
  tell(conversationId: string): void;
}

export const newId = (): string => crypto.randomUUID();

export class Chats {
  list = $state.raw<readonly Conversation[]>([]);
  /** The open conversation. It is stored with its first message. */
  current = $state.raw<Conversation>(this.#fresh("", DEFAULT_OPTIONS));
  #messages = $state.raw<ReadonlyMap<string, Message>>(new Map());
  /**
   * Answers under way in the open conversation, newest state. Apart from the tree, so that a frame of one answer redraws that answer
   * and nothing of the three hundred messages above it.
   */
  live = $state.raw<ReadonlyMap<string, Message>>(new Map());
  /** Why the conversations can't be kept; null while they can. */
  broken = $state<string | null>(null);
  /** Whether the list was read. */
  ready = $state(false);
  tree = $derived(treeOf(this.#messages.values()));
  path = $derived(pathTo(this.tree, this.current.leafId));
  #index: Promise<SearchIndex> | null = null;

  constructor(private readonly database: ChatDatabase, private readonly peers: Peers) {}

  #fresh(model: string, options: Options): Conversation {
    const now = Date.now();
    return {
      id: newId(), title: "New chat", named: false, pinned: false, createdAt: now, updatedAt: now, model, options: { ...options }, leafId: null, deletedAt: null,
    };
  }

  isStored(id: string): boolean {
    return this.list.some((one) => one.id === id);
  }

  /** Reads the list, and removes for good what was deleted before the page was closed. */
  async load(): Promise<void> {
    try {
      const all = await this.database.all("conversations");
      const now = Date.now();
      for (const { id, deletedAt } of all) if (deletedAt !== null && now - deletedAt > UNDO_MS) await this.database.remove(id);
      this.list = sorted(all.filter(({ deletedAt }) => deletedAt === null));
      this.broken = null;
    } catch (error) {
      this.broken = error instanceof Error ? error.message : String(error);
    }
    this.ready = true;
  }

  /** Opens a conversation; a new, empty one for null. False when it is not on this device. */
  async open(id: string | null): Promise<boolean> {
    if (id === null) {
      this.startNew();
      return true;
    }
    const conversation = await this.database.get("conversations", id);
    if (!conversation || conversation.deletedAt !== null) return false;
    const messages = await this.database.messagesOf(id);
    if (this.current.id !== id) this.live = new Map();
    this.current = conversation;
    this.#messages = new Map(messages.map((message) => [message.id, message]));
    return true;
  }

  startNew(): void {
    this.current = this.#fresh(this.current.model, { ...DEFAULT_OPTIONS, maxTokens: this.current.options.maxTokens });
    this.#messages = new Map();
    this.live = new Map();
  }

  /** Another tab wrote to this conversation. */
  async refreshed(conversationId: string): Promise<void> {
    await this.load();
    if (this.current.id !== conversationId) return;
    const leaf = this.current.leafId;
    if (!(await this.open(conversationId))) return this.startNew();
    // Where somebody reads is this tab's own; only a branch that grew at its end is followed.
    if (leaf !== null && this.#messages.has(leaf)) this.current = { ...this.current, leafId: leafBelow(this.tree, leaf) };
  }

  /** Stores new messages at the end of the open branch, with the job that will answer; all or nothing. */
  async append(messages: readonly Message[], job: JobRecord): Promise<void> {
    const last = messages.at(-1);
    if (!last) return;
    const first = this.#messages.size === 0 ? messages.find(({ role }) => role === "user") : undefined;
    const title = first && !this.current.named ? titleFrom(first.text) : this.current.title;
    const conversation = { ...this.current, title, leafId: last.id, updatedAt: Date.now() };
    await this.#write(conversation, [...messages.map((message): Write => ({ store: "messages", put: message })), { store: "jobs", put: job }]);
    const next = new Map(this.#messages);
    for (const message of messages) next.set(message.id, message);
    this.#messages = next;
    for (const message of messages) await this.#indexed(message);
  }

  /** Takes back messages that the meter refused: a draft is no part of a conversation. */
  async takeBack(conversation: Conversation, ids: readonly string[]): Promise<void> {
    const open = this.current.id === conversation.id;
    const wasFirst = conversation.leafId === null;
    await this.database.write([
      ...ids.flatMap((id): Write[] => [{ store: "messages", remove: id }, { store: "jobs", remove: id }]),
      wasFirst ? { store: "conversations", remove: conversation.id } : { store: "conversations", put: conversation },
    ]);
    if (open) {
      const next = new Map(this.#messages);
      for (const id of ids) next.delete(id);
      this.#messages = next;
      this.current = conversation;
    }
    this.list = wasFirst ? this.list.filter(({ id }) => id !== conversation.id) : sorted(replaced(this.list, conversation));
    this.peers.tell(conversation.id);
  }

  /** Shows a message that changed, if its conversation is open. */
  show(message: Message): void {
    if (message.conversationId !== this.current.id || !this.#messages.has(message.id)) return;
    const copy = { ...message, answer: message.answer && { ...message.answer } };
    const live = new Map(this.live);
    if (!copy.answer || isOver(copy.answer.state)) {
      live.delete(message.id);
      this.#messages = new Map(this.#messages).set(message.id, copy);
    } else live.set(message.id, copy);
    this.live = live;
  }

  async ended(message: Message): Promise<void> {
    await this.#indexed(message);
  }

  /** Goes to the newest end below a message: to a sibling, or to what a search found. */
  async goTo(messageId: string): Promise<void> {
    if (!this.#messages.has(messageId)) return;
    await this.change({ leafId: leafBelow(this.tree, messageId) });
  }

  /** Changes the open conversation; stores it if it is stored already. */
  async change(patch: Partial<Omit<Conversation, "id" | "createdAt">>): Promise<void> {
    const conversation = { ...this.current, ...patch };
    this.current = conversation;
    if (this.isStored(conversation.id)) await this.#write(conversation, []);
  }

  /** Changes any stored conversation. */
  async changeOf(id: string, patch: Partial<Pick<Conversation, "title" | "named" | "pinned" | "deletedAt">>): Promise<void> {
    if (id === this.current.id) return this.change(patch);
    const conversation = this.list.find((one) => one.id === id) ?? (await this.database.get("conversations", id));
    if (conversation) await this.#write({ ...conversation, ...patch }, []);
  }

  /** Hides a conversation; `purge` removes it for good, `changeOf(id, {deletedAt: null})` brings it back. */
  async remove(id: string): Promise<void> {
    await this.changeOf(id, { deletedAt: Date.now() });
    if (this.current.id === id) this.startNew();
  }

  async purge(id: string): Promise<void> {
    const conversation = await this.database.get("conversations", id);
    if (!conversation || conversation.deletedAt === null) return;
    await this.database.remove(id);
    (await this.#index)?.drop(id);
    this.peers.tell(id);
  }

  /** Adds whole conversations, as an import gives them. */
  async add(writes: readonly Write[]): Promise<void> {
    await this.database.write(writes);
    this.#index = null;
    await this.load();
  }

  /** The index is built at the first search and kept up from then on. */
  async find(query: string): Promise<Hit[]> {
    this.#index ??= this.#buildIndex();
    const index = await this.#index;
    const shown = new Set(this.list.map(({ id }) => id));
    return index.find(query, HITS_MAX * 4).filter(({ conversationId }) => shown.has(conversationId)).slice(0, HITS_MAX);
  }

  async #buildIndex(): Promise<SearchIndex> {
    const index = new SearchIndex();
    for (const { id, title, updatedAt } of this.list) index.put({ conversationId: id, messageId: null, text: title, at: updatedAt });
    for (const { id, conversationId, text, createdAt } of await this.database.all("messages")) index.put({ conversationId, messageId: id, text, at: createdAt });
    return index;
  }

  async #indexed({ id, conversationId, text, createdAt }: Message): Promise<void> {
    (await this.#index)?.put({ conversationId, messageId: id, text, at: createdAt });
  }

  async #write(conversation: Conversation, beside: readonly Write[]): Promise<void> {
    await this.database.write([{ store: "conversations", put: conversation }, ...beside]);
    if (conversation.id === this.current.id) this.current = conversation;
    const others = this.list.filter(({ id }) => id !== conversation.id);
    this.list = sorted(conversation.deletedAt === null ? [...others, conversation] : others);
    (await this.#index)?.put({ conversationId: conversation.id, messageId: null, text: conversation.title, at: conversation.updatedAt });
    this.peers.tell(conversation.id);
  }

  /** Where an opened conversation without a remembered end begins to be read. */
  get newestLeaf(): string | null {
    return newestLeaf(this.tree);
  }
}

const replaced = (list: readonly Conversation[], one: Conversation): Conversation[] => [...list.filter(({ id }) => id !== one.id), one];

const sorted = (list: readonly Conversation[]): Conversation[] =>
  [...list].sort((a, b) => Number(b.pinned) - Number(a.pinned) || b.updatedAt - a.updatedAt || (a.id < b.id ? -1 : 1));
