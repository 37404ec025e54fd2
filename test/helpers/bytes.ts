/**
 * Bytes of packets, put together by a second hand: nothing in here comes from lib/, so that a mistake in the library
 * cannot prove itself right.
 */

export function u8(value: number): Buffer {
  return Buffer.of(value);
}

export function u16(value: number): Buffer {
  return Buffer.of((value >>> 8) & 0xff, value & 0xff);
}

export function u32(value: number): Buffer {
  return Buffer.of((value >>> 24) & 0xff, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
}

/** Text (as UTF-8) or bytes, and a NUL. */
export function str(text: string | Uint8Array): Buffer {
  return Buffer.concat([typeof text === 'string' ? Buffer.from(text, 'utf8') : text, Buffer.of(0)]);
}

/** A whole packet; a part that is a string gets its NUL. */
export function packet(code: string, ...parts: ReadonlyArray<Uint8Array | string>): Buffer {
  const payload = Buffer.concat(parts.map((part) => (typeof part === 'string' ? str(part) : part)));
  return Buffer.concat([u32(1 + payload.length), Buffer.from(code, 'latin1'), payload]);
}

/** Bytes written as `00 00 00 01 63`; white space and line ends do not count. */
export function hex(digits: string): Buffer {
  const packed = digits.replaceAll(/\s+/g, '');
  const bytes = Buffer.from(packed, 'hex');
  if (bytes.length * 2 !== packed.length) throw new Error(`not hexadecimal: ${digits}`);
  return bytes;
}

/** The bytes in pieces of a size. */
export function cut(bytes: Buffer, size: number): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.subarray(at, at + size));
  return pieces;
}
