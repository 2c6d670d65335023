// What a running answer tells the rest of the chat.

import { emit } from "../app/events";
import type { Message } from "./model";

export interface Sink {
  /** The message changed; `now` when it can't wait for the next frame. */
  show(message: Message, now: boolean): void;
  /** The message was written to the database: other tabs may want it. */
  stored(message: Message): void;
  /** The answer is over, however it ended. */
  ended(message: Message): void;
}

export const creditsChanged = (): void => emit("credits-changed", undefined);
