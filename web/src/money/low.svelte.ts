// The shortage that is to be shown now, for the pill and the line below the header.

import { chat } from "../chat/actions.svelte";
import { models } from "../chat/models.svelte";
import { session } from "../session.svelte";
import { isShown, type Low, lowOf, type PutAway, readPutAway } from "./low";

const STORAGE_KEY = "parallelix.low_put_away";

class LowStore {
  #away = $state.raw<PutAway>(stored());

  get warning(): Low | null {
    const { credits } = session;
    // A key has limits of its own, and who holds it can't sign.
    if (credits === null || session.byKey) return null;
    const nowS = Math.floor(Date.now() / 1000);
    const model = models.get(chat.chats.current.model) ?? models.preferred();
    const low = lowOf(credits, model?.rate ?? null, nowS);
    return low !== null && isShown(low, this.#away, nowS) ? low : null;
  }

  putAway(low: Low): void {
    this.#away = { ...this.#away, [low.kind]: Math.floor(Date.now() / 1000) };
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(this.#away));
    } catch {
      // No storage: away until the page is loaded again.
    }
  }
}

function stored(): PutAway {
  try {
    return readPutAway(localStorage.getItem(STORAGE_KEY));
  } catch {
    return {};
  }
}

export const low = new LowStore();
