// Every page lives in its own folder as Page.svelte and is fetched when it is first opened. The chat is part of the first load.

import type { Component } from "svelte";

type Loader = () => Promise<{ default: Component<{ argument: string | null }> }>;

const found = import.meta.glob<{ default: Component<{ argument: string | null }> }>("../*/Page.svelte");

export interface PageEntry {
  readonly id: string;
  /** Name in the navigation; null for a page that only links lead to. */
  readonly name: string | null;
  readonly load: Loader;
}

/** Order of the navigation. A page whose folder is not there is left out. */
const NAMES: [id: string, name: string | null][] = [
  ["pool", "Pool"],
  ["usage", "Usage"],
  ["receipt", "Receipts"],
  ["keys", "API keys"],
  ["account", "Account"],
  ["deposit", null],
  ["withdraw", null],
];

export const pages: readonly PageEntry[] = NAMES.flatMap(([id, name]) => {
  const load = found[`../${id}/Page.svelte`];
  return load ? [{ id, name, load }] : [];
});
