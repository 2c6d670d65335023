// The receipt's hashes, signers and paths against the vectors that forge and cargo read too.

import { hashTypedData, keccak256, recoverAddress, toFunctionSelector, toHex } from "viem/utils";
import { describe, expect, it } from "vitest";

import eip712 from "../../test/vectors/eip712.json";
import merkle from "../../test/vectors/merkle.json";

import { readEvidence } from "../src/receipt/evidence-file";
import { leafOf, paramsHash, receiptDigest, rootFrom, tokensHash } from "../src/receipt/digest";
import { readStoredReceipt } from "../src/receipt/types";
import type { ServiceReceipt } from "../src/receipt/types";
import { verdict, verifyReceipt } from "../src/receipt/verify";
import { registry, settlement } from "../src/wallet/abi";
import { callData } from "../src/wallet/chain";
import type { ChainSource } from "../src/wallet/chain";
import { readDeployment } from "../src/wallet/deployment";
import { normalizedSignature, TYPES, typedDataJson } from "../src/wallet/typed";
import type { Hex, TypeName } from "../src/wallet/typed";

interface Vector {
  primaryType: string;
  domain: { name: string; version: string; chainId: number; verifyingContract: Hex };
  fields: Record<string, string>;
  digest: Hex;
  signer: Hex;
  signature: Hex;
}

const typed = eip712.vectors as unknown as Vector[];
const trees = merkle.trees as unknown as { digests: Hex[]; leaves: Hex[]; root: Hex; proofs: Hex[][] }[];
const golden = typed.find(({ primaryType }) => primaryType === "ServiceReceipt") as Vector;
const settler = typed.find(({ primaryType }) => primaryType === "SettlementBatch") as Vector;

const deployment = readDeployment({
  chainId: golden.domain.chainId,
  deployBlock: 1,
  prlx: "0x0000000000000000000000000000000000000001",
  credits: "0x00000000000000000000000000000000c0ed1750",
  settlement: golden.domain.verifyingContract,
  registry: "0x00000000000000000000000000000000002e6157",
  exitDelay: 3600,
  velocityWindow: 60,
  feeBps: 500,
  settler: settler.signer,
});

const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const NUMBERS = ["account", "operator", "prompt_tokens", "completion_tokens", "model_rate", "amount", "started_at", "served_at"];

/** The golden receipt as the meter tells it. */
function told(changes: Record<string, unknown> = {}): Record<string, unknown> {
  const receipt = Object.fromEntries(
    Object.entries(golden.fields).map(([name, value]) => [snake(name), NUMBERS.includes(snake(name)) ? Number(value) : value]),
  );
  return {
    id: golden.fields.requestId,
    state: "settled",
    model: "tiny",
    finish_reason: "stop",
    receipt,
    digest: golden.digest,
    signature: golden.signature,
    node: golden.signer,
    fallback: false,
    audit: null,
    batch: { seq: 1, root: leafOf(golden.digest), proof: [], transaction: null },
    ...changes,
  };
}

describe("typed data", () => {
  it.each(typed.filter(({ primaryType }) => primaryType in TYPES).map((vector) => [vector.primaryType, vector] as const))("%s has the vectors' digest", async (_, vector) => {
    const types = { [vector.primaryType]: TYPES[vector.primaryType as TypeName] };
    const digest = hashTypedData({ domain: vector.domain, types, primaryType: vector.primaryType, message: vector.fields });
    expect(digest).toBe(vector.digest);
    expect(await recoverAddress({ hash: digest, signature: vector.signature })).toBe(vector.signer);
  });

  it("goes to the wallet without a rounded number", () => {
    const message = { owner: golden.signer, cap: 2n ** 63n - 1n, exposure: 5n, validUntil: 1n, challenge: golden.digest, nonce: 0n, signDeadline: 1n };
    const sent = JSON.parse(typedDataJson("SpendAuthorization", message, { ...golden.domain, chainId: 1n }));
    expect(sent.message.cap).toBe("9223372036854775807");
    expect(sent.types.SpendAuthorization[1]).toEqual({ name: "cap", type: "uint64" });
  });

  it("mends a v of 0 or 1 and leaves other signatures alone", () => {
    const short = `0x${"ab".repeat(64)}01` as Hex;
    expect(normalizedSignature(short)).toBe(`0x${"ab".repeat(64)}1c`);
    expect(normalizedSignature(golden.signature)).toBe(golden.signature);
    expect(normalizedSignature("0x1234")).toBe("0x1234");
  });
});

describe("merkle paths", () => {
  it("lead from every leaf of the vectors to its root, and from no other leaf", () => {
    for (const { digests, leaves, root, proofs } of trees) {
      digests.forEach((digest, index) => {
        const leaf = leafOf(digest);
        expect(leaf).toBe(leaves[index]);
        expect(rootFrom(leaf, proofs[index] ?? [])).toBe(root);
        expect(rootFrom(keccak256(leaf), proofs[index] ?? [])).not.toBe(root);
      });
    }
  });
});

