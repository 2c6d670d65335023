// Markdown tokens as HTML. Raw HTML in an answer is shown as what it is: text.

import { Marked, type Token, type Tokens } from "marked";

import type { TextBlock } from "./blocks";
import { sanitized } from "./sanitize";

const ESCAPES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

export const escaped = (text: string): string => text.replace(/[&<>"']/g, (char) => ESCAPES[char] ?? char);

/**
 * The address behind a link of an answer; null for one that must not be followed: another scheme than http, https or mailto,
 * or credentials before the host, which only serve to make one host look like another.
 */
export function safeUrl(href: string): URL | null {
  let url: URL;
  try {
    url = new URL(href);
  } catch {
    return null;
  }
  if (url.protocol === "mailto:") return url;
  if (url.protocol !== "http:" && url.protocol !== "https:") return null;
  return url.username || url.password || !url.hostname ? null : url;
}

/** A link with the host it leads to, unless its own text already is that address. */
function link(url: URL, inner: string, plain: string): string {
  const host = url.protocol === "mailto:" ? url.pathname : url.host;
  const shown = plain.trim() === url.href || plain.trim() === host || plain.trim().replace(/^https?:\/\//, "").split(/[/?#]/)[0] === host;
  return `<a href="${escaped(url.href)}">${inner}</a>${shown ? "" : ` <small>(${escaped(host)})</small>`}`;
}

const marked = new Marked({
  gfm: true,
  breaks: false,
  renderer: {
    html: ({ text }: Tokens.HTML | Tokens.Tag) => escaped(text),
    link({ href, tokens, text }: Tokens.Link) {
      const inner = this.parser.parseInline(tokens);
      const url = safeUrl(href);
      return url ? link(url, inner, text) : inner;
    },
    // An image is never fetched by itself: its address could carry the conversation to somebody.
    image({ href, text }: Tokens.Image) {
      const url = safeUrl(href);
      const name = text ? `image: ${text}` : "image";
      return url ? `<a href="${escaped(url.href)}">${escaped(name)}</a> <small>(open from ${escaped(url.host)})</small>` : escaped(name);
    },
    checkbox: ({ checked }: Tokens.Checkbox) => (checked ? "☑ " : "☐ "),
  },
});

/** Sanitised HTML of one block. */
export const htmlOf = (block: TextBlock): string => sanitized(marked.parser(block.tokens as Token[]));
