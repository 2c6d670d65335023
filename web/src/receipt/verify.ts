// "Verify in this browser": every claim of a receipt, checked one by one. A line is a pass, a failure, or says why it was not checked.

import { decodeFunctionData, hashTypedData, keccak256, recoverAddress } from "viem/utils";
import { messageCostUp } from "../money/amounts";
import { registry, settlement } from "../wallet/abi";
import { call } from "../wallet/chain";
import type { ChainSource } from "../wallet/chain";
import type { Deployment } from "../wallet/deployment";
import { messageOf } from "../wallet/errors";
import { settlementDomain, TYPES } from "../wallet/typed";
import type { Hex } from "../wallet/typed";
import { leafOf, paramsHash, receiptDigest, rootFrom, tokensHash } from "./digest";
import type { Evidence, StoredReceipt } from "./types";

export type Outcome = "pass" | "fail" | "not_checked";

/** One claim and what became of it. */
export interface Line {
  readonly id: string;
  readonly claim: string;
  readonly outcome: Outcome;
  readonly detail: string;
}

/** What stands behind the checks; absent parts leave their lines unchecked. */
export interface Grounds {
  readonly deployment: Deployment;
  readonly evidence: Evidence | null;
  readonly chain: ChainSource | null;
}

const NO_EVIDENCE = "This browser does not hold the answer's tokens. Drop the answer's file here to check this.";
const NO_CHAIN = "The chain was not asked. Connect a wallet, or try again when the meter can be reached.";

const same = (a: string | null | undefined, b: string | null | undefined): boolean => a !== null && a !== undefined && a.toLowerCase() === b?.toLowerCase();

const line = (id: string, claim: string, holds: boolean, yes: string, no: string): Line => ({ id, claim, outcome: holds ? "pass" : "fail", detail: holds ? yes : no });

const unchecked = (id: string, claim: string, detail: string): Line => ({ id, claim, outcome: "not_checked", detail });

/** All lines, in the order in which one claim rests on the one before. Never throws: what can't be checked says so. */
export async function verifyReceipt(stored: StoredReceipt, grounds: Grounds): Promise<Line[]> {
  const { deployment } = grounds;
  const digest = receiptDigest(stored.receipt, deployment.chainId, deployment.settlement);
  return [
    ...tokenLines(stored, grounds.evidence),
    costLine(stored),
    line("digest", "The meter shows the digest of exactly these fields", same(digest, stored.digest), digest, `Recomputed ${digest}, the meter says ${stored.digest ?? "none"}.`),
    await signatureLine(stored, digest),
    pathLine(stored, digest),
    ...(await chainLines(stored, grounds)),
  ];
}

function tokenLines({ receipt }: StoredReceipt, evidence: Evidence | null): Line[] {
  const [prompt, answer, params] = ["The prompt is the one that was sent", "The answer is the one that was shown", "The sampling parameters are the ones asked for"] as const;
  if (evidence === null) {
    return [unchecked("prompt", prompt, NO_EVIDENCE), unchecked("answer", answer, NO_EVIDENCE), unchecked("params", params, NO_EVIDENCE)];
  }
  const tokens = (id: string, claim: string, ids: readonly number[], count: number, signed: Hex): Line => {
    const hash = tokensHash(ids);
    const why = ids.length === count ? `Recomputed hash ${hash}, signed ${signed}.` : `This browser has ${ids.length} tokens, the receipt says ${count}.`;
    return line(id, claim, ids.length === count && same(hash, signed), `${count} tokens, hash ${hash}`, why);
  };
  return [
    tokens("prompt", prompt, evidence.promptTokenIds, receipt.promptTokens, receipt.promptHash),
    tokens("answer", answer, evidence.tokenIds, receipt.completionTokens, receipt.completionHash),
    paramsLine(params, evidence.params, receipt.paramsHash),
  ];
}

