// Writes the golden vectors that forge and cargo tests read: `npm run vectors`. All hashing and signing is viem's, so that
// neither the contracts nor the Rust code is its own judge. Bytes are hex strings, integers above 2^53 decimal strings.
import { writeFileSync } from "node:fs";
import {
  concat, encodePacked, hashDomain, hashStruct, hashTypedData, keccak256, numberToHex, padHex, stringToHex,
} from "viem";
import { privateKeyToAccount } from "viem/accounts";

const directory = new URL(".", import.meta.url);
const CHAIN_ID = 31337;
const CONTRACTS = {
  ParalleliXAICredits: "0x00000000000000000000000000000000c0ed1750",
  ParalleliXSettlement: "0x000000000000000000000000000000005e771e00",
  OperatorRegistry: "0x00000000000000000000000000000000002e6157",
};
// The first accounts of the mnemonic "test test test test test test test test test test test junk".
const KEYS = {
  payer: "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
  settler: "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
  node: "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
  keeper: "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
};
const address = (name) => privateKeyToAccount(KEYS[name]).address;
const hash = (text) => keccak256(stringToHex(text));

function write(name, value) {
  const json = JSON.stringify(value, (_, v) => (typeof v === "bigint" ? v.toString() : v), 2);
  writeFileSync(new URL(name, directory), `${json}\n`);
}

// EIP-712

const RECEIPT = {
  requestId: hash("request"), account: 7, operator: 3, modelRoot: hash("model"), engine: hash("engine"),
  promptTokens: 1_000, completionTokens: 420, modelRate: 4_000_000_000n, amount: 5_680_000n,
  promptHash: hash("prompt"), completionHash: hash("completion"), paramsHash: hash("params"), proofRoot: hash("proof"),
  startedAt: 1_800_000_000, servedAt: 1_800_000_012,
};
const SIGNED = [
  ["ParalleliXAICredits", "payer",
    "SpendAuthorization(address owner,uint64 cap,uint48 exposure,uint40 validUntil,bytes32 challenge,uint32 nonce,uint40 signDeadline)",
    { owner: address("payer"), cap: 1_000_000_000_000n, exposure: 5_000_000_000, validUntil: 1_802_592_000,
      challenge: hash("secret"), nonce: 1, signDeadline: 1_800_000_600 }],
  ["ParalleliXAICredits", "payer", "SpendAuthorization(address owner,uint64 cap,uint48 exposure,uint40 validUntil,bytes32 challenge,uint32 nonce,uint40 signDeadline)",
    { owner: address("payer"), cap: 2n ** 64n - 1n, exposure: 2 ** 48 - 1, validUntil: 2 ** 40 - 1,
      challenge: padHex("0x"), nonce: 2 ** 32 - 1, signDeadline: 2 ** 40 - 1 }],
  ["ParalleliXAICredits", "payer", "Revocation(address owner,uint32 nonce,uint40 signDeadline)",
    { owner: address("payer"), nonce: 2, signDeadline: 1_800_000_600 }],
  ["ParalleliXAICredits", "payer", "SignIn(address owner,bytes32 challenge,uint40 signDeadline)",
    { owner: address("payer"), challenge: hash("secret"), signDeadline: 1_800_000_600 }],
  ["ParalleliXAICredits", "settler", "ClosureClearance(uint32 account,uint64 settled,uint32 authNonce,uint40 deadline)",
    { account: 7, settled: 5_680_000n, authNonce: 2, deadline: 1_800_000_900 }],
  ["ParalleliXSettlement", "settler",
    "SettlementBatch(uint64 seq,bytes32 receiptsRoot,bytes32 rowsHash,uint40 deadline)",
    { seq: 1n, receiptsRoot: hash("root"), rowsHash: hash("rows"), deadline: 1_800_000_900 }],
  ["ParalleliXSettlement", "node",
    "ServiceReceipt(bytes32 requestId,uint32 account,uint32 operator,bytes32 modelRoot,bytes32 engine,uint32 promptTokens,uint32 completionTokens,uint64 modelRate,uint64 amount,bytes32 promptHash,bytes32 completionHash,bytes32 paramsHash,bytes32 proofRoot,uint40 startedAt,uint40 servedAt)",
    RECEIPT],
  ["ParalleliXSettlement", "node", "NodeHello(bytes32 challenge,uint32 operator,address node,bytes32 modelsHash)",
    { challenge: hash("challenge"), operator: 3, node: address("node"), modelsHash: hash("models") }],
  ["ParalleliXSettlement", "keeper", "KeeperAccess(address keeper,uint40 validUntil)",
    { keeper: address("keeper"), validUntil: 1_800_000_600 }],
  ["OperatorRegistry", "node", "NodeKey(uint32 operator,address key)", { operator: 3, key: address("node") }],
];

function fieldsOf(type) {
  return type.slice(type.indexOf("(") + 1, -1).split(",").map((field) => {
    const [fieldType, name] = field.split(" ");
    return { name, type: fieldType };
  });
}

