/** What can become of a deposit that was sent: sped up, cancelled, dropped, refused by the chain; and one that could not be sent at all. */

import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { createWalletClient, isAddressEqual } from "viem";
import type { Hex, Transaction } from "viem";

import { browser, useBrowser } from "./browser";
import { CREDITS_PER_PRLX, WEI_PER_CREDIT, chain, development, prlxWei, reader, token, transport, vaultCredits } from "./chain";
import { facts } from "./facts";
import { askForDeposit, awaitCredited, connectForDeposit, problem } from "./flows";
import { eventually } from "./wait";
import { visiting } from "./visits";
import { TestWallet } from "./wallet";

const PRLX_WEI = CREDITS_PER_PRLX * WEI_PER_CREDIT;
const GWEI = 10n ** 9n;

useBrowser();

/** Somebody with a wallet whose deposit of 10 PRLX was sent while no block is made; `work` gets the transaction, and blocks are made again after it. */
async function sent(
  work: (wallet: TestWallet, page: Page, transaction: Transaction) => Promise<void>,
  afterwards: (wallet: TestWallet, page: Page) => Promise<void>,
  before: (wallet: TestWallet) => Promise<void> = async () => {},
): Promise<void> {
  const wallet = await TestWallet.create();
  await before(wallet);
  await visiting(
    browser,
    null,
    async ({ page }) => {
      await connectForDeposit(page);
      await development.setIntervalMining({ interval: 0 });
      try {
        await askForDeposit(page, "10");
        await page.getByRole("heading", { name: "The deposit is on its way" }).waitFor();
        await work(wallet, page, await pendingOf(wallet));
      } finally {
        await development.setIntervalMining({ interval: 1 });
      }
      await afterwards(wallet, page);
    },
    { place: "#/deposit", prepare: (context) => wallet.install(context) },
  );
}

async function pendingOf(wallet: TestWallet): Promise<Transaction> {
  const hash = await eventually("the deposit to be in the pool", async () => {
    const { pending } = await development.getTxpoolContent();
    const [, own] = Object.entries(pending).find(([owner]) => isAddressEqual(owner as Hex, wallet.account.address)) ?? [];
    return Object.values(own ?? {})[0]?.hash;
  });
  return reader.getTransaction({ hash });
}

const client = (wallet: TestWallet) => createWalletClient({ account: wallet.account, chain, transport: transport() });
/** More than twice what the wallet offered, so that it takes the other's place. */
const dearer = ({ maxFeePerGas, maxPriorityFeePerGas }: Transaction) => ({ maxFeePerGas: (maxFeePerGas ?? GWEI) * 3n, maxPriorityFeePerGas: (maxPriorityFeePerGas ?? GWEI) * 3n });

/** Everything is where it was before. */
async function nothingMoved(wallet: TestWallet): Promise<void> {
  expect(await vaultCredits(wallet.account.address)).toBe(0n);
  expect(await prlxWei(wallet.account.address)).toBe(100n * PRLX_WEI);
}

/** After the end, nothing is kept of the deposit, and another one goes through. */
async function triedAgain(wallet: TestWallet, page: Page): Promise<void> {
  expect(await page.evaluate(() => localStorage.getItem("parallelix.deposit"))).toBe(null);
  await page.getByRole("button", { name: "Try again" }).click();
  await askForDeposit(page, "5");
  await awaitCredited(page, "5");
  expect(await vaultCredits(wallet.account.address)).toBe(5n * CREDITS_PER_PRLX);
}

test("a deposit whose fee was raised in the wallet is followed under its new hash, and counts once", () => {
  let raised: Hex;
  return sent(
    async (wallet, _, first) => {
      raised = await client(wallet).sendTransaction({ to: first.to, data: first.input, nonce: first.nonce, gas: first.gas, ...dearer(first) });
      expect(raised).not.toBe(first.hash);
    },
    async (wallet, page) => {
      await awaitCredited(page, "10");
      expect((await reader.getTransactionReceipt({ hash: raised })).status).toBe("success");
      expect(await vaultCredits(wallet.account.address)).toBe(10n * CREDITS_PER_PRLX);
      expect(await prlxWei(wallet.account.address)).toBe(90n * PRLX_WEI);
      expect(wallet.asked.filter((name) => name === "eth_sendTransaction").length).toBe(1);
    },
  );
});

