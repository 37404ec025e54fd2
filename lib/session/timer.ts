/**
 * A timer that can be put off cheaply: `touch()` only notes the time, and the timer finds out when it fires.
 * It does not keep the process alive: that is what sockets do.
 */
export class Timer {
  readonly #fire: () => void;
  #timeout: NodeJS.Timeout | undefined;
  #limit = 0;
  #touched = 0;

  constructor(fire: () => void) {
    this.#fire = fire;
  }

  /** Fires once, after this many ms without a touch. */
  start(limit: number): void {
    this.stop();
    this.#limit = limit;
    this.#arm(limit);
  }

  /** The time starts anew. */
  touch(): void {
    this.#touched = performance.now();
  }

  stop(): void {
    clearTimeout(this.#timeout);
  }

  #arm(ms: number): void {
    this.#timeout = setTimeout(() => {
      const left = this.#touched + this.#limit - performance.now();
      if (left > 1) this.#arm(left);
      else this.#fire();
    }, ms).unref();
  }
}
