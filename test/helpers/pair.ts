/** Two ends of a connection in memory: what is written to one is read from the other, at the reader's pace. */
import { Duplex } from 'node:stream';

class End extends Duplex {
  other: End | undefined;
  /** Of the other end's last write: called when that has been taken. */
  #taken: (() => void) | undefined;

  override _read(): void {
    const taken = this.#taken;
    this.#taken = undefined;
    taken?.();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.other?.arrive(chunk, done);
  }

  override _final(done: () => void): void {
    this.other?.arrive(null, done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this._read(); // what it has not read is gone, and nobody waits for that
    // As with sockets, the other end learns of it by reading, or by writing.
    if (this.other?.readableEnded === false) this.other.arrive(null, () => {});
    done(error);
  }

  arrive(chunk: Buffer | null, taken: () => void): void {
    if (this.destroyed || chunk === null || chunk.length === 0) process.nextTick(taken);
    else this.#taken = taken;
    if (!this.destroyed) this.push(chunk);
  }
}

export function connectedPair(): [Duplex, Duplex] {
  const one = new End();
  const other = new End();
  one.other = other;
  other.other = one;
  return [one, other];
}