test("a deposit whose fee was raised while the page was reloaded is found by its wallet, and counts once", () =>
  sent(
    async (wallet, page, first) => {
      await page.reload();
      await page.getByText("If you sped it up or cancelled it in the wallet, connect the wallet").waitFor();
      await client(wallet).sendTransaction({ to: first.to, data: first.input, nonce: first.nonce, gas: first.gas, ...dearer(first) });
    },
    async (wallet, page) => {
      await eventually("the raised deposit to be in a block", async () => (await vaultCredits(wallet.account.address)) === 10n * CREDITS_PER_PRLX);
      await page.getByRole("button", { name: "Test Wallet" }).click();
      await awaitCredited(page, "10");
      expect(await vaultCredits(wallet.account.address)).toBe(10n * CREDITS_PER_PRLX);
      expect(await prlxWei(wallet.account.address)).toBe(90n * PRLX_WEI);
      expect(wallet.asked.filter((name) => name === "eth_sendTransaction").length).toBe(1);
    },
  ));

test("a deposit that was cancelled in the wallet is named so, moved nothing, and can be made again", () =>
  sent(
    async (wallet, _, first) => {
      await client(wallet).sendTransaction({ to: wallet.account.address, value: 0n, nonce: first.nonce, ...dearer(first) });
    },
    async (wallet, page) => {
      expect(await problem(page)).toBe("The wallet replaced the transaction by another one, so this did not happen. Start again if you still want it.");
      await nothingMoved(wallet);
      await triedAgain(wallet, page);
    },
  ));

test("a deposit that the network dropped is given up after a while, moved nothing, and can be made again", () =>
  sent(
    async (_, __, first) => {
      await development.dropTransaction({ hash: first.hash });
    },
    async (wallet, page) => {
      expect(await problem(page)).toBe("The network dropped the transaction, so nothing happened. Its fee was perhaps too low. Start again.");
      await nothingMoved(wallet);
      await triedAgain(wallet, page);
    },
  ));

test("a deposit that the chain refuses has its reason in words, moved nothing, and can be made again", () =>
  sent(
    async (wallet, _, first) => {
      // Somebody whom the wallet once allowed to takes nearly everything, in the same block and before the deposit.
      const [, taker] = wallet.accounts;
      if (!taker) throw new Error("the wallet has one account, two are needed");
      const takers = createWalletClient({ account: taker, chain, transport: transport() });
      await takers.writeContract({ address: facts.contracts.prlx, abi: token, functionName: "transferFrom", args: [wallet.account.address, taker.address, 95n * PRLX_WEI], gas: 100_000n, ...dearer(first) });
    },
    async (wallet, page) => {
      expect(await problem(page)).toBe("The wallet has 5 PRLX, the deposit needs 10 PRLX. Deposit less.");
      expect(await vaultCredits(wallet.account.address)).toBe(0n);
      expect(await prlxWei(wallet.account.address)).toBe(5n * PRLX_WEI);
      await triedAgain(wallet, page);
    },
    async (wallet) => {
      const [, taker] = wallet.accounts;
      const hash = await client(wallet).writeContract({ address: facts.contracts.prlx, abi: token, functionName: "approve", args: [taker?.address ?? wallet.account.address, 95n * PRLX_WEI] });
      await reader.waitForTransactionReceipt({ hash });
    },
  ));

test("without the chain's own coin the fee is named before and after, and nothing is sent", async () => {
  const wallet = await TestWallet.create();
  await development.setBalance({ address: wallet.account.address, value: 1n });
  await visiting(
    browser,
    null,
    async ({ page }) => {
      await connectForDeposit(page);
      await page.getByText("The wallet may have too little of the chain's own coin for the network fee.").waitFor();
      await askForDeposit(page, "10");
      expect(await problem(page)).toBe("The wallet has too little of the chain's own coin for the network fee. Add some, then try again.");
      await nothingMoved(wallet);
      expect(await reader.getTransactionCount({ address: wallet.account.address, blockTag: "pending" })).toBe(0);
      await development.setBalance({ address: wallet.account.address, value: 10n ** 18n });
      await triedAgain(wallet, page);
    },
    { place: "#/deposit", prepare: (context) => wallet.install(context) },
  );
});
