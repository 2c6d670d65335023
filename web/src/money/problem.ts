// Any failure on the way of money, in one sentence: the meter's own, then the contract's reason, then the wallet's.

import { ApiError } from "../api/error";
import { walletProblem } from "../wallet/errors";
import { whyReverted } from "./revert";

/** The meter's codes whose message is for programs; a person needs another sentence. */
const METER_WORDS: Readonly<Record<string, string>> = {
  offline: "The meter can't be reached. Check the connection, then try again.",
  wallet_linked_elsewhere: "This wallet belongs to another account here. Sign in with it, or link another wallet.",
  expired_challenge: "Signing took too long. Try again and sign within ten minutes.",
  used_challenge: "This signature was used already. Try again to sign a new one.",
  unknown_challenge: "The sign-in is over. Try again to sign a new one.",
  expired_signature: "The signature is over. Check this device's clock, then try again.",
  wrong_signer: "The signature is somebody else's. Sign with the account that the wallet shows.",
  invalid_session: "You are signed out. Sign in, then try again.",
  expired_session: "The session is over. Sign in, then try again.",
  reauthentication_required: "Nothing was changed. This wants you to prove yourself once more: try again, with the passkey or wallet of this account.",
  missing_credentials: "You are signed out. Sign in, then try again.",
};

/** A failure of the page's own whose message is already what a person should read. */
export class PlainProblem extends Error {}

export function problemText(error: unknown): string {
  if (error instanceof PlainProblem) return error.message;
  if (error instanceof ApiError) {
    const known = METER_WORDS[error.code];
    if (known !== undefined) return known;
    if (error.status >= 500 && error.message === "") return "The meter does not answer. Try again in a moment.";
    return error.message === "" ? "The meter refused without a reason. Try again in a moment." : sentence(error.message);
  }
  return whyReverted(error) ?? walletProblem(error).text;
}

/** The meter's messages begin with a small letter and end without a full stop. */
export const sentence = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
