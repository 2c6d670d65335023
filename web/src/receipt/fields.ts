// The rows of a receipt, in the order of the protocol's section 5. What is absent is left out.

import { prlx } from "../money/amounts";
import type { StoredReceipt } from "./types";

export interface Row {
  readonly name: string;
  readonly text: string;
  /** A hash, an address or a signature. */
  readonly code: boolean;
}

const time = (seconds: number): string => new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
const ZERO_HASH = /^0x0+$/;

export function fieldsOf(stored: StoredReceipt): Row[] {
  const { receipt, batch } = stored;
  const words = (name: string, text: string | null): Row[] => (text === null ? [] : [{ name, text, code: false }]);
  const code = (name: string, text: string | null | undefined): Row[] => (text === null || text === undefined ? [] : [{ name, text, code: true }]);
  return [
    ...code("Request", receipt.requestId),
    ...words("Account", String(receipt.account)),
    ...words("Operator", String(receipt.operator)),
    ...code("Node", stored.node),
    ...words("Model", stored.model),
    ...code("Model root", receipt.modelRoot),
    ...code("Engine", receipt.engine),
    ...words("Tokens", `${receipt.promptTokens} in, ${receipt.completionTokens} out`),
    ...words("Rate", `${prlx(receipt.modelRate)} PRLX per 1,000,000 tokens`),
    ...words("Charge", `${prlx(receipt.amount)} PRLX`),
    ...code("Prompt hash", receipt.promptHash),
    ...code("Answer hash", receipt.completionHash),
    ...code("Parameters hash", receipt.paramsHash),
    ...(ZERO_HASH.test(receipt.proofRoot) ? words("Proof root", "none: the node lost its state before the end") : code("Proof root", receipt.proofRoot)),
    ...words("Started", time(receipt.startedAt)),
    ...words("Served", time(receipt.servedAt)),
    ...words("Ended by", stored.finishReason),
    ...words("Audit", stored.audit),
    ...code("Signed digest", stored.digest),
    ...code("Node's signature", stored.signature),
    ...(batch === null ? [] : [...words("Batch", String(batch.seq)), ...code("Root", batch.root)]),
  ];
}
