/**
 * Reads pcapng (draft-ietf-opsawg-pcapng): blocks, each of which says its kind and, at both ends, its length. Sections may
 * differ in the order of bytes, interfaces in what frames begin with and in how they tell time. Blocks that hold no frame
 * are read over.
 */
import type { ByteSource } from './byte-source.js';
import { broken } from './failure.js';
import { MAX_BLOCK, type Frame } from './frame.js';

/** Kinds of block. */
export const SECTION = 0x0a0d0d0a;
export const INTERFACE = 1;
export const SIMPLE_PACKET = 3;
export const ENHANCED_PACKET = 6;
const OLD_PACKET = 2;
export const BYTE_ORDER = 0x1a2b3c4d;

/** Most interfaces of a section. */
const MAX_INTERFACES = 65_536;

/** Options. */
export const COMMENT = 1;
export const TIME_RESOLUTION = 9;
const TIME_OFFSET = 14;

interface Interface {
  readonly linkType: number;
  readonly snapLength: number;
  /** Parts of a second that times are counted in. */
  readonly perSecond: bigint;
  /** Seconds to add to each time. */
  readonly offset: number;
}

/** Reads numbers in a section's order of bytes. */
interface Numbers {
  u16(bytes: Buffer, at: number): number;
  u32(bytes: Buffer, at: number): number;
}

const BIG: Numbers = { u16: (bytes, at) => bytes.readUInt16BE(at), u32: (bytes, at) => bytes.readUInt32BE(at) };
const LITTLE: Numbers = { u16: (bytes, at) => bytes.readUInt16LE(at), u32: (bytes, at) => bytes.readUInt32LE(at) };

export function isPcapng(head: Buffer): boolean {
  return head.length >= 4 && head.readUInt32BE(0) === SECTION;
}

/**
 * The frames of a file.
 * @throws MilterError ERR_MILTER_CAPTURE where it is broken or cut, behind the frames before
 */
export async function* pcapngFrames(source: ByteSource): AsyncGenerator<Frame, void, undefined> {
  let numbers = BIG;
  let interfaces: Interface[] = [];
  let number = 0;
  let time = 0;
  for (;;) {
    const at = source.offset;
    const head = await source.peek(12);
    if (head.length === 0) return;
    const place = `frame ${number + 1}, offset ${at}`;
    if (head.length < 12) throw broken('The file is cut inside the header of a block', place, at);
    if (isPcapng(head)) {
      numbers = head.readUInt32BE(8) === BYTE_ORDER ? BIG : LITTLE;
      if (numbers.u32(head, 8) !== BYTE_ORDER) throw broken('The file is broken: no order of bytes', place, at);
      interfaces = [];
    }
    const type = numbers.u32(head, 0);
    const length = numbers.u32(head, 4);
    if (length < 12 || length > MAX_BLOCK || length % 4 !== 0) {
      throw broken(`The file is broken: a block of ${length} bytes`, place, at);
    }
    const block = await source.take(length);
    if (block.length < length) {
      throw broken(`The file is cut: a block has ${block.length} of its ${length} bytes`, place, at);
    }
    if (numbers.u32(block, length - 4) !== length) {
      throw broken('The file is broken: a block has two lengths', place, at);
    }
    const body = block.subarray(8, length - 4);
    const need = (size: number): void => {
      if (body.length < size) throw broken(`The file is broken: a block of ${length} bytes is too short`, place, at);
    };
    if (type === INTERFACE) {
      need(8);
      if (interfaces.length >= MAX_INTERFACES) {
        throw broken(`The file is broken: more than ${MAX_INTERFACES} interfaces`, place, at);
      }
      interfaces.push(interfaceOf(body, numbers));
      continue;
    }
    if (type !== ENHANCED_PACKET && type !== OLD_PACKET && type !== SIMPLE_PACKET) continue;
    number++;
    const simple = type === SIMPLE_PACKET;
    need(simple ? 4 : 20);
    const index = simple ? 0 : type === OLD_PACKET ? numbers.u16(body, 0) : numbers.u32(body, 0);
    const its = interfaces[index];
    if (its === undefined) throw broken(`The file is broken: it has no interface ${index}`, place, at);
    if (simple) {
      const size = numbers.u32(body, 0);
      const most = Math.min(size, its.snapLength === 0 ? size : its.snapLength, body.length - 4);
      yield { number, time, linkType: its.linkType, bytes: body.subarray(4, 4 + most), size };
      continue;
    }
    const captured = numbers.u32(body, 12);
    need(20 + captured);
    time = timeOf(numbers.u32(body, 4), numbers.u32(body, 8), its);
    const comment = optionsOf(body.subarray(20 + padded(captured)), numbers)
      .get(COMMENT)
      ?.toString('utf8');
    const bytes = body.subarray(20, 20 + captured);
    const frame: Frame = { number, time, linkType: its.linkType, bytes, size: numbers.u32(body, 16) };
    yield comment === undefined ? frame : { ...frame, comment };
  }
}

/** Everything in a block begins at a multiple of four bytes. */
export function padded(length: number): number {
  return length + (-length & 3);
}

function interfaceOf(body: Buffer, numbers: Numbers): Interface {
  const options = optionsOf(body.subarray(8), numbers);
  const resolution = options.get(TIME_RESOLUTION)?.[0] ?? 6;
  const exponent = BigInt(resolution & 0x7f);
  const offset = options.get(TIME_OFFSET);
  return {
    linkType: numbers.u16(body, 0),
    snapLength: numbers.u32(body, 4),
    perSecond: (resolution & 0x80) === 0 ? 10n ** exponent : 2n ** exponent,
    offset: offset?.length === 8 ? seconds(offset, numbers) : 0,
  };
}

/** A signed number of 64 bits. */
function seconds(bytes: Buffer, numbers: Numbers): number {
  const high = numbers === BIG ? 0 : 4;
  return (numbers.u32(bytes, high) | 0) * 2 ** 32 + numbers.u32(bytes, 4 - high);
}

function timeOf(high: number, low: number, { perSecond, offset }: Interface): number {
  const count = (BigInt(high) << 32n) | BigInt(low);
  const fraction = Number(count % perSecond) / Number(perSecond);
  return (Number(count / perSecond) + offset) * 1000 + fraction * 1000;
}

/** The options at the end of a block; what is no option ends them. Of several with one number the first counts. */
function optionsOf(bytes: Buffer, numbers: Numbers): Map<number, Buffer> {
  const options = new Map<number, Buffer>();
  for (let at = 0; at + 4 <= bytes.length;) {
    const code = numbers.u16(bytes, at);
    const length = numbers.u16(bytes, at + 2);
    if (code === 0 || at + 4 + length > bytes.length) break;
    if (!options.has(code)) options.set(code, bytes.subarray(at + 4, at + 4 + length));
    at += 4 + padded(length);
  }
  return options;
}
