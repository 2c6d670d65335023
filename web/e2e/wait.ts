/** Waiting for what comes when it comes. */

const LIMIT_MS = 180_000;
const PAUSE_MS = 100;

/** Asks until the answer is something; errors, naming `what`, when it never is. */
export async function eventually<T>(what: string, probe: () => Promise<T | null | undefined | false> | T | null | undefined | false): Promise<T> {
  const end = Date.now() + LIMIT_MS;
  for (;;) {
    const value = await probe();
    if (value !== null && value !== undefined && value !== false) return value;
    if (Date.now() > end) throw new Error(`waited ${LIMIT_MS / 1000} s for ${what}, in vain`);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
