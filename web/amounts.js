// Money in the page: whole credits (1 credit = 10^-9 PRLX) as BigInt, never a float.

export const CREDITS_PER_PRLX = 1_000_000_000n;

const TOKENS_PER_RATE = 1_000_000n;

/** Credits as decimal PRLX, trailing zeros cut: 5,680,000 credits are "0.00568". */
export function prlx(credits) {
  const amount = BigInt(credits);
  const sign = amount < 0n ? "-" : "";
  const positive = amount < 0n ? -amount : amount;
  const fraction = (positive % CREDITS_PER_PRLX).toString().padStart(9, "0").replace(/0+$/, "");
  return `${sign}${positive / CREDITS_PER_PRLX}${fraction && "."}${fraction}`;
}

/** Decimal PRLX as credits; null when the text is no amount or has more than nine digits after the point. */
export function parsePrlx(text) {
  const match = /^(\d{1,10})(?:\.(\d{1,9}))?$/.exec(text.trim());
  return match ? BigInt(match[1]) * CREDITS_PER_PRLX + BigInt((match[2] ?? "").padEnd(9, "0")) : null;
}

/** Cost of `tokens` at `rate` credits per 1,000,000 tokens, rounded up to a credit: the meter's own rule. */
export function messageCostUp(rate, tokens) {
  return (BigInt(rate) * BigInt(tokens) + TOKENS_PER_RATE - 1n) / TOKENS_PER_RATE;
}

/** The most tokens that `credits` pay for at `rate`, rounded down. */
export function tokensForDown(rate, credits) {
  return BigInt(rate) === 0n ? null : (BigInt(credits) * TOKENS_PER_RATE) / BigInt(rate);
}

/**
 * About how many tokens a conversation has, from its bytes: English has about four bytes a token, other scripts fewer,
 * and each message carries a few tokens of template. The meter counts exactly; this only feeds the estimate beside Send.
 */
export function estimateTokens(messages) {
  const encoder = new TextEncoder();
  return messages.reduce((sum, message) => sum + Math.ceil(encoder.encode(message.content).length / 3) + 8, 16);
}