describe("token and parameter hashes", () => {
  it("take token ids as four bytes little-endian", () => {
    expect(tokensHash([1, 0x01020304])).toBe(keccak256("0x0100000004030201"));
    expect(tokensHash([])).toBe(keccak256("0x"));
  });

  const params = (seed: string, rest = ""): string =>
    `{"max_tokens":16,"temperature":0.699999988079071,"top_p":1.0,"top_k":0,"min_p":0.0,"presence_penalty":0.0,"frequency_penalty":0.0,"repetition_penalty":1.0,` +
    `"seed":${seed},"stop":["a\\"seed\\":1,"],"stop_token_ids":[7],"logit_bias":[[3,-1.5]],"logprobs":null,"format":{"type":"text"}${rest}}`;

  it("write the parameters' canonical bytes, with every digit of the seed", () => {
    const f32 = (value: number): string => {
      const view = new DataView(new ArrayBuffer(4));
      view.setFloat32(0, value, true);
      return toHex(new Uint8Array(view.buffer)).slice(2);
    };
    const text = (words: string): string => toHex(new TextEncoder().encode(words)).slice(2);
    const stop = 'a"seed":1,';
    const bytes = [
      text("parallelix-params-2"), "10000000", f32(0.7), f32(1), "00000000", f32(0), f32(0), f32(0), f32(1),
      "ffffffffffffffff", "01000000", `${stop.length.toString(16).padStart(2, "0")}000000`, text(stop), "01000000", "07000000",
      "01000000", "03000000", f32(-1.5), "00000000", "00",
    ];
    expect(paramsHash(params("18446744073709551615"))).toBe(keccak256(`0x${bytes.join("")}`));
  });

  it("differ between seeds that a parsed number would confuse", () => {
    expect(paramsHash(params("9007199254740993"))).not.toBe(paramsHash(params("9007199254740992")));
  });

  it("come out of a dropped file with the raw parameters", () => {
    const evidence = readEvidence(`{"prompt_token_ids":[1,2],"token_ids":[3],"params":${params("18446744073709551615")},"x":{"params":1}}`);
    expect(evidence.promptTokenIds).toEqual([1, 2]);
    expect(paramsHash(evidence.params ?? "")).toBe(paramsHash(params("18446744073709551615")));
    const answer = readEvidence(`{"choices":[{"token_ids":[3]}],"prompt_token_ids":[1],"parallelix":{"params":${params("5")}}}`);
    expect(answer).toEqual({ promptTokenIds: [1], tokenIds: [3], params: params("5") });
    expect(() => readEvidence('{"token_ids":[3]}')).toThrow(/prompt_token_ids/);
    expect(() => readEvidence('{"prompt_token_ids":[-1],"token_ids":[3]}')).toThrow(/prompt_token_ids/);
  });
});

