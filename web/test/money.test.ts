import { encodeErrorResult } from "viem/utils";
import { describe, expect, it } from "vitest";

import { authorizationOf, defaultTerms, inWords, isSpendable, whyNot } from "../src/money/authorization";
import { creditRows } from "../src/money/credit-rows";
import { permitParts, planOf, PROMPTS_MAX, shareDown, whyNotDeposit } from "../src/money/deposit-plan";
import { holdingsOf, readClearance, waitWords } from "../src/money/holdings";
import { keepPending, keptPending, readPending } from "../src/money/pending";
import type { PendingDeposit } from "../src/money/pending";
import { revertData, revertWords, whyReverted } from "../src/money/revert";
import { lookAt } from "../src/money/watch";
import { coinUp, creditsOfWeiDown, weiOfCredits } from "../src/money/wei";
import { errors } from "../src/wallet/abi";
import type { ChainSource, VaultAccount } from "../src/wallet/chain";
import type { Hex } from "../src/wallet/typed";

const PRLX = 1_000_000_000n;
const NOW = 1_800_000_000n;
const EXIT = 3_600n;
const OWNER: Hex = `0x${"11".repeat(20)}`;
const VAULT: Hex = `0x${"22".repeat(20)}`;
const HASH: Hex = `0x${"33".repeat(32)}`;

const account = (changes: Partial<VaultAccount> = {}): VaultAccount => ({
  id: 7, settled: 2n * PRLX, limit: 10n * PRLX, exposure: PRLX, settleDeadline: NOW + 10n * 86_400n + EXIT, netDeposited: 12n * PRLX,
  authorizedCum: 10n * PRLX, authNonce: 3, free: 9n * PRLX, locked: PRLX, ...changes,
});

describe("authorization", () => {
  it("has defaults that are never zero and can always be signed", () => {
    for (const balance of [0n, 1n, PRLX, 10n ** 18n, 2n ** 63n - 1n]) {
      for (const held of [null, account(), account({ exposure: 2n ** 47n, authorizedCum: 2n ** 62n }), account({ settleDeadline: NOW - 1n })]) {
        const terms = defaultTerms(balance, held, EXIT, NOW);
        expect(terms.cap > 0n && terms.exposure > 0n && terms.days > 0).toBe(true);
        expect(whyNot(terms, held, EXIT, NOW), `${balance}`).toBeNull();
      }
    }
  });

  it("refuses what could spend nothing, and what the vault would refuse", () => {
    const terms = { cap: 20n * PRLX, exposure: 2n * PRLX, days: 30 };
    expect(whyNot(terms, account(), EXIT, NOW)).toBeNull();
    expect(whyNot({ ...terms, cap: 0n }, null, EXIT, NOW)).toMatch(/cap is zero/);
    expect(whyNot({ ...terms, exposure: 0n }, null, EXIT, NOW)).toMatch(/every message would be refused/);
    expect(whyNot({ ...terms, exposure: 30n * PRLX }, null, EXIT, NOW)).toMatch(/above the cap/);
    expect(whyNot({ ...terms, exposure: 1n << 48n, cap: 1n << 50n }, null, EXIT, NOW)).toMatch(/at most/);
    expect(whyNot({ ...terms, days: 0 }, null, EXIT, NOW)).toMatch(/1 to 365/);
    expect(whyNot({ ...terms, days: 1.5 }, null, EXIT, NOW)).toMatch(/1 to 365/);
    // While one is in force, each of the three may only grow.
    expect(whyNot({ ...terms, exposure: PRLX / 2n }, account(), EXIT, NOW)).toMatch(/can only grow/);
    expect(whyNot({ ...terms, cap: 7n * PRLX }, account(), EXIT, NOW)).toMatch(/can only grow/);
    expect(whyNot({ ...terms, days: 5 }, account(), EXIT, NOW)).toMatch(/only grow/);
    expect(whyNot({ ...terms, cap: 7n * PRLX, days: 5 }, account({ settleDeadline: NOW - 1n }), EXIT, NOW)).toBeNull();
  });

  it("is signed with the account's nonce and a short deadline, and said in words", () => {
    const terms = { cap: 20n * PRLX, exposure: 2n * PRLX, days: 30 };
    expect(authorizationOf(terms, OWNER, HASH, account(), NOW)).toEqual({ owner: OWNER, cap: 20n * PRLX, exposure: 2n * PRLX, validUntil: NOW + 2_592_000n, challenge: HASH, nonce: 3n, signDeadline: NOW + 600n });
    expect(inWords(terms, NOW).join(" ")).toMatch(/At most 20 PRLX.*At most 2 PRLX.*2027/s);
  });

  it("counts as spendable only while new spending is possible", () => {
    expect(isSpendable(account(), EXIT, NOW)).toBe(true);
    expect(isSpendable(null, EXIT, NOW)).toBe(false);
    expect(isSpendable(account({ settleDeadline: NOW + EXIT }), EXIT, NOW)).toBe(false);
    expect(isSpendable(account({ authorizedCum: 2n * PRLX }), EXIT, NOW)).toBe(false);
  });
});

