// The browser's side of passkeys: the meter's JSON options into a ceremony, the authenticator's answer back into JSON.

import { call } from "../api/client";
import type { Session } from "../session.svelte";
import { base64url, bytesOf } from "./base64url";
import { sessionFrom } from "./session-reply";

type Json = Record<string, unknown>;

interface Ceremony {
  readonly ceremony: string;
  readonly public_key: Json;
}

export interface Passkey {
  readonly id: string;
  readonly name: string;
  readonly created_at: number;
  readonly last_used_at: number | null;
}

/** Whether this browser knows passkeys at all. */
export const hasPasskeys = (): boolean => typeof PublicKeyCredential === "function" && typeof navigator.credentials?.create === "function";

/** Libraries wrap the options in `publicKey`, as the browser's own call does. */
const unwrapped = (options: Json): Json => (typeof options["publicKey"] === "object" && options["publicKey"] !== null ? (options["publicKey"] as Json) : options);

const descriptors = (list: unknown): PublicKeyCredentialDescriptor[] =>
  Array.isArray(list) ? list.map((one: Json) => ({ ...one, type: "public-key", id: bytesOf(String(one["id"])) }) as PublicKeyCredentialDescriptor) : [];

/** Options of a registration, by the browser's own reader where there is one. */
export function creationOptions(given: Json): PublicKeyCredentialCreationOptions {
  const options = unwrapped(given);
  const own = (PublicKeyCredential as unknown as { parseCreationOptionsFromJSON?: (json: Json) => PublicKeyCredentialCreationOptions }).parseCreationOptionsFromJSON;
  if (typeof own === "function") return own.call(PublicKeyCredential, options);
  const user = options["user"] as Json;
  return {
    ...(options as unknown as PublicKeyCredentialCreationOptions),
    challenge: bytesOf(String(options["challenge"])),
    user: { ...(user as unknown as PublicKeyCredentialUserEntity), id: bytesOf(String(user["id"])) },
    excludeCredentials: descriptors(options["excludeCredentials"]),
  };
}

/** Options of a sign-in, likewise. */
export function requestOptions(given: Json): PublicKeyCredentialRequestOptions {
  const options = unwrapped(given);
  const own = (PublicKeyCredential as unknown as { parseRequestOptionsFromJSON?: (json: Json) => PublicKeyCredentialRequestOptions }).parseRequestOptionsFromJSON;
  if (typeof own === "function") return own.call(PublicKeyCredential, options);
  return {
    ...(options as unknown as PublicKeyCredentialRequestOptions),
    challenge: bytesOf(String(options["challenge"])),
    allowCredentials: descriptors(options["allowCredentials"]),
  };
}

/** A credential as JSON: what `toJSON` gives, written out for browsers without it. */
export function credentialJson(credential: PublicKeyCredential): Json {
  const response = credential.response as AuthenticatorAttestationResponse & AuthenticatorAssertionResponse;
  const bytes = (value: ArrayBuffer | null | undefined): string | undefined => (value ? base64url(value) : undefined);
  const parts: Json = {
    clientDataJSON: bytes(response.clientDataJSON),
    attestationObject: bytes(response.attestationObject),
    authenticatorData: response.attestationObject ? undefined : bytes(response.authenticatorData),
    signature: bytes(response.signature),
    userHandle: bytes(response.userHandle),
    transports: response.attestationObject && typeof response.getTransports === "function" ? response.getTransports() : undefined,
  };
  return {
    id: credential.id,
    rawId: base64url(credential.rawId),
    type: credential.type,
    response: Object.fromEntries(Object.entries(parts).filter(([, value]) => value !== undefined)),
    extensions: credential.getClientExtensionResults(),
  };
}

/** Makes a passkey; without a session that makes an account, with one it is added. Throws the browser's or the meter's refusal. */
export async function register(name: string): Promise<Session> {
  const { ceremony, public_key } = await call<Ceremony>("POST", "/v1/passkeys/registration/options", { body: { name } });
  const made = await navigator.credentials.create({ publicKey: creationOptions(public_key) });
  if (made === null) throw new DOMException("no passkey was made", "NotAllowedError");
  return sessionFrom(await call<Partial<Session>>("POST", "/v1/passkeys/registration", { body: { ceremony, credential: credentialJson(made as PublicKeyCredential), name } }));
}

/** Signs in with a passkey of this or another device. Throws the browser's or the meter's refusal. */
export async function signIn(): Promise<Session> {
  const { ceremony, public_key } = await call<Ceremony>("POST", "/v1/passkeys/sign-in/options", { body: {} });
  const found = await navigator.credentials.get({ publicKey: requestOptions(public_key) });
  if (found === null) throw new DOMException("no passkey was chosen", "NotAllowedError");
  return sessionFrom(await call<Partial<Session>>("POST", "/v1/passkeys/sign-in", { body: { ceremony, credential: credentialJson(found as PublicKeyCredential) } }));
}

export const listPasskeys = async (): Promise<Passkey[]> => (await call<{ data: Passkey[] }>("GET", "/v1/passkeys")).data;

export const removePasskey = (id: string): Promise<null> => call("DELETE", `/v1/passkeys/${encodeURIComponent(id)}`);

const WORDS: Readonly<Record<string, string>> = {
  NotAllowedError: "The passkey was not used: it was declined, or took too long. Try again.",
  InvalidStateError: "This device already has a passkey of this account. Sign in with it.",
  NotSupportedError: "This device can't make a passkey of the kind that is needed. Use another device or a wallet.",
  SecurityError: "Passkeys work only at the address that the meter is set up for, over https or on localhost. Open the page there.",
  AbortError: "The passkey was put aside. Try again.",
};

/** The browser's refusal in plain words; null when the error is none of the browser's. */
export const passkeyWords = (error: unknown): string | null => (error instanceof DOMException ? (WORDS[error.name] ?? `The browser refused: ${error.message.slice(0, 200)}`) : null);
