// What each refusal of the meter means for a person: one sentence on what happened, one on what to do.

import { moment, prlx } from "../money/amounts";
import type { ApiError } from "./error";

/** What the page offers beside the words. */
export type Remedy = "deposit" | "authorize" | "settle" | "key" | "sign-in" | "retry" | "other-model" | "none";

export interface Words {
  readonly title: string;
  readonly text: string;
  readonly remedy: Remedy;
}

type Sentence = string | ((error: ApiError) => string);

const amount = (credits: bigint | null): string => (credits === null ? "an unknown amount of" : prlx(credits));
const short = (error: ApiError) => `this answer may cost up to ${amount(error.needed)} PRLX and ${amount(error.available)} PRLX`;
const soon = (error: ApiError) => `Nothing is charged. Try again in ${error.retryAfterS ? `${error.retryAfterS} seconds` : "a moment"}.`;

const WORDS: Record<string, [title: string, text: Sentence, remedy: Remedy]> = {
  offline: ["The meter can't be reached", "Your message is still here. Check the connection and try again.", "retry"],
  missing_credentials: ["You are not signed in", "Your message is still here. Sign in, and send it then.", "sign-in"],
  invalid_session: ["You were signed out", "Your message is still here. Sign in again to go on.", "sign-in"],
  expired_session: ["Your session is over", "Your message is still here. Sign in again to go on.", "sign-in"],
  session_required: ["A sign-in is needed here", "An API key can't do this. Sign in with a passkey or a wallet.", "sign-in"],
  reauthentication_required: ["Nothing was changed", "This wants you to prove yourself once more. Try again, with your passkey or wallet.", "sign-in"],
  wallet_required: ["This account has no wallet yet", "Answers are paid from a wallet's deposit. Depositing links the wallet on the way.", "deposit"],
  invalid_api_key: ["This API key is not known here", "Paste another key, or sign in.", "sign-in"],
  malformed_api_key: ["This API key is incomplete", "Copy the whole key and paste it again.", "sign-in"],
  malformed_authorization: ["This API key is incomplete", "Copy the whole key and paste it again.", "sign-in"],
  revoked_api_key: ["This API key was revoked", "Make another key with the wallet that owns it.", "sign-in"],
  key_expired: ["This API key is over", "It was made to end by now. Use another key, or make one.", "sign-in"],
  model_not_allowed: ["This API key is for other models", "Choose one of its models, or use another key.", "other-model"],
  cross_site: ["Refused for safety", "This call seems to come from another site. Open this page directly and try again.", "none"],
  insufficient_credits: ["Not enough credits", (error) => `${cap(short(error))} is available. Deposit more, or allow a shorter answer.`, "deposit"],
  exposure_exceeded: [
    "Your unsettled limit leaves too little",
    (error) => `${cap(short(error))} can be used before the next settlement. Wait for it, allow a shorter answer, or sign a higher limit.`,
    "settle",
  ],
  cap_exceeded: [
    "Your spending limit leaves too little",
    (error) => `${cap(short(error))} is left of what you signed for. Sign a new limit, or allow a shorter answer.`,
    "authorize",
  ],
  authorization_required: ["You have not set a spending limit", "Sign one with your wallet. It moves no money and you can revoke it at any time.", "authorize"],
  account_closing: [
    "This account is being closed",
    (error) => `You asked to close it at once, so nothing can be spent until ${error.closingUntil === null ? "that is over" : moment(error.closingUntil)}. Close it on the page Withdraw, or wait until then.`,
    "none",
  ],
  key_limit: ["This API key's own limit leaves too little", (error) => `${cap(short(error))} is left of the key's limit. Use another key, or allow a shorter answer.`, "key"],
  model_not_found: ["This model is not served here", "Choose another model.", "other-model"],
  context_length_exceeded: ["Too long for this model", (error) => `${error.message}. Shorten the conversation or choose a model with a longer context.`, "other-model"],
  no_node: ["No node is online for this model", "Nothing is charged. Wait for one, or use another model.", "other-model"],
  busy: ["All nodes are busy", soon, "retry"],
  rate_limited: ["Too many requests", soon, "retry"],
  draining: ["The meter is restarting", "Nothing is charged. Try again in a moment.", "retry"],
  unavailable: ["The meter can't do this right now", "Nothing is charged. Try again in a moment.", "retry"],
  idempotency_conflict: ["This message was sent before with other settings", "Send it again.", "retry"],
  answer_broke_off: ["The node stopped answering", "What arrived is charged, and nothing else.", "retry"],
  charge_pending: ["The charge is being recorded", "It will be for what arrived, and nothing else.", "none"],
  job_gone: ["The rest of this answer is no longer kept", "The meter keeps an answer for a while only. Its receipt says what was charged.", "retry"],
  job_lost: ["The meter lost this answer", "It has no receipt for it: nothing was charged so far.", "retry"],
  stopped_before_sent: ["Stopped", "It was not sent.", "none"],
  not_stored: ["This browser could not keep the message", (error) => `${cap(error.message)}. What can't be kept is not sent: free some space, or leave the private window.`, "retry"],
  bad_reply: ["The meter's reply could not be read", "Reload the page: the meter may have been updated since you opened it.", "retry"],
  receipt_not_found: ["No such receipt", "It is not there, or it belongs to somebody else.", "none"],
};

const BY_STATUS: Record<number, [title: string, text: string, remedy: Remedy]> = {
  400: ["The meter did not understand the request", "", "none"],
  401: ["You are not signed in", "Your message is still here. Sign in, and send it then.", "sign-in"],
  402: ["This can't be paid", "Deposit more, or allow a shorter answer.", "deposit"],
  403: ["This is not allowed", "", "none"],
  413: ["The message is too large", "Shorten the conversation or begin a new one.", "none"],
  429: ["Too many requests", "Nothing is charged. Wait a moment and try again.", "retry"],
  503: ["The meter can't serve right now", "Nothing is charged. Try again in a moment.", "retry"],
};

const cap = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** Words for a refusal. A code that is not known here is told in the meter's own sentence, which says more than ours could. */
export function wordsFor(error: ApiError): Words {
  const known = Object.hasOwn(WORDS, error.code) ? WORDS[error.code] : undefined;
  if (known) return { title: known[0], text: typeof known[1] === "string" ? known[1] : known[1](error), remedy: known[2] };
  const [title, text, remedy] = BY_STATUS[error.status] ?? ["Something went wrong", "", "retry" as const];
  return { title, text: [error.message && `${cap(error.message)}.`, text].filter(Boolean).join(" "), remedy };
}
