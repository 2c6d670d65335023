// What an answer may cost at most, before it is sent. The meter counts exactly; this feeds the figure beside Send.

import { messageCostUp, tokensForDown } from "../money/amounts";
import type { Message } from "./model";

// English has about four bytes a token, other scripts fewer; three errs on the dear side.
const BYTES_PER_TOKEN = 3;
const TEMPLATE_TOKENS_PER_MESSAGE = 8;
// Templates begin with words of their own: who the model is, the date. with SmolLM2's, a question of 31 characters
// has 37 tokens. A length that is offered as fitting must be taken.
const TEMPLATE_TOKENS = 48;

const encoder = new TextEncoder();

const tokensOf = (text: string): number => Math.ceil(encoder.encode(text).length / BYTES_PER_TOKEN) + TEMPLATE_TOKENS_PER_MESSAGE;

/** About how many tokens a draft adds to the prompt. */
export const draftTokens = (draft: string): number => (draft === "" ? 0 : tokensOf(draft));

/** About how many tokens a branch has as a prompt: counted ones where the last answer told them, bytes for the rest. */
export function promptTokens(system: string, path: readonly Message[]): number {
  let counted = TEMPLATE_TOKENS + (system ? tokensOf(system) : 0);
  for (const message of path) {
    const { answer } = message;
    if (answer?.promptTokens && answer.completionTokens) counted = answer.promptTokens + answer.completionTokens + TEMPLATE_TOKENS_PER_MESSAGE;
    else counted += tokensOf(message.text);
  }
  return counted;
}

export interface Estimate {
  readonly promptTokens: number;
  /** Credits for the prompt and the longest answer, rounded up. */
  readonly atMost: bigint;
  /** The longest answer that `spendable` pays for when `atMost` is above it; null when it fits, or nothing is known, or not one token does. */
  readonly fittingMaxTokens: number | null;
  readonly fits: boolean;
}

/** `rate` in credits per 1,000,000 tokens; `spendable` null when nobody is signed in. */
export function estimate(rate: bigint, prompt: number, maxTokens: number, spendable: bigint | null): Estimate {
  const atMost = messageCostUp(rate, BigInt(prompt) + BigInt(maxTokens));
  const fits = spendable === null || atMost <= spendable;
  const affordable = fits || spendable === null ? null : tokensForDown(rate, spendable);
  const room = affordable === null ? 0n : affordable - BigInt(prompt);
  return { promptTokens: prompt, atMost, fits, fittingMaxTokens: !fits && room >= 1n ? Number(room) : null };
}

/** The longest answer that would have passed a refusal which named its amounts; null when none would. */
export function fittingAfterRefusal(rate: bigint, available: bigint | null, needed: bigint | null, maxTokens: number): number | null {
  if (available === null || needed === null) return null;
  const affordable = tokensForDown(rate, available);
  const wanted = tokensForDown(rate, needed);
  if (affordable === null || wanted === null) return null;
  const prompt = wanted - BigInt(maxTokens);
  const room = affordable - (prompt > 0n ? prompt : 0n);
  return room >= 1n && room < BigInt(maxTokens) ? Number(room) : null;
}
