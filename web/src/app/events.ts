// What one part of the page asks of another without importing it: the chat opens the deposit, the wallet tells that money arrived.

export interface PageEvents {
  /** Open the deposit in place. `needed` is what would be enough, in credits, when it is known; `renews` when a new authorization is what is missing, not money. */
  "deposit-wanted": { needed: bigint | null; renews?: boolean };
  /** Credits arrived or an authorization was signed: what waited for money may go on. */
  "credits-changed": undefined;
  /** Somebody must sign in or link a wallet before this can go on. */
  "sign-in-wanted": { reason: string | null };
}

type Listener<Name extends keyof PageEvents> = (detail: PageEvents[Name]) => void;

const target = new EventTarget();

export function emit<Name extends keyof PageEvents>(name: Name, detail: PageEvents[Name]): void {
  target.dispatchEvent(new CustomEvent(name, { detail }));
}

/** Listens until the returned function is called. */
export function on<Name extends keyof PageEvents>(name: Name, listener: Listener<Name>): () => void {
  const handle = (event: Event) => listener((event as CustomEvent<PageEvents[Name]>).detail);
  target.addEventListener(name, handle);
  return () => target.removeEventListener(name, handle);
}
