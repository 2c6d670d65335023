// Between credits and the token's wei, and the chain's own coin for the network fee.

/** One credit in wei of the 18-decimal token. */
export const WEI_PER_CREDIT = 1_000_000_000n;

/** Token wei as whole credits, rounded down: what is below a credit can't be deposited. */
export const creditsOfWeiDown = (wei: bigint): bigint => wei / WEI_PER_CREDIT;

/** Credits as token wei. */
export const weiOfCredits = (credits: bigint): bigint => credits * WEI_PER_CREDIT;

/** Wei of the chain's own coin for a person: six digits after the point, rounded up so that a fee is never shown too low. */
export function coinUp(wei: bigint): string {
  const unit = 10n ** 12n;
  const micro = (wei + unit - 1n) / unit;
  const fraction = (micro % 1_000_000n).toString().padStart(6, "0").replace(/0+$/, "");
  return `${micro / 1_000_000n}${fraction && "."}${fraction}`;
}
