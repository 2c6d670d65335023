// The deposit from the wallet to the credited balance. Each step's state has its words; a reload goes on by the kept hash.

import { emit } from "../app/events";
import { session } from "../session.svelte";
import { token } from "../wallet/abi";
import { callData } from "../wallet/chain";
import type { Deployment } from "../wallet/deployment";
import { codeOf, walletProblem } from "../wallet/errors";
import { creditsDomain } from "../wallet/typed";
import type { Hex } from "../wallet/typed";
import { wallet } from "../wallet/wallet.svelte";
import { authorizationOf } from "./authorization";
import type { Terms } from "./authorization";
import { depositData, isCredited, sameTerms } from "./deposit-call";
import type { Permit, Signed } from "./deposit-call";
import { readFacts } from "./deposit-facts";
import type { Facts } from "./deposit-facts";
import { permitParts, planOf } from "./deposit-plan";
import type { DepositPlan, Prompt } from "./deposit-plan";
import { forgetPending, keepPending, keptPending } from "./pending";
import type { PendingDeposit } from "./pending";
import { permitMessage } from "./permit";
import { PlainProblem, problemText } from "./problem";
import { revertData } from "./revert";
import { badEnd, LOOKS_UNTIL_DROPPED, pause, POLL_MS, sentTransaction } from "./transaction.svelte";
import { lookAt } from "./watch";
import type { Fate } from "./watch";
import { weiOfCredits } from "./wei";

export type DepositStage =
  | { readonly at: "wallet" }
  | { readonly at: "chain" }
  | { readonly at: "reading" }
  | { readonly at: "amount" }
  | { readonly at: "asking"; readonly prompt: Prompt; readonly number: number; readonly of: number }
  | { readonly at: "approving"; readonly hash: Hex }
  | { readonly at: "sent"; readonly pending: PendingDeposit; readonly confirmations: bigint; readonly unreachable: boolean }
  | { readonly at: "credited"; readonly amount: bigint }
  | { readonly at: "failed"; readonly text: string };

/** A kept signature with less time left than this is asked for again, seconds. */
const SIGNATURE_LEFT_MIN_S = 120n;
const ZERO_WORD: Hex = `0x${"0".repeat(64)}`;
/** Codes of wallets that don't have a method. */
const UNSUPPORTED = [4200, -32601, -32004];
const INSUFFICIENT_ALLOWANCE = "0xfb8f41b2";

const CHANGED = "The wallet changed its account or its chain meanwhile. Nothing more was asked for. Start again.";

const nowS = (): bigint => BigInt(Math.floor(Date.now() / 1000));

export class DepositFlow {
  stage = $state.raw<DepositStage>({ at: "wallet" });
  facts = $state.raw<Facts | null>(null);
  #life = 0;
  #signed: Signed | null = null;
  /** Who deposits. */
  #owner: Hex | null = null;
  /** This wallet refused to make a permit, or the token did not take it. */
  #noPermit = false;

  /** Goes on with a deposit that a reload interrupted. */
  async resume(): Promise<void> {
    const deployment = await wallet.loadDeployment();
    const kept = keptPending(deployment.chainId, deployment.credits);
    if (kept !== null) await this.#watch(kept);
    else await this.advance();
  }

  /** The step that the wallet's state asks for. Leaves a deposit that is under way alone. */
  async advance(): Promise<void> {
    if (this.stage.at === "asking" && this.#isAnother) {
      this.#life += 1;
      this.stage = { at: "failed", text: CHANGED };
      return;
    }
    if (["asking", "approving", "sent", "credited"].includes(this.stage.at)) return;
    // A failure stays until somebody has read it.
    if (this.stage.at === "failed" && wallet.owner === null) return;
    if (wallet.owner === null) this.stage = { at: "wallet" };
    else if (!wallet.onRightChain) this.stage = { at: "chain" };
    else await this.#read();
  }

