// Where the contracts are: told by the meter, shown to the person, and compared with what the wallet says of the chain.

import type { Hex } from "./typed";

export interface Deployment {
  readonly chainId: bigint;
  readonly prlx: Hex;
  readonly credits: Hex;
  readonly settlement: Hex;
  readonly registry: Hex;
  readonly settler: Hex;
  /** From a revocation to the last possible debit, seconds. */
  readonly exitDelayS: bigint;
  readonly velocityWindowS: bigint;
  /** Blocks that must lie above a deposit's own before the meter counts it; null where the chain's finality decides. */
  readonly confirmations: bigint | null;
}

const ADDRESS = /^0x[0-9a-fA-F]{40}$/;

/** Reads `GET /v1/deployment`. Throws, naming the field, when something is missing or no address. */
export function readDeployment(body: unknown): Deployment {
  if (typeof body !== "object" || body === null) throw new Error("the meter's deployment is no JSON object; reload the page or tell its operator");
  const given = body as Record<string, unknown>;
  const address = (name: string): Hex => {
    const value = given[name];
    if (typeof value !== "string" || !ADDRESS.test(value)) {
      throw new Error(`the meter's deployment has ${JSON.stringify(value)?.slice(0, 60)} as \`${name}\`, an address was expected; tell its operator`);
    }
    return value as Hex;
  };
  const whole = (name: string): bigint => {
    const value = given[name];
    if (typeof value === "bigint" ? value >= 0n : Number.isSafeInteger(value) && Number(value) >= 0) return BigInt(value as number | bigint);
    throw new Error(`the meter's deployment has ${String(value).slice(0, 60)} as \`${name}\`, a whole number was expected; tell its operator`);
  };
  return {
    chainId: whole("chainId"),
    prlx: address("prlx"),
    credits: address("credits"),
    settlement: address("settlement"),
    registry: address("registry"),
    settler: address("settler"),
    exitDelayS: whole("exitDelay"),
    velocityWindowS: whole("velocityWindow"),
    confirmations: given["confirmations"] === undefined || given["confirmations"] === null ? null : whole("confirmations"),
  };
}

/** How far a mined transaction is. Its own block is the first confirmation, so the meter's depth asks for one more. */
export function confirmationWords(confirmations: bigint, depth: bigint | null): string {
  if (depth === null) return `${confirmations} ${confirmations === 1n ? "confirmation" : "confirmations"}. The meter credits it once the chain calls it final.`;
  const needed = depth + 1n;
  const reached = confirmations < needed ? confirmations : needed;
  return `${reached} of ${needed} ${needed === 1n ? "confirmation" : "confirmations"}. ${reached < needed ? "The meter credits it then." : "The meter is about to credit it."}`;
}

const EXPLORERS: Readonly<Record<string, { name: string; explorer: string }>> = {
  "1": { name: "Ethereum", explorer: "https://etherscan.io" },
  "10": { name: "OP Mainnet", explorer: "https://optimistic.etherscan.io" },
  "8453": { name: "Base", explorer: "https://basescan.org" },
  "42161": { name: "Arbitrum One", explorer: "https://arbiscan.io" },
  "84532": { name: "Base Sepolia", explorer: "https://sepolia.basescan.org" },
  "11155111": { name: "Sepolia", explorer: "https://sepolia.etherscan.io" },
  "31337": { name: "Local test chain", explorer: "" },
};

/** A chain's name for people. */
export const chainName = (chainId: bigint): string => EXPLORERS[String(chainId)]?.name ?? `Chain ${chainId}`;

/** A transaction's page at the chain's explorer; null where there is none. */
export function explorerLink(chainId: bigint, hash: string): string | null {
  const known = EXPLORERS[String(chainId)];
  return known?.explorer ? `${known.explorer}/tx/${hash}` : null;
}
