/** What `cargo xtask test --only page` has brought up, and where it is. */

import { readFileSync } from "node:fs";

export interface NodeFacts {
  name: string;
  operator: number;
  address: `0x${string}`;
  fallback: boolean;
  binary: string;
  config: string;
  folder: string;
  pidFile: string;
  log: string;
  adminPort: number;
}

export interface Facts {
  pageUrl: string;
  apiUrl: string;
  meterLog: string;
  rpcUrl: string;
  chainId: number;
  contracts: Record<"prlx" | "credits" | "settlement" | "registry", `0x${string}`>;
  /** An unlocked account of the development chain that holds PRLX. */
  faucet: `0x${string}`;
  model: string;
  modelRate: number;
  /** A second model, dearer, served by the first node alone. */
  twin: { id: string; rate: number };
  exitDelaySeconds: number;
  nodes: NodeFacts[];
  browser: string;
  pictures: string;
}

const VARIABLE = "PARALLELIX_PAGE_FACTS";

function read(): Facts {
  const path = process.env[VARIABLE];
  if (!path) throw new Error(`${VARIABLE} names no file: run the specs by \`cargo xtask test --only page\``);
  return JSON.parse(readFileSync(path, "utf8")) as Facts;
}

export const facts: Facts = read();