function paramsLine(claim: string, params: string | null, signed: Hex): Line {
  if (params === null) return unchecked("params", claim, "The parameters were not kept with this answer.");
  try {
    const hash = paramsHash(params);
    return line("params", claim, same(hash, signed), hash, `Recomputed ${hash}, signed ${signed}.`);
  } catch (error) {
    return unchecked("params", claim, `The parameters can't be read: ${messageOf(error)}.`);
  }
}

function costLine({ receipt }: StoredReceipt): Line {
  const cost = messageCostUp(receipt.modelRate, BigInt(receipt.promptTokens + receipt.completionTokens));
  const sum = `${receipt.promptTokens} + ${receipt.completionTokens} tokens at ${receipt.modelRate} credits per million are ${cost} credits`;
  return line("cost", "The charge is rate × tokens", cost === receipt.amount, `${sum}.`, `${sum}, the receipt charges ${receipt.amount}.`);
}

async function signatureLine(stored: StoredReceipt, digest: Hex): Promise<Line> {
  const claim = "The node signed it";
  if (stored.signature === null || stored.node === null) return unchecked("signature", claim, "The node has not signed yet. It is asked again when it is back.");
  try {
    const signer = await recoverAddress({ hash: digest, signature: stored.signature });
    return line("signature", claim, same(signer, stored.node), `Signed by ${signer}.`, `The signature is by ${signer}, the meter names the node ${stored.node}.`);
  } catch (error) {
    return line("signature", claim, false, "", `The signature is not one: ${messageOf(error)}.`);
  }
}

function pathLine({ batch }: StoredReceipt, digest: Hex): Line {
  const claim = "Its leaf leads to the batch's root";
  if (batch === null) return unchecked("path", claim, "It is in no batch yet.");
  const root = rootFrom(leafOf(digest), batch.proof);
  return line("path", claim, same(root, batch.root), `${batch.proof.length} steps to ${root}.`, `The path leads to ${root}, the batch's root is ${batch.root}.`);
}

async function chainLines(stored: StoredReceipt, grounds: Grounds): Promise<Line[]> {
  const claims = {
    operator: "The chain knows this node as the operator's",
    root: "The chain has this batch's root",
    verify: "The settlement contract itself accepts receipt and path",
    settler: "The settler signed the batch",
  } as const;
  const { chain, deployment } = grounds;
  if (chain === null) return Object.entries(claims).map(([id, claim]) => unchecked(id, claim, NO_CHAIN));
  const source = chain.kind === "wallet" ? "asked through your wallet" : "asked through the meter's read proxy, on its word";
  const attempt = async (id: keyof typeof claims, check: () => Promise<Line>): Promise<Line> => {
    try {
      return await check();
    } catch (error) {
      // A chain that can't be asked is "unknown", never "no".
      return unchecked(id, claims[id], `The chain could not be asked: ${messageOf(error).slice(0, 200)}.`);
    }
  };
  const there = await attempt("root", async () => {
    const id = BigInt(String(await chain.request("eth_chainId", [])));
    return line("root", claims.root, id === deployment.chainId, "", `The wallet is on chain ${id}, the contracts are on chain ${deployment.chainId}. Switch the wallet's chain and check again.`);
  });
  if (there.outcome !== "pass") return Object.entries(claims).map(([id, claim]) => unchecked(id, claim, there.detail));
  const { receipt, batch, node, signature } = stored;
  const notBatched = "It is in no batch yet.";
  return [
    node === null
      ? unchecked("operator", claims.operator, "No node has signed yet.")
      : await attempt("operator", async () => {
          const [operator, since, until] = await call<readonly [number | bigint, number | bigint, number | bigint]>(chain, deployment.registry, registry.operatorOfNode, [node]);
          const held = Number(operator) === receipt.operator && (Number(until) === 0 || receipt.servedAt <= Number(until));
          return line("operator", claims.operator, held, `Operator ${operator} since ${new Date(Number(since) * 1000).toISOString().slice(0, 10)}, ${source}.`, `The registry has operator ${operator} for it, the receipt says ${receipt.operator}.`);
        }),
    batch === null
      ? unchecked("root", claims.root, notBatched)
      : await attempt("root", async () => {
          const root = await call<Hex>(chain, deployment.settlement, settlement.receiptsRoot, [batch.seq]);
          if (BigInt(root) === 0n) return unchecked("root", claims.root, `Batch ${batch.seq} is not on the chain yet.`);
          return line("root", claims.root, same(root, batch.root), `Batch ${batch.seq} has root ${root}, ${source}.`, `The chain has root ${root} for batch ${batch.seq}, the meter says ${batch.root}.`);
        }),
    batch === null || signature === null
      ? unchecked("verify", claims.verify, notBatched)
      : await attempt("verify", async () => {
          if (BigInt(await call<Hex>(chain, deployment.settlement, settlement.receiptsRoot, [batch.seq])) === 0n) return unchecked("verify", claims.verify, `Batch ${batch.seq} is not on the chain yet.`);
          const holds = await call<boolean>(chain, deployment.settlement, settlement.verifyReceipt, [batch.seq, { ...receipt }, signature, [...batch.proof]]);
          return line("verify", claims.verify, holds, `verifyReceipt answers true, ${source}.`, "verifyReceipt answers false.");
        }),
    batch?.transaction == null ? unchecked("settler", claims.settler, notBatched) : await attempt("settler", () => settlerLine(stored, grounds, chain, claims.settler)),
  ];
}

