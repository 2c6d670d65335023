// A receipt as the meter tells it, read into exact numbers.

import type { Hex } from "../wallet/typed";

/** The fifteen signed fields, with the names of the signed type (docs/protocol.md, section 5). */
export interface ServiceReceipt {
  readonly requestId: Hex;
  readonly account: number;
  readonly operator: number;
  readonly modelRoot: Hex;
  readonly engine: Hex;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly modelRate: bigint;
  readonly amount: bigint;
  readonly promptHash: Hex;
  readonly completionHash: Hex;
  readonly paramsHash: Hex;
  readonly proofRoot: Hex;
  readonly startedAt: number;
  readonly servedAt: number;
}

export type ReceiptState = "awaiting_signature" | "signed" | "batched" | "settled" | "refunded" | "disputed";

export interface Batch {
  readonly seq: bigint;
  readonly root: Hex;
  readonly proof: readonly Hex[];
  readonly transaction: Hex | null;
}

export interface StoredReceipt {
  readonly id: string;
  readonly state: ReceiptState | string;
  readonly model: string;
  readonly finishReason: string | null;
  readonly receipt: ServiceReceipt;
  readonly digest: Hex | null;
  readonly signature: Hex | null;
  readonly node: Hex | null;
  readonly fallback: boolean;
  readonly audit: string | null;
  readonly batch: Batch | null;
}

/** What the person kept of the answer: enough to check the hashes. `params` is the raw JSON text, its seed has 64 bits. */
export interface Evidence {
  readonly promptTokenIds: readonly number[];
  readonly tokenIds: readonly number[];
  readonly params: string | null;
}

type Json = Record<string, unknown>;

const HEX_32 = /^0x[0-9a-fA-F]{64}$/;

function hex(given: Json, name: string, form: RegExp = HEX_32): Hex {
  const value = given[name];
  if (typeof value === "string" && form.test(value)) return value as Hex;
  throw new Error(`the receipt's \`${name}\` is ${JSON.stringify(value)?.slice(0, 80)}; it is not of the form that is signed`);
}

function whole(given: Json, name: string): bigint {
  const value = given[name];
  if (typeof value === "bigint" && value >= 0n) return value;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  if (typeof value === "string" && /^\d{1,20}$/.test(value)) return BigInt(value);
  throw new Error(`the receipt's \`${name}\` is ${String(value).slice(0, 80)}; a whole number that this page can hold exactly was expected`);
}

const small = (given: Json, name: string): number => Number(whole(given, name));

const object = (value: unknown, what: string): Json => {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  throw new Error(`${what} is no JSON object`);
};

const text = (value: unknown): string | null => (typeof value === "string" ? value.slice(0, 400) : null);

/** Reads the signed fields. Throws, naming the field, when one is missing or of another form. */
export function readServiceReceipt(given: unknown): ServiceReceipt {
  const fields = object(given, "the receipt");
  return {
    requestId: hex(fields, "request_id"),
    account: small(fields, "account"),
    operator: small(fields, "operator"),
    modelRoot: hex(fields, "model_root"),
    engine: hex(fields, "engine"),
    promptTokens: small(fields, "prompt_tokens"),
    completionTokens: small(fields, "completion_tokens"),
    modelRate: whole(fields, "model_rate"),
    amount: whole(fields, "amount"),
    promptHash: hex(fields, "prompt_hash"),
    completionHash: hex(fields, "completion_hash"),
    paramsHash: hex(fields, "params_hash"),
    proofRoot: hex(fields, "proof_root"),
    startedAt: small(fields, "started_at"),
    servedAt: small(fields, "served_at"),
  };
}

function readBatch(given: unknown): Batch | null {
  if (given === null || given === undefined) return null;
  const fields = object(given, "the receipt's batch");
  if (fields["root"] === null || fields["root"] === undefined) return null;
  const proof = Array.isArray(fields["proof"]) ? fields["proof"].filter((node): node is Hex => typeof node === "string" && HEX_32.test(node)) : [];
  const transaction = fields["transaction"];
  return {
    seq: whole(fields, "seq"),
    root: hex(fields, "root"),
    proof,
    transaction: typeof transaction === "string" && HEX_32.test(transaction) ? (transaction as Hex) : null,
  };
}

/** Reads one entry of `GET /v1/receipts`. */
export function readStoredReceipt(given: unknown): StoredReceipt {
  const fields = object(given, "the meter's answer");
  const receipt = readServiceReceipt(fields["receipt"]);
  const optional = (name: string, form?: RegExp): Hex | null => (fields[name] === null || fields[name] === undefined ? null : hex(fields, name, form));
  return {
    id: text(fields["id"]) ?? receipt.requestId,
    state: text(fields["state"]) ?? "unknown",
    model: text(fields["model"]) ?? "unknown",
    finishReason: text(fields["finish_reason"]),
    receipt,
    digest: optional("digest"),
    signature: optional("signature", /^0x[0-9a-fA-F]{2,4096}$/),
    node: optional("node", /^0x[0-9a-fA-F]{40}$/),
    fallback: fields["fallback"] === true,
    audit: text(fields["audit"]),
    batch: readBatch(fields["batch"]),
  };
}
