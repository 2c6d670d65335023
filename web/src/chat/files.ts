// Exporting and importing: joins the database, the meter's receipts and the browser's files.

import { call } from "../api/client";
import { toasts } from "../ui/toasts.svelte";
import { chat } from "./actions.svelte";
import { newId } from "./chats.svelte";
import { database } from "./database";
import type { Conversation } from "./model";
import { type Bundle, exportable, fromJson, ImportError, importWrites, toJson, toMarkdown } from "./transfer";

const FILE_BYTES_MAX = 64 << 20;

function download(name: string, text: string, type: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The browser reads the address after the click; a minute is more than any takes to begin.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

const fileName = (title: string, ending: string): string => `${title.replace(/[^\p{L}\p{N} _-]+/gu, " ").trim().slice(0, 60) || "conversation"}.${ending}`;

async function bundleOf(conversation: Conversation): Promise<Bundle> {
  const messages = exportable(await database.messagesOf(conversation.id));
  const ids = messages.flatMap(({ answer }) => (answer?.receiptId ? [answer.receiptId] : []));
  const evidence = (await Promise.all(ids.map((id) => database.get("evidence", id)))).filter((one) => one !== null);
  const receipts: Record<string, unknown> = {};
  for (const id of ids) {
    // One that the meter doesn't give now, signed out or offline, comes from an earlier file or is missing: its id is in the message.
    const receipt = (await call("GET", `/v1/receipts/${encodeURIComponent(id)}`).catch(() => null)) ?? (await database.get("receipts", id))?.receipt;
    if (receipt) receipts[id] = receipt;
  }
  return { conversation, messages, evidence, receipts };
}

export async function exportMarkdown(conversation: Conversation): Promise<void> {
  download(fileName(conversation.title, "md"), toMarkdown(conversation, await database.messagesOf(conversation.id)), "text/markdown");
}

export async function exportJson(conversations: readonly Conversation[], name: string): Promise<void> {
  const bundles: Bundle[] = [];
  for (const conversation of conversations) bundles.push(await bundleOf(conversation));
  download(fileName(name, "json"), toJson(bundles, new Date().toISOString()), "application/json");
}

export async function importFile(file: File): Promise<void> {
  try {
    if (file.size > FILE_BYTES_MAX) throw new ImportError(`the file has ${file.size} bytes, more than ${FILE_BYTES_MAX}`);
    const bundles = fromJson(await file.text());
    const known = {
      conversations: new Map((await database.all("conversations")).map((one) => [one.id, one])),
      messages: new Set((await database.all("messages")).map(({ id }) => id)),
      evidence: new Set((await database.all("evidence")).map(({ receiptId }) => receiptId)),
    };
    const writes = importWrites(bundles, known, newId);
    await chat.chats.add(writes);
    const added = writes.filter(({ store }) => store === "conversations").length;
    toasts.show(added === 0 ? "Everything in this file is here already." : `${added} ${added === 1 ? "conversation" : "conversations"} added.`, { kind: "good" });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    toasts.show(`Nothing was imported: ${reason}.`, { kind: "bad", durationMs: 12_000 });
  }
}
