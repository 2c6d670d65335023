/** The development chain: who has what, and how somebody gets something to start with. */

import { createPublicClient, createTestClient, createWalletClient, http, parseAbi } from "viem";
import type { Address, Chain } from "viem";

import { facts } from "./facts";

/** One attempt, and patience: a retry of a transaction would be a second one. */
export const transport = () => http(facts.rpcUrl, { retryCount: 0, timeout: 60_000 });

export const chain: Chain = {
  id: facts.chainId,
  name: "Development chain",
  nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
  rpcUrls: { default: { http: [facts.rpcUrl] } },
};

export const reader = createPublicClient({ chain, transport: transport(), pollingInterval: 100 });
export const development = createTestClient({ mode: "anvil", chain, transport: transport() });
const faucet = createWalletClient({ account: facts.faucet, chain, transport: transport() });

export const WEI_PER_CREDIT = 1_000_000_000n;
export const CREDITS_PER_PRLX = 1_000_000_000n;

export const token = parseAbi([
  "function transfer(address to, uint256 value) returns (bool)",
  "function transferFrom(address from, address to, uint256 value) returns (bool)",
  "function approve(address spender, uint256 value) returns (bool)",
  "function balanceOf(address owner) view returns (uint256)",
  "function nonces(address owner) view returns (uint256)",
  "function allowance(address owner, address spender) view returns (uint256)",
  "function name() view returns (string)",
]);

export const vault = parseAbi([
  "struct SpendAuthorization { address owner; uint64 cap; uint48 exposure; uint40 validUntil; bytes32 challenge; uint32 nonce; uint40 signDeadline; }",
  "function depositAndAuthorize(uint64 amount, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s, SpendAuthorization authorization, bytes signature)",
  "function accountOf(address owner) view returns (uint32)",
  "function balance(uint32 account) view returns (uint64)",
  "function free(uint32 account) view returns (uint64)",
]);

/** Gives `owner` gas, and so many credits' worth of PRLX. */
export async function endow(owner: Address, credits: bigint): Promise<void> {
  await development.setBalance({ address: owner, value: 10n * 10n ** 18n });
  if (credits === 0n) return;
  const hash = await faucet.writeContract({ address: facts.contracts.prlx, abi: token, functionName: "transfer", args: [owner, credits * WEI_PER_CREDIT] });
  await reader.waitForTransactionReceipt({ hash });
}

/** Wei of PRLX that `owner` holds outside the vault. */
export function prlxWei(owner: Address): Promise<bigint> {
  return reader.readContract({ address: facts.contracts.prlx, abi: token, functionName: "balanceOf", args: [owner] });
}

/** Credits that the vault has of `owner`. */
export async function vaultCredits(owner: Address): Promise<bigint> {
  const account = await reader.readContract({ address: facts.contracts.credits, abi: vault, functionName: "accountOf", args: [owner] });
  if (account === 0) return 0n;
  return reader.readContract({ address: facts.contracts.credits, abi: vault, functionName: "balance", args: [account] });
}

/** Seconds since the epoch, as the chain counts them. */
export async function chainSeconds(): Promise<number> {
  return Number((await reader.getBlock()).timestamp);
}
