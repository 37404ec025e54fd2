/**
 * The packets of one direction, one after the other past a hook that may take its time. Some more are read meanwhile, so
 * that it is seen when their sender leaves; then the source is not read: that is the back-pressure.
 */
import type { PacketSink } from '../codec/parser.js';

/** How many bytes of packets may wait for a hook. */
const MOST_WAITING = 64 * 1024;

export class HookedLane<P extends { readonly raw?: Buffer | undefined }> implements PacketSink<P> {
  readonly #queue: Array<P | Deferred> = [];
  readonly #handle: (packet: P) => PromiseLike<void> | void;
  readonly #idle: () => void;
  /** A hook takes its time. */
  #waiting = false;
  /** Bytes of what is in the queue. */
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

  /** Does something when all before has been handled. @param length of the bytes that this is about */
  after(act: () => void, length = 0): void {
    this.#queue.push(new Deferred(act, length));
    this.#length += length;
    if (!this.#waiting) this.#run();
  }

  /** Handles nothing any more. */
  close(): void {
    this.#closed = true;
    this.#queue.length = 0;
  }

  #run(): void {
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      if (next instanceof Deferred) {
        this.#length -= next.length;
        next.act();
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

class Deferred {
  readonly act: () => void;
  readonly length: number;

  constructor(act: () => void, length: number) {
    this.act = act;
    this.length = length;
  }
}

function sizeOf(packet: { readonly raw?: Buffer | undefined }): number {
  return (packet.raw as Buffer).length;
}
