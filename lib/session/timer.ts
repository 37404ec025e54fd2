/**
 * A timer that can be put off cheaply: `touch()` only notes the time, and the timer finds out when it fires.
 * It does not keep the process alive: that is what sockets do.
 */
export class Timer {
  readonly #fire: () => void;
  #timeout: NodeJS.Timeout | undefined;
  #limit = 0;
  #since = 0;

  constructor(fire: () => void) {
    this.#fire = fire;
  }

  /** Fires once, after this many ms without a touch. */
  start(limit: number): void {
    this.stop();
    this.#limit = limit;
    this.#since = performance.now();
    this.#arm(limit);
  }

  /** The time starts anew. */
  touch(): void {
    this.#since = performance.now();
  }

  stop(): void {
    clearTimeout(this.#timeout);
    this.#timeout = undefined;
  }

  #arm(ms: number): void {
    this.#timeout = setTimeout(() => {
      const left = this.#since + this.#limit - performance.now();
      if (left > 1) this.#arm(left);
      else this.#fire();
    }, ms).unref();
  }
}
