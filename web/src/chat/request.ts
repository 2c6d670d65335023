// A branch of a conversation as a chat completion request.

import type { Conversation, Message } from "./model";
import { partsOf } from "./thinking";
import { textOf, turnsOf } from "./tree";

interface ChatRequest {
  model: string;
  messages: { role: "system" | "user" | "assistant"; content: string }[];
  max_tokens: number;
  temperature?: number;
  top_p?: number;
  return_token_ids: true;
  continue_final_message?: true;
}

/**
 * `path` ends in the question, or in an answer to go on with, which is sent as it arrived. What a model thought aloud before is not sent back, as such models ask.
 * Answers of which nothing arrived are left out: no template takes an empty turn well.
 */
export function chatRequest({ model, options }: Conversation, path: readonly Message[], maxTokens = options.maxTokens): ChatRequest {
  const system = options.system.trim();
  const turns = turnsOf(path).map((turn) => ({ role: turn.parts[0].role, content: textOf(turn) })).filter(({ content }) => content !== "");
  const last = turns.at(-1);
  const continued = last?.role === "assistant" ? last : null;
  const sent = turns.map((turn) => (turn.role === "assistant" && turn !== continued ? { role: turn.role, content: partsOf(turn.content).answer } : turn));
  return {
    model,
    messages: [
      ...(system ? [{ role: "system" as const, content: system }] : []),
      ...sent.filter(({ content }) => content !== ""),
    ],
    max_tokens: maxTokens,
    ...(options.temperature === null ? {} : { temperature: options.temperature }),
    ...(options.topP === null ? {} : { top_p: options.topP }),
    // The receipt's hashes are over token ids: with them kept, anybody can check later what was signed.
    return_token_ids: true,
    ...(continued ? { continue_final_message: true as const } : {}),
  };
}