describe("the way of a deposit", () => {
  const facts = { amount: PRLX, balanceWei: weiOfCredits(5n * PRLX), allowanceWei: 0n, hasCode: false, canPermit: true, authorizes: true, signsIn: true };

  it("needs at most three prompts to the first paid answer, whatever the wallet can", () => {
    for (const hasCode of [false, true]) for (const canPermit of [false, true]) for (const allowanceWei of [0n, 10n ** 20n]) {
      for (const authorizes of [false, true]) expect(planOf({ ...facts, hasCode, canPermit, allowanceWei, authorizes }).prompts.length).toBeLessThanOrEqual(PROMPTS_MAX);
    }
    expect(planOf(facts)).toEqual({ route: "permit", prompts: ["authorization", "permit", "transaction"] });
  });

  it("falls back to an approval for accounts with code and wallets without permit, and skips both where the allowance is there", () => {
    expect(planOf({ ...facts, hasCode: true }).route).toBe("approve");
    expect(planOf({ ...facts, canPermit: false }).prompts).toEqual(["authorization", "approval", "transaction"]);
    expect(planOf({ ...facts, allowanceWei: weiOfCredits(PRLX) })).toEqual({ route: "allowance", prompts: ["authorization", "transaction"] });
    expect(planOf({ ...facts, allowanceWei: weiOfCredits(PRLX) - 1n }).route).toBe("permit");
    expect(planOf({ ...facts, amount: 0n }).route).toBe("authorize_only");
    expect(planOf({ ...facts, authorizes: false, signsIn: false }).prompts).toEqual(["permit", "transaction"]);
  });

  it("refuses amounts that can't be deposited", () => {
    expect(whyNotDeposit(null, 1n)).toMatch(/nine digits/);
    expect(whyNotDeposit(0n, 1n)).toMatch(/how much/);
    expect(whyNotDeposit(6n * PRLX, facts.balanceWei)).toMatch(/has 5 PRLX/);
    expect(whyNotDeposit(5n * PRLX, facts.balanceWei)).toBeNull();
    expect(shareDown(999_999_999n, 50n)).toBe(0n);
    expect(shareDown(facts.balanceWei, 25n)).toBe(1_250_000_000n);
  });

  it("takes a permit's signature apart, long and short, and no other", () => {
    const [r, s] = ["a".repeat(64), `0${"b".repeat(63)}`];
    expect(permitParts(`0x${r}${s}1c`)).toEqual({ r: `0x${r}`, s: `0x${s}`, v: 28 });
    expect(permitParts(`0x${r}${s}`)).toEqual({ r: `0x${r}`, s: `0x${s}`, v: 27 });
    expect(permitParts(`0x${r}8${s.slice(1)}`)).toEqual({ r: `0x${r}`, s: `0x${s}`, v: 28 });
    expect(permitParts(`0x${"ab".repeat(97)}`)).toBeNull();
    expect(permitParts("0xzz")).toBeNull();
  });
});

