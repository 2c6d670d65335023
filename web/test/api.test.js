import assert from "node:assert/strict";
import { test } from "node:test";

import { keyFromFragment, looksLikeKey, createAccess } from "../access.js";
import { ApiFailure, createApi, failureFrom, plainWords } from "../api.js";

const KEY = `prlx_${"a1B".repeat(16)}`;

test("a key in the address is moved into the tab's storage and out of the address", () => {
  const stored = new Map();
  const replaced = [];
  const page = {
    location: { hash: `#key=${KEY}`, pathname: "/", search: "?x=1" },
    sessionStorage: { getItem: (name) => stored.get(name) ?? null, setItem: (name, value) => stored.set(name, value), removeItem: (name) => stored.delete(name) },
    history: { replaceState: (...args) => replaced.push(args[2]) },
  };
  const access = createAccess(page);
  assert.equal(access.key(), KEY);
  assert.deepEqual(replaced, ["/?x=1"]);
  access.forget();
  assert.equal(access.key(), null);
});

test("only what can be a key is taken from the address", () => {
  for (const fragment of ["", "#", "#key=", "#key=sk-123", "#key=prlx_<script>", `#other=${KEY}`]) assert.equal(keyFromFragment(fragment), null);
  assert.ok(looksLikeKey(` ${KEY} `) && !looksLikeKey("prlx_") && !looksLikeKey(`${KEY} ${KEY}`));
});

test("a key goes into the header and keeps the cookie at home", async () => {
  const calls = [];
  const fetcher = async (path, options) => {
    calls.push([path, options]);
    return new Response('{"ok":true}');
  };
  await createApi(() => KEY, fetcher).json("POST", "/v1/x", { body: { a: 1 } });
  await createApi(() => null, fetcher).json("GET", "/v1/x");
  assert.equal(calls[0][1].headers.authorization, `Bearer ${KEY}`);
  assert.deepEqual([calls[0][1].credentials, calls[0][1].body], ["omit", '{"a":1}']);
  assert.deepEqual([calls[1][1].credentials, calls[1][1].headers.authorization], ["same-origin", undefined]);
});

test("refusals keep code, metadata and the time to wait; a dead line is a code of its own", async () => {
  const body = JSON.stringify({ error: { message: "m", code: "busy", metadata: { a: 1 } } });
  const refuse = async () => new Response(body, { status: 429, headers: { "retry-after": "2" } });
  await assert.rejects(createApi(() => null, refuse).json("GET", "/x"), { code: "busy", status: 429, retryAfterS: 2, metadata: { a: 1 } });
  const html = async () => new Response("<html>", { status: 502 });
  await assert.rejects(createApi(() => null, html).json("GET", "/x"), { code: "http_502", status: 502 });
  const dead = async () => {
    throw new TypeError("failed to fetch");
  };
  await assert.rejects(createApi(() => null, dead).json("GET", "/x"), { code: "offline" });
});

test("every code of the protocol has words of its own and says what to do", () => {
  const metadata = { available_credits: 1_000_000, needed_credits: 5_680_000 };
  const codes = [
    "missing_credentials", "invalid_api_key", "malformed_api_key", "revoked_api_key", "invalid_session", "expired_session", "session_required",
    "insufficient_credits", "exposure_exceeded", "cap_exceeded", "key_limit", "authorization_required", "model_not_found", "no_node", "busy",
    "answer_broke_off", "charge_pending", "draining", "unavailable", "expired_challenge", "used_challenge", "wrong_signer", "offline",
  ];
  const titles = new Set();
  for (const code of codes) {
    const { title, text } = plainWords(new ApiFailure({ code, metadata }));
    assert.notEqual(title, "Something went wrong", code);
    assert.ok(text.length > 20, code);
    titles.add(title);
  }
  assert.ok(titles.size >= codes.length - 3);
  const short = plainWords(new ApiFailure({ status: 402, code: "insufficient_credits", metadata }));
  assert.match(short.text, /0\.00568 PRLX and 0\.001 PRLX is available/);
  assert.equal(short.action, "shorten");
});

test("an unknown refusal is told in the meter's own words", () => {
  const words = plainWords(failureFrom(400, { error: { code: "constructor", message: "`top_p` is 7; it lies between 0 and 1." } }));
  assert.equal(words.text, "`top_p` is 7; it lies between 0 and 1.");
  assert.equal(plainWords(failureFrom(500, null)).title, "Something went wrong");
});
