// Wallets in the browser, found by EIP-6963: listen first, then ask. Names and icons are the wallet's own claim, not proof.

/** The part of EIP-1193 that the page uses. */
export interface Eip1193 {
  request(args: { method: string; params?: unknown }): Promise<unknown>;
  on?(event: string, listener: (...args: never[]) => void): void;
  removeListener?(event: string, listener: (...args: never[]) => void): void;
}

/** A wallet that announced itself. */
export interface FoundWallet {
  /** `rdns uuid`: the same wallet announces itself again on each request. */
  readonly key: string;
  readonly rdns: string;
  readonly name: string;
  /** A `data:image/…` address, shown in an `img` and never as markup; null when the wallet's is none. */
  readonly icon: string | null;
  readonly provider: Eip1193;
}

const ICON_FORM = /^data:image\/(png|jpeg|webp|gif|svg\+xml)[;,]/;
const ICON_CHARACTERS_MAX = 100_000;
const NAME_CHARACTERS_MAX = 40;
const REMEMBERED = "parallelix.wallet";

/** A wallet from an announcement's detail; null when it is none. */
export function walletFrom(detail: unknown): FoundWallet | null {
  if (typeof detail !== "object" || detail === null) return null;
  const { info, provider } = detail as { info?: Record<string, unknown>; provider?: Eip1193 };
  if (typeof info?.uuid !== "string" || typeof provider?.request !== "function") return null;
  const icon = typeof info.icon === "string" && info.icon.length <= ICON_CHARACTERS_MAX && ICON_FORM.test(info.icon) ? info.icon : null;
  const rdns = String(info.rdns ?? "").slice(0, 100);
  const name = String(info.name ?? "").trim().slice(0, NAME_CHARACTERS_MAX) || "Unnamed wallet";
  return { key: `${rdns} ${info.uuid}`, rdns, name, icon, provider };
}

/** Hears wallets until the returned function is called; `heard` gets the whole list each time it grows. */
export function discover(heard: (wallets: readonly FoundWallet[]) => void, target: Window = window): () => void {
  const found = new Map<string, FoundWallet>();
  const show = (): void => {
    const legacy = (target as unknown as { ethereum?: Eip1193 }).ethereum;
    const all = [...found.values()];
    // A page-wide provider is the fallback of old wallets; whoever announces itself is there twice.
    if (all.length === 0 && typeof legacy?.request === "function") {
      all.push({ key: "window.ethereum", rdns: "window.ethereum", name: "Browser wallet", icon: null, provider: legacy });
    }
    heard(all);
  };
  const listen = (event: Event): void => {
    const wallet = walletFrom((event as CustomEvent<unknown>).detail);
    if (wallet === null || found.has(wallet.key)) return;
    found.set(wallet.key, wallet);
    show();
  };
  target.addEventListener("eip6963:announceProvider", listen);
  target.dispatchEvent(new Event("eip6963:requestProvider"));
  show();
  return () => target.removeEventListener("eip6963:announceProvider", listen);
}

/** The wallet used last comes first. */
export function lastUsedFirst(wallets: readonly FoundWallet[], remembered: string | null): FoundWallet[] {
  return [...wallets].sort((a, b) => Number(b.rdns === remembered) - Number(a.rdns === remembered));
}

/** Name of the wallet used last. A browser that refuses storage remembers none. */
export function rememberedWallet(): string | null {
  try {
    return localStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}

/** Remembers a wallet for the next visit, as far as the browser allows. */
export function rememberWallet(wallet: FoundWallet): void {
  try {
    localStorage.setItem(REMEMBERED, wallet.rdns);
  } catch {
    // Without storage the list is only less convenient.
  }
}
