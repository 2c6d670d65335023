// The one open database of this page.

import { ChatDatabase } from "./db";

export const database = new ChatDatabase();