describe("wei", () => {
  it("rounds credits down and fees up", () => {
    expect(creditsOfWeiDown(1_999_999_999n)).toBe(1n);
    expect(coinUp(1n)).toBe("0.000001");
    expect(coinUp(10n ** 18n)).toBe("1");
    expect(coinUp(0n)).toBe("0");
  });
});

describe("refusals of the chain", () => {
  const encoded = (errorName: string, args: unknown[]) => encodeErrorResult({ abi: errors, errorName, args });

  it("has words for every error that the page's calls can meet", () => {
    const sample: Record<string, unknown> = { address: OWNER, bytes32: HASH, string: "why", uint256: 5n, uint64: 5n, uint48: 5, uint40: 5, uint32: 5 };
    for (const error of errors) {
      const words = revertWords(encoded(error.name, error.inputs.map(({ type }) => sample[type])));
      expect(words, error.name).toMatch(/\.$/);
    }
    expect(revertWords("0xdeadbeef")).toBeNull();
  });

  it("finds the reason wherever a wallet hides it, with both values", () => {
    const data = encoded("ERC20InsufficientBalance", [OWNER, 2n * 10n ** 18n, 5n * 10n ** 18n]);
    for (const error of [{ data }, { data: { data } }, { cause: { data: { originalError: { data } } } }, { error: { data } }, { data: `Reverted ${data}` }]) {
      expect(whyReverted(error)).toMatch(/has 2 PRLX.*needs 5 PRLX/);
    }
    expect(whyReverted(new Error("execution reverted"))).toBeNull();
    expect(revertData({ data: "0x" })).toBeNull();
  });
});

describe("a deposit under way", () => {
  const pending: PendingDeposit = { chainId: 31337n, to: VAULT, owner: OWNER, hash: HASH, nonce: 4n, data: "0x12345678", amount: 2n ** 60n, fromBlock: 10n };
  const storage = () => {
    const kept = new Map<string, string>();
    return { getItem: (name: string) => kept.get(name) ?? null, setItem: (name: string, value: string) => void kept.set(name, value), removeItem: (name: string) => void kept.delete(name) };
  };

  it("survives a reload exactly, on its own chain and vault only", () => {
    const store = storage();
    keepPending(pending, store);
    expect(keptPending(31337n, VAULT.toUpperCase().replace("0X", "0x"), store)).toEqual(pending);
    expect(keptPending(1n, VAULT, store)).toBeNull();
    expect(keptPending(31337n, OWNER, store)).toBeNull();
    for (const bad of ["", "{}", "null", "[]", '{"chainId":"1"}', "x"]) expect(readPending(bad)).toBeNull();
  });

  const chain = (answers: Record<string, unknown>, kind: ChainSource["kind"] = "wallet"): ChainSource => ({
    kind,
    request: (method) => {
      const answer = answers[method];
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer ?? null);
    },
  });

  it("waits while the network knows it, or while only the meter can be asked", async () => {
    expect(await lookAt(chain({ eth_getTransactionByHash: { hash: HASH } }), pending)).toEqual({ kind: "waiting" });
    expect(await lookAt(chain({}, "meter"), pending)).toEqual({ kind: "waiting" });
  });

  it("is mined with its confirmations", async () => {
    const fate = await lookAt(chain({ eth_getTransactionReceipt: { status: "0x1", blockNumber: "0xa", logs: [] }, eth_blockNumber: "0xc" }), pending);
    expect(fate).toEqual({ kind: "mined", confirmations: 3n, netDeposited: null });
  });

  it("is reverted with the decoded reason", async () => {
    const error = Object.assign(new Error("execution reverted"), { data: encodeErrorResult({ abi: errors, errorName: "ZeroAmount" }) });
    const fate = await lookAt(chain({ eth_getTransactionReceipt: { status: "0x0", blockNumber: "0xa" }, eth_call: error }), pending);
    expect(fate).toEqual({ kind: "reverted", reason: "The amount is zero. Write how much." });
  });

  it("is dropped while its nonce is free", async () => {
    expect(await lookAt(chain({ eth_getTransactionCount: "0x4" }), pending)).toEqual({ kind: "dropped" });
  });

  it("is followed when the wallet raised its fee, and cancelled when something else took its place", async () => {
    const other: Hex = `0x${"44".repeat(32)}`;
    const at = (to: Hex, input: Hex) => chain({ eth_getTransactionCount: "0x5", eth_blockNumber: "0xb", eth_getBlockByNumber: { transactions: [{ hash: other, from: OWNER, to, input, nonce: "0x4" }] } });
    expect(await lookAt(at(VAULT, pending.data), pending)).toEqual({ kind: "sped_up", hash: other });
    expect(await lookAt(at(OWNER, "0x"), pending)).toEqual({ kind: "cancelled", hash: other });
  });

  it("is unknown, not lost, when the chain can't be asked", async () => {
    await expect(lookAt(chain({ eth_getTransactionReceipt: new Error("down") }), pending)).rejects.toThrow("down");
  });
});

