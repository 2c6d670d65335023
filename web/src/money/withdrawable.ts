// What the vault would pay out now, asked for when somebody looks.

import { vault } from "../wallet/abi";
import { call } from "../wallet/chain";
import { wallet } from "../wallet/wallet.svelte";

/** Credits of an account that are free. Throws when the chain can't be asked. */
export async function withdrawableOf(account: number): Promise<bigint> {
  const deployment = await wallet.loadDeployment();
  return call<bigint>(wallet.chain, deployment.credits, vault.free, [account]);
}
