// The last gate before model output becomes part of the page. Whatever the renderer did wrong ends here.

import DOMPurify from "dompurify";

const LINK_REL = "noopener noreferrer nofollow";

// What the renderer writes, and nothing else: a list of what is allowed can't miss what browsers learn next year.
const CONFIG = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "small", "strong",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["align", "href", "start", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_TRUSTED_TYPE: true as const,
};

// Only the colours of highlighted code carry classes.
const CODE_CONFIG = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_TRUSTED_TYPE: true as const };

let hooked = false;

function hook(): void {
  if (hooked) return;
  hooked = true;
  DOMPurify.addHook("afterSanitizeAttributes", (node) => {
    if (node.nodeName !== "A") return;
    node.setAttribute("rel", LINK_REL);
    node.setAttribute("target", "_blank");
  });
}

/** HTML that may enter the page: no script, no image, no form, no style, links to http, https and mailto alone. */
export function sanitized(html: string): string {
  hook();
  // Svelte writes a TrustedHTML where the browser asks for one; its types speak of strings.
  return DOMPurify.sanitize(html, CONFIG) as unknown as string;
}

/** Highlighted code: spans with classes and nothing else. */
export const sanitizedCode = (html: string): string => DOMPurify.sanitize(html, CODE_CONFIG) as unknown as string;
