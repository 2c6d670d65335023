// @vitest-environment jsdom
// The whole deposit against a wallet that can be told to misbehave, and a meter that answers as the real one does.

import { domainSeparator } from "viem";
import { decodeFunctionData, encodeFunctionResult, toFunctionSelector } from "viem/utils";
import type { AbiFunction } from "viem";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { DepositFlow } from "../src/money/deposit.svelte";
import { keptPending } from "../src/money/pending";
import { session } from "../src/session.svelte";
import { token, vault } from "../src/wallet/abi";
import type { Hex } from "../src/wallet/typed";
import { wallet } from "../src/wallet/wallet.svelte";

const OWNER: Hex = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
const OTHER: Hex = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
const PRLX: Hex = `0x${"01".repeat(20)}`;
const VAULT: Hex = `0x${"02".repeat(20)}`;
const SIGNATURE: Hex = `0x${"ab".repeat(32)}${"0c".repeat(32)}1b`;
const CREDITS = 1_000_000_000n;
const TERMS = { cap: 20n * CREDITS, exposure: CREDITS, days: 30 };
const deployment = { chainId: 31337, deployBlock: 1, prlx: PRLX, credits: VAULT, settlement: VAULT, registry: VAULT, settler: OWNER, exitDelay: 3600, velocityWindow: 1, feeBps: 0 };

type Refusal = { code: number };

/** A wallet on a chain of its own. */
class Scene {
  prompts: string[] = [];
  sent: { to: Hex; name: string; args: readonly unknown[] }[] = [];
  refuse: (method: string, type: string | null) => Refusal | null = () => null;
  code = "0x";
  allowance = 0n;
  /** Whether the meter's ledger has seen the chain yet. */
  counted = true;
  /** Of an authorization that the ledger has already; null for none. */
  nextNonce: number | null = null;

  #answer(fn: AbiFunction, result: unknown): Hex {
    return encodeFunctionResult({ abi: [fn], functionName: fn.name, result } as Parameters<typeof encodeFunctionResult>[0]);
  }

  #call(data: Hex): Hex {
    const views: [AbiFunction, () => unknown][] = [
      [vault.accountOf, () => 0],
      [token.balanceOf, () => 50n * CREDITS * CREDITS],
      [token.allowance, () => this.allowance],
      [token.name, () => "PRLX"],
      [token.nonces, () => 0n],
      [token.domainSeparator, () => domainSeparator({ domain: { name: "PRLX", version: "1", chainId: 31337, verifyingContract: PRLX } })],
    ];
    const found = views.find(([fn]) => data.startsWith(toFunctionSelector(fn)));
    if (!found) throw new Error(`no view has the selector ${data.slice(0, 10)}`);
    return this.#answer(found[0], found[1]());
  }

  request = ({ method, params }: { method: string; params?: unknown }): Promise<unknown> => {
    const given = (params ?? []) as unknown[];
    const type = method === "eth_signTypedData_v4" ? (JSON.parse(String(given[1])) as { primaryType: string }).primaryType : null;
    if (["eth_signTypedData_v4", "eth_sendTransaction"].includes(method)) this.prompts.push(type ?? "transaction");
    const refusal = this.refuse(method, type);
    if (refusal !== null) return Promise.reject(refusal);
    const answers: Record<string, () => unknown> = {
      eth_requestAccounts: () => [OWNER],
      eth_chainId: () => "0x7a69",
      eth_call: () => this.#call((given[0] as { data: Hex }).data),
      eth_getCode: () => this.code,
      eth_gasPrice: () => "0x1",
      eth_getBalance: () => "0xffffffffffff",
      eth_estimateGas: () => "0x5208",
      eth_signTypedData_v4: () => SIGNATURE,
      eth_sendTransaction: () => this.#send(given[0] as { to: Hex; data: Hex }),
      eth_getTransactionByHash: () => ({ nonce: "0x0" }),
      eth_blockNumber: () => "0x5",
      eth_getTransactionReceipt: () => ({ status: "0x1", blockNumber: "0x5", logs: [] }),
    };
    const answer = answers[method];
    return answer ? Promise.resolve().then(answer) : Promise.reject({ code: -32601 });
  };

  #send({ to, data }: { to: Hex; data: Hex }): Hex {
    const functions = [...Object.values(vault), ...Object.values(token)];
    const { functionName, args } = decodeFunctionData({ abi: functions, data }) as unknown as { functionName: string; args: readonly unknown[] };
    this.sent.push({ to, name: functionName, args });
    if (functionName === "approve") this.allowance = args[1] as bigint;
    return `0x${String(this.sent.length).padStart(64, "0")}`;
  }

  fetch = (path: string, init?: RequestInit): Promise<Response> => {
    const bodies: Record<string, () => unknown> = {
      "/v1/deployment": () => deployment,
      "/v1/session/challenge": () => ({ secret: `0x${"77".repeat(32)}`, challenge: `0x${"66".repeat(32)}`, expires_at: 1 }),
      "/v1/session": () => ({ user: null, wallet: OWNER, account: null, passkeys: 0, expires_at: 1, session_token: "prls_x" }),
      "/v1/credits": () => ({ account: 1, deposited_credits: 0, pending_credits: 0, authorization: { live: this.nextNonce !== null || (this.counted && this.sent.some(({ name }) => name === "depositAndAuthorize")), next_nonce: this.nextNonce ?? 1, exposure_credits: 1, room_credits: 1 } }),
    };
    const body = bodies[path];
    return Promise.resolve(body ? new Response(JSON.stringify(body()), { status: init?.method === "POST" ? 201 : 200 }) : new Response("{}", { status: 404 }));
  };
}

