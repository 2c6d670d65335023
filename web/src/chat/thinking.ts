// Models that reason aloud begin their answer with `<think>…</think>`. It is part of what was generated and paid, and folded away.

export interface Parts {
  /** What was thought; null when the answer has no such part. */
  readonly thought: string | null;
  /** Whether the thinking is over. */
  readonly closed: boolean;
  readonly answer: string;
}

const OPEN = "<think>";
const CLOSE = "</think>";

/** Splits an answer. A part that is still open is all of it so far; a tag that is cut in the middle counts as text until it is whole. */
export function partsOf(text: string): Parts {
  const start = text.trimStart();
  if (!start.startsWith(OPEN)) return { thought: null, closed: true, answer: text };
  const end = start.indexOf(CLOSE, OPEN.length);
  if (end < 0) return { thought: start.slice(OPEN.length).trim(), closed: false, answer: "" };
  const thought = start.slice(OPEN.length, end).trim();
  return { thought: thought === "" ? null : thought, closed: true, answer: start.slice(end + CLOSE.length).trimStart() };
}
