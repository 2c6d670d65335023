// Parts of the page that are fetched when they are first needed, and what happens where the connection fails just then.

import { untilOnline } from "../chat/network.svelte";
import { toasts } from "../ui/toasts.svelte";

const PAUSE_MS = 1_000;
const PAUSE_MAX_MS = 30_000;

export type Load<T> = () => Promise<{ default: T }>;

/** A part that nobody asked for, such as the header's pill: asked for again until it comes, at once when the network returns. */
export async function untilFetched<T>(load: Load<T>): Promise<T> {
  for (let pauseMs = PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS)) {
    try {
      return (await load()).default;
    } catch {
      await untilOnline(pauseMs);
    }
  }
}

/** A part that somebody waits for: null where it can't be had, which a note has said by then. */
export async function fetchedOrSaid<T>(load: Load<T>): Promise<T | null> {
  try {
    return (await load()).default;
  } catch {
    toasts.show("This could not be opened: the connection failed, or the meter was updated since you opened the page. Try again, or reload.", {
      kind: "bad",
      action: { label: "Reload", run: () => location.reload() },
      durationMs: 15_000,
    });
    return null;
  }
}
