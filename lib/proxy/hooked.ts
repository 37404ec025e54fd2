/**
 * The packets of one direction, one after the other past a hook that may take its time. Some more are read meanwhile, so
 * that it is seen when their sender leaves; then the source is not read: that is the back-pressure.
 */
import type { PacketSink } from '../codec/parser.js';

/** How many bytes of packets may wait for a hook. */
const MOST_WAITING = 64 * 1024;

export class HookedLane<P extends { readonly raw?: Buffer | undefined }> implements PacketSink<P> {
  readonly #queue: Array<P | (() => void)> = [];
  readonly #handle: (packet: P) => PromiseLike<void> | void;
  readonly #idle: () => void;
  /** A hook takes its time. */
  #waiting = false;
  /** Bytes of the packets in the queue. */
  #length = 0;
  #closed = false;

  /** @param idle everything has been handled: more is welcome */
  constructor(handle: (packet: P) => PromiseLike<void> | void, idle: () => void) {
    this.#handle = handle;
    this.#idle = idle;
  }

  /** Enough is waiting. */
  get full(): boolean {
    return this.#length > MOST_WAITING;
  }

  packet(packet: P): void {
    this.#queue.push(packet);
    this.#length += sizeOf(packet);
    if (!this.#waiting) this.#run();
  }

  /** Does something when all packets before have been handled. */
  after(act: () => void): void {
    this.#queue.push(act);
    if (!this.#waiting) this.#run();
  }

  /** Handles nothing any more. */
  close(): void {
    this.#closed = true;
    this.#queue.length = 0;
  }

  #run(): void {
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      if (typeof next === 'function') {
        next();
        continue;
      }
      this.#length -= sizeOf(next);
      const later = this.#handle(next);
      if (later === undefined) continue;
      this.#waiting = true;
      void later.then(() => {
        this.#waiting = false;
        if (this.#closed) return;
        this.#run();
        if (!this.#waiting) this.#idle();
      });
      return;
    }
  }
}

function sizeOf(packet: { readonly raw?: Buffer | undefined }): number {
  return (packet.raw as Buffer).length;
}
