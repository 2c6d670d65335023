// The hashes of a receipt, recomputed here: token ids, parameters, the signed digest, the Merkle path. Pure.

import { bytesToHex, concat, hashTypedData, keccak256 } from "viem/utils";
import { settlementDomain, TYPES } from "../wallet/typed";
import type { Hex } from "../wallet/typed";
import type { ServiceReceipt } from "./types";

/** keccak-256 of token ids, each as four bytes little-endian. */
export function tokensHash(ids: readonly number[]): Hex {
  const view = new DataView(new ArrayBuffer(ids.length * 4));
  ids.forEach((id, index) => view.setUint32(index * 4, id, true));
  return keccak256(new Uint8Array(view.buffer));
}

/** The 32 bytes that the node signed. */
export function receiptDigest(receipt: ServiceReceipt, chainId: bigint, settlement: Hex): Hex {
  return hashTypedData({
    domain: settlementDomain(chainId, settlement),
    types: { ServiceReceipt: TYPES.ServiceReceipt },
    primaryType: "ServiceReceipt",
    message: { ...receipt },
  });
}

/** The receipt's leaf in its batch: the hash of its digest, so that no leaf can pass for an inner node. */
export const leafOf = (digest: Hex): Hex => keccak256(digest);

/** The root that a leaf reaches by way of its siblings. The smaller of each pair stands first. */
export function rootFrom(leaf: Hex, proof: readonly Hex[]): Hex {
  return proof.reduce((node, sibling) => (BigInt(node) <= BigInt(sibling) ? keccak256(concat([node, sibling])) : keccak256(concat([sibling, node]))), leaf);
}

interface Params {
  max_tokens: number;
  temperature: number;
  top_p: number;
  top_k: number;
  min_p: number;
  presence_penalty: number;
  frequency_penalty: number;
  repetition_penalty: number;
  stop: string[];
  stop_token_ids: number[];
  logit_bias: [number, number][];
  logprobs: number | null;
  format: { type: "text" } | { type: "json_object" } | { type: "json_schema"; schema: string };
}

const NAME = "parallelix-params-2";

/** Grows as bytes are written; numbers are little-endian. */
class Canonical {
  private readonly parts: number[] = [];
  private readonly scratch = new DataView(new ArrayBuffer(8));

  bytes(bytes: Iterable<number>): this {
    for (const byte of bytes) this.parts.push(byte);
    return this;
  }

  u32(value: number): this {
    this.scratch.setUint32(0, value, true);
    return this.bytes(new Uint8Array(this.scratch.buffer, 0, 4));
  }

  u64(value: bigint): this {
    this.scratch.setBigUint64(0, value, true);
    return this.bytes(new Uint8Array(this.scratch.buffer, 0, 8));
  }

  f32(value: number): this {
    this.scratch.setFloat32(0, value, true);
    return this.bytes(new Uint8Array(this.scratch.buffer, 0, 4));
  }

  text(value: string): this {
    const bytes = new TextEncoder().encode(value);
    return this.u32(bytes.length).bytes(bytes);
  }

  hash(): Hex {
    return keccak256(bytesToHex(Uint8Array.from(this.parts)));
  }
}

/**
 * keccak-256 of the canonical bytes of sampling parameters, from their raw JSON text: the seed has 64 bits, more than a
 * parsed JSON number keeps. Throws when the text is not the meter's `parallelix.params`.
 */
export function paramsHash(text: string): Hex {
  // Inside a JSON string these quotes would be escaped, so this finds the field and nothing else.
  const seed = /"seed"\s*:\s*(\d{1,20})\s*[,}]/.exec(text)?.[1];
  const params = JSON.parse(text) as Params;
  if (seed === undefined || !Array.isArray(params.stop) || !Array.isArray(params.stop_token_ids) || !Array.isArray(params.logit_bias)) {
    throw new Error("the parameters are not complete; they are `parallelix.params` of an answer asked for with `return_token_ids`");
  }
  const out = new Canonical().bytes(new TextEncoder().encode(NAME)).u32(params.max_tokens).f32(params.temperature).f32(params.top_p).u32(params.top_k);
  out.f32(params.min_p).f32(params.presence_penalty).f32(params.frequency_penalty).f32(params.repetition_penalty).u64(BigInt(seed));
  out.u32(params.stop.length);
  for (const stop of params.stop) out.text(stop);
  out.u32(params.stop_token_ids.length);
  for (const id of params.stop_token_ids) out.u32(id);
  out.u32(params.logit_bias.length);
  for (const [id, bias] of params.logit_bias) out.u32(id).f32(bias);
  // None and "no alternatives" are two wishes.
  out.u32(params.logprobs === null ? 0 : params.logprobs + 1);
  const { format } = params;
  if (format.type === "json_schema") return out.bytes([2]).text(format.schema).hash();
  return out.bytes([format.type === "json_object" ? 1 : 0]).hash();
}
