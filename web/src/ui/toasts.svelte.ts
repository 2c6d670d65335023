// Short notes at the foot of the page, one of them perhaps with a way back ("Undo").

export interface Toast {
  readonly id: number;
  readonly text: string;
  readonly kind: "note" | "good" | "bad";
  readonly action: { readonly label: string; readonly run: () => void } | null;
}

interface ToastOptions {
  kind?: Toast["kind"];
  action?: { label: string; run: () => void };
  durationMs?: number;
  /** Called once when it goes without its action having been taken. */
  onExpire?: () => void;
}

const DURATION_MS = 6_000;
const SHOWN_MAX = 4;

class Toasts {
  shown = $state.raw<readonly Toast[]>([]);
  #next = 1;
  #expire = new Map<number, { timer: ReturnType<typeof setTimeout>; run: (() => void) | undefined }>();

  show(text: string, { kind = "note", action, durationMs = DURATION_MS, onExpire }: ToastOptions = {}): number {
    const id = this.#next++;
    this.shown = [...this.shown, { id, text, kind, action: action ?? null }];
    this.#expire.set(id, { timer: setTimeout(() => this.dismiss(id), durationMs), run: onExpire });
    const oldest = this.shown[0];
    if (this.shown.length > SHOWN_MAX && oldest) this.dismiss(oldest.id);
    return id;
  }

  act(toast: Toast): void {
    this.#remove(toast.id);
    toast.action?.run();
  }

  dismiss(id: number): void {
    this.#remove(id)?.();
  }

  #remove(id: number): (() => void) | undefined {
    const entry = this.#expire.get(id);
    if (!entry) return undefined;
    clearTimeout(entry.timer);
    this.#expire.delete(id);
    this.shown = this.shown.filter((toast) => toast.id !== id);
    return entry.run;
  }
}

export const toasts = new Toasts();
