// An answer's tokens from a dropped file: what `gpu-node verify` takes, or the API's own answer to `return_token_ids`.

import type { Evidence } from "./types";

/** Largest file that is read, bytes: an answer of the longest context is far below. */
export const FILE_BYTES_MAX = 8 << 20;

const isIds = (value: unknown): value is number[] => Array.isArray(value) && value.every((id) => Number.isInteger(id) && id >= 0 && id < 2 ** 32);

/** The raw text of the first `"params": {…}` in a JSON text: its 64-bit seed would not survive parsing. */
export function rawParams(text: string): string | null {
  const start = /"params"\s*:\s*\{/.exec(text);
  if (start === null) return null;
  const from = start.index + start[0].length - 1;
  let depth = 0;
  let quoted = false;
  for (let at = from; at < text.length; at += 1) {
    const character = text[at];
    if (quoted) {
      if (character === "\\") at += 1;
      else if (character === '"') quoted = false;
    } else if (character === '"') quoted = true;
    else if (character === "{") depth += 1;
    else if (character === "}" && (depth -= 1) === 0) return text.slice(from, at + 1);
  }
  return null;
}

/** Reads an evidence file. Throws, saying what was expected, when it is none. */
export function readEvidence(text: string): Evidence {
  if (text.length > FILE_BYTES_MAX) throw new Error(`the file has ${text.length} bytes, at most ${FILE_BYTES_MAX} are read; drop the file of one answer`);
  const given = JSON.parse(text) as Record<string, unknown> & { choices?: { token_ids?: unknown; prompt_token_ids?: unknown }[] };
  const choice = given.choices?.[0];
  const promptTokenIds = given["prompt_token_ids"] ?? choice?.prompt_token_ids;
  const tokenIds = given["token_ids"] ?? choice?.token_ids;
  if (!isIds(promptTokenIds) || !isIds(tokenIds)) {
    throw new Error("the file has no `prompt_token_ids` and `token_ids`; drop what gpu-node verify takes, or an API answer asked for with `return_token_ids`");
  }
  return { promptTokenIds, tokenIds, params: rawParams(text) };
}
