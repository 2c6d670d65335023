// The contracts' functions, events and errors that the page calls or reads, by hand from contracts/interfaces.

import type { Abi, AbiFunction, AbiParameter } from "viem";

type AbiError = Extract<Abi[number], { type: "error" }>;
type AbiEvent = Extract<Abi[number], { type: "event" }>;

/** `"uint64 amount,address to"` as ABI parameters. */
const parameters = (text: string): AbiParameter[] =>
  text === ""
    ? []
    : text.split(",").map((part) => {
        const [type = "", name = ""] = part.trim().split(" ");
        return { type, name };
      });

const struct = (name: string, fields: string, many = false): AbiParameter => ({ type: many ? "tuple[]" : "tuple", name, components: parameters(fields) });

function view(name: string, inputs: string | AbiParameter[], outputs: string | AbiParameter[]): AbiFunction {
  return { type: "function", name, stateMutability: "view", inputs: list(inputs), outputs: list(outputs) };
}

function write(name: string, inputs: string | AbiParameter[]): AbiFunction {
  return { type: "function", name, stateMutability: "nonpayable", inputs: list(inputs), outputs: [] };
}

const list = (given: string | AbiParameter[]): AbiParameter[] => (typeof given === "string" ? parameters(given) : given);

const error = (name: string, inputs: string): AbiError => ({ type: "error", name, inputs: parameters(inputs) });

const event = (name: string, inputs: string, indexed: readonly string[]): AbiEvent => ({
  type: "event",
  name,
  inputs: parameters(inputs).map((parameter) => ({ ...parameter, indexed: indexed.includes(parameter.name ?? "") })),
});

const AUTHORIZATION = struct("authorization", "address owner,uint64 cap,uint48 exposure,uint40 validUntil,bytes32 challenge,uint32 nonce,uint40 signDeadline");
const CLEARANCE = struct("clearance", "uint32 account,uint64 settled,uint32 authNonce,uint40 deadline");
const ACCOUNT_VIEW =
  "address owner,uint64 settled,uint64 limit,uint48 exposure,uint40 lastSettledAt,uint40 settleDeadline,uint64 netDeposited,uint64 authorizedCum,uint32 authNonce";
const RECEIPT = struct(
  "receipt",
  "bytes32 requestId,uint32 account,uint32 operator,bytes32 modelRoot,bytes32 engine,uint32 promptTokens,uint32 completionTokens," +
    "uint64 modelRate,uint64 amount,bytes32 promptHash,bytes32 completionHash,bytes32 paramsHash,bytes32 proofRoot,uint40 startedAt,uint40 servedAt",
);

export const vault = {
  accountOf: view("accountOf", "address owner", "uint32 account"),
  accounts: view("accounts", "uint32[] ids", [struct("", ACCOUNT_VIEW, true)]),
  free: view("free", "uint32 account", "uint64 credits"),
  locked: view("locked", "uint32 account", "uint64 credits"),
  deposit: write("deposit", "uint64 amount"),
  depositWithPermit: write("depositWithPermit", "uint64 amount,uint256 permitDeadline,uint8 v,bytes32 r,bytes32 s"),
  depositAndAuthorize: write("depositAndAuthorize", [
    ...parameters("uint64 amount,uint256 permitDeadline,uint8 v,bytes32 r,bytes32 s"),
    AUTHORIZATION,
    ...parameters("bytes signature"),
  ]),
  authorize: write("authorize", [AUTHORIZATION, ...parameters("bytes signature")]),
  revoke: write("revoke", ""),
  withdraw: write("withdraw", "uint64 amount,address to"),
  closeWithClearance: write("closeWithClearance", [CLEARANCE, ...parameters("bytes signature")]),
  multicall: write("multicall", "bytes[] calls"),
} as const;

export const token = {
  name: view("name", "", "string name"),
  balanceOf: view("balanceOf", "address owner", "uint256 wei"),
  allowance: view("allowance", "address owner,address spender", "uint256 wei"),
  nonces: view("nonces", "address owner", "uint256 nonce"),
  domainSeparator: view("DOMAIN_SEPARATOR", "", "bytes32 separator"),
  approve: write("approve", "address spender,uint256 wei"),
} as const;

export const settlement = {
  receiptsRoot: view("receiptsRoot", "uint64 seq", "bytes32 root"),
  settler: view("settler", "", "address settler"),
  verifyReceipt: view("verifyReceipt", [...parameters("uint64 seq"), RECEIPT, ...parameters("bytes signature,bytes32[] proof")], "bool holds"),
  settle: write("settle", "uint64 seq,bytes32 receiptsRoot,bytes rows,uint40 deadline,bytes signature"),
} as const;

export const registry = {
  operatorOfNode: view("operatorOfNode", "address key", "uint32 operator,uint40 since,uint40 until"),
} as const;

export const events = {
  deposited: event("Deposited", "uint32 account,address from,uint64 amount,uint64 netDeposited", ["account", "from"]),
  settled: event("Settled", "uint64 seq,bytes32 receiptsRoot,bytes32 rowsHash,uint64 debited,uint64 fee", ["seq"]),
} as const;

/** Every way in which the vault or the token may refuse what the page sends. */
export const errors: readonly AbiError[] = [
  error("ZeroAmount", ""),
  error("InvalidAddress", "address given"),
  error("DepositsAreSuspended", "uint40 until"),
  error("AccountNotOpened", "address owner"),
  error("CreditsOverflow", "uint256 given,uint256 max"),
  error("TransferMismatch", "uint256 movedWei,uint256 expectedWei"),
  error("SignatureExpired", "uint40 deadline,uint256 timestamp"),
  error("NonceMismatch", "uint32 given,uint32 expected"),
  error("InvalidSignature", "address signer,bytes32 digest"),
  error("ValidUntilOutOfRange", "uint40 given,uint256 min,uint256 max"),
  error("ExposureLowered", "uint48 given,uint48 current"),
  error("SettleDeadlineLowered", "uint40 given,uint40 current"),
  error("AuthorizedLowered", "uint64 given,uint64 current"),
  error("InsufficientFreeCredits", "uint64 free,uint64 requested"),
  error("ClearanceOutdated", "uint64 settled,uint64 currentSettled,uint32 authNonce,uint32 currentNonce"),
  error("SettlerIsSuspended", "uint40 until"),
  error("UnauthorizedCaller", "address caller,address expected"),
  error("ERC20InsufficientBalance", "address sender,uint256 balance,uint256 needed"),
  error("ERC20InsufficientAllowance", "address spender,uint256 allowance,uint256 needed"),
  error("SafeERC20FailedOperation", "address token"),
  error("ERC2612ExpiredSignature", "uint256 deadline"),
  error("ERC2612InvalidSigner", "address signer,address owner"),
  error("Error", "string reason"),
  error("Panic", "uint256 code"),
];
