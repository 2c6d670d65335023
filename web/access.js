// How the page gets in: an API key from the address or a field, or a wallet's session cookie.

const STORAGE_KEY = "parallelix.api_key";
const KEY_FORM = /^prlx_[0-9A-Za-z]{20,200}$/;

/** The API key in a URL fragment `#key=prlx_…`; null when there is none. */
export function keyFromFragment(fragment) {
  const key = new URLSearchParams(fragment.replace(/^#/, "")).get("key");
  return key && KEY_FORM.test(key) ? key : null;
}

/** Whether a pasted text can be an API key. */
export const looksLikeKey = (text) => KEY_FORM.test(text.trim());

/** Keeps the API key for this tab alone, and takes one out of the address bar before anything else can see it. */
export function createAccess(page = globalThis) {
  const listeners = [];
  const given = keyFromFragment(page.location.hash);
  if (given) page.sessionStorage.setItem(STORAGE_KEY, given);
  if (page.location.hash.includes("key=")) {
    page.history.replaceState(null, "", page.location.pathname + page.location.search);
  }

  const notify = () => listeners.forEach((listener) => listener());
  return {
    /** The key in use; null when the session cookie speaks. */
    key: () => page.sessionStorage.getItem(STORAGE_KEY),
    use(key) {
      page.sessionStorage.setItem(STORAGE_KEY, key.trim());
      notify();
    },
    forget() {
      page.sessionStorage.removeItem(STORAGE_KEY);
      notify();
    },
    changed: notify,
    onChange: (listener) => listeners.push(listener),
  };
}
