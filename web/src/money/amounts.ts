// Money in the page: whole credits (1 credit = 10^-9 PRLX) as bigint, never a float. This is the only place that writes one.

export const CREDITS_PER_PRLX = 1_000_000_000n;

const TOKENS_PER_RATE = 1_000_000n;
const FRACTION_DIGITS = 9;

/**
 * An amount out of a parsed JSON reply, credits. Accepts an integer number or a string of digits.
 * Throws on anything else and on a number that JSON may have rounded (2^53 and above).
 */
export function creditsFrom(value: unknown): bigint {
  if (typeof value === "bigint") return value;
  if (typeof value === "number" && Number.isSafeInteger(value)) return BigInt(value);
  if (typeof value === "string" && /^-?\d{1,39}$/.test(value)) return BigInt(value);
  throw new TypeError(`${JSON.stringify(value) ?? String(value)} is no whole number of credits that JSON keeps exactly`);
}

/** As `creditsFrom`; null for what is absent or no amount. */
export function creditsOrNull(value: unknown): bigint | null {
  try {
    return value === undefined || value === null ? null : creditsFrom(value);
  } catch {
    return null;
  }
}

/** Credits as decimal PRLX, exact, trailing zeros cut: 5,680,000 credits are "0.00568". */
export function prlx(credits: bigint): string {
  const sign = credits < 0n ? "-" : "";
  const positive = credits < 0n ? -credits : credits;
  const fraction = (positive % CREDITS_PER_PRLX).toString().padStart(FRACTION_DIGITS, "0").replace(/0+$/, "");
  return `${sign}${positive / CREDITS_PER_PRLX}${fraction === "" ? "" : `.${fraction}`}`;
}

/** Credits as decimal PRLX of at least `digits` significant digits, the rest dropped towards zero: for places with little room. */
export function prlxShort(credits: bigint, digits = 4): string {
  const exact = prlx(credits);
  const [whole = "0", fraction] = exact.split(".");
  if (fraction === undefined) return exact;
  const leading = /^-?0$/.test(whole) ? (/^0*/.exec(fraction)?.[0].length ?? 0) : 0;
  const wholeDigits = /^-?0$/.test(whole) ? 0 : whole.replace("-", "").length;
  const kept = Math.max(leading + digits - wholeDigits, wholeDigits >= digits ? 2 : 0);
  const cut = fraction.slice(0, kept).replace(/0+$/, "");
  return cut === "" ? whole : `${whole}.${cut}`;
}

/** Decimal PRLX as credits; null when the text is no amount or has more than nine digits after the point. */
export function parsePrlx(text: string): bigint | null {
  const match = /^(\d{1,10})(?:\.(\d{1,9}))?$/.exec(text.trim());
  return match ? BigInt(match[1] ?? "0") * CREDITS_PER_PRLX + BigInt((match[2] ?? "").padEnd(FRACTION_DIGITS, "0")) : null;
}

/** Cost of `tokens` at `rate` credits per 1,000,000 tokens, rounded up to a credit: the meter's own rule. */
export function messageCostUp(rate: bigint, tokens: bigint): bigint {
  return (rate * tokens + TOKENS_PER_RATE - 1n) / TOKENS_PER_RATE;
}

/** The most tokens that `credits` pay for at `rate`, rounded down; null when the model is free. */
export function tokensForDown(rate: bigint, credits: bigint): bigint | null {
  return rate === 0n ? null : (credits * TOKENS_PER_RATE) / rate;
}

/** Unix seconds as a day and a time of this device's. */
export const moment = (seconds: number | bigint): string => new Date(Number(seconds) * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
