// What a deposit rests on, read from the chain in one go.

import { hasCode, quantity, readToken, readVaultAccount } from "../wallet/chain";
import type { ChainSource, VaultAccount } from "../wallet/chain";
import type { Deployment } from "../wallet/deployment";
import type { Domain, Hex } from "../wallet/typed";
import { isSpendable } from "./authorization";
import { permitDomain } from "./permit";
import { PlainProblem } from "./problem";

/** What the amount step shows and the plan rests on. */
export interface Facts {
  readonly account: VaultAccount | null;
  readonly balanceWei: bigint;
  readonly allowanceWei: bigint;
  readonly hasCode: boolean;
  readonly permit: Domain | null;
  /** Upper estimate of the network fee and what the wallet has of the chain's own coin, wei. */
  readonly feeWei: bigint;
  readonly coinWei: bigint;
  readonly spendable: boolean;
}

/** The dearest of the ways, measured gas rounded up: approve and depositAndAuthorize together stay below. */
const GAS_UPPER = 260_000n;
/** Throws when the chain can't be asked. */
export async function readFacts(chain: ChainSource, deployment: Deployment, owner: Hex | null): Promise<Facts> {
  if (owner === null) throw new PlainProblem("No wallet is connected. Choose one first.");
  const [account, amounts, code, permit, gasPrice, coinWei] = await Promise.all([
    readVaultAccount(chain, deployment, owner),
    readToken(chain, deployment, owner),
    hasCode(chain, owner),
    permitDomain(chain, deployment),
    chain.request("eth_gasPrice", []).then(quantity),
    chain.request("eth_getBalance", [owner, "latest"]).then(quantity),
  ]);
  const spendable = isSpendable(account, deployment.exitDelayS, BigInt(Math.floor(Date.now() / 1000)));
  return { account, ...amounts, hasCode: code, permit, feeWei: gasPrice * GAS_UPPER, coinWei, spendable };
}
