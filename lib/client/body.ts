/**
 * A message's body: pieces that are held once, however many milters look at them. One that comes from a stream is read
 * when the first milter is shown it, as fast as that takes it, and never twice.
 */
import { BufferList } from 'bl';

export class Body {
  /** What is there, in order. */
  readonly pieces: Buffer[] = [];
  /** Bytes in them. */
  length = 0;
  #source: AsyncIterator<Buffer> | undefined;

  static of(...pieces: readonly Buffer[]): Body {
    const body = new Body();
    for (const piece of pieces) body.#add(piece);
    return body;
  }

  static reading(source: AsyncIterator<Buffer>): Body {
    const body = new Body();
    body.#source = source;
    return body;
  }

  /**
   * The body cut into chunks of one size, the last one smaller. A chunk that lies within one piece is a view of it.
   * @throws what the stream fails with
   */
  async *chunks(size: number): AsyncGenerator<Buffer> {
    const waiting = new BufferList();
    for (let next = 0; next < this.pieces.length || (await this.#more()); next++) {
      waiting.append(this.pieces[next] as Buffer);
      while (waiting.length >= size) yield take(waiting, size);
    }
    if (waiting.length > 0) yield take(waiting, waiting.length);
  }

  /** Reads what is left of the stream. @throws what it fails with */
  async whole(): Promise<void> {
    while (await this.#more());
  }

  /** Says to the stream that nobody will read it any further. */
  async leave(): Promise<void> {
    const source = this.#source;
    this.#source = undefined;
    await source?.return?.();
  }

  #add(piece: Buffer): void {
    if (piece.length === 0) return;
    this.pieces.push(piece);
    this.length += piece.length;
  }

  /** Whether another piece has come. */
  async #more(): Promise<boolean> {
    const before = this.pieces.length;
    while (this.#source !== undefined && this.pieces.length === before) {
      const { done, value } = await this.#source.next();
      if (done === true) this.#source = undefined;
      else this.#add(value);
    }
    return this.pieces.length > before;
  }
}

function take(waiting: BufferList, size: number): Buffer {
  const chunk = waiting.slice(0, size);
  waiting.consume(size);
  return chunk;
}
