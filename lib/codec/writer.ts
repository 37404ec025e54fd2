/**
 * Writes packets one after the other into memory taken in slabs, each packet where it will stay: a finished packet is
 * a view of its slab and is never moved or written again. A packet that outgrows its slab is moved once, into one of its
 * own size. Four bytes are left free for the length, which is known only at the end.
 */
import { isUint8Array } from 'node:util/types';
import { MilterError, show } from '../errors.js';
import { toBytes } from './text.js';

const SLAB = 16 * 1024;
/** Up to this length a loop writes a string sooner than Buffer's methods do (measured). */
const SHORT = 24;

export class Writer {
  #slab: Buffer = Buffer.allocUnsafeSlow(SLAB);
  #start = 0;
  #position = 0;
  #packet = '';
  #maxPayload = 0;

  /** Starts a packet; `packet` is what errors call it. */
  open(code: number, packet: string, maxPayload: number): void {
    this.#packet = packet;
    this.#maxPayload = maxPayload;
    this.#position = this.#start;
    this.#room(5);
    this.#slab[this.#start + 4] = code;
    this.#position = this.#start + 5;
  }

  /** Ends the packet: all of its bytes, with the length. */
  close(): Buffer {
    const start = this.#start;
    this.#room(0);
    this.#slab.writeUInt32BE(this.#position - start - 4, start);
    this.#start = this.#position;
    return this.#slab.subarray(start, this.#position);
  }

  uint8(value: number): void {
    this.#room(1);
    this.#slab[this.#position++] = value;
  }

  uint16(value: number, field: string): void {
    this.#whole(value, 0xffff, field);
    this.#room(2);
    this.#position = this.#slab.writeUInt16BE(value, this.#position);
  }

  uint32(value: number, field: string): void {
    this.#whole(value, 0xffff_ffff, field);
    this.#room(4);
    this.#position = this.#slab.writeUInt32BE(value, this.#position);
  }

  /** Text and its NUL. */
  cstring(text: string, field: string): void {
    if (typeof text !== 'string') throw this.invalid(field, `must be a string, got ${show(text)}`);
    this.#room(text.length * 3 + 1, text.length + 1);
    if (text.length > SHORT || !this.#shortAscii(text)) {
      if (text.includes('\0')) throw this.invalid(field, 'holds a NUL, which ends a string in this protocol');
      this.#position += text.isWellFormed()
        ? this.#slab.write(text, this.#position, 'utf8')
        : this.#escaped(text, field).copy(this.#slab, this.#position);
    }
    this.#slab[this.#position++] = 0;
  }

  bytes(bytes: Uint8Array, field: string): void {
    if (!isUint8Array(bytes)) throw this.invalid(field, `must be a Buffer, got ${show(bytes)}`);
    this.#room(bytes.length);
    this.#slab.set(bytes, this.#position);
    this.#position += bytes.length;
  }

  /** An error about a field, with the packet's name. */
  invalid(field: string, what: string): MilterError {
    return new MilterError('ERR_MILTER_VALUE', `Cannot encode the ${this.#packet} packet: ${field} ${what}`, {
      packet: this.#packet,
    });
  }

  #whole(value: number, max: number, field: string): void {
    if (!Number.isInteger(value) || value < 0 || value > max) {
      throw this.invalid(field, `must be a whole number from 0 to ${max}, got ${show(value)}`);
    }
  }

  /** Writes what most strings are, short ASCII; false where it is something else. */
  #shortAscii(text: string): boolean {
    const slab = this.#slab;
    const start = this.#position;
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      if (code === 0 || code > 0x7f) return false;
      slab[start + i] = code;
    }
    this.#position = start + text.length;
    return true;
  }

  #escaped(text: string, field: string): Buffer {
    try {
      return toBytes(text);
    } catch (error) {
      throw new MilterError(
        'ERR_MILTER_TEXT',
        `Cannot encode the ${this.#packet} packet: ${field} is no text: ${(error as MilterError).message}`,
        { packet: this.#packet },
      );
    }
  }

  /**
   * Makes sure of room for `most` bytes. Of the packet `least` more are certain to come: one that is too large is
   * refused before memory is taken for it.
   */
  #room(most: number, least = most): void {
    const payload = this.#position - this.#start - 5 + least;
    if (payload > this.#maxPayload) throw this.#tooLarge(payload);
    if (this.#position + most <= this.#slab.length) return;
    const begun = this.#slab.subarray(this.#start, this.#position);
    const slab = Buffer.allocUnsafeSlow(Math.max(SLAB, begun.length + most + (begun.length >> 1)));
    slab.set(begun);
    this.#slab = slab;
    this.#start = 0;
    this.#position = begun.length;
  }

  #tooLarge(payload: number): MilterError {
    const limit = `a payload of ${payload} bytes or more, and at most ${this.#maxPayload} may be sent`;
    return new MilterError('ERR_MILTER_PACKET_TOO_LARGE', `The ${this.#packet} packet is too large: ${limit}`, {
      packet: this.#packet,
    });
  }
}
