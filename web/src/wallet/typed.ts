// The types that wallets, nodes and the settler sign (EIP-712; docs/protocol.md, section 2), as viem and wallets take them.

import type { Deployment } from "./deployment";

export type Hex = `0x${string}`;

interface Field {
  readonly name: string;
  readonly type: string;
}

const fields = (text: string): readonly Field[] =>
  text.split(",").map((field) => {
    const [type = "", name = ""] = field.split(" ");
    return { name, type };
  });

export const TYPES = {
  SpendAuthorization: fields("address owner,uint64 cap,uint48 exposure,uint40 validUntil,bytes32 challenge,uint32 nonce,uint40 signDeadline"),
  SignIn: fields("address owner,bytes32 challenge,uint40 signDeadline"),
  SettlementBatch: fields("uint64 seq,bytes32 receiptsRoot,bytes32 rowsHash,uint40 deadline"),
  ServiceReceipt: fields(
    "bytes32 requestId,uint32 account,uint32 operator,bytes32 modelRoot,bytes32 engine,uint32 promptTokens,uint32 completionTokens," +
      "uint64 modelRate,uint64 amount,bytes32 promptHash,bytes32 completionHash,bytes32 paramsHash,bytes32 proofRoot,uint40 startedAt,uint40 servedAt",
  ),
  Permit: fields("address owner,address spender,uint256 value,uint256 nonce,uint256 deadline"),
} as const;

export type TypeName = keyof typeof TYPES;

const EIP712_DOMAIN = fields("string name,string version,uint256 chainId,address verifyingContract");

export interface Domain {
  readonly name: string;
  readonly version: string;
  readonly chainId: bigint;
  readonly verifyingContract: Hex;
}

/** Domain of what payers sign. */
export const creditsDomain = (deployment: Deployment): Domain => ({
  name: "ParalleliXAICredits",
  version: "1",
  chainId: deployment.chainId,
  verifyingContract: deployment.credits,
});

/** Domain of receipts and batches. */
export const settlementDomain = (chainId: bigint, settlement: Hex): Domain => ({
  name: "ParalleliXSettlement",
  version: "1",
  chainId,
  verifyingContract: settlement,
});

/** The JSON that `eth_signTypedData_v4` takes; whole numbers as decimal strings, so that no wallet rounds them. */
export function typedDataJson(primaryType: TypeName, message: Record<string, string | bigint>, domain: Domain): string {
  const plain = Object.fromEntries(Object.entries(message).map(([name, value]) => [name, String(value)]));
  const types = { EIP712Domain: EIP712_DOMAIN, [primaryType]: TYPES[primaryType] };
  return JSON.stringify({ types, primaryType, domain: { ...domain, chainId: String(domain.chainId) }, message: plain });
}

/** A wallet's signature with `v` of 27 or 28: some answer with 0 or 1. Others, as contract wallets give, stay as they are. */
export function normalizedSignature(signature: Hex): Hex {
  const v = Number.parseInt(signature.slice(130), 16);
  return signature.length === 132 && v < 2 ? `0x${signature.slice(2, 130)}${(v + 27).toString(16)}` : signature;
}
