// An answer as a row of top-level blocks. While it streams, blocks that can't change any more are frozen, and only the end is read again.

import { type Token, type TokensList, lexer } from "marked";

export interface CodeBlock {
  readonly kind: "code";
  readonly key: number;
  readonly language: string;
  readonly text: string;
  /** Whether the closing fence arrived: only then is it worth colouring. */
  readonly closed: boolean;
}

export interface TextBlock {
  readonly kind: "text";
  readonly key: number;
  readonly raw: string;
  readonly tokens: Token[];
}

export type Block = CodeBlock | TextBlock;

const LANGUAGE_FORM = /^[\w+#.-]{1,32}/;

function blockOf(token: Token, key: number, links: TokensList["links"]): Block {
  if (token.type === "code" && token.codeBlockStyle !== "indented") {
    const language = LANGUAGE_FORM.exec(String(token.lang ?? "").trim())?.[0] ?? "";
    const fence = /^ {0,3}(`{3,}|~{3,})/.exec(token.raw)?.[1] ?? "```";
    const closing = new RegExp(`\\n {0,3}${fence[0] === "~" ? "~" : "`"}{${fence.length},}[ \\t]*\\n*$`);
    return { kind: "code", key, language, text: String(token.text), closed: closing.test(token.raw) };
  }
  const tokens = Object.assign([token], { links });
  return { kind: "text", key, raw: token.raw, tokens };
}

const isSpace = (token: Token): boolean => token.type === "space" || token.type === "def";

/** All blocks of a whole text. */
export function blocksOf(source: string): Block[] {
  const tokens = lexer(source);
  return tokens.filter((token) => !isSpace(token)).map((token, index) => blockOf(token, index, tokens.links));
}

/**
 * Blocks of a text that grows. A block is closed when another one began after it on a whole line: nothing that arrives later can reach back then.
 * (A line under way may still turn out to belong to what is before it, as the `2` of a list's second item does.)
 */
export class BlockStream {
  #closed: Block[] = [];
  #tail = "";
  #source = "";

  /** The blocks of `source`. It is usually the last one with something added; any other is read from its beginning. */
  update(source: string): Block[] {
    if (!source.startsWith(this.#source)) {
      this.#closed = [];
      this.#tail = "";
      this.#source = "";
    }
    this.#tail += source.slice(this.#source.length);
    this.#source = source;
    this.#close();
    const tokens = lexer(this.#tail);
    const open = tokens.filter((token) => !isSpace(token));
    return [...this.#closed, ...open.map((token, index) => blockOf(token, this.#closed.length + index, tokens.links))];
  }

  #close(): void {
    const whole = this.#tail.slice(0, this.#tail.lastIndexOf("\n") + 1);
    if (whole === "") return;
    const tokens = lexer(whole);
    const last = tokens.findLastIndex((token) => !isSpace(token));
    let length = 0;
    for (const token of tokens.slice(0, Math.max(0, last))) {
      length += token.raw.length;
      if (!isSpace(token)) this.#closed.push(blockOf(token, this.#closed.length, tokens.links));
    }
    this.#tail = this.#tail.slice(length);
  }
}
