// What a wallet's refusal means, by its code (EIP-1193, EIP-1474, EIP-3085): wallets word the same refusal differently.

/** One sentence and, where there is one, the next step; `code` names the cause for the page's own logic. */
export interface WalletProblem {
  readonly code: "rejected" | "not_allowed" | "unsupported" | "unknown_chain" | "disconnected" | "already_asking" | "no_gas" | "failed";
  readonly text: string;
}

const BY_CODE: Readonly<Record<number, WalletProblem>> = {
  4001: { code: "rejected", text: "You declined in the wallet. Nothing was signed or sent. Try again when you are ready." },
  4100: { code: "not_allowed", text: "The wallet did not allow this page. Allow it in the wallet, then try again." },
  4200: { code: "unsupported", text: "This wallet can't do this step. Use another wallet." },
  4900: { code: "disconnected", text: "The wallet is disconnected. Unlock it, then try again." },
  4901: { code: "disconnected", text: "The wallet has no connection to this chain. Check its network, then try again." },
  4902: { code: "unknown_chain", text: "The wallet does not know this chain. Add the chain in the wallet, then try again." },
  [-32002]: { code: "already_asking", text: "The wallet is already asking something. Open it and answer there." },
  [-32601]: { code: "unsupported", text: "This wallet can't do this step. Use another wallet." },
  [-32004]: { code: "unsupported", text: "This wallet can't do this step. Use another wallet." },
};

/** The first error code in an error or in what it wraps; undefined when there is none. */
export function codeOf(error: unknown, depth = 0): number | undefined {
  if (typeof error !== "object" || error === null || depth > 4) return undefined;
  const { code, cause, data } = error as { code?: unknown; cause?: unknown; data?: { originalError?: unknown } };
  if (typeof code === "number" && Object.hasOwn(BY_CODE, code)) return code;
  return codeOf(cause, depth + 1) ?? codeOf(data?.originalError, depth + 1) ?? (typeof code === "number" ? code : undefined);
}

/** What to tell a person about a failure inside the wallet. */
export function walletProblem(error: unknown): WalletProblem {
  const code = codeOf(error);
  const known = code === undefined ? undefined : BY_CODE[code];
  if (known) return known;
  const said = messageOf(error);
  // As nodes word it, and as viem does inside of wallets.
  if (/insufficient funds|exceeds the balance of the account/i.test(said)) {
    return { code: "no_gas", text: "The wallet has too little of the chain's own coin for the network fee. Add some, then try again." };
  }
  return { code: "failed", text: `The wallet failed: ${said.slice(0, 200).replace(/\.+$/, "") || "it gave no reason"}. Try again.` };
}

/** An error's own words, without the pages of context that libraries append. */
export function messageOf(error: unknown): string {
  if (typeof error !== "object" || error === null) return String(error);
  const { shortMessage, message } = error as { shortMessage?: unknown; message?: unknown };
  return String(shortMessage ?? message ?? "").split("\n")[0] ?? "";
}
