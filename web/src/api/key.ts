// An API key for this tab alone: from the address (`#key=prlx_…`, as a printed link carries it) or a field.

const STORAGE_KEY = "parallelix.api_key";
const KEY_FORM = /^prlx_[0-9A-Za-z]{20,200}$/;

/** The API key in a URL fragment; null when there is none. */
export function keyFromFragment(fragment: string): string | null {
  const key = new URLSearchParams(fragment.replace(/^#/, "")).get("key");
  return key && KEY_FORM.test(key) ? key : null;
}

/** Whether a pasted text can be an API key. */
export const looksLikeKey = (text: string): boolean => KEY_FORM.test(text.trim());

let key: string | null = null;

/** Takes a key out of the address bar before anything else can see it. Called once, before the first call to the meter. */
export function takeKeyFromAddress(): void {
  const given = keyFromFragment(location.hash);
  try {
    if (given) sessionStorage.setItem(STORAGE_KEY, given);
    key = sessionStorage.getItem(STORAGE_KEY);
  } catch {
    key = given; // no storage: the key lasts until the tab is closed
  }
  if (location.hash.includes("key=")) history.replaceState(null, "", location.pathname + location.search);
}

export const currentKey = (): string | null => key;

export function useKey(given: string | null): void {
  key = given?.trim() ?? null;
  try {
    if (key) sessionStorage.setItem(STORAGE_KEY, key);
    else sessionStorage.removeItem(STORAGE_KEY);
  } catch {
    // No storage: the key lasts until the tab is closed.
  }
}
