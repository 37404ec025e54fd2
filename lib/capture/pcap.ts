/**
 * Reads pcap, the file format of tcpdump (draft-ietf-opsawg-pcap): a header of 24 bytes, then frames, each behind 16 bytes
 * that tell its time and length. The magic number tells the order of bytes, and whether times are in µs or ns.
 */
import type { ByteSource } from './byte-source.js';
import { broken } from './failure.js';
import { MAX_BLOCK, type Frame } from './frame.js';

const HEADER = 24;
const RECORD = 16;

/** By the first four bytes: whether the file is little-endian, and how many parts of a second it counts in. */
const KINDS: Readonly<Record<string, { readonly little: boolean; readonly perSecond: number }>> = {
  a1b2c3d4: { little: false, perSecond: 1e6 },
  d4c3b2a1: { little: true, perSecond: 1e6 },
  a1b23c4d: { little: false, perSecond: 1e9 },
  '4d3cb2a1': { little: true, perSecond: 1e9 },
};

export function isPcap(head: Buffer): boolean {
  return Object.hasOwn(KINDS, head.toString('hex', 0, 4));
}

/**
 * The frames of a file.
 * @throws MilterError ERR_MILTER_CAPTURE where it is broken or cut, behind the frames before
 */
export async function* pcapFrames(source: ByteSource): AsyncGenerator<Frame, void, undefined> {
  const header = await source.take(HEADER);
  if (header.length < HEADER) throw broken('The file is cut: its header is not complete', 'offset 0', 0);
  const { little, perSecond } = KINDS[header.toString('hex', 0, 4)] as { little: boolean; perSecond: number };
  const u32 = (bytes: Buffer, at: number): number => (little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
  const linkType = u32(header, 20) & 0xffff; // the bits above say how long the check sum of a frame is
  for (let number = 1; ; number++) {
    const at = source.offset;
    const place = `frame ${number}, offset ${at}`;
    const record = await source.take(RECORD);
    if (record.length === 0) break;
    if (record.length < RECORD) throw broken('The file is cut inside the header of a frame', place, at);
    const length = u32(record, 8);
    if (length > MAX_BLOCK) throw broken(`The file is broken: a frame of ${length} bytes`, place, at);
    const bytes = await source.take(length);
    if (bytes.length < length) {
      throw broken(`The file is cut: the frame has ${bytes.length} of its ${length} bytes`, place, at);
    }
    const time = u32(record, 0) * 1000 + (u32(record, 4) / perSecond) * 1000;
    yield { number, time, linkType, bytes, size: u32(record, 12) };
  }
}
