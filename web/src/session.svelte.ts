// Who is here, and what they may spend: one copy for the whole page.

import { on } from "./app/events";
import { call } from "./api/client";
import { ApiError } from "./api/error";
import { currentKey, useKey } from "./api/key";
import { creditsFrom, creditsOrNull } from "./money/amounts";

/** `GET /v1/session`. */
export interface Session {
  readonly user: string | null;
  readonly wallet: string | null;
  readonly account: number | null;
  readonly passkeys: number;
  /** Unix seconds. */
  readonly expires_at: number;
}

/** `GET /v1/credits`, amounts as bigint. */
export interface Credits {
  readonly account: number | null;
  /** What one answer may cost right now. */
  readonly spendable: bigint;
  readonly available: bigint;
  readonly held: bigint;
  readonly unsettled: bigint;
  readonly pending: bigint;
  /** Unix seconds until which a clearance may close the account, so that nothing can be spent; null when none stands. */
  readonly closingUntil: number | null;
  readonly authorization: Authorization | null;
}

export interface Authorization {
  readonly exposure: bigint;
  /** What it still lets be used. */
  readonly room: bigint;
  /** Unix seconds; 0 when revoked. */
  readonly validUntil: number;
  readonly settleDeadline: number;
  readonly nextNonce: number;
  readonly live: boolean;
}

export type SessionState = "unknown" | "signed-out" | "signed-in";

const PERIOD_MS = 5_000;

function authorizationFrom(reply: Record<string, unknown> | null | undefined): Authorization | null {
  if (!reply) return null;
  return {
    exposure: creditsFrom(reply.exposure_credits),
    room: creditsFrom(reply.room_credits),
    validUntil: Number(reply.valid_until ?? 0),
    settleDeadline: Number(reply.settle_deadline ?? 0),
    nextNonce: Number(reply.next_nonce ?? 0),
    live: reply.live === true,
  };
}

/** Reads a reply of `GET /v1/credits`. A wallet without an account has fewer amounts: they are zero. */
export function creditsReply(reply: Record<string, unknown>): Credits {
  const amount = (name: string) => creditsOrNull(reply[`${name}_credits`]) ?? 0n;
  return {
    account: typeof reply.account === "number" ? reply.account : null,
    spendable: amount("spendable"),
    available: amount("available"),
    held: amount("held"),
    unsettled: amount("unsettled"),
    pending: amount("pending"),
    closingUntil: typeof reply.closing_until === "number" ? reply.closing_until : null,
    authorization: authorizationFrom(reply.authorization as Record<string, unknown> | null),
  };
}

class SessionStore {
  state = $state<SessionState>("unknown");
  /** Null when an API key speaks, or nobody does. */
  who = $state.raw<Session | null>(null);
  credits = $state.raw<Credits | null>(null);
  /** Whether an API key of this tab speaks. */
  byKey = $state(false);
  #timer: ReturnType<typeof setInterval> | null = null;

  constructor() {
    on("credits-changed", () => void this.refreshCredits());
  }

  /** Asks the meter who is here. */
  async refresh(): Promise<void> {
    this.byKey = currentKey() !== null;
    if (this.byKey) {
      this.who = null;
      this.state = "signed-in";
      await this.refreshCredits();
    } else {
      try {
        this.opened(await call<Session>("GET", "/v1/session"));
      } catch (error) {
        if (error instanceof ApiError && error.status >= 400 && error.status < 500) this.#signedOut();
        // Not reached: who was here is taken to be here still, and nobody is sent away for a lost network.
      }
    }
    this.#timer ??= setInterval(() => {
      if (document.visibilityState !== "visible") return;
      if (this.state === "signed-in") void this.refreshCredits();
      else if (this.state === "unknown") void this.refresh();
    }, PERIOD_MS);
  }

  /** A sign-in, by wallet or passkey, gave this session. */
  opened(session: Session): void {
    this.who = session;
    this.state = "signed-in";
    void this.refreshCredits();
  }

  async refreshCredits(): Promise<void> {
    const asking = this.who;
    try {
      this.credits = creditsReply(await call("GET", "/v1/credits"));
    } catch (error) {
      // 401: the session ended. 403: a user without a wallet has no credits yet. Anything else keeps the last figures.
      if (!(error instanceof ApiError)) throw error;
      // A sign-in ends the session before it; what was asked under that one is asked anew by `opened`.
      if (error.status === 401 && this.who === asking) this.#signedOut();
      else if (error.status === 403) this.credits = null;
    }
  }

  /** Speaks with an API key in this tab, or with the cookie again for null. */
  async speakAs(key: string | null): Promise<void> {
    useKey(key);
    await this.refresh();
  }

  /** Ends the session, here and at the meter. */
  async end(): Promise<void> {
    if (this.byKey) useKey(null);
    else await call("DELETE", "/v1/session").catch(() => null);
    this.#signedOut();
  }

  #signedOut(): void {
    if (this.byKey) useKey(null);
    this.byKey = false;
    this.who = null;
    this.credits = null;
    this.state = "signed-out";
  }
}

export const session = new SessionStore();
