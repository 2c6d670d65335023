// A conversation is a tree: regenerating adds a sibling answer, editing adds a sibling question. Nothing is overwritten.

import type { Message } from "./model";

export interface Tree {
  readonly byId: ReadonlyMap<string, Message>;
  /** Children in the order they were made; the key null holds the first messages. */
  readonly children: ReadonlyMap<string | null, readonly Message[]>;
}

/** Builds the tree. A message whose parent is not there hangs at the root, so that a damaged import still shows everything. */
export function treeOf(messages: Iterable<Message>): Tree {
  const byId = new Map<string, Message>();
  for (const message of messages) byId.set(message.id, message);
  const children = new Map<string | null, Message[]>();
  for (const message of byId.values()) {
    const parent = message.parentId !== null && byId.has(message.parentId) ? message.parentId : null;
    const siblings = children.get(parent);
    if (siblings) siblings.push(message);
    else children.set(parent, [message]);
  }
  for (const siblings of children.values()) siblings.sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
  return { byId, children };
}

const parentOf = (tree: Tree, message: Message): string | null =>
  message.parentId !== null && tree.byId.has(message.parentId) ? message.parentId : null;

/** The messages from the first to `leafId`, in order. Empty for an unknown leaf; a ring, which only damage makes, is cut. */
export function pathTo(tree: Tree, leafId: string | null): Message[] {
  const path: Message[] = [];
  const seen = new Set<string>();
  let message = leafId === null ? undefined : tree.byId.get(leafId);
  while (message && !seen.has(message.id)) {
    seen.add(message.id);
    path.push(message);
    message = message.parentId === null ? undefined : tree.byId.get(message.parentId);
  }
  return path.reverse();
}

/** A question, or an answer with everything that went on with it: one block for a reader, each part with its own receipt. */
export interface Turn {
  readonly parts: readonly [Message, ...Message[]];
}

/** The turns of a path. An answer right below an answer goes on with it. */
export function turnsOf(path: readonly Message[]): Turn[] {
  const turns: { parts: [Message, ...Message[]] }[] = [];
  for (const message of path) {
    const last = turns.at(-1);
    if (last && message.role === "assistant" && last.parts[0].role === "assistant") last.parts.push(message);
    else turns.push({ parts: [message] });
  }
  return turns;
}

/** What a turn says, its parts joined as they came. */
export const textOf = (turn: Turn): string => turn.parts.map(({ text }) => text).join("");

/** The message and those beside it, in order. */
export function siblingsOf(tree: Tree, id: string): readonly Message[] {
  const message = tree.byId.get(id);
  return message ? (tree.children.get(parentOf(tree, message)) ?? []) : [];
}

/** The end of the newest branch below `id`, or `id` itself: where one lands after choosing a sibling. */
export function leafBelow(tree: Tree, id: string): string {
  const seen = new Set<string>();
  let at = id;
  for (;;) {
    seen.add(at);
    const newest = tree.children.get(at)?.at(-1);
    if (!newest || seen.has(newest.id)) return at;
    at = newest.id;
  }
}

/** The newest end of the whole tree; null for an empty one. */
export function newestLeaf(tree: Tree): string | null {
  const first = tree.children.get(null)?.at(-1);
  return first ? leafBelow(tree, first.id) : null;
}
