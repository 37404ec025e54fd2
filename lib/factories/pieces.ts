/** Parts of buffers, in order: those that lie one behind the other are one piece. */

interface Piece {
  readonly buffer: Buffer;
  readonly start: number;
  end: number;
}

export class Pieces {
  #list: Piece[] = [];

  get empty(): boolean {
    return this.#list.length === 0;
  }

  add(buffer: Buffer, start: number, end: number): void {
    const last = this.#list.at(-1);
    if (last?.buffer === buffer && last.end === start) last.end = end;
    else this.#list.push({ buffer, start, end });
  }

  /** All of it, without a copy. */
  take(): Buffer[] {
    const list = this.#list;
    this.#list = [];
    return list.map(({ buffer, start, end }) => buffer.subarray(start, end));
  }
}
