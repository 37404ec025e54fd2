/**
 * A message's body: pieces that are held once, however many milters look at them. One that comes from a stream is read
 * when the first milter is shown it, as fast as that takes it, and never twice.
 */
export class Body {
  /** What is there, in order. */
  readonly pieces: Buffer[] = [];
  /** Bytes in them. */
  length = 0;
  #source: AsyncIterator<Buffer> | undefined;

  static of(...pieces: readonly Buffer[]): Body {
    return Body.holding(pieces);
  }

  /** There may be more of them than a function takes arguments. */
  static holding(pieces: Iterable<Buffer>): Body {
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
   * The body cut into chunks of one size, the last one smaller. What is cut stays cut: the next reader gets the same
   * memory, and so does whoever has kept a chunk.
   * @throws what the stream fails with
   */
  async *chunks(size: number): AsyncGenerator<Buffer> {
    for (let next = 0; next < this.pieces.length || (await this.#more()); next++) {
      while (this.#lengthFrom(next, size) < size && (await this.#more()));
      yield this.#cut(next, size);
    }
  }

  /** The bytes from a piece on, as far as it matters. */
  #lengthFrom(index: number, enough: number): number {
    let length = 0;
    for (let i = index; i < this.pieces.length && length < enough; i++) length += (this.pieces[i] as Buffer).length;
    return length;
  }

  /** Makes a piece one of a size, of itself and what follows. */
  #cut(index: number, size: number): Buffer {
    const parts: Buffer[] = [];
    let length = 0;
    for (let i = index; i < this.pieces.length && length < size; i++) {
      parts.push(this.pieces[i] as Buffer);
      length += (this.pieces[i] as Buffer).length;
    }
    const last = parts.at(-1) as Buffer;
    const rest = last.subarray(last.length - Math.max(0, length - size));
    const chunk = parts.length === 1 ? last.subarray(0, size) : Buffer.concat(parts, Math.min(length, size));
    // A small rest must not hold on to the memory of a large piece.
    const left = rest.length === 0 ? [] : [rest.length < size && last.length > size ? Buffer.from(rest) : rest];
    this.pieces.splice(index, parts.length, chunk, ...left);
    return chunk;
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
