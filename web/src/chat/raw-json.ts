// The text of one member of a JSON document, as it was written. JSON.parse rounds integers above 2^53, and a sampling seed has 64 bits.

const SPACE = /[\t\n\r ]/;

/** Position after the value that begins at `at`. The document must be valid JSON. */
function endOfValue(json: string, at: number): number {
  const open = json[at];
  if (open === '"') return endOfString(json, at);
  if (open !== "{" && open !== "[") {
    let end = at;
    while (end < json.length && !/[\s,\]}]/.test(json[end] ?? "")) end += 1;
    return end;
  }
  let depth = 0;
  for (let end = at; end < json.length; end += 1) {
    const char = json[end];
    if (char === '"') end = endOfString(json, end) - 1;
    else if (char === "{" || char === "[") depth += 1;
    else if ((char === "}" || char === "]") && --depth === 0) return end + 1;
  }
  return json.length;
}

function endOfString(json: string, at: number): number {
  for (let end = at + 1; end < json.length; end += 1) {
    if (json[end] === "\\") end += 1;
    else if (json[end] === '"') return end + 1;
  }
  return json.length;
}

function skipSpace(json: string, from: number): number {
  let at = from;
  while (SPACE.test(json[at] ?? "")) at += 1;
  return at;
}

/** The raw text of the member that `path` leads to through objects; null when it is not there. Throws on what is no JSON. */
export function rawMember(json: string, path: readonly string[]): string | null {
  JSON.parse(json);
  let text = json;
  for (const name of path) {
    let at = skipSpace(text, 0);
    if (text[at] !== "{") return null;
    let found: string | null = null;
    at = skipSpace(text, at + 1);
    while (text[at] === '"') {
      const nameEnd = endOfString(text, at);
      const member = JSON.parse(text.slice(at, nameEnd)) as string;
      const valueAt = skipSpace(text, skipSpace(text, nameEnd) + 1);
      const valueEnd = endOfValue(text, valueAt);
      // The last of two members of one name counts, as for JSON.parse.
      if (member === name) found = text.slice(valueAt, valueEnd);
      at = skipSpace(text, valueEnd);
      if (text[at] === ",") at = skipSpace(text, at + 1);
    }
    if (found === null) return null;
    text = found;
  }
  return text;
}