describe("holdings", () => {
  it("say what is kept back, why and until when", () => {
    const held = holdingsOf(account(), EXIT, NOW);
    expect(held).toMatchObject({ balance: 10n * PRLX, free: 9n * PRLX, locked: PRLX, canRevoke: true });
    expect(held.until).toMatch(/1 PRLX are kept back.*free after 1 hour/);
    const revoked = holdingsOf(account({ settleDeadline: NOW + 1_800n }), EXIT, NOW);
    expect(revoked.canRevoke).toBe(false);
    expect(revoked.until).toMatch(/at the latest/);
    expect(holdingsOf(account({ locked: 0n, settleDeadline: 0n }), EXIT, NOW)).toMatchObject({ until: null, canRevoke: false });
    expect(waitWords(7_200n)).toBe("2 hours");
    expect(waitWords(90n)).toBe("90 seconds");
  });

  it("read a clearance whole or not at all", () => {
    const clearance = { account: 7, settled: 5, authNonce: 2, deadline: 9 };
    expect(readClearance({ clearance, signature: "0xab" }).clearance).toEqual({ account: 7, settled: 5n, authNonce: 2, deadline: 9n });
    expect(() => readClearance({ clearance: { ...clearance, settled: 2 ** 60 }, signature: "0xab" })).toThrow(/settled/);
    expect(() => readClearance({ clearance })).toThrow(/signature/);
  });
});

describe("the pill's rows", () => {
  const credits = { account: 7, spendable: PRLX, available: 9n * PRLX, held: 0n, unsettled: 0n, pending: 0n, closingUntil: null as number | null, authorization: { exposure: PRLX, room: 8n * PRLX, validUntil: Number(NOW) + 9, settleDeadline: Number(NOW) + 9, nextNonce: 1, live: true } };
  it("say why less can be spent than is there", () => {
    const first = (given: typeof credits | (Omit<typeof credits, "authorization"> & { authorization: null })) => creditRows(given, Number(NOW))[0]?.meaning;
    expect(first(credits)).toMatch(/unsettled limit/);
    expect(first({ ...credits, spendable: 9n * PRLX })).toMatch(/most that one answer/);
    expect(first({ ...credits, authorization: null })).toMatch(/until you sign/);
    expect(first({ ...credits, spendable: 0n, closingUntil: Number(NOW) + 600 })).toMatch(/asked to close the account.*until .*2027/);
    expect(first({ ...credits, authorization: { ...credits.authorization, validUntil: Number(NOW) - 1 } })).toMatch(/is over/);
    expect(first({ ...credits, authorization: { ...credits.authorization, room: PRLX } })).toMatch(/no more room/);
  });
});
