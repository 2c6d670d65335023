// Token ids of answers that this browser received: what the receipt viewer checks hashes against.

import { database } from "./database";
import type { Evidence } from "./model";

/** Null when this browser did not receive that answer, or its conversation was deleted. */
export function evidenceOf(receiptId: string): Promise<Evidence | null> {
  return database.get("evidence", receiptId);
}
