// A sent transaction's fate, looked at once at a time: on its way, mined, replaced, dropped, reverted.

import { decodeEventLog } from "viem/utils";
import { events } from "../wallet/abi";
import { quantity } from "../wallet/chain";
import type { ChainSource } from "../wallet/chain";
import type { Hex } from "../wallet/typed";
import type { SentTransaction } from "./pending";
import { whyReverted } from "./revert";

export type Fate =
  | { readonly kind: "waiting" }
  | { readonly kind: "mined"; readonly confirmations: bigint; readonly netDeposited: bigint | null }
  | { readonly kind: "reverted"; readonly reason: string | null }
  /** The same deposit under another hash: the wallet raised its fee. */
  | { readonly kind: "sped_up"; readonly hash: Hex }
  | { readonly kind: "cancelled"; readonly hash: Hex | null }
  | { readonly kind: "dropped" };

interface Receipt {
  status?: string;
  blockNumber?: string;
  logs?: { address: string; topics: [Hex, ...Hex[]]; data: Hex }[];
}

interface Transaction {
  hash: Hex;
  from?: string;
  to?: string | null;
  input?: string;
  nonce?: string;
}

/** Most blocks that are searched for a replacement. */
const BLOCKS_SEARCHED_MAX = 64n;

const same = (a: string | null | undefined, b: string): boolean => a?.toLowerCase() === b.toLowerCase();

/** Looks once. Throws only when the chain can't be asked: that is "unknown", not a fate. */
export async function lookAt(chain: ChainSource, sent: SentTransaction): Promise<Fate> {
  const receipt = (await chain.request("eth_getTransactionReceipt", [sent.hash])) as Receipt | null;
  if (receipt?.blockNumber) return minedFate(chain, sent, receipt);
  // The meter's proxy shows receipts only; without the wallet, patience is all there is.
  if (chain.kind === "meter") return { kind: "waiting" };
  const known = (await chain.request("eth_getTransactionByHash", [sent.hash])) as Transaction | null;
  if (known !== null) return { kind: "waiting" };
  if (sent.nonce === null) return { kind: "waiting" };
  const next = quantity(await chain.request("eth_getTransactionCount", [sent.owner, "latest"]));
  if (next <= sent.nonce) return { kind: "dropped" };
  // It may have been mined between the first look and this one.
  const again = (await chain.request("eth_getTransactionReceipt", [sent.hash])) as Receipt | null;
  if (again?.blockNumber) return minedFate(chain, sent, again);
  return replacement(chain, sent);
}

async function minedFate(chain: ChainSource, sent: SentTransaction, receipt: Receipt): Promise<Fate> {
  const block = quantity(receipt.blockNumber);
  if (quantity(receipt.status ?? "0x1") === 0n) return { kind: "reverted", reason: await reasonAt(chain, sent, block) };
  const head = quantity(await chain.request("eth_blockNumber", []));
  return { kind: "mined", confirmations: head < block ? 1n : head - block + 1n, netDeposited: netDeposited(receipt, sent) };
}

/** The account's deposits after this one, as the vault's event says. */
function netDeposited(receipt: Receipt, sent: SentTransaction): bigint | null {
  for (const log of receipt.logs ?? []) {
    if (!same(log.address, sent.to)) continue;
    try {
      const { args } = decodeEventLog({ abi: [events.deposited], data: log.data, topics: log.topics }) as unknown as { args: { netDeposited: bigint } };
      return args.netDeposited;
    } catch {
      // Another event of the vault.
    }
  }
  return null;
}

/** What refuses the same call before the block, or after it: what was in the way may have come with the block itself. */
async function reasonAt(chain: ChainSource, sent: SentTransaction, block: bigint): Promise<string | null> {
  for (const at of [block - 1n, block]) {
    try {
      await chain.request("eth_call", [{ from: sent.owner, to: sent.to, data: sent.data }, `0x${at.toString(16)}`]);
    } catch (error) {
      return whyReverted(error);
    }
  }
  return null;
}

/** Who took the nonce: the same call under another fee, or something else. */
async function replacement(chain: ChainSource, sent: SentTransaction): Promise<Fate> {
  const head = quantity(await chain.request("eth_blockNumber", []));
  const first = head - BLOCKS_SEARCHED_MAX > sent.fromBlock ? head - BLOCKS_SEARCHED_MAX : sent.fromBlock;
  for (let number = head; number >= first && number >= 0n; number -= 1n) {
    const block = (await chain.request("eth_getBlockByNumber", [`0x${number.toString(16)}`, true])) as { transactions?: Transaction[] } | null;
    const found = block?.transactions?.find((one) => same(one.from, sent.owner) && one.nonce !== undefined && quantity(one.nonce) === sent.nonce);
    if (found === undefined) continue;
    const isSame = same(found.to, sent.to) && same(found.input, sent.data);
    return isSame ? { kind: "sped_up", hash: found.hash } : { kind: "cancelled", hash: found.hash };
  }
  return { kind: "cancelled", hash: null };
}
