/**
 * A cursor over the payload of one packet. It never looks past the end of the packet, and names the field in its errors.
 *
 * Strings are what costs: so the first one asked for makes one pass over the rest of the packet that finds every NUL and
 * any 8-bit byte. Plain ASCII is then turned into one string, from which the fields are cut; a packet with 8-bit text
 * is decoded field by field. It is decided packet by packet, so that a string somebody keeps does not hold on to a whole
 * read buffer, and one 8-bit byte does not slow its neighbours down.
 */
import { MilterError } from '../errors.js';
import { decodeText } from './text.js';

const nothing: Buffer = Buffer.alloc(0);
/** A packet with more strings than this one has been up to no good: their places are not kept. */
const MANY_NULS = 4096;

export class Reader {
  #buffer = nothing;
  #start = 0;
  #position = 0;
  #end = 0;
  #packet = '';
  #passing = false;

  /** Where each NUL of the packet is; only the first #nulCount entries count. */
  readonly #nuls: number[] = [];
  #nulCount = -1;
  #nulNext = 0;
  #ascii: string | undefined;
  #asciiStart = 0;

  /**
   * Starts on the payload between two offsets; `packet` is what errors call it. Of a buffer that is `passing`, used for
   * something else afterwards, bytes are copied.
   */
  open(buffer: Buffer, start: number, end: number, packet: string, passing: boolean): void {
    this.#buffer = buffer;
    this.#start = start;
    this.#position = start;
    this.#end = end;
    this.#packet = packet;
    this.#passing = passing;
    this.#nulCount = -1;
  }

  /** Lets go of the buffer, which must not stay alive because somebody decoded a packet of it. */
  close(): void {
    this.#buffer = nothing;
    this.#ascii = undefined;
    if (this.#nuls.length > MANY_NULS) this.#nuls.length = 0;
  }

  /** How many bytes are left. */
  get left(): number {
    return this.#end - this.#position;
  }

  uint8(field: string): number {
    const at = this.#take(1, field);
    return this.#buffer[at] as number;
  }

  uint16(field: string): number {
    const at = this.#take(2, field);
    const b = this.#buffer;
    return ((b[at] as number) << 8) | (b[at + 1] as number);
  }

  uint32(field: string): number {
    const at = this.#take(4, field);
    const b = this.#buffer;
    const high = (((b[at] as number) << 8) | (b[at + 1] as number)) << 16;
    return (high | ((b[at + 2] as number) << 8) | (b[at + 3] as number)) >>> 0;
  }

  /** A string up to its NUL, which is there or the packet is malformed. */
  cstring(field: string): string {
    if (this.#nulCount < 0) this.#scan();
    const start = this.#position;
    // The zero bytes of a number that was read in between are no ends of strings.
    while (this.#nulNext < this.#nulCount && (this.#nuls[this.#nulNext] as number) < start) this.#nulNext++;
    if (this.#nulNext >= this.#nulCount) throw this.malformed(field, 'has no NUL at its end');
    const nul = this.#nuls[this.#nulNext++] as number;
    this.#position = nul + 1;
    return this.#ascii === undefined
      ? decodeText(this.#buffer, start, nul)
      : this.#ascii.slice(start - this.#asciiStart, nul - this.#asciiStart);
  }

  /** What is left as bytes: a view, no copy, of a buffer that stays. */
  rest(): Buffer {
    const bytes = this.#buffer.subarray(this.#position, this.#end);
    this.#position = this.#end;
    return this.#passing ? Buffer.from(bytes) : bytes;
  }

  /** An error about a field, with the packet's name and the place. */
  malformed(field: string, what: string): MilterError {
    const offset = this.#position - this.#start;
    const shown = Buffer.from(this.#buffer.subarray(this.#start, Math.min(this.#end, this.#start + 32)));
    return new MilterError(
      'ERR_MILTER_MALFORMED',
      `Malformed ${this.#packet} packet: ${field} ${what} (payload offset ${offset} of ${this.#end - this.#start}, begins ${shown.toString('hex')})`,
      { packet: this.#packet, offset, bytes: shown },
    );
  }

  #take(size: number, field: string): number {
    const at = this.#position;
    if (at + size > this.#end) throw this.malformed(field, `needs ${size} bytes, ${this.left} are left`);
    this.#position = at + size;
    return at;
  }

  #scan(): void {
    const buffer = this.#buffer;
    const end = this.#end;
    let count = 0;
    let any = 0;
    for (let i = this.#position; i < end; i++) {
      const byte = buffer[i] as number;
      any |= byte;
      if (byte === 0) this.#nuls[count++] = i;
    }
    this.#nulCount = count;
    this.#nulNext = 0;
    this.#asciiStart = this.#position;
    this.#ascii = any < 0x80 ? buffer.toString('latin1', this.#position, end) : undefined;
  }
}
