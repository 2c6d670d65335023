// @vitest-environment jsdom
import { describe, expect, it } from "vitest";

import { discover, lastUsedFirst, walletFrom } from "../src/wallet/discovery";
import type { FoundWallet } from "../src/wallet/discovery";
import { confirmationWords, readDeployment } from "../src/wallet/deployment";
import { codeOf, walletProblem } from "../src/wallet/errors";
import { step } from "../src/wallet/machine";
import type { WalletEvent, WalletState } from "../src/wallet/machine";

const provider = { request: () => Promise.resolve(null) };
const info = { uuid: "1", rdns: "io.example", name: "Example", icon: "data:image/png;base64,AA" };
const A = "0xAAAAaaaaAAAAaaaaAAAAaaaaAAAAaaaaAAAAaaaa";
const B = "0xBBBBbbbbBBBBbbbbBBBBbbbbBBBBbbbbBBBBbbbb";

describe("discovery", () => {
  it("takes an announcement and no look-alike of one", () => {
    expect(walletFrom({ info, provider })).toMatchObject({ key: "io.example 1", name: "Example" });
    for (const bad of [null, {}, { info }, { info, provider: {} }, { provider, info: { name: "x" } }]) expect(walletFrom(bad)).toBeNull();
  });

  it("shows an icon only as a data image", () => {
    for (const icon of ["https://evil.example/x.png", "javascript:alert(1)", "data:text/html,x", "data:image/png;base64," + "A".repeat(200_000), 7]) {
      expect(walletFrom({ info: { ...info, icon }, provider })?.icon).toBeNull();
    }
  });

  it("lists each wallet once, asks for announcements, and stops hearing", () => {
    const lists: number[] = [];
    let asked = 0;
    window.addEventListener("eip6963:requestProvider", () => (asked += 1));
    const stop = discover((wallets) => lists.push(wallets.length));
    const announce = (uuid: string) => window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail: { info: { ...info, uuid }, provider } }));
    announce("1");
    announce("1");
    announce("2");
    stop();
    announce("3");
    expect(asked).toBe(1);
    expect(lists).toEqual([0, 1, 2]);
  });

  it("falls back to window.ethereum under a plain name, and only alone", () => {
    (window as { ethereum?: unknown }).ethereum = provider;
    let wallets: readonly FoundWallet[] = [];
    const stop = discover((list) => (wallets = list));
    expect(wallets.map(({ name }) => name)).toEqual(["Browser wallet"]);
    window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail: { info, provider } }));
    expect(wallets.map(({ name }) => name)).toEqual(["Example"]);
    stop();
    delete (window as { ethereum?: unknown }).ethereum;
  });

  it("puts the wallet used last first", () => {
    const of = (rdns: string): FoundWallet => ({ key: rdns, rdns, name: rdns, icon: null, provider });
    expect(lastUsedFirst([of("a"), of("b"), of("c")], "c").map(({ rdns }) => rdns)).toEqual(["c", "a", "b"]);
  });
});

describe("errors", () => {
  it.each([
    [{ code: 4001 }, "rejected"],
    [{ code: 4902 }, "unknown_chain"],
    [{ code: -32002 }, "already_asking"],
    [{ code: -32603, data: { originalError: { code: 4001 } } }, "rejected"],
    [{ message: "x", cause: { code: 4100 } }, "not_allowed"],
    [new Error("insufficient funds for gas * price + value"), "no_gas"],
    [new Error("The total cost (gas * gas fee + value) of executing this transaction exceeds the balance of the account."), "no_gas"],
    [new Error("boom"), "failed"],
    [new Error("The wallet's own sentence."), "failed"],
    ["text", "failed"],
    [null, "failed"],
  ])("%j is %s", (error, code) => {
    expect(walletProblem(error).code).toBe(code);
    expect(walletProblem(error).text).toMatch(/[^.]\.$/);
    expect(walletProblem(error).text).not.toContain("..");
  });

  it("does not walk a circle of causes for ever", () => {
    const error: { cause?: unknown } = {};
    error.cause = error;
    expect(codeOf(error)).toBeUndefined();
  });
});

