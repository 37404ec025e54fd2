/**
 * One end of a TCP connection: its segments, put into their order. Positions are sequence numbers that do not wrap.
 * Bytes that came already are dropped: what was handed on first stands.
 */
import type { Endpoint } from './types.js';

/** A segment's bytes, or the end of the stream, at its position. */
export interface Piece {
  readonly position: number;
  readonly time: number;
  readonly bytes: Buffer;
  readonly fin: boolean;
  /** How much of what the other end sends had come there before this was sent; -Infinity where it does not say. */
  needs: number;
}

/** What a held piece costs besides its bytes. */
const OVERHEAD = 256;
const nothing = Buffer.alloc(0);

export class Half {
  /** The position of the next byte to hand on; undefined until the beginning is known. */
  next: number | undefined;
  /** Everything before is what the other end has got. */
  acknowledged = -Infinity;
  ended = false;
  /** Cost of the pieces that wait, in bytes. */
  cost = 0;
  readonly #held: Piece[] = [];
  /** The position first seen, and the lowest one. */
  #seen: number | undefined;
  #lowest = Infinity;

  constructor(readonly endpoint: Endpoint) {}

  /** The position for a sequence number: the one nearest to where the stream is. */
  positionOf(sequence: number): number {
    this.#seen ??= sequence + 2 ** 32; // far from zero, so that none is negative
    const near = this.next ?? this.#seen;
    const position = near + ((sequence - (near % 2 ** 32)) | 0);
    this.#lowest = Math.min(this.#lowest, position);
    return position;
  }

  hold(piece: Piece): void {
    const end = piece.position + piece.bytes.length;
    if (this.next !== undefined && end <= this.next && !(piece.fin && end === this.next)) return;
    const held = this.#held;
    let at = held.length;
    while (at > 0 && (held[at - 1] as Piece).position > piece.position) at--;
    for (let i = at - 1; i >= 0 && held[i]?.position === piece.position; i--) {
      const same = held[i] as Piece;
      if (same.bytes.length < piece.bytes.length || same.fin !== piece.fin) continue;
      // Sent again: the first of the two needed less.
      same.needs = Math.min(same.needs, piece.needs);
      return;
    }
    held.splice(at, 0, piece);
    this.cost += piece.bytes.length + OVERHEAD;
  }

  /** The first piece that waits. */
  get first(): Piece | undefined {
    return this.#held[0];
  }

  /** Takes the first piece, without what was there before. */
  shift(): Piece {
    const piece = this.#held.shift() as Piece;
    this.cost -= piece.bytes.length + OVERHEAD;
    const next = this.next as number;
    const known = Math.min(Math.max(0, next - piece.position), piece.bytes.length);
    const bytes = known === piece.bytes.length ? nothing : piece.bytes.subarray(known);
    this.next = Math.max(next, piece.position + piece.bytes.length) + (piece.fin ? 1 : 0);
    return { ...piece, bytes };
  }

  /** What waits now is of no use. */
  drop(): void {
    this.#held.length = 0;
    this.cost = 0;
  }

  /** Begins with what there is, where the beginning was not seen. */
  beginLate(): boolean {
    if (this.next !== undefined || this.#seen === undefined) return false;
    this.next = this.#lowest;
    return true;
  }
}
