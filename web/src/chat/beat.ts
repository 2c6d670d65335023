// When an answer under way is drawn again: with the frames while that is cheap, less often where drawing takes long, so that typing stays quick.

/** At most one part in this many of the time goes to drawing. */
const SHARE = 4;
/** However slow the device is, the text moves on this often. */
const PAUSE_MS_MAX = 400;

export class Beat {
  #waiting = false;
  #notBefore = 0;

  constructor(private readonly draw: () => void) {}

  /** Asks for a drawing soon. Any number of askings make one. */
  ask(): void {
    if (this.#waiting) return;
    this.#waiting = true;
    const wait = this.#notBefore - performance.now();
    if (wait > 0) setTimeout(() => this.#frame(), wait);
    else this.#frame();
  }

  #frame(): void {
    // A hidden page gets no frames and needs none: what ended meanwhile is shown without them.
    requestAnimationFrame(() => {
      this.#waiting = false;
      const began = performance.now();
      this.draw();
      // A task of its own after the frame comes when layout and paint are done.
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        channel.port1.close();
        const now = performance.now();
        this.#notBefore = now + Math.min(PAUSE_MS_MAX, (now - began) * (SHARE - 1));
      };
      channel.port2.postMessage(null);
    });
  }
}
