// Calls to the meter that served the page. An API key in this tab stands in for the session cookie, and the two are never sent together.

import { currentKey } from "./key";
import { ApiError, errorFrom, isAbort } from "./error";

export interface CallOptions {
  readonly body?: unknown;
  readonly signal?: AbortSignal | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  readonly accept?: string;
}

/** Asks the person to prove themselves once more; whether they did. */
type Reauthenticate = () => Promise<boolean>;
let reauthenticate: Reauthenticate | null = null;

/** Who asks, until the returned function is called. */
export function onReauthentication(ask: Reauthenticate): () => void {
  reauthenticate = ask;
  return () => {
    if (reauthenticate === ask) reauthenticate = null;
  };
}

export type Method = "GET" | "POST" | "DELETE" | "PATCH" | "PUT";

/** The open response of a call that was not refused; asked once more when the person had to prove themselves first. Throws `ApiError`, or the abort. */
export async function open(method: Method, path: string, options: CallOptions = {}): Promise<Response> {
  try {
    return await openOnce(method, path, options);
  } catch (error) {
    const asks = error instanceof ApiError && error.code === "reauthentication_required" && reauthenticate !== null;
    if (asks && (await reauthenticate?.())) return openOnce(method, path, options);
    throw error;
  }
}

async function openOnce(method: Method, path: string, { body, signal, headers, accept = "application/json" }: CallOptions): Promise<Response> {
  const key = currentKey();
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers: {
        accept,
        ...(key ? { authorization: `Bearer ${key}` } : {}),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(signal ? { signal } : {}),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      credentials: key ? "omit" : "same-origin",
      cache: "no-store",
      redirect: "error",
    });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError({ message: "the meter could not be reached" });
  }
  if (!response.ok) {
    const refusal: unknown = await response.json().catch(() => null);
    throw errorFrom(response.status, refusal, response.headers.get("retry-after"));
  }
  return response;
}

/** The reply's JSON; null for an empty one. `T` is what the caller's own reader checks: a type here is a hope, not a proof. */
export async function call<T = unknown>(method: Method, path: string, options: CallOptions = {}): Promise<T> {
  const response = await open(method, path, options);
  if (response.status === 204 || response.status === 205) return null as T;
  try {
    return (await response.json()) as T;
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError({ status: response.status, code: "bad_reply", message: `the meter's reply to ${method} ${path} is no JSON` });
  }
}

/** The open body of a stream of server-sent events. */
export async function openStream(path: string, options: CallOptions = {}): Promise<ReadableStream<Uint8Array>> {
  const response = await open("GET", path, { ...options, accept: "text/event-stream" });
  if (!response.body) throw new ApiError({ status: response.status, code: "bad_reply", message: `the meter's reply to GET ${path} has no body` });
  return response.body;
}
