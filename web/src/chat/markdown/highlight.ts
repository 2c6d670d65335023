// Colours for code, fetched when the first block closes.

import type { HLJSApi } from "highlight.js";

import { sanitizedCode } from "./sanitize";

/** Longer blocks stay plain: colouring them would be felt. */
const CHARS_MAX = 50_000;

let loading: Promise<HLJSApi> | null = null;

/** Sanitised HTML of the code; null for a language that is not known or a block that is too long. */
export async function highlighted(text: string, language: string): Promise<string | null> {
  if (!language || text.length > CHARS_MAX) return null;
  loading ??= import("./languages").then(({ hljs }) => hljs);
  const hljs = await loading;
  if (!hljs.getLanguage(language)) return null;
  return sanitizedCode(hljs.highlight(text, { language, ignoreIllegals: true }).value);
}