  /** The wallet is not what it was when this began. Half of the signatures would be another account's. */
  get #isAnother(): boolean {
    return wallet.owner !== this.#owner || !wallet.onRightChain;
  }

  async #read(): Promise<void> {
    const life = ++this.#life;
    this.stage = { at: "reading" };
    try {
      const facts = await readFacts(wallet.chain, await wallet.loadDeployment(), wallet.owner);
      if (life !== this.#life) return;
      this.facts = facts;
      this.stage = { at: "amount" };
    } catch (error) {
      if (life === this.#life) this.stage = { at: "failed", text: problemText(error) };
    }
  }

  /** What the wallet would ask for. */
  plan(amount: bigint, authorizes: boolean): DepositPlan | null {
    const { facts } = this;
    if (facts === null) return null;
    return planOf({ amount, ...facts, canPermit: facts.permit !== null && !this.#noPermit, authorizes, signsIn: !wallet.isSessionOwner });
  }

  /** Deposits; with `terms` a new authorization goes along. Ends in `credited` or in `failed` with the reason. */
  async run(amount: bigint, terms: Terms | null): Promise<void> {
    const life = ++this.#life;
    this.#owner = wallet.owner;
    try {
      const pending = await this.#send(amount, terms, life);
      if (pending === null || life !== this.#life) return;
      keepPending(pending);
      await this.#watch(pending);
    } catch (error) {
      if (life === this.#life) this.stage = { at: "failed", text: problemText(error) };
    }
  }

  /** Null when the person gave up meanwhile. */
  async #send(amount: bigint, terms: Terms | null, life: number): Promise<PendingDeposit | null> {
    const deployment = await wallet.loadDeployment();
    const plan = this.plan(amount, terms !== null);
    if (plan === null) throw new Error("the wallet's balance was not read yet; try again");
    const ask = (prompt: Prompt): void => {
      this.stage = { at: "asking", prompt, number: plan.prompts.indexOf(prompt) + 1, of: plan.prompts.length };
    };
    let signed: Signed | null = null;
    if (terms !== null) {
      ask("authorization");
      signed = await this.#authorization(terms, deployment);
    } else if (plan.prompts.includes("sign_in")) {
      ask("sign_in");
      await wallet.signIn();
    }
    if (life !== this.#life) return null;
    if (this.#isAnother) throw new PlainProblem(CHANGED);

    let permit: Permit | null = null;
    if (plan.route === "permit") {
      ask("permit");
      permit = await this.#permit(amount, deployment);
      // The wallet can't: the same deposit goes on with an approval, without a word from the person.
      if (permit === null) return this.#send(amount, terms, life);
    } else if (plan.route === "approve") {
      ask("approval");
      await this.#approve(amount, deployment, life);
    }
    if (life !== this.#life) return null;
    if (this.#isAnother) throw new PlainProblem(CHANGED);

    ask("transaction");
    const data = depositData(amount, permit, signed);
    let hash: Hex;
    try {
      hash = await wallet.send(deployment.credits, data);
    } catch (error) {
      if (permit === null || !(revertData(error)?.startsWith(INSUFFICIENT_ALLOWANCE) ?? false)) throw error;
      this.#noPermit = true;
      return this.#send(amount, terms, life);
    }
    const sent = await sentTransaction(deployment.credits, data, hash);
    return { ...sent, chainId: deployment.chainId, amount };
  }

  /** The signed authorization. Its signature opens the session where there is none; a retry does not ask again. */
  async #authorization(terms: Terms, deployment: Deployment): Promise<Signed> {
    const { owner } = wallet;
    if (owner === null) throw new Error("no wallet is connected");
    const account = this.facts?.account ?? null;
    const kept = this.#signed;
    const isGood =
      kept !== null && sameTerms(kept.terms, terms) && kept.authorization.owner === owner && kept.authorization.nonce === BigInt(account?.authNonce ?? 0) &&
      kept.authorization.signDeadline > nowS() + SIGNATURE_LEFT_MIN_S && wallet.isSessionOwner;
    if (isGood) return kept;

    const given = wallet.isSessionOwner ? null : await wallet.challenge();
    const authorization = authorizationOf(terms, owner, given?.challenge ?? ZERO_WORD, account, nowS());
    const fields = Object.fromEntries(Object.entries(authorization).map(([name, value]) => [name, String(value)]));
    const signature = await wallet.sign("SpendAuthorization", fields, creditsDomain(deployment));
    if (given !== null) await wallet.openSession({ secret: given.secret, authorization: fields, signature });
    this.#signed = { terms, authorization, signature };
    return this.#signed;
  }

  /** A permit for exactly the amount; null when this wallet can't make one that the token takes. */
  async #permit(amount: bigint, deployment: Deployment): Promise<Permit | null> {
    const { owner, chain } = wallet;
    const domain = this.facts?.permit ?? null;
    if (owner === null || domain === null) return null;
    const message = await permitMessage(chain, deployment, owner, weiOfCredits(amount), nowS());
    try {
      const parts = permitParts(await wallet.sign("Permit", message, domain));
      if (parts !== null) return { ...parts, deadline: BigInt(message.deadline ?? 0n) };
    } catch (error) {
      const isUnsupported = walletProblem(error).code === "unsupported" || UNSUPPORTED.includes(codeOf(error) ?? 0);
      if (!isUnsupported) throw error;
    }
    this.#noPermit = true;
    return null;
  }

  async #approve(amount: bigint, deployment: Deployment, life: number): Promise<void> {
    const data = callData(token.approve, [deployment.credits, weiOfCredits(amount)]);
    const sent = await sentTransaction(deployment.prlx, data, await wallet.send(deployment.prlx, data));
    this.stage = { at: "approving", hash: sent.hash };
    for (let missing = 0; life === this.#life; await pause(POLL_MS)) {
      const fate = await lookAt(wallet.chain, sent).catch((): Fate => ({ kind: "waiting" }));
      if (fate.kind === "mined" || fate.kind === "sped_up") return;
      missing = fate.kind === "dropped" ? missing + 1 : 0;
      const text = badEnd(fate);
      if (text !== null && (fate.kind !== "dropped" || missing >= LOOKS_UNTIL_DROPPED)) throw new PlainProblem(text);
    }
  }

  /** Follows a sent deposit until the meter has credited it, or until it can't be any more. */
  async #watch(given: PendingDeposit): Promise<void> {
    const life = ++this.#life;
    let pending = given;
    let confirmations = 0n;
    this.stage = { at: "sent", pending, confirmations, unreachable: false };
    for (let missing = 0; life === this.#life; await pause(POLL_MS)) {
      let fate: Fate;
      try {
        fate = await lookAt(wallet.chain, pending);
      } catch {
        // A chain that can't be asked is "unknown": the deposit is neither done nor lost.
        if (life === this.#life) this.stage = { at: "sent", pending, confirmations, unreachable: true };
        continue;
      }
      if (life !== this.#life) return;
      missing = fate.kind === "dropped" ? missing + 1 : 0;
      const text = badEnd(fate);
      if (text !== null && (fate.kind !== "dropped" || missing >= LOOKS_UNTIL_DROPPED)) {
        forgetPending();
        this.stage = { at: "failed", text };
        return;
      }
      if (fate.kind === "sped_up") {
        pending = { ...pending, hash: fate.hash };
        keepPending(pending);
      }
      if (fate.kind === "mined") {
        ({ confirmations } = fate);
        if (await isCredited(pending, fate)) return this.#credited(pending);
      }
      if (life === this.#life) this.stage = { at: "sent", pending, confirmations, unreachable: false };
    }
  }

  async #credited(pending: PendingDeposit): Promise<void> {
    forgetPending();
    this.#signed = null;
    this.stage = { at: "credited", amount: pending.amount };
    if (wallet.isSessionOwner) wallet.happened({ kind: "authorised" });
    await session.refresh();
    emit("credits-changed", undefined);
  }

  /** Gives up waiting for the wallet, or starts over after an end. A sent transaction goes on by itself and is found again. */
  async restart(): Promise<void> {
    this.#life += 1;
    this.stage = { at: "wallet" };
    try {
      await this.resume();
    } catch (error) {
      this.stage = { at: "failed", text: problemText(error) };
    }
  }

  /** Nobody looks any more: stop asking. The kept hash resumes it. */
  stop(): void {
    this.#life += 1;
  }
}