let scene: Scene;
let flow: DepositFlow;

beforeEach(async () => {
  vi.useFakeTimers();
  localStorage.clear();
  scene = new Scene();
  vi.stubGlobal("fetch", scene.fetch);
  wallet.disconnect();
  session.who = null;
  flow = new DepositFlow();
  expect(await wallet.connect({ key: "w", rdns: "w", name: "W", icon: null, provider: scene })).toBe(true);
  await flow.advance();
  expect(flow.stage.at).toBe("amount");
});

afterEach(() => {
  flow.stop();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

/** Runs to an end, past the pauses between looks. */
async function ended(run: Promise<void>): Promise<void> {
  for (let looks = 0; looks < 50 && !["credited", "failed"].includes(flow.stage.at); looks += 1) await vi.advanceTimersByTimeAsync(2_000);
  await run;
}

describe("a deposit", () => {
  it("takes three prompts and one transaction, and opens the session on the way", async () => {
    await ended(flow.run(5n * CREDITS, TERMS));
    expect(flow.stage).toEqual({ at: "credited", amount: 5n * CREDITS });
    expect(scene.prompts).toEqual(["SpendAuthorization", "Permit", "transaction"]);
    expect(scene.sent.map(({ name }) => name)).toEqual(["depositAndAuthorize"]);
    expect(scene.sent[0]?.args[0]).toBe(5n * CREDITS);
    expect(keptPending(31337n, VAULT)).toBeNull();
  });

  it("falls back by itself to an approval when the wallet can't sign a permit", async () => {
    scene.refuse = (_, type) => (type === "Permit" ? { code: 4200 } : null);
    await ended(flow.run(5n * CREDITS, TERMS));
    expect(flow.stage.at).toBe("credited");
    expect(scene.prompts).toEqual(["SpendAuthorization", "Permit", "transaction", "transaction"]);
    expect(scene.sent.map(({ name, to }) => [name, to])).toEqual([["approve", PRLX], ["depositAndAuthorize", VAULT]]);
    expect(scene.sent[0]?.args).toEqual([VAULT, 5n * CREDITS * CREDITS]);
  });

  it("asks an account with code for an approval at once", async () => {
    scene.code = "0xef0100";
    await flow.restart();
    await ended(flow.run(5n * CREDITS, TERMS));
    expect(scene.prompts).toEqual(["SpendAuthorization", "transaction", "transaction"]);
  });

  it("says what a refusal was, and a second try does not ask for the authorization again", async () => {
    scene.refuse = (method) => (method === "eth_sendTransaction" ? { code: 4001 } : null);
    await ended(flow.run(5n * CREDITS, TERMS));
    expect(flow.stage).toMatchObject({ at: "failed", text: expect.stringMatching(/declined/) });
    expect(scene.sent).toEqual([]);

    scene.refuse = () => null;
    scene.prompts = [];
    await flow.restart();
    await ended(flow.run(5n * CREDITS, TERMS));
    expect(flow.stage.at).toBe("credited");
    expect(scene.prompts).toEqual(["Permit", "transaction"]);
  });

  it("stops when the account changes half-way, before anything is sent", async () => {
    scene.refuse = (_, type) => {
      if (type === "Permit") wallet.happened({ kind: "accountsChanged", accounts: [OTHER] });
      return null;
    };
    await ended(flow.run(5n * CREDITS, TERMS));
    expect(flow.stage).toMatchObject({ at: "failed", text: expect.stringMatching(/changed its account/) });
    expect(scene.sent).toEqual([]);
  });

  it("of nothing, which renews the authorization, is over when the meter knows the new one and not just the old one", async () => {
    scene.nextNonce = 0;
    const run = flow.run(0n, TERMS);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(flow.stage).toMatchObject({ at: "sent", confirmations: 1n });
    scene.nextNonce = 1;
    await ended(run);
    expect(flow.stage).toEqual({ at: "credited", amount: 0n });
    expect(scene.sent.map(({ name }) => name)).toEqual(["authorize"]);
  });

  it("is found again after a reload", async () => {
    scene.counted = false;
    const run = flow.run(5n * CREDITS, TERMS);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(flow.stage).toMatchObject({ at: "sent", confirmations: 1n });
    flow.stop();
    await vi.advanceTimersByTimeAsync(2_000);
    await run;

    scene.counted = true;
    const reloaded = new DepositFlow();
    const resumed = reloaded.resume();
    await vi.advanceTimersByTimeAsync(10_000);
    await resumed;
    expect(reloaded.stage).toEqual({ at: "credited", amount: 5n * CREDITS });
    expect(scene.sent.length).toBe(1);
  });
});
