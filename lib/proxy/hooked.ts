/**
 * The packets of one direction, one after the other past a hook that may take its time. Meanwhile the source is not read:
 * that is the back-pressure.
 */
import type { PacketSink } from '../codec/parser.js';

export class HookedLane<P extends object> implements PacketSink<P> {
  readonly #queue: Array<P | (() => void)> = [];
  readonly #handle: (packet: P) => PromiseLike<void> | void;
  readonly #idle: () => void;
  #busy = false;
  #closed = false;

  /** @param idle everything has been handled: more is welcome */
  constructor(handle: (packet: P) => PromiseLike<void> | void, idle: () => void) {
    this.#handle = handle;
    this.#idle = idle;
  }

  get busy(): boolean {
    return this.#busy;
  }

  packet(packet: P): void {
    this.#queue.push(packet);
    if (!this.#busy) this.#run();
  }

  /** Does something when all packets before have been handled. */
  after(act: () => void): void {
    this.#queue.push(act);
    if (!this.#busy) this.#run();
  }

  /** Handles nothing any more. */
  close(): void {
    this.#closed = true;
    this.#queue.length = 0;
  }

  #run(): void {
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      const later = typeof next === 'function' ? next() : this.#handle(next);
      if (later === undefined) continue;
      this.#busy = true;
      void later.then(() => {
        this.#busy = false;
        if (this.#closed) return;
        this.#run();
        if (!this.#busy) this.#idle();
      });
      return;
    }
  }
}
