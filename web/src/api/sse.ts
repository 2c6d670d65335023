// Server-sent events out of a byte stream that may be cut anywhere: inside a character, a line end, a field.
// WHATWG HTML, section 9.2.6. `retry` is passed over: who reads a stream decides here when to try again.

const LINE_CHARS_MAX = 1 << 20;

export interface SseEvent {
  readonly event: string;
  readonly data: string;
  /** The last `id` seen so far; null before the first. */
  readonly id: string | null;
}

export interface SseParser {
  push(bytes: Uint8Array): void;
}

/** Calls `onEvent` for each complete event that the pushed bytes hold. Throws on a line longer than a mebi-character. */
export function createSseParser(onEvent: (event: SseEvent) => void): SseParser {
  const decoder = new TextDecoder("utf-8"); // drops one leading byte order mark, as the standard asks
  let rest = "";
  let data: string | null = null;
  let event = "message";
  let id: string | null = null;
  let skipNewline = false; // the last piece ended in CR: an LF at the start of the next belongs to it

  function line(text: string): void {
    if (text === "") {
      if (data !== null) onEvent({ event, data, id });
      data = null;
      event = "message";
      return;
    }
    const colon = text.indexOf(":");
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + (text[colon + 1] === " " ? 2 : 1));
    if (field === "data") data = data === null ? value : `${data}\n${value}`;
    else if (field === "event") event = value || "message";
    else if (field === "id" && !value.includes("\0")) id = value;
  }

  return {
    push(bytes) {
      let text = decoder.decode(bytes, { stream: true });
      if (skipNewline && text !== "") {
        if (text[0] === "\n") text = text.slice(1);
        skipNewline = false;
      }
      rest += text;
      let start = 0;
      for (let at = 0; at < rest.length; at += 1) {
        const char = rest[at];
        if (char !== "\n" && char !== "\r") continue;
        line(rest.slice(start, at));
        if (char === "\r") {
          if (at + 1 === rest.length) skipNewline = true;
          else if (rest[at + 1] === "\n") at += 1;
        }
        start = at + 1;
      }
      rest = rest.slice(start);
      if (rest.length > LINE_CHARS_MAX) throw new Error(`a line of the stream has ${rest.length} characters, more than ${LINE_CHARS_MAX}`);
    },
  };
}

/** Reads a response's body to its end. Resolves when it is over, rejects when it breaks off or is aborted. */
export async function readSse(body: ReadableStream<Uint8Array>, onEvent: (event: SseEvent) => void): Promise<void> {
  const reader = body.getReader();
  const parser = createSseParser(onEvent);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      parser.push(value);
    }
  } finally {
    reader.releaseLock();
  }
}
