/** Stopping and starting the network's nodes, as power cuts and operators do. */

import { spawn } from "node:child_process";
import { openSync, readFileSync, writeFileSync } from "node:fs";

import { facts } from "./facts";
import type { NodeFacts } from "./facts";
import { eventually } from "./wait";

export const registered: NodeFacts[] = facts.nodes.filter((node) => !node.fallback);
export const fallback: NodeFacts | undefined = facts.nodes.find((node) => node.fallback);

function signal(pid: number, name: string): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended already.
  }
}

const pidOf = (node: NodeFacts): number => Number(readFileSync(node.pidFile, "utf8").trim());

/** The power is cut. */
export function kill(node: NodeFacts): void {
  signal(pidOf(node), "SIGKILL");
}

/** The machine stands still, with its connections open. */
export function freeze(node: NodeFacts): void {
  signal(pidOf(node), "SIGSTOP");
}

export function thaw(node: NodeFacts): void {
  signal(pidOf(node), "SIGCONT");
}

/** Starts a node that was killed, and waits until it serves. */
export async function revive(node: NodeFacts): Promise<void> {
  const log = openSync(node.log, "a");
  const child = spawn(node.binary, ["run", "--config", node.config], { cwd: node.folder, stdio: ["ignore", log, log] });
  if (child.pid === undefined) throw new Error(`${node.name} could not be started from ${node.binary}`);
  writeFileSync(node.pidFile, String(child.pid));
  // By this one it is ended with the network, whose own list knows only the process that died.
  writeFileSync(node.pidFile.replace(/\.pid$/, ".revived.pid"), String(child.pid));
  await ready(node);
}

async function ready(node: NodeFacts): Promise<void> {
  await eventually(`${node.name} to be ready`, async () => (await fetch(`http://127.0.0.1:${node.adminPort}/readyz`).catch(() => null))?.status === 200);
}
