// Where every credit is: the rows behind the header's pill, each with its meaning and who says so.

import type { Credits } from "../session.svelte";
import { moment, prlx } from "./amounts";

export interface CreditRow {
  readonly name: string;
  readonly amount: string;
  readonly meaning: string;
  readonly source: string;
}

const METER = "From the meter.";

/** Why less can be spent than is available, in one sentence; null when all of it can. */
function whyLess(credits: Credits, nowS: number): string | null {
  const { authorization } = credits;
  if (credits.spendable >= credits.available) return null;
  if (authorization === null || !authorization.live) return "Nothing can be spent until you sign a spending authorization.";
  if (credits.closingUntil !== null) return `You asked to close the account. Nothing can be spent until ${moment(credits.closingUntil)}.`;
  if (authorization.validUntil <= nowS) return "The spending authorization is over. Sign a new one.";
  if (authorization.room < credits.available && authorization.room <= credits.spendable) return "The spending authorization has no more room than this. Sign a new one for more.";
  return "Not more than your unsettled limit can be used before the next settlement.";
}

export function creditRows(credits: Credits, nowS: number): CreditRow[] {
  const amount = (value: bigint): string => `${prlx(value)} PRLX`;
  const row = (name: string, value: bigint, meaning: string): CreditRow => ({ name, amount: amount(value), meaning, source: METER });
  const rows = [
    row("Can be spent now", credits.spendable, whyLess(credits, nowS) ?? "The most that one answer may cost right now."),
    row("Available", credits.available, "Deposited, neither reserved nor spent."),
    row("Reserved", credits.held, "Set aside for answers under way. What they don't use comes back."),
    row("Spent, not settled", credits.unsettled, "Used, and not yet paid out to operators on the chain."),
  ];
  if (credits.pending > 0n) rows.push(row("On its way", credits.pending, "Deposited, waiting for confirmations."));
  const { authorization } = credits;
  if (authorization === null) return [...rows, { name: "Authorization", amount: "none", meaning: "Sign one with the wallet before the first message.", source: METER }];
  const until = authorization.validUntil > 0 ? `Ends on ${new Date(authorization.validUntil * 1000).toLocaleDateString(undefined, { dateStyle: "medium" })}.` : "It was revoked.";
  return [...rows, { name: "Authorization", amount: authorization.live ? `${amount(authorization.room)} left` : "over", meaning: until, source: METER }];
}
