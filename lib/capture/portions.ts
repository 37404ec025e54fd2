/** Bytes in portions that can be looked at all at once: packets may be as small as 5 bytes. */

const PORTION = 1024 * 1024;

/** No bytes are one portion, too. */
export function portionsOf(bytes: Buffer): Buffer[] {
  if (bytes.length <= PORTION) return [bytes];
  const portions: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += PORTION) portions.push(bytes.subarray(at, at + PORTION));
  return portions;
}

/** The same bytes; where they are a small part of a larger memory, in memory of their own: they may be kept for long. */
export function owned(bytes: Buffer): Buffer {
  if (bytes.buffer.byteLength <= 2 * bytes.length) return bytes;
  const copy = Buffer.allocUnsafeSlow(bytes.length);
  bytes.copy(copy);
  return copy;
}