describe("verification", () => {
  const outcomes = async (given: Record<string, unknown>, chain: ChainSource | null = null, evidence: Parameters<typeof verifyReceipt>[1]["evidence"] = null) => {
    const lines = await verifyReceipt(readStoredReceipt(given), { deployment, evidence, chain });
    return { lines, by: Object.fromEntries(lines.map(({ id, outcome }) => [id, outcome])) };
  };

  it("recomputes the golden digest and recovers the node", async () => {
    const stored = readStoredReceipt(told());
    expect(receiptDigest(stored.receipt, deployment.chainId, deployment.settlement)).toBe(golden.digest);
    const { by, lines } = await outcomes(told());
    expect(by).toMatchObject({ cost: "pass", digest: "pass", signature: "pass", path: "pass", prompt: "not_checked", root: "not_checked" });
    expect(verdict(lines)).toMatch(/^4 of 11 claims hold/);
  });

  it.each([
    ["amount", { amount: 5680001 }, ["cost", "digest", "signature", "path"]],
    ["completion_tokens", { completion_tokens: 421 }, ["digest", "signature", "path"]],
    ["prompt_hash", { prompt_hash: golden.fields.paramsHash }, ["digest", "signature", "path"]],
  ])("finds a changed %s", async (_, change, broken) => {
    const given = told();
    const { by } = await outcomes({ ...given, receipt: { ...(given.receipt as object), ...change } });
    for (const id of broken) expect(by[id], id).toBe("fail");
  });

  it("finds another signer, another root and a signature that is none", async () => {
    expect((await outcomes(told({ node: settler.signer }))).by.signature).toBe("fail");
    expect((await outcomes(told({ signature: "0x1234" }))).by.signature).toBe("fail");
    expect((await outcomes(told({ signature: null, state: "awaiting_signature" }))).by.signature).toBe("not_checked");
    expect((await outcomes(told({ batch: { seq: 1, root: golden.digest, proof: [], transaction: null } }))).by.path).toBe("fail");
  });

  it("compares the tokens that this browser kept", async () => {
    const ids = Array.from({ length: 3 }, (_, index) => index);
    const given = told();
    const receipt = { ...(given.receipt as object), prompt_tokens: 3, prompt_hash: tokensHash(ids), completion_tokens: 1, completion_hash: tokensHash([9]) };
    const { by } = await outcomes({ ...given, receipt }, null, { promptTokenIds: ids, tokenIds: [8], params: null });
    expect(by).toMatchObject({ prompt: "pass", answer: "fail", params: "not_checked" });
  });

  it("says that a dead or foreign chain was not asked, never that a claim failed", async () => {
    const dead: ChainSource = { kind: "wallet", request: () => Promise.reject(new Error("connection refused")) };
    expect((await outcomes(told(), dead)).by.root).toBe("not_checked");
    const foreign: ChainSource = { kind: "wallet", request: () => Promise.resolve("0x1") };
    const { by, lines } = await outcomes(told(), foreign);
    expect(by).toMatchObject({ root: "not_checked", verify: "not_checked" });
    expect(lines.find(({ id }) => id === "root")?.detail).toMatch(/Switch the wallet's chain/);
  });

  it("asks the contracts themselves, and takes no for an answer", async () => {
    const root = leafOf(golden.digest);
    const batch = { seq: 1, root, proof: [], transaction: settler.digest };
    const word = (value: bigint): string => value.toString(16).padStart(64, "0");
    const chain = (kind: ChainSource["kind"], onChain: Hex, holds: boolean, operator = 3n): ChainSource => ({
      kind,
      request: (method, params) => {
        if (method === "eth_chainId") return Promise.resolve(`0x${deployment.chainId.toString(16)}`);
        if (method !== "eth_call") return Promise.reject(new Error("not answered here"));
        const { data } = params[0] as { data: string };
        const known = [[registry.operatorOfNode, word(operator) + word(1n) + word(0n)], [settlement.receiptsRoot, onChain.slice(2)], [settlement.verifyReceipt, word(holds ? 1n : 0n)]] as const;
        return Promise.resolve(`0x${known.find(([fn]) => data.startsWith(toFunctionSelector(fn)))?.[1] ?? ""}`);
      },
    });
    const told1 = told({ batch });
    expect((await outcomes(told1, chain("meter", root, true))).by).toMatchObject({ operator: "pass", root: "pass", verify: "pass", settler: "not_checked" });
    expect((await outcomes(told1, chain("meter", golden.digest, false, 4n))).by).toMatchObject({ operator: "fail", root: "fail", verify: "fail" });
    expect((await outcomes(told1, chain("meter", `0x${word(0n)}`, false))).by).toMatchObject({ root: "not_checked", verify: "not_checked" });
  });

  it("recovers the settler from the transaction that settled the batch", async () => {
    const { fields } = settler;
    const batch = { seq: 1, root: fields.receiptsRoot, proof: [], transaction: settler.digest };
    // The vectors' rows are a word, not rows: only their hash is signed.
    const rows = toHex("rows");
    expect(keccak256(rows)).toBe(fields.rowsHash);
    const wallet = (signature: Hex): ChainSource => ({
      kind: "wallet",
      request: (method) =>
        method === "eth_chainId"
          ? Promise.resolve(`0x${deployment.chainId.toString(16)}`)
          : method === "eth_getTransactionByHash"
            ? Promise.resolve({ input: callData(settlement.settle, [1n, fields.receiptsRoot, rows, Number(fields.deadline), signature]) })
            : Promise.reject(new Error("down")),
    });
    expect((await outcomes(told({ batch }), wallet(settler.signature))).by.settler).toBe("pass");
    expect((await outcomes(told({ batch }), wallet(golden.signature))).by.settler).toBe("fail");
    expect((await outcomes(told({ batch: { ...batch, seq: 2 } }), wallet(settler.signature))).by.settler).toBe("fail");
  });

  it("refuses a receipt whose numbers JSON may have rounded", () => {
    const given = told();
    expect(() => readStoredReceipt({ ...given, receipt: { ...(given.receipt as object), amount: 2 ** 53 } })).toThrow(/amount/);
    expect(() => readStoredReceipt({ ...given, receipt: { ...(given.receipt as object), request_id: "0x12" } })).toThrow(/request_id/);
  });
});

// Keeps the vectors honest: a receipt has every field of the signed type and no other.
it("reads every signed field", () => {
  const { receipt } = readStoredReceipt(told());
  const names: (keyof ServiceReceipt)[] = TYPES.ServiceReceipt.map(({ name }) => name as keyof ServiceReceipt);
  expect(Object.keys(receipt).sort()).toEqual([...names].sort());
});
