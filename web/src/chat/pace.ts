// First token and speed of an answer as this page saw them. An answer read again after a break has no honest figures, and gets none.

export interface Figures {
  readonly firstTokenMs: number | null;
  readonly tokensPerS: number | null;
}

export class Pace {
  readonly #beganAt: number;
  #firstAt: number | null = null;
  #lastAt = 0;
  #whole: boolean;

  /** `fromTheStart`: whether the page sends the request now. */
  constructor(private readonly now: () => number, fromTheStart: boolean) {
    this.#beganAt = now();
    this.#whole = fromTheStart;
  }

  token(): void {
    this.#lastAt = this.now();
    this.#firstAt ??= this.#lastAt;
  }

  /** The connection broke: what follows is a replay, faster than the node. */
  broken(): void {
    this.#whole = false;
  }

  figures(completionTokens: number | null): Figures {
    if (!this.#whole || this.#firstAt === null) return { firstTokenMs: null, tokensPerS: null };
    const spanS = (this.#lastAt - this.#firstAt) / 1000;
    const counted = completionTokens !== null && completionTokens > 1 && spanS > 0;
    return { firstTokenMs: Math.round(this.#firstAt - this.#beganAt), tokensPerS: counted ? (completionTokens - 1) / spanS : null };
  }
}