/** The settler's signature stands in the call data of the transaction that settled the batch. */
async function settlerLine({ batch }: StoredReceipt, { deployment }: Grounds, chain: ChainSource, claim: string): Promise<Line> {
  if (batch?.transaction == null) return unchecked("settler", claim, "It is in no batch yet.");
  const sent = (await chain.request("eth_getTransactionByHash", [batch.transaction])) as { input?: Hex; to?: string } | null;
  if (typeof sent?.input !== "string") return unchecked("settler", claim, "This view of the chain does not show the transaction. A connected wallet does.");
  const { args } = decodeFunctionData({ abi: [settlement.settle], data: sent.input });
  const [seq, receiptsRoot, rows, deadline, signature] = args as unknown as [bigint, Hex, Hex, number, Hex];
  if (seq !== batch.seq || !same(receiptsRoot, batch.root)) return line("settler", claim, false, "", `The transaction settles batch ${seq} with root ${receiptsRoot}, another one than the receipt's.`);
  const digest = hashTypedData({
    domain: settlementDomain(deployment.chainId, deployment.settlement),
    types: { SettlementBatch: TYPES.SettlementBatch },
    primaryType: "SettlementBatch",
    message: { seq, receiptsRoot, rowsHash: keccak256(rows), deadline },
  });
  const signer = await recoverAddress({ hash: digest, signature });
  return line("settler", claim, same(signer, deployment.settler), `Signed by the settler ${signer}.`, `Signed by ${signer}, the deployment names the settler ${deployment.settler}.`);
}

/** What even a receipt without a fault leaves open. */
export const NOT_PROVEN: readonly string[] = [
  "That the named model computed the answer: the signature says who answers for it. Somebody with the model can recompute the digests with gpu-node verify.",
  "That your prompt stayed private: the meter and the node that served it saw it.",
  "That the answer is true or useful.",
  "What the meter told your browser before the answer: compare the prompt's tokens with your own words where it matters.",
];

/** The lines' sum in one sentence. */
export function verdict(lines: readonly Line[]): string {
  const count = (outcome: Outcome): number => lines.filter((one) => one.outcome === outcome).length;
  const [failed, open] = [count("fail"), count("not_checked")];
  if (failed > 0) return `${failed} of ${lines.length} claims do not hold. Keep this receipt and show it to the meter's operator.`;
  return open === 0 ? `All ${lines.length} claims hold.` : `${count("pass")} of ${lines.length} claims hold, ${open} could not be checked.`;
}
