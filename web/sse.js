// Server-sent events out of a byte stream that may be cut anywhere: inside a character, a line end, a field.
// WHATWG HTML, section 9.2.6; `retry` and `id` are of no use here and are passed over.

const LINE_CHARS_MAX = 1 << 20;

/** Calls `onEvent({event, data})` for each complete event that the pushed bytes hold. Throws on a line longer than a mebi-character. */
export function createSseParser(onEvent) {
  const decoder = new TextDecoder("utf-8"); // drops one leading byte order mark, as the standard asks
  let rest = "";
  let data = null;
  let event = "message";
  let skipNewline = false; // the last piece ended in CR: an LF at the start of the next belongs to it

  function line(text) {
    if (text === "") {
      if (data !== null) onEvent({ event, data });
      data = null;
      event = "message";
      return;
    }
    const colon = text.indexOf(":");
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + (text[colon + 1] === " " ? 2 : 1));
    if (field === "data") data = data === null ? value : `${data}\n${value}`;
    else if (field === "event") event = value || "message";
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
      if (rest.length > LINE_CHARS_MAX) throw new Error("the answer's stream holds a line without end");
    },
  };
}

/** Reads a response's body to its end. Resolves when it is over, rejects when it breaks off or is aborted. */
export async function readSse(body, onEvent) {
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
