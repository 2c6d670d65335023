// What was typed and not sent, by conversation: a reload or a refusal must not lose it.

const PREFIX = "parallelix.draft.";

const listeners = new Set<(conversationId: string, text: string) => void>();

export const drafts = {
  get(conversationId: string): string {
    try {
      return localStorage.getItem(PREFIX + conversationId) ?? "";
    } catch {
      return "";
    }
  },

  set(conversationId: string, text: string): void {
    try {
      if (text === "") localStorage.removeItem(PREFIX + conversationId);
      else localStorage.setItem(PREFIX + conversationId, text);
    } catch {
      // No storage: the draft lives in the field alone.
    }
  },

  clear(conversationId: string): void {
    this.set(conversationId, "");
  },

  /** Gives a text back to the composer that shows this conversation, unless something new was typed there. */
  offer(conversationId: string, text: string): void {
    for (const listener of listeners) listener(conversationId, text);
  },

  onOffer(listener: (conversationId: string, text: string) => void): () => void {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
};

/** The draft of a chat that has no message yet has no conversation to belong to. */
export const NEW_DRAFT = "new";
