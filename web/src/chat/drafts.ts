// What was typed and not sent, by conversation: a reload or a refusal must not lose it.

const PREFIX = "parallelix.draft.";

/** The draft of a chat that has no message yet has no conversation to belong to. */
export const NEW_DRAFT = "new";

export function storedDraft(key: string): string {
  try {
    return localStorage.getItem(PREFIX + key) ?? "";
  } catch {
    return "";
  }
}

export function storeDraft(key: string, text: string): void {
  try {
    if (text === "") localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, text);
  } catch {
    // No storage: the draft lives in the field alone.
  }
}
