// Answers that ended before their end: which can go on, and for how long.

import { counted, shortHex } from "./figures";
import { type Answer, isOver, type Message, type Options } from "./model";

/** The meter's word for a node that stopped answering. */
export const BROKE_OFF = "answer_broke_off";

/** Whether an answer has a text that another request can go on with. */
export function canGoOn({ text, answer }: Message): boolean {
  if (!answer || !isOver(answer.state) || text.trim() === "") return false;
  return answer.state !== "done" || answer.finishReason === "length";
}

/** The longest continuation, tokens: what the answer left of its own length, or a whole one again where it used it up. */
export function restTokens({ answer }: Message, { maxTokens }: Options): number {
  const rest = maxTokens - (answer?.completionTokens ?? 0);
  return rest > 0 ? rest : maxTokens;
}

/** Where a node broke off, in words; null when it is not known, or none did. */
export function brokeOffAt({ state, node, completionTokens }: Answer): string | null {
  if (state !== "failed" || node === null || completionTokens === null) return null;
  return `Node ${shortHex(node)} stopped answering after ${counted(completionTokens)} tokens. Only what arrived is charged.`;
}

/** How an answer ended that did not come to its own end. */
export function endOf(answer: Answer): string {
  if (answer.state === "done") return "Cut at the longest answer.";
  return brokeOffAt(answer) ?? `${answer.state === "stopped" ? "Stopped" : "Broke off"}. Only what arrived is charged.`;
}
