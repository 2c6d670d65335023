// Why the chain refused a call, decoded and in plain words: one sentence, and what to do.

import { decodeErrorResult } from "viem/utils";
import { errors } from "../wallet/abi";
import type { Hex } from "../wallet/typed";
import { prlx } from "./amounts";
import { creditsOfWeiDown } from "./wei";

const when = (seconds: unknown): string => new Date(Number(seconds) * 1000).toLocaleString();
const amount = (credits: unknown): string => `${prlx(BigInt(credits as bigint))} PRLX`;
const weiAmount = (wei: unknown): string => amount(creditsOfWeiDown(BigInt(wei as bigint)));

const WORDS: Readonly<Record<string, (args: readonly unknown[]) => string>> = {
  ZeroAmount: () => "The amount is zero. Write how much.",
  InvalidAddress: ([given]) => `${String(given)} can't receive this. Choose another address.`,
  DepositsAreSuspended: ([until]) => `Deposits are suspended until ${when(until)}. Nothing moved; withdrawing goes on. Try again after that.`,
  AccountNotOpened: () => "This wallet has no account in the vault yet. Deposit first.",
  CreditsOverflow: () => "The amount is above what an account may hold. Deposit less.",
  TransferMismatch: () => "The token moved another amount than it was asked to, so the vault refused. Nothing was deposited.",
  SignatureExpired: ([deadline]) => `The signature was valid until ${when(deadline)}. Start again to sign a new one.`,
  NonceMismatch: () => "The authorization changed meanwhile, perhaps in another tab. Start again to sign a new one.",
  InvalidSignature: () => "The signature is not by the account that the wallet shows. Choose that account in the wallet and start again.",
  ValidUntilOutOfRange: () => "The authorization's end lies in the past or too far ahead. Choose other days, and check this device's clock.",
  ExposureLowered: ([given, current]) => `The unsettled limit in force is ${amount(current)} and can't be lowered to ${amount(given)} while it lasts. Write at least that.`,
  SettleDeadlineLowered: () => "The authorization in force lasts longer. Choose more days.",
  AuthorizedLowered: () => "The cap in force is higher and can't be lowered while it lasts. Write a higher cap.",
  InsufficientFreeCredits: ([free, requested]) => `${amount(free)} can be withdrawn now, ${amount(requested)} were asked for. Withdraw less, or wait for the settlement.`,
  ClearanceOutdated: () => "The account changed after the meter attested it. Ask for a new clearance.",
  SettlerIsSuspended: ([until]) => `The settler is suspended until ${when(until)}, so its attestation does not count now. Revoke, wait for the exit delay, then withdraw.`,
  UnauthorizedCaller: () => "Another account of the wallet owns this. Choose it in the wallet.",
  ERC20InsufficientBalance: ([, balance, needed]) => `The wallet has ${weiAmount(balance)}, the deposit needs ${weiAmount(needed)}. Deposit less.`,
  ERC20InsufficientAllowance: () => "The vault may not take this much from the wallet: the permit did not count. Start again; the page will ask for an approval.",
  SafeERC20FailedOperation: () => "The token refused the transfer. Check the wallet's PRLX and try again.",
  ERC2612ExpiredSignature: () => "The permit is over. Start again to sign a new one.",
  ERC2612InvalidSigner: () => "The permit's signature is another account's. Choose the right account in the wallet and start again.",
  Error: ([reason]) => `The contract refused: ${String(reason).slice(0, 200)}.`,
  Panic: () => "The contract failed inside. Nothing moved; tell the meter's operator.",
};

/** The words for revert data; null when it is none that the contracts have. */
export function revertWords(data: Hex): string | null {
  try {
    const { errorName, args } = decodeErrorResult({ abi: errors, data }) as { errorName: string; args?: readonly unknown[] };
    return WORDS[errorName]?.(args ?? []) ?? null;
  } catch {
    return null;
  }
}

/** Revert data somewhere inside an error: each wallet and node nests it elsewhere. */
export function revertData(error: unknown, depth = 0): Hex | null {
  if (typeof error === "string") return /^0x([0-9a-fA-F]{2}){4,}$/.test(error) ? (error as Hex) : (/(0x[0-9a-fA-F]{8,})\b/.exec(error)?.[1] as Hex | undefined) ?? null;
  if (typeof error !== "object" || error === null || depth > 5) return null;
  const { data, cause, error: inner, originalError } = error as Record<string, unknown>;
  for (const part of [data, originalError, inner, cause]) {
    const found = revertData(part, depth + 1);
    if (found !== null) return found;
  }
  return null;
}

/** What a failed simulation or transaction means; null when it carries no reason of the contracts. */
export function whyReverted(error: unknown): string | null {
  const data = revertData(error);
  return data === null ? null : revertWords(data);
}
