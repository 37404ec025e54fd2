/** A file as it comes, taken in pieces of a known size. Never holds more than the piece asked for and the last chunk. */
import type { Source } from './types.js';

export class ByteSource {
  readonly #chunks: AsyncIterator<Uint8Array> | Iterator<Uint8Array>;
  #held: Buffer[] = [];
  #size = 0;
  #ended = false;
  /** How many bytes have been taken. */
  offset = 0;

  constructor(chunks: Source<Uint8Array>) {
    this.#chunks =
      Symbol.asyncIterator in chunks
        ? chunks[Symbol.asyncIterator]()
        : (chunks as Iterable<Uint8Array>)[Symbol.iterator]();
  }

  /** The next bytes, without taking them; fewer at the end. */
  async peek(size: number): Promise<Buffer> {
    while (this.#size < size && !this.#ended) {
      const { done, value } = await this.#chunks.next();
      if (done === true) {
        this.#ended = true;
      } else if (value.length > 0) {
        this.#held.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength));
        this.#size += value.length;
      }
    }
    if (this.#held.length > 1 && (this.#held[0] as Buffer).length < size) this.#held = [Buffer.concat(this.#held)];
    return this.#held[0]?.subarray(0, size) ?? Buffer.alloc(0);
  }

  /** The next bytes; fewer at the end. */
  async take(size: number): Promise<Buffer> {
    const bytes = await this.peek(size);
    this.offset += bytes.length;
    this.#size -= bytes.length;
    const first = this.#held[0];
    if (first !== undefined) {
      if (first.length === bytes.length) this.#held.shift();
      else this.#held[0] = first.subarray(bytes.length);
    }
    return bytes;
  }

  /** What is left, as it comes. */
  async *rest(): AsyncGenerator<Buffer, void, undefined> {
    for (;;) {
      const bytes = await this.peek(1);
      if (bytes.length === 0) return;
      yield await this.take((this.#held[0] as Buffer).length);
    }
  }

  /** Lets go of the file before its end. */
  async close(): Promise<void> {
    await this.#chunks.return?.();
  }
}
