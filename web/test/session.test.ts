// @vitest-environment jsdom
// Who is here: what a sign-in changes while older questions are still on their way.

import { afterEach, expect, it, vi } from "vitest";

import { type Session, session } from "../src/session.svelte";

const who = (expiresAt: number): Session => ({ user: "u", wallet: null, account: 7, passkeys: 1, expires_at: expiresAt });
const reply = (status: number, body: unknown) => new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });
const over = () => reply(401, { error: { code: "invalid_session", message: "over", type: "authentication_error", param: null } });
const credits = () => reply(200, { account: 7, spendable_credits: 5 });

afterEach(() => vi.unstubAllGlobals());

it("an answer that comes from the session before a sign-in signs nobody out", async () => {
  const asked: ((response: Response) => void)[] = [];
  vi.stubGlobal("fetch", () => new Promise<Response>((resolve) => asked.push(resolve)));
  session.opened(who(1));
  const [first] = asked;
  // The meter ended that session with the sign-in that opened the next one.
  session.opened(who(2));
  first?.(over());
  asked[1]?.(credits());
  await vi.waitFor(() => expect(session.credits?.account).toBe(7));
  expect([session.state, session.who?.expires_at]).toEqual(["signed-in", 2]);

  const last = session.refreshCredits();
  asked[2]?.(over());
  await last;
  expect([session.state, session.who, session.credits]).toEqual(["signed-out", null, null]);
});
