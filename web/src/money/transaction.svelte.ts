// One transaction of the page from the wallet's window to the block: asked, sent, done or failed, each with its words.

import type { Hex } from "../wallet/typed";
import { quantity } from "../wallet/chain";
import { wallet } from "../wallet/wallet.svelte";
import type { SentTransaction } from "./pending";
import { problemText } from "./problem";
import { lookAt } from "./watch";
import type { Fate } from "./watch";

export const POLL_MS = 2_000;
/** Looks in a row that don't find a transaction before it counts as dropped. */
export const LOOKS_UNTIL_DROPPED = 15;

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export type TransactionStage =
  | { readonly at: "idle" }
  | { readonly at: "asking" }
  | { readonly at: "sent"; readonly hash: Hex }
  | { readonly at: "done"; readonly hash: Hex }
  | { readonly at: "failed"; readonly text: string };

/** What a fate means when it is an end that is not a success; null otherwise. */
export function badEnd(fate: Fate): string | null {
  switch (fate.kind) {
    case "reverted":
      return fate.reason ?? "The chain refused the transaction without a reason. Nothing moved but the network fee. Try again.";
    case "cancelled":
      return "The wallet replaced the transaction by another one, so this did not happen. Start again if you still want it.";
    case "dropped":
      return "The network dropped the transaction, so nothing happened. Its fee was perhaps too low. Start again.";
    default:
      return null;
  }
}

/** What was sent, with what is needed to follow it. The wallet's answer to the nonce may be missing; then replacements can't be told. */
export async function sentTransaction(to: Hex, data: Hex, hash: Hex): Promise<SentTransaction> {
  const owner = wallet.owner ?? "0x0000000000000000000000000000000000000000";
  try {
    const known = (await wallet.request("eth_getTransactionByHash", [hash])) as { nonce?: string } | null;
    const fromBlock = quantity(await wallet.request("eth_blockNumber", []));
    return { to, owner, hash, data, fromBlock, nonce: known?.nonce === undefined ? null : quantity(known.nonce) };
  } catch {
    return { to, owner, hash, data, fromBlock: 0n, nonce: null };
  }
}

export class Transaction {
  stage = $state.raw<TransactionStage>({ at: "idle" });
  #life = 0;

  get isBusy(): boolean {
    return this.stage.at === "asking" || this.stage.at === "sent";
  }

  /** Asks the wallet, sends, follows. True once it is in a block and succeeded. */
  async run(to: Hex, data: Hex): Promise<boolean> {
    const life = ++this.#life;
    this.stage = { at: "asking" };
    try {
      const hash = await wallet.send(to, data);
      if (life !== this.#life) return false;
      let sent = await sentTransaction(to, data, hash);
      this.stage = { at: "sent", hash };
      let missing = 0;
      while (life === this.#life) {
        const fate = await lookAt(wallet.chain, sent).catch((): Fate => ({ kind: "waiting" }));
        missing = fate.kind === "dropped" ? missing + 1 : 0;
        if (fate.kind === "mined") {
          this.stage = { at: "done", hash: sent.hash };
          return true;
        }
        if (fate.kind === "sped_up") {
          sent = { ...sent, hash: fate.hash };
          this.stage = { at: "sent", hash: fate.hash };
        }
        const text = badEnd(fate);
        if (text !== null && (fate.kind !== "dropped" || missing >= LOOKS_UNTIL_DROPPED)) {
          this.stage = { at: "failed", text };
          return false;
        }
        await pause(POLL_MS);
      }
    } catch (error) {
      if (life === this.#life) this.stage = { at: "failed", text: problemText(error) };
    }
    return false;
  }

  /** Stops waiting for the wallet. What the wallet sends after all is on the chain all the same. */
  abandon(): void {
    this.#life += 1;
    this.stage = { at: "idle" };
  }
}
