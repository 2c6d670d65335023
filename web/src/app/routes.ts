// Addresses within the page: `#/page/argument`.

export interface Route {
  readonly page: string;
  /** The rest of the path, decoded; null when there is none. */
  readonly argument: string | null;
}

/** The page behind an empty or broken fragment. */
const HOME = "chat";
const PAGE_FORM = /^[a-z][a-z-]{0,31}$/;

/** Reads a fragment such as `#/receipt/0x12`. Anything that is no route is the chat. */
export function routeOf(fragment: string): Route {
  const [page = "", ...rest] = fragment.replace(/^#\/?/, "").split("?")[0]?.split("/") ?? [];
  if (!PAGE_FORM.test(page)) return { page: HOME, argument: null };
  try {
    return { page, argument: decodeURIComponent(rest.join("/")) || null };
  } catch {
    return { page, argument: null };
  }
}

/** The fragment of a route, for `href`. */
export const linkTo = (page: string, argument?: string | null): string => (argument ? `#/${page}/${encodeURIComponent(argument)}` : `#/${page}`);
