// Calls to the meter, and what each of its refusals means in plain words.

import { prlx } from "./amounts.js";

/** A call that the meter refused or that did not reach it. `code` is the meter's, or "offline". */
export class ApiFailure extends Error {
  constructor({ status = 0, code = "offline", message = "", metadata = {}, retryAfterS = null }) {
    super(message);
    Object.assign(this, { status, code, metadata: metadata ?? {}, retryAfterS });
  }
}

/** The failure that a refused response, or an error event inside a stream, stands for. */
export function failureFrom(status, body, retryAfter = null) {
  const error = body?.error ?? {};
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  return new ApiFailure({
    status,
    code: error.code ?? `http_${status}`,
    message: String(error.message ?? "").slice(0, 600),
    metadata: error.metadata,
    retryAfterS: Number.isFinite(seconds) ? seconds : null,
  });
}

/** Talks to the meter that served the page. `credential()` gives an API key, or null to rely on the session cookie. */
export function createApi(credential, fetcher = globalThis.fetch.bind(globalThis)) {
  async function send(method, path, { body, signal, accept = "application/json" } = {}) {
    const key = credential();
    const headers = { accept };
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    let response;
    try {
      response = await fetcher(path, {
        method,
        headers,
        signal,
        body: body === undefined ? undefined : JSON.stringify(body),
        credentials: key ? "omit" : "same-origin",
        cache: "no-store",
        redirect: "error",
      });
    } catch (error) {
      if (error?.name === "AbortError") throw error;
      throw new ApiFailure({ message: "the meter could not be reached" });
    }
    if (!response.ok) {
      const refusal = await response.json().catch(() => null);
      throw failureFrom(response.status, refusal, response.headers.get("retry-after"));
    }
    return response;
  }

  return {
    /** The reply's JSON; null for an empty one. */
    async json(method, path, options) {
      const response = await send(method, path, options);
      return response.status === 204 ? null : response.json();
    },
    /** The open response of a streamed answer. */
    stream: (path, body, signal) => send("POST", path, { body, signal, accept: "text/event-stream" }),
  };
}

const amount = (metadata, name) => (metadata[name] === undefined ? "an unknown amount of" : prlx(metadata[name]));

/** Title and advice for each code of the protocol's section 7; `action` names what the page offers beside it. */
const WORDS = {
  offline: () => ["The meter can't be reached", "Check the connection and try again.", "retry"],
  missing_credentials: () => ["Not connected", "Connect a wallet or paste an API key, then send again.", "access"],
  invalid_api_key: () => ["This API key is not known here", "Paste another key, or make one after connecting the wallet.", "access"],
  malformed_api_key: () => ["This API key is incomplete", "A character is missing or wrong. Copy the whole key and paste it again.", "access"],
  malformed_authorization: () => ["This API key is incomplete", "Copy the whole key and paste it again.", "access"],
  revoked_api_key: () => ["This API key was revoked", "Make another key with the wallet that owns it.", "access"],
  invalid_session: () => ["Signed out", "Connect the wallet again to go on.", "access"],
  expired_session: () => ["The session is over", "Connect the wallet again to go on.", "access"],
  session_required: () => ["A wallet is needed here", "An API key can't do this. Connect the wallet.", "access"],
  cross_site: () => ["Refused for safety", "This call came from another site. Open this page directly and try again."],
  insufficient_credits: (m) => [
    "Not enough credits",
    `This answer may cost up to ${amount(m, "needed_credits")} PRLX and ${amount(m, "available_credits")} PRLX is available. Deposit more, or allow a shorter answer.`,
    "shorten",
  ],
  exposure_exceeded: (m) => [
    "Too much is waiting to be settled",
    `Your authorization lets ${amount(m, "available_credits")} PRLX more be used before the next settlement, and this answer may cost ${amount(m, "needed_credits")} PRLX. Wait for the settlement, or allow a shorter answer.`,
    "shorten",
  ],
  cap_exceeded: (m) => [
    "The authorization is used up",
    `It has ${amount(m, "available_credits")} PRLX left and this answer may cost ${amount(m, "needed_credits")} PRLX. Sign a new one with the wallet, or allow a shorter answer.`,
    "access",
  ],
  key_limit: (m) => [
    "This API key's own limit is reached",
    `It has ${amount(m, "available_credits")} PRLX left and this answer may cost ${amount(m, "needed_credits")} PRLX. Use another key, or allow a shorter answer.`,
    "access",
  ],
  authorization_required: () => ["Spending is not authorized", "The wallet has not signed a spending authorization, or it is over. Connect the wallet and sign one.", "access"],
  model_not_found: () => ["This model is not served here", "Choose another model from the list."],
  context_length_exceeded: (_, failure) => ["Too long for this model", failure.message],
  answer_broke_off: () => ["The node stopped answering", "What arrived is charged, and nothing else. Send again to ask another node."],
  charge_pending: () => ["The charge is being recorded", "It will be for what arrived, and nothing else."],
  cut_off: () => ["The connection broke", "What arrived is charged, and nothing else. Send again to go on."],
  draining: () => ["The meter is restarting", "Nothing is charged. Try again in a moment.", "retry"],
  unavailable: () => ["The meter can't do this right now", "Nothing is charged. Try again in a moment.", "retry"],
  receipt_not_found: () => ["No such receipt", "It is not there, or it belongs to somebody else."],
  wrong_signer: () => ["The signature is somebody else's", "Sign with the account that the wallet shows, on the chain that this meter uses."],
  expired_challenge: () => ["Signing took too long", "Connect again and sign within ten minutes.", "access"],
  used_challenge: () => ["This signature was used already", "Connect again for a new one.", "access"],
  unknown_challenge: () => ["The sign-in is over", "Connect again for a new one.", "access"],
  expired_signature: () => ["The signature is over", "Check this device's clock, then connect again.", "access"],
  no_node: () => ["No node is online for this model", "Nothing is charged. Try again in a moment, or choose another model.", "retry"],
  busy: (_, failure) => [
    "All nodes are busy",
    `Nothing is charged. Try again in ${failure.retryAfterS ? `${failure.retryAfterS} seconds` : "a moment"}.`,
    "retry",
  ],
};

const BY_STATUS = {
  400: ["The meter did not understand the request", "", undefined],
  413: ["The message is too large", "A request may have 1 MiB. Shorten the conversation.", undefined],
  429: ["Too many requests", "Wait a moment and send again.", "retry"],
  503: ["The meter can't serve right now", "Nothing is charged. Try again in a moment.", "retry"],
};

/** What to tell a person: `{title, text, action}`; `action` is "access", "shorten", "retry" or undefined. */
export function plainWords(failure) {
  const known = Object.hasOwn(WORDS, failure.code) ? WORDS[failure.code] : null;
  const [title, text, action] = known ? known(failure.metadata, failure) : (BY_STATUS[failure.status] ?? ["Something went wrong", "", "retry"]);
  // The meter's own sentence says what was wrong with this very request; ours would only repeat it less exactly.
  const detail = known || failure.message === "" ? text : `${failure.message}${text && ` ${text}`}`;
  return { title, text: detail, action };
}
