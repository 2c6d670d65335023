// Puts text on the clipboard and says so.

import { toasts } from "../ui/toasts.svelte";

export async function copied(text: string, said: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    toasts.show(said, { durationMs: 2_500 });
  } catch {
    toasts.show("The browser did not allow copying. Select the text and copy it by hand.", { kind: "bad" });
  }
}
