// The one call that deposits, in each of its forms; and whether the meter has seen it.

import { decodeFunctionData } from "viem/utils";
import { call } from "../api/client";
import { vault } from "../wallet/abi";
import { callData } from "../wallet/chain";
import type { Hex } from "../wallet/typed";
import { creditsOrNull } from "./amounts";
import type { SpendAuthorization, Terms } from "./authorization";
import { NO_PERMIT } from "./deposit-plan";
import type { PendingDeposit } from "./pending";
import type { Fate } from "./watch";

/** An authorization that the wallet signed, and the terms that it was made of. */
export interface Signed {
  readonly terms: Terms;
  readonly authorization: SpendAuthorization;
  readonly signature: Hex;
}

export const sameTerms = (a: Terms, b: Terms): boolean => a.cap === b.cap && a.exposure === b.exposure && a.days === b.days;

/** A permit taken apart, as the vault takes it. */
export type Permit = { v: number; r: Hex; s: Hex; deadline: bigint };

/** The one call that does it all. */
export function depositData(amount: bigint, permit: Permit | null, signed: Signed | null): Hex {
  if (signed === null) {
    return permit === null ? callData(vault.deposit, [amount]) : callData(vault.depositWithPermit, [amount, permit.deadline, permit.v, permit.r, permit.s]);
  }
  const { authorization, signature } = signed;
  if (amount === 0n) return callData(vault.authorize, [authorization, signature]);
  const { v, r, s } = permit ?? NO_PERMIT;
  return callData(vault.depositAndAuthorize, [amount, permit?.deadline ?? 0n, v, r, s, authorization, signature]);
}

/** Whether the meter's ledger shows the deposit. A session that ended can't tell: then the chain alone is shown. */
export async function isCredited(pending: PendingDeposit, fate: Extract<Fate, { kind: "mined" }>): Promise<boolean> {
  try {
    const reply = await call<Record<string, unknown>>("GET", "/v1/credits");
    if (pending.amount === 0n || fate.netDeposited === null) {
      const authorization = reply["authorization"] as { live?: unknown; next_nonce?: unknown } | null | undefined;
      // The one before may be live as well: only its nonce tells that the meter knows the new one.
      const isKnown = Number(authorization?.next_nonce ?? 0) > (nonceOf(pending.data) ?? -1);
      return authorization?.live === true && isKnown && (creditsOrNull(reply["pending_credits"]) ?? 0n) === 0n;
    }
    return (creditsOrNull(reply["deposited_credits"]) ?? 0n) >= fate.netDeposited;
  } catch {
    return false;
  }
}

/** Nonce of the authorization that a call of `authorize` carries; null for any other call. */
function nonceOf(data: Hex): number | null {
  try {
    const [authorization] = decodeFunctionData({ abi: [vault.authorize], data }).args as unknown as [{ nonce: number }];
    return authorization.nonce;
  } catch {
    return null;
  }
}
