// A branch of a conversation as a chat completion request.

import type { Conversation, Message } from "./model";
import { partsOf } from "./thinking";

interface ChatRequest {
  model: string;
  messages: { role: "system" | "user" | "assistant"; content: string }[];
  max_tokens: number;
  temperature?: number;
  top_p?: number;
  return_token_ids: true;
}

/** `path` ends in the question. What a model thought aloud is not sent back, as such models ask. Answers of which nothing arrived are left out: no template takes an empty turn well. */
export function chatRequest({ model, options }: Conversation, path: readonly Message[]): ChatRequest {
  const system = options.system.trim();
  return {
    model,
    messages: [
      ...(system ? [{ role: "system" as const, content: system }] : []),
      ...path.map(({ role, text }) => ({ role, content: role === "assistant" ? partsOf(text).answer : text })).filter(({ content }) => content !== ""),
    ],
    max_tokens: options.maxTokens,
    ...(options.temperature === null ? {} : { temperature: options.temperature }),
    ...(options.topP === null ? {} : { top_p: options.topP }),
    // The receipt's hashes are over token ids: with them kept, anybody can check later what was signed.
    return_token_ids: true,
  };
}
