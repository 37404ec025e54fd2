/**
 * A TCP segment out of a frame: what the network's layers around it say. Check sums are not looked at: where a network card
 * reckons them, the capture on the sender's machine has them wrong.
 */
import type { Frame } from './frame.js';
import type { Endpoint } from './types.js';

export interface Segment {
  readonly time: number;
  readonly source: Endpoint;
  readonly destination: Endpoint;
  readonly seq: number;
  /** Undefined without the ACK flag. */
  readonly ack: number | undefined;
  readonly syn: boolean;
  readonly fin: boolean;
  readonly rst: boolean;
  /** As much of the payload as was captured. */
  readonly data: Buffer;
  /** How long the payload is. */
  readonly size: number;
  readonly comment?: string;
}

/** Why a frame cannot be read. */
export class Unreadable {
  constructor(
    readonly why: string,
    /** So are all that are like it: said once. */
    readonly always = false,
  ) {}
}

const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const VLAN_TAGS = new Set([0x8100, 0x88a8, 0x9100]);
const TCP = 6;

type Link = (bytes: Buffer) => Buffer | undefined;

const raw: Link = (bytes) => bytes;

/** Link layers, by their LINKTYPE_ number: what is behind them, where that is IP. */
const LINKS: ReadonlyMap<number, Link> = new Map<number, Link>([
  [0, loopback],
  [1, ethernet],
  [12, raw],
  [14, raw],
  [101, raw],
  [108, loopback],
  [113, (bytes) => behind(bytes, 14, 16)], // Linux's "cooked" captures, of all interfaces at once
  [228, raw],
  [229, raw],
  [276, (bytes) => behind(bytes, 0, 20)], // and their second version
]);

/** The TCP segment in a frame; undefined for one that holds something else. */
export function segmentOf(frame: Frame): Segment | Unreadable | undefined {
  const link = LINKS.get(frame.linkType);
  if (link === undefined) return new Unreadable(`link type ${frame.linkType} is not read here`, true);
  try {
    const packet = link(frame.bytes);
    return packet && ip(packet, frame);
  } catch {
    // Every number is read where it must be: a RangeError of Buffer's says that there is nothing.
    return new Unreadable(`it ends inside a header, after ${frame.bytes.length} bytes`);
  }
}

/** BSD's loopback: the number of the address family, in the order of bytes of the machine that captured. */
function loopback(bytes: Buffer): Buffer | undefined {
  const family = Math.min(bytes.readUInt32BE(0), bytes.readUInt32LE(0));
  return family === 2 || [10, 24, 28, 30].includes(family) ? bytes.subarray(4) : undefined;
}

function ethernet(bytes: Buffer): Buffer | undefined {
  let at = 12;
  while (VLAN_TAGS.has(bytes.readUInt16BE(at))) at += 4;
  return behind(bytes, at, at + 2);
}

/** What follows a header with an Ethernet type in it. */
function behind(bytes: Buffer, typeAt: number, end: number): Buffer | undefined {
  const type = bytes.readUInt16BE(typeAt);
  return type === ETHERTYPE_IPV4 || type === ETHERTYPE_IPV6 ? bytes.subarray(end) : undefined;
}

function ip(bytes: Buffer, frame: Frame): Segment | Unreadable | undefined {
  const version = bytes.readUInt8(0) >>> 4;
  if (version === 4) return ipv4(bytes, frame);
  if (version === 6) return ipv6(bytes, frame);
  return new Unreadable(`IP of version ${version}`);
}

function ipv4(bytes: Buffer, frame: Frame): Segment | Unreadable | undefined {
  const header = (bytes.readUInt8(0) & 0xf) * 4;
  if (header < 20) return new Unreadable(`an IPv4 header of ${header} bytes`);
  if (bytes.readUInt8(9) !== TCP) return undefined;
  const fragment = bytes.readUInt16BE(6);
  // More fragments, or an offset.
  if ((fragment & 0x3fff) !== 0) return new Unreadable('a fragment of an IPv4 packet: these are not put together here');
  // Where the network card does the cutting, there is no length yet.
  const total = bytes.readUInt16BE(2) || onWire(bytes, frame);
  return tcp(bytes, header, total, [dotted(bytes, 12), dotted(bytes, 16)], frame);
}

/** How long the IP packet is by what the frame says of itself. */
function onWire(bytes: Buffer, frame: Frame): number {
  return frame.size - (frame.bytes.length - bytes.length);
}

/** Hop-by-hop options, routing, destination options, mobility: each says its length in units of 8 bytes. */
const EXTENSIONS = new Set([0, 43, 60, 135]);
const FRAGMENT = 44;
const AUTHENTICATION = 51;

function ipv6(bytes: Buffer, frame: Frame): Segment | Unreadable | undefined {
  const payload = bytes.readUInt16BE(4);
  const total = payload === 0 ? onWire(bytes, frame) : 40 + payload;
  const ends = [colons(bytes, 8), colons(bytes, 24)] as const;
  let next = bytes.readUInt8(6);
  let at = 40;
  for (;;) {
    if (next === TCP) return tcp(bytes, at, total, ends, frame);
    const here = at;
    if (EXTENSIONS.has(next)) {
      at += 8 + 8 * bytes.readUInt8(here + 1);
    } else if (next === AUTHENTICATION) {
      at += 8 + 4 * bytes.readUInt8(here + 1);
    } else if (next === FRAGMENT) {
      if ((bytes.readUInt16BE(here + 2) & 0xfff9) !== 0) {
        return new Unreadable('a fragment of an IPv6 packet: these are not put together here');
      }
      at += 8;
    } else {
      return undefined;
    }
    next = bytes.readUInt8(here);
  }
}

function tcp(
  packet: Buffer,
  at: number,
  total: number,
  [from, to]: readonly [string, string],
  frame: Frame,
): Segment | Unreadable {
  const bytes = packet.subarray(at, total);
  const header = (bytes.readUInt8(12) >>> 4) * 4;
  const size = total - at - header;
  if (header < 20 || size < 0) return new Unreadable(`a TCP header of ${header} bytes`);
  const flags = bytes.readUInt8(13);
  return {
    time: frame.time,
    source: { address: from, port: bytes.readUInt16BE(0) },
    destination: { address: to, port: bytes.readUInt16BE(2) },
    seq: bytes.readUInt32BE(4),
    ack: (flags & 0x10) === 0 ? undefined : bytes.readUInt32BE(8),
    fin: (flags & 0x01) !== 0,
    syn: (flags & 0x02) !== 0,
    rst: (flags & 0x04) !== 0,
    data: bytes.subarray(header),
    size,
    ...(frame.comment !== undefined && { comment: frame.comment }),
  };
}

function dotted(bytes: Buffer, at: number): string {
  if (bytes.length < at + 4) throw new RangeError('too short');
  return bytes.subarray(at, at + 4).join('.');
}

/** An IPv6 address as RFC 5952 writes it: the first longest run of zeros (two or more) becomes `::`. */
function colons(bytes: Buffer, at: number): string {
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(at + 2 * i).toString(16));
  const text = groups.join(':');
  const runs = [...text.matchAll(/(?<![^:])0(?::0)+(?![^:])/g)].toSorted((a, b) => b[0].length - a[0].length);
  const run = runs[0];
  if (run === undefined) return text;
  return `${text.slice(0, run.index).replace(/:$/, '')}::${text.slice(run.index + run[0].length).replace(/^:/, '')}`;
}
