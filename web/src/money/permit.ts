// The token's permit (EIP-2612): its domain, proven against the token's own separator before anything is signed under it.

import { domainSeparator } from "viem";
import { token } from "../wallet/abi";
import { call } from "../wallet/chain";
import type { ChainSource } from "../wallet/chain";
import type { Deployment } from "../wallet/deployment";
import type { Domain, Hex } from "../wallet/typed";

/** A permit lives at most this long, seconds. */
export const PERMIT_WITHIN_S = 1_200n;

const VERSIONS = ["1", "2"] as const;

/** The domain that the token verifies permits under; null when it has none that we know, and an approval is the way. */
export async function permitDomain(chain: ChainSource, { chainId, prlx }: Deployment): Promise<Domain | null> {
  try {
    const [name, separator] = await Promise.all([call<string>(chain, prlx, token.name, []), call<Hex>(chain, prlx, token.domainSeparator, [])]);
    const candidates = VERSIONS.map((version): Domain => ({ name, version, chainId, verifyingContract: prlx }));
    return candidates.find((domain) => domainSeparator({ domain }) === separator) ?? null;
  } catch {
    return null;
  }
}

/** The message to sign: exactly this much, for the vault alone, for minutes. */
export async function permitMessage(chain: ChainSource, deployment: Deployment, owner: Hex, valueWei: bigint, nowS: bigint): Promise<Record<string, string | bigint>> {
  const nonce = await call<bigint>(chain, deployment.prlx, token.nonces, [owner]);
  return { owner, spender: deployment.credits, value: valueWei, nonce, deadline: nowS + PERMIT_WITHIN_S };
}