describe("machine", () => {
  const connected: WalletState = { step: "connected", wallet: "W", owner: A, chainId: 1n, problem: null };
  const signedIn: WalletState = { step: "signedIn", wallet: "W", owner: A, chainId: 1n };
  const authorised: WalletState = { ...signedIn, step: "authorised" };
  const run = (events: WalletEvent[], from: WalletState = { step: "none" }) => events.reduce((state, event) => step(state, event, 1).state, from);

  it("goes the whole way", () => {
    const way: WalletEvent[] = [{ kind: "found", count: 1 }, { kind: "connect", wallet: "W" }, { kind: "accepted", owner: A, chainId: 1n }, { kind: "signedIn" }, { kind: "authorised" }];
    const steps = way.map((_, index) => run(way.slice(0, index + 1)).step);
    expect(steps).toEqual(["discovered", "connecting", "connected", "signedIn", "authorised"]);
  });

  it.each([signedIn, authorised])("ends the session of $step on another account, another chain and a lock", (state) => {
    expect(step(state, { kind: "accountsChanged", accounts: [B] }, 1)).toMatchObject({ endSession: true, state: { step: "connected", owner: B } });
    expect(step(state, { kind: "accountsChanged", accounts: [] }, 1)).toMatchObject({ endSession: true, state: { step: "discovered" } });
    expect(step(state, { kind: "chainChanged", chainId: 2n }, 1)).toMatchObject({ endSession: true, state: { step: "connected", chainId: 2n } });
    expect(step(state, { kind: "disconnected" }, 1)).toMatchObject({ endSession: true, state: { step: "discovered" } });
    expect(step(state, { kind: "connect", wallet: "other" }, 1).endSession).toBe(true);
  });

  it("stays where nothing changed", () => {
    expect(step(signedIn, { kind: "accountsChanged", accounts: [A.toLowerCase()] }, 1)).toEqual({ state: signedIn, endSession: false });
    expect(step(signedIn, { kind: "chainChanged", chainId: 1n }, 1)).toEqual({ state: signedIn, endSession: false });
    expect(step(signedIn, { kind: "found", count: 3 }, 3).state).toBe(signedIn);
    expect(step({ step: "none" }, { kind: "signedIn" }, 0).state).toEqual({ step: "none" });
    expect(step(connected, { kind: "accepted", owner: B, chainId: 9n }, 1).state).toBe(connected);
  });

  it("ends no session that was not begun", () => {
    expect(step(connected, { kind: "accountsChanged", accounts: [B] }, 1)).toMatchObject({ endSession: false, state: { owner: B, problem: null } });
    expect(step(connected, { kind: "chainChanged", chainId: 2n }, 1).endSession).toBe(false);
  });

  it("takes a refusal back to where one can choose again", () => {
    const problem = walletProblem({ code: 4001 });
    expect(step({ step: "connecting", wallet: "W" }, { kind: "failed", problem }, 2).state).toEqual({ step: "discovered", count: 2, problem });
    expect(step({ step: "connecting", wallet: "W" }, { kind: "failed", problem }, 0).state).toEqual({ step: "none" });
  });
});

describe("deployment", () => {
  const good = { chainId: 1, prlx: A, credits: A, settlement: A, registry: A, settler: A, exitDelay: 3600, velocityWindow: 60 };
  it("reads the file and names what is wrong with another", () => {
    expect(readDeployment(good)).toMatchObject({ chainId: 1n, exitDelayS: 3600n, confirmations: null });
    expect(readDeployment({ ...good, confirmations: 3 }).confirmations).toBe(3n);
    expect(readDeployment({ ...good, confirmations: null }).confirmations).toBeNull();
  });

  it("counts confirmations as the meter does: the block itself, and those that must lie above it", () => {
    expect([1n, 3n, 4n, 9n].map((seen) => confirmationWords(seen, 3n))).toEqual([
      "1 of 4 confirmations. The meter credits it then.",
      "3 of 4 confirmations. The meter credits it then.",
      "4 of 4 confirmations. The meter is about to credit it.",
      "4 of 4 confirmations. The meter is about to credit it.",
    ]);
    expect(confirmationWords(1n, 0n)).toBe("1 of 1 confirmation. The meter is about to credit it.");
    expect(confirmationWords(1n, null)).toBe("1 confirmation. The meter credits it once the chain calls it final.");
    expect(() => readDeployment({ ...good, credits: "0x12" })).toThrow(/credits/);
    expect(() => readDeployment({ ...good, chainId: 2 ** 60 })).toThrow(/chainId/);
    expect(() => readDeployment(null)).toThrow(/deployment/);
  });
});
