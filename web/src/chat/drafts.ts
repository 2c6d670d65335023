// What was typed and not sent, by conversation: a reload or a refusal must not lose it.

const PREFIX = "parallelix.draft.";

/** The draft of a chat that has no message yet has no conversation to belong to. */
export const NEW_DRAFT = "new";

const waiting = new Map<string, string>();

export function storedDraft(key: string): string {
  const unwritten = waiting.get(key);
  if (unwritten !== undefined) return unwritten;
  try {
    return localStorage.getItem(PREFIX + key) ?? "";
  } catch {
    return "";
  }
}

const PAUSE_MS = 400;
let timer: ReturnType<typeof setTimeout> | null = null;

/** Keeps a draft, soon: writing with every key would be felt. What waits is written when the page is left or hidden. */
export function storeDraft(key: string, text: string): void {
  waiting.set(key, text);
  timer ??= setTimeout(writeWaiting, PAUSE_MS);
}

function writeWaiting(): void {
  if (timer !== null) clearTimeout(timer);
  timer = null;
  for (const [key, text] of waiting) write(key, text);
  waiting.clear();
}

addEventListener("pagehide", writeWaiting);
document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && writeWaiting());

function write(key: string, text: string): void {
  try {
    if (text === "") localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, text);
  } catch {
    // No storage: the draft lives in the field alone.
  }
}