const DOMAIN_FIELDS = fieldsOf("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

async function signedVector([contract, signer, type, message]) {
  const primaryType = type.slice(0, type.indexOf("("));
  const types = { [primaryType]: fieldsOf(type) };
  const domain = { name: contract, version: "1", chainId: CHAIN_ID, verifyingContract: CONTRACTS[contract] };
  return {
    primaryType,
    type,
    typeHash: hash(type),
    domain,
    domainSeparator: hashDomain({ domain, types: { EIP712Domain: DOMAIN_FIELDS } }),
    fields: Object.fromEntries(fieldsOf(type).map(({ name, type: fieldType }) => [
      name, fieldType.startsWith("uint") ? message[name].toString() : message[name],
    ])),
    structHash: hashStruct({ data: message, primaryType, types }),
    digest: hashTypedData({ domain, types, primaryType, message }),
    signer: address(signer),
    signerKey: KEYS[signer],
    signature: await privateKeyToAccount(KEYS[signer]).signTypedData({ domain, types, primaryType, message }),
  };
}

write("eip712.json", { vectors: await Promise.all(SIGNED.map(signedVector)) });

// Merkle trees of receipts: plain, level by level

const inner = (left, right) => keccak256(BigInt(left) < BigInt(right) ? concat([left, right]) : concat([right, left]));

function merkle(leaves) {
  const proofs = leaves.map(() => []);
  let level = leaves.map((leaf, index) => ({ node: leaf, below: [index] }));
  while (level.length > 1) {
    const next = [];
    for (let i = 0; i < level.length; i += 2) {
      const [left, right] = [level[i], level[i + 1]];
      if (right === undefined) { next.push(left); continue; }
      left.below.forEach((index) => proofs[index].push(right.node));
      right.below.forEach((index) => proofs[index].push(left.node));
      next.push({ node: inner(left.node, right.node), below: [...left.below, ...right.below] });
    }
    level = next;
  }
  return { root: level[0].node, proofs };
}

const trees = [1, 2, 3, 5, 8].map((count) => {
  const digests = Array.from({ length: count }, (_, index) => hash(`digest ${count} ${index}`));
  const leaves = digests.map((digest) => keccak256(digest));
  return { count, digests, leaves, ...merkle(leaves) };
});
write("merkle.json", { trees });

// Rows

const U64_MAX = 2n ** 64n - 1n;
const BATCHES = [
  [[1, [[1, 1n]]]],
  [[1, [[1, 5_680_000n], [2, 17n]]], [2, [[1, 6_000_000n]]]],
  [[4_294_967_295, [[4_294_967_295, U64_MAX]]]],
  [[3, [[10, 100n], [11, 200n], [12, 300n]]], [4, [[10, 150n], [13, 1n]]], [9, [[12, 301n]]]],
];
const batches = BATCHES.map((groups) => {
  const encoded = concat(groups.flatMap(([operator, rows]) => [
    encodePacked(["uint32", "uint16"], [operator, rows.length]),
    ...rows.map(([account, cumulative]) => encodePacked(["uint32", "uint64"], [account, cumulative])),
  ]));
  return {
    groups: groups.map(([operator, rows]) => ({
      operator, rows: rows.map(([account, cumulative]) => ({ account, cumulative: cumulative.toString() })),
    })),
    encoded,
    rowsHash: keccak256(encoded),
  };
});
const row = (account, cumulative) => encodePacked(["uint32", "uint64"], [account, cumulative]).slice(2);
const malformed = [
  ["empty", "0x"],
  ["truncated header", numberToHex(1, { size: 5 })],
  ["empty group", encodePacked(["uint32", "uint16"], [1, 0])],
  ["group past the end", encodePacked(["uint32", "uint16"], [1, 2]) + row(1, 1n)],
  ["truncated row", (encodePacked(["uint32", "uint16"], [1, 1]) + row(1, 1n)).slice(0, -2)],
  ["trailing byte", `${encodePacked(["uint32", "uint16"], [1, 1]) + row(1, 1n)}00`],
].map(([reason, encoded]) => ({ reason, encoded }));
write("rows.json", { batches, malformed });

// Cost: ceil(rate * tokens / 1,000,000); fee: floor(total * bps / 10,000)

const COSTS = [
  [0n, 0, 0], [0n, 1_000, 1], [1n, 0, 0], [1n, 1, 0], [1n, 999_999, 0], [1n, 1_000_000, 0], [1n, 1_000_000, 1],
  [4_000n, 1_000, 420], [4_000_000_000n, 1_000, 420], [3n, 333_333, 1], [999_999n, 1, 0], [1_000_000n, 1, 0], [1_000_001n, 1, 0],
  [U64_MAX, 1, 0], [U64_MAX, 999_999, 0], [U64_MAX, 1_000_000, 0], [U64_MAX, 1_000_000, 1], [U64_MAX, 4_294_967_295, 4_294_967_295],
];
const costs = COSTS.map(([modelRate, promptTokens, completionTokens]) => {
  const product = modelRate * (BigInt(promptTokens) + BigInt(completionTokens));
  const amount = (product + 999_999n) / 1_000_000n;
  return {
    modelRate: modelRate.toString(), promptTokens, completionTokens,
    // Exact, whether or not it fits 64 bits.
    amount: amount.toString(), fits: amount <= U64_MAX,
  };
});
const FEES = [[0n, 1_000], [1n, 1_000], [9n, 1_000], [10n, 1_000], [9_999n, 1], [10_000n, 1], [5_680_001n, 3_000], [2n ** 63n - 1n, 3_000], [100n, 0]];
const fees = FEES.map(([total, feeBps]) => {
  const fee = (total * BigInt(feeBps)) / 10_000n;
  return { total: total.toString(), feeBps, fee: fee.toString(), operatorShare: (total - fee).toString() };
});
write("cost.json", { costs, fees });
