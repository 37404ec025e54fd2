/** How bytes are written to one stream: as they are, or in small pieces, each in a packet of its own where that can be. */
import type { Duplex } from 'node:stream';

/** What is not writable any more is not written to: the reader has gone. */
export interface Pen {
  /** No more, please, until it has drained. */
  readonly full: boolean;
  write(bytes: Buffer): void;
  /** Ends the stream behind what has been written. */
  end(): void;
}

/**
 * @param pieces the size of the pieces, in bytes; undefined: as they come
 * @param drained more is welcome again
 */
export function penFor(stream: Duplex, pieces: number | undefined, drained: () => void): Pen {
  return pieces === undefined ? new Plain(stream, drained) : new Trickle(stream, pieces, drained);
}

class Plain implements Pen {
  readonly #stream: Duplex;

  constructor(stream: Duplex, drained: () => void) {
    this.#stream = stream;
    stream.on('drain', drained);
  }

  get full(): boolean {
    return this.#stream.writableNeedDrain;
  }

  write(bytes: Buffer): void {
    if (this.#stream.writable) this.#stream.write(bytes);
  }

  end(): void {
    this.#stream.end();
  }
}

/** How much may wait to be written in pieces, in bytes. */
const MOST_WAITING = 64 * 1024;

/** How a bad network would bring them. */
class Trickle implements Pen {
  readonly #stream: Duplex;
  readonly #size: number;
  readonly #drained: () => void;
  readonly #waiting: Buffer[] = [];
  /** How much of the first one has been written. */
  #at = 0;
  /** How much is waiting. */
  #length = 0;
  #busy = false;
  #ended = false;

  constructor(stream: Duplex, size: number, drained: () => void) {
    this.#stream = stream;
    this.#size = size;
    this.#drained = drained;
  }

  get full(): boolean {
    return this.#length > MOST_WAITING && this.#stream.writable;
  }

  write(bytes: Buffer): void {
    if (this.#ended || !this.#stream.writable) return;
    this.#waiting.push(bytes);
    this.#length += bytes.length;
    if (!this.#busy) this.#next();
  }

  end(): void {
    this.#ended = true;
    if (!this.#busy) this.#stream.end();
  }

  readonly #next = (): void => {
    const [first] = this.#waiting;
    this.#busy = first !== undefined && this.#stream.writable;
    if (first === undefined || !this.#busy) {
      if (this.#ended) this.#stream.end();
      return;
    }
    const wasFull = this.full;
    const piece = first.subarray(this.#at, this.#at + this.#size);
    this.#at += piece.length;
    this.#length -= piece.length;
    if (this.#at === first.length) {
      this.#waiting.shift();
      this.#at = 0;
    }
    this.#stream.write(piece, () => setImmediate(this.#next));
    if (wasFull && !this.full) this.#drained();
  };
}
