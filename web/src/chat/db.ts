// The conversations of this browser, in IndexedDB. Nothing of them is stored by the meter.

import type { Conversation, Evidence, JobRecord, KeptReceipt, Message } from "./model";

const NAME = "parallelix.chat";
const VERSION = 1;

export interface Stores {
  conversations: Conversation;
  messages: Message;
  jobs: JobRecord;
  evidence: Evidence;
  receipts: KeptReceipt;
}
export type StoreName = keyof Stores;

/** One write of a transaction. */
export type Write =
  | { [Name in StoreName]: { store: Name; put: Stores[Name] } }[StoreName]
  | { store: StoreName; remove: string };

const result = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const finished = (transaction: IDBTransaction): Promise<void> =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });

function upgrade(database: IDBDatabase): void {
  database.createObjectStore("conversations", { keyPath: "id" });
  database.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversationId");
  database.createObjectStore("jobs", { keyPath: "key" });
  database.createObjectStore("evidence", { keyPath: "receiptId" });
  database.createObjectStore("receipts", { keyPath: "receiptId" });
}

export class ChatDatabase {
  #opening: Promise<IDBDatabase> | null = null;

  constructor(private readonly factory: IDBFactory = indexedDB) {}

  #open(): Promise<IDBDatabase> {
    this.#opening ??= new Promise<IDBDatabase>((resolve, reject) => {
      const request = this.factory.open(NAME, VERSION);
      request.onupgradeneeded = () => upgrade(request.result);
      request.onsuccess = () => {
        const database = request.result;
        // Another tab wants a newer form: let go, and open again at the next call.
        database.onversionchange = () => {
          database.close();
          this.#opening = null;
        };
        resolve(database);
      };
      request.onerror = () => {
        this.#opening = null;
        reject(request.error);
      };
      request.onblocked = () => reject(new Error("another tab holds an older form of the conversations open; close it and reload"));
    });
    return this.#opening;
  }

  async all<Name extends StoreName>(store: Name): Promise<Stores[Name][]> {
    const database = await this.#open();
    return result(database.transaction(store).objectStore(store).getAll() as IDBRequest<Stores[Name][]>);
  }

  async get<Name extends StoreName>(store: Name, key: string): Promise<Stores[Name] | null> {
    const database = await this.#open();
    return (await result(database.transaction(store).objectStore(store).get(key) as IDBRequest<Stores[Name] | undefined>)) ?? null;
  }

  async messagesOf(conversationId: string): Promise<Message[]> {
    const database = await this.#open();
    const index = database.transaction("messages").objectStore("messages").index("conversation");
    return result(index.getAll(conversationId) as IDBRequest<Message[]>);
  }

  /** All of the writes, or none. */
  async write(writes: readonly Write[]): Promise<void> {
    if (writes.length === 0) return;
    const database = await this.#open();
    const transaction = database.transaction([...new Set(writes.map(({ store }) => store))], "readwrite");
    for (const one of writes) {
      const store = transaction.objectStore(one.store);
      if ("put" in one) store.put(one.put);
      else store.delete(one.remove);
    }
    await finished(transaction);
  }

  /**
   * Stores an answer unless another tab has read further or seen its end. Returns what is stored now; null when the message is gone.
   */
  async advance(message: Message): Promise<Message | null> {
    const database = await this.#open();
    const transaction = database.transaction("messages", "readwrite");
    const done = finished(transaction);
    const store = transaction.objectStore("messages");
    const stored = await result(store.get(message.id) as IDBRequest<Message | undefined>);
    let kept: Message | null = stored ?? null;
    if (stored && isAhead(message, stored)) {
      store.put(message);
      kept = message;
    }
    await done;
    return kept;
  }

  /** Removes a conversation with its messages, their evidence, receipts and jobs. */
  async remove(conversationId: string): Promise<void> {
    const messages = await this.messagesOf(conversationId);
    const receipts = messages.flatMap(({ answer }) => (answer?.receiptId ? [answer.receiptId] : []));
    await this.write([
      { store: "conversations", remove: conversationId },
      ...messages.map(({ id }): Write => ({ store: "messages", remove: id })),
      ...messages.map(({ id }): Write => ({ store: "jobs", remove: id })),
      ...receipts.flatMap((id): Write[] => [{ store: "evidence", remove: id }, { store: "receipts", remove: id }]),
    ]);
  }
}

const OVER = new Set(["done", "stopped", "failed"]);

function isAhead(candidate: Message, stored: Message): boolean {
  if (!candidate.answer || !stored.answer) return false;
  const over = (message: Message) => Number(OVER.has(message.answer?.state ?? ""));
  return over(candidate) - over(stored) > 0 || (over(candidate) === over(stored) && candidate.answer.eventsRead >= stored.answer.eventsRead);
}
