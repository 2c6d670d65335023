// What the page says to the vault and reads from it: the few ABI words it needs, written out. Every number is a BigInt.

const SELECTORS = { authorize: "1d381466", accountOf: "8086b8ba", accounts: "77c42799" };

const WORD_DIGITS = 64;

const word = (value) => BigInt(value).toString(16).padStart(WORD_DIGITS, "0");

const bytesWords = (hex) => hex.replace(/^0x/, "").padEnd(Math.ceil((hex.length - 2) / WORD_DIGITS) * WORD_DIGITS, "0");

/** Call data of `accountOf(address)`. */
export const accountOfData = (owner) => `0x${SELECTORS.accountOf}${word(owner)}`;

/** Call data of `accounts(uint32[])` for one account. */
export const accountsData = (account) => `0x${SELECTORS.accounts}${word(32)}${word(1)}${word(account)}`;

/** Call data of `authorize(SpendAuthorization,bytes)`. */
export function authorizeData(authorization, signature) {
  const { owner, cap, exposure, validUntil, challenge, nonce, signDeadline } = authorization;
  const fields = [owner, cap, exposure, validUntil, challenge, nonce, signDeadline].map(word).join("");
  return `0x${SELECTORS.authorize}${fields}${word(8 * 32)}${word((signature.length - 2) / 2)}${bytesWords(signature)}`;
}

/** The first `AccountView` of an `accounts` answer; null when the answer is not one. */
export function readAccount(answer) {
  const words = answer.replace(/^0x/, "").match(/.{64}/g) ?? [];
  if (words.length < 11 || BigInt(`0x${words[1]}`) < 1n) return null;
  const [, settled, limit, exposure, , settleDeadline, netDeposited, authorizedCum, authNonce] = words.slice(2).map((text) => BigInt(`0x${text}`));
  return { settled, limit, exposure, settleDeadline, netDeposited, authorizedCum, authNonce };
}

const EIP712_DOMAIN = [
  { name: "name", type: "string" },
  { name: "version", type: "string" },
  { name: "chainId", type: "uint256" },
  { name: "verifyingContract", type: "address" },
];

const TYPES = {
  SignIn: ["address owner", "bytes32 challenge", "uint40 signDeadline"],
  SpendAuthorization: ["address owner", "uint64 cap", "uint48 exposure", "uint40 validUntil", "bytes32 challenge", "uint32 nonce", "uint40 signDeadline"],
};

/** The JSON that `eth_signTypedData_v4` takes for one of the vault's types. */
export function typedData(primaryType, message, deployment) {
  const fields = TYPES[primaryType].map((field) => {
    const [type, name] = field.split(" ");
    return { name, type };
  });
  const domain = { name: "ParalleliXAICredits", version: "1", chainId: String(deployment.chainId), verifyingContract: deployment.credits };
  return JSON.stringify({ types: { EIP712Domain: EIP712_DOMAIN, [primaryType]: fields }, primaryType, domain, message });
}

/** A wallet's signature with `v` of 27 or 28: some answer with 0 or 1. Others, as contract wallets give, stay as they are. */
export function normalizedSignature(signature) {
  const v = Number.parseInt(signature.slice(130), 16);
  return signature.length === 132 && v < 2 ? signature.slice(0, 130) + (v + 27).toString(16) : signature;
}
