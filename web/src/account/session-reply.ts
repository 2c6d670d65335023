// A reply that opened a session. The page's session lives in a cookie that no script reads, so the token in the reply is let go.

import type { Session } from "../session.svelte";

/** The session without its token; meters without accounts leave some fields out. */
export function sessionFrom(reply: Partial<Session>): Session {
  return {
    user: reply.user ?? null,
    wallet: reply.wallet ?? null,
    account: reply.account ?? null,
    passkeys: reply.passkeys ?? 0,
    expires_at: reply.expires_at ?? 0,
  };
}
