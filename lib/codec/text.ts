/**
 * Bytes to strings and back without loss.
 *
 * Valid UTF-8 becomes the characters it means. Each other byte becomes one lone surrogate, U+DC80 to U+DCFF, and that
 * surrogate becomes the same byte again (Python's PEP 383 does it this way). So text reads naturally, any 8-bit header
 * survives, and encode(decode(bytes)) equals bytes for all bytes. Buffer.from() and TextEncoder do not know the rule:
 * they turn each lone surrogate into EF BF BD. Only toBytes() is right.
 */
import { isUtf8 } from 'node:buffer';
import { MilterError } from '../errors.js';

/** A string for bytes; toBytes() gives the same bytes back. */
export function toText(bytes: Uint8Array): string {
  const buffer = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return decodeText(buffer, 0, buffer.length);
}

/**
 * The bytes of a string.
 * @throws MilterError ERR_MILTER_TEXT for a lone surrogate other than U+DC80 to U+DCFF: it stands for no byte.
 */
export function toBytes(text: string): Buffer {
  return text.isWellFormed() ? Buffer.from(text, 'utf8') : escapedToBytes(text);
}

/** toText() for a part of a buffer. */
export function decodeText(buffer: Buffer, start: number, end: number): string {
  for (let i = start; i < end; i++) {
    if ((buffer[i] as number) > 0x7f) return decodeEightBit(buffer.subarray(start, end));
  }
  return buffer.toString('latin1', start, end);
}

function decodeEightBit(bytes: Buffer): string {
  return isUtf8(bytes) ? bytes.toString('utf8') : escapeInvalid(bytes);
}

/** The slow way, for the rare text that is not UTF-8: whole runs of valid characters, single bytes in between. */
function escapeInvalid(bytes: Buffer): string {
  let text = '';
  let run = 0;
  let i = 0;
  while (i < bytes.length) {
    const size = characterSize(bytes, i);
    if (size > 0) {
      i += size;
      continue;
    }
    if (run < i) text += bytes.toString('utf8', run, i);
    text += String.fromCharCode(0xdc00 + (bytes[i] as number));
    i++;
    run = i;
  }
  return text + bytes.toString('utf8', run);
}

/** How many bytes the UTF-8 character at an offset has; 0 where there is none (RFC 3629, section 4). */
function characterSize(bytes: Buffer, at: number): number {
  const first = bytes[at] as number;
  if (first < 0x80) return 1;
  // Latin-1 before an ASCII letter, or a byte that never begins a character: seen without asking isUtf8().
  if (first < 0xc2 || ((bytes[at + 1] ?? 0) & 0xc0) !== 0x80) return 0;
  const size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  return isUtf8(bytes.subarray(at, at + size)) ? size : 0;
}

function escapedToBytes(text: string): Buffer {
  const bytes = Buffer.allocUnsafe(text.length * 3);
  let length = 0;
  for (const character of text) {
    const point = character.codePointAt(0) as number;
    if (point >= 0xdc80 && point <= 0xdcff) {
      bytes[length++] = point - 0xdc00;
    } else if (point >= 0xd800 && point <= 0xdfff) {
      const name = `U+${point.toString(16).toUpperCase()}`;
      throw new MilterError('ERR_MILTER_TEXT', `The lone surrogate ${name} stands for no byte and cannot be sent`);
    } else {
      length += bytes.write(character, length, 'utf8');
    }
  }
  return bytes.subarray(0, length);
}
