// Search in titles and texts, in memory: ten thousand messages are a few megabytes, and a scan of them takes milliseconds.

export interface Searchable {
  readonly conversationId: string;
  /** Null for a conversation's title. */
  readonly messageId: string | null;
  readonly text: string;
  /** Newer ones come first. */
  readonly at: number;
}

export interface Hit {
  readonly conversationId: string;
  readonly messageId: string | null;
  /** The text around the first match, in three parts. */
  readonly before: string;
  readonly match: string;
  readonly after: string;
}

const CONTEXT_CHARS = 48;

/** Case and accents aside. The length stays the same, so that a position found here is one in the original. */
export function folded(text: string): string {
  const lower = text.toLowerCase();
  const source = lower.length === text.length ? lower : text;
  if (/^[\x20-\x7e\s]*$/.test(source)) return source;
  let result = "";
  for (const char of source) {
    const base = char.normalize("NFD").replace(/\p{M}/gu, "");
    result += base.length === char.length ? base : char;
  }
  return result;
}

export const wordsOf = (query: string): string[] => folded(query.trim()).split(/\s+/).filter(Boolean);

/** Texts with their folded form, so that a keystroke costs a scan and nothing else. */
export class SearchIndex {
  #entries = new Map<string, Searchable & { readonly folded: string }>();

  put(entry: Searchable): void {
    this.#entries.set(this.#key(entry.conversationId, entry.messageId), { ...entry, folded: folded(entry.text) });
  }

  drop(conversationId: string): void {
    for (const [key, entry] of this.#entries) if (entry.conversationId === conversationId) this.#entries.delete(key);
  }

  /** The newest `limit` entries that hold every word; titles before texts. */
  find(query: string, limit: number): Hit[] {
    const words = wordsOf(query);
    const [first] = words;
    if (first === undefined) return [];
    const found = [...this.#entries.values()].filter((entry) => words.every((word) => entry.folded.includes(word)));
    found.sort((a, b) => Number(a.messageId !== null) - Number(b.messageId !== null) || b.at - a.at);
    return found.slice(0, limit).map((entry) => hit(entry, entry.folded.indexOf(first), first.length));
  }

  #key(conversationId: string, messageId: string | null): string {
    return messageId ?? `title ${conversationId}`;
  }
}

function hit(entry: Searchable, at: number, length: number): Hit {
  const from = Math.max(0, at - CONTEXT_CHARS);
  const to = Math.min(entry.text.length, at + length + CONTEXT_CHARS);
  const flat = (text: string) => text.replace(/\s+/g, " ");
  return {
    conversationId: entry.conversationId,
    messageId: entry.messageId,
    before: `${from > 0 ? "…" : ""}${flat(entry.text.slice(from, at))}`,
    match: flat(entry.text.slice(at, at + length)),
    after: `${flat(entry.text.slice(at + length, to))}${to < entry.text.length ? "…" : ""}`,
  };
}
