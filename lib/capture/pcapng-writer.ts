/**
 * Writes captures as pcapng, each session as a TCP connection, so that Wireshark and tshark open them: handshake, data,
 * end; with right check sums. Where the ends were no IP addresses (a Unix socket) they get made-up ones of the loopback
 * network; a comment on the first packet of a session says its name and the real ends, and is read back.
 */
import { isIP, isIPv4 } from 'node:net';
import { BYTE_ORDER, COMMENT, ENHANCED_PACKET, INTERFACE, padded, SECTION, TIME_RESOLUTION } from './pcapng.js';
import { otherSide } from './show.js';
import { COMMENT_MARK } from './tcp.js';
import type { CaptureEvent, CloseEvent, DataEvent, Endpoint, OpenEvent, Side } from './types.js';

/** LINKTYPE_RAW: packets begin with IP. */
const RAW = 101;
/** What fits into an Ethernet frame behind the headers of IPv4 and TCP. */
const SEGMENT = 1460;
const FIN = 0x01;
const SYN = 0x02;
const RST = 0x04;
const PSH = 0x08;
const ACK = 0x10;
const WINDOW = 0xffff;
/** Of made-up ends: one that is registered for nothing, and the first that systems give to who connects. */
const MILTER_PORT = 8891;
const FIRST_PORT = 49_152;
const nothing = Buffer.alloc(0);

interface Connection {
  readonly ends: Readonly<Record<Side, { readonly address: Buffer; readonly port: number }>>;
  /** The sequence number of what each side says next. */
  readonly seq: Record<Side, number>;
  /** What the first packet has to say of the session. */
  comment: object | undefined;
}

export class PcapngWriter {
  readonly #connections = new Map<string, Connection>();
  #count = 0;
  #packets = 0;

  /** What the file begins with. */
  begin(): Buffer {
    const section = Buffer.alloc(16);
    section.writeUInt32LE(BYTE_ORDER, 0);
    section.writeUInt16LE(1, 4); // version 1.0
    section.fill(0xff, 8); // how long the section is isn't known
    const itself = Buffer.alloc(8);
    itself.writeUInt16LE(RAW, 0);
    return Buffer.concat([block(SECTION, section), block(INTERFACE, itself, option(TIME_RESOLUTION, Buffer.of(6)))]);
  }

  /** The bytes of an event. A `problem` has none. */
  write(event: CaptureEvent): Buffer {
    if (event.type === 'problem') return nothing;
    const { session, time } = event;
    let connection = this.#connections.get(session);
    if (connection === undefined) {
      connection = this.#connect(session, event.type === 'open' ? event : undefined);
      this.#connections.set(session, connection);
    }
    switch (event.type) {
      case 'open':
        return event.late === true ? nothing : this.#handshake(connection, time);
      case 'data':
        return this.#data(connection, event);
      case 'gap':
        connection.seq[event.from] += event.missing;
        return nothing;
      default:
        this.#connections.delete(session);
        return this.#close(connection, event);
    }
  }

  #connect(session: string, open: OpenEvent | undefined): Connection {
    const k = this.#count++;
    const { mta, milter } = open ?? {};
    const real = ipOf(mta) !== undefined && ipOf(milter)?.length === ipOf(mta)?.length;
    const madeUp = Buffer.of(127, (k >> 22) & 0xff, (k >> 14) & 0xff, 1);
    const port = FIRST_PORT + (k & 0x3fff);
    return {
      ends: {
        mta: real ? { address: ipOf(mta) as Buffer, port: (mta as Endpoint).port } : { address: madeUp, port },
        milter: real
          ? { address: ipOf(milter) as Buffer, port: (milter as Endpoint).port }
          : { address: madeUp, port: MILTER_PORT },
      },
      // Connections between the same ends begin at other numbers.
      seq: { mta: (k * 64_021 + 1) >>> 0, milter: (k * 64_021 + 2 ** 31) >>> 0 },
      comment: { session, ...(mta && { mta }), ...(milter && { milter }) },
    };
  }

  #handshake(connection: Connection, time: number): Buffer {
    return Buffer.concat([
      this.#packet(connection, time, 'mta', SYN),
      this.#packet(connection, time, 'milter', SYN | ACK),
      this.#packet(connection, time, 'mta', ACK),
    ]);
  }

  #data(connection: Connection, { time, from, bytes }: DataEvent): Buffer {
    const packets: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += SEGMENT) {
      packets.push(this.#packet(connection, time, from, PSH | ACK, bytes.subarray(at, at + SEGMENT)));
    }
    return Buffer.concat(packets);
  }

  #close(connection: Connection, { time, from = 'mta', error }: CloseEvent): Buffer {
    if (error !== undefined) {
      connection.comment = { ...connection.comment, error };
      return this.#packet(connection, time, from, RST | ACK);
    }
    return Buffer.concat([
      this.#packet(connection, time, from, FIN | ACK),
      this.#packet(connection, time, otherSide(from), FIN | ACK),
      this.#packet(connection, time, from, ACK),
    ]);
  }

  #packet(connection: Connection, time: number, from: Side, flags: number, data: Buffer = nothing): Buffer {
    const { ends, seq } = connection;
    const source = ends[from];
    const destination = ends[otherSide(from)];
    const segment = Buffer.alloc(20 + data.length);
    segment.writeUInt16BE(source.port, 0);
    segment.writeUInt16BE(destination.port, 2);
    segment.writeUInt32BE(seq[from] >>> 0, 4);
    if ((flags & ACK) !== 0) segment.writeUInt32BE(seq[otherSide(from)] >>> 0, 8);
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment.writeUInt16BE(WINDOW, 14);
    data.copy(segment, 20);
    seq[from] += data.length + ((flags & (SYN | FIN)) === 0 ? 0 : 1);
    const length = Buffer.of(0, 6, 0, 0);
    length.writeUInt16BE(segment.length, 2);
    segment.writeUInt16BE(checkSum([source.address, destination.address, length, segment]), 16);
    const packet = Buffer.concat([this.#ipHeader(source.address, destination.address, segment.length), segment]);
    return this.#block(connection, time, from, packet);
  }

  #ipHeader(source: Buffer, destination: Buffer, length: number): Buffer {
    if (source.length === 16) {
      const header = Buffer.alloc(8);
      header[0] = 6 << 4;
      header.writeUInt16BE(length, 4);
      header[6] = 6;
      header[7] = 64;
      return Buffer.concat([header, source, destination]);
    }
    const header = Buffer.alloc(12);
    header[0] = 0x45;
    header.writeUInt16BE(20 + length, 2);
    header.writeUInt16BE(++this.#packets & 0xffff, 4);
    header.writeUInt16BE(0x4000, 6); // not to be cut further
    header[8] = 64;
    header[9] = 6;
    header.writeUInt16BE(checkSum([header, source, destination]), 10);
    return Buffer.concat([header, source, destination]);
  }

  #block(connection: Connection, time: number, from: Side, packet: Buffer): Buffer {
    const head = Buffer.alloc(20);
    const micros = BigInt(Math.max(0, Math.round(time * 1000)));
    head.writeUInt32LE(Number(micros >> 32n) >>> 0, 4);
    head.writeUInt32LE(Number(micros & 0xffff_ffffn), 8);
    head.writeUInt32LE(packet.length, 12);
    head.writeUInt32LE(packet.length, 16);
    const { comment } = connection;
    connection.comment = undefined;
    const said = comment && option(COMMENT, Buffer.from(COMMENT_MARK + JSON.stringify({ ...comment, from })));
    return block(ENHANCED_PACKET, head, pad(packet), ...(said ? [said] : []));
  }
}

function block(type: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const head = Buffer.alloc(8);
  const length = Buffer.alloc(4);
  head.writeUInt32LE(type, 0);
  head.writeUInt32LE(body.length + 12, 4);
  length.writeUInt32LE(body.length + 12, 0);
  return Buffer.concat([head, body, length]);
}

/** One option, and the end of the options. */
function option(code: number, value: Buffer): Buffer {
  const short = value.subarray(0, 0xffff);
  const head = Buffer.alloc(4);
  head.writeUInt16LE(code, 0);
  head.writeUInt16LE(short.length, 2);
  return Buffer.concat([head, pad(short), Buffer.alloc(4)]);
}

function pad(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(padded(bytes.length) - bytes.length)]);
}

/** The sum of the words of 16 bits, in one's complement (RFC 1071). All parts but the last have an even length. */
function checkSum(parts: readonly Buffer[]): number {
  let sum = 0;
  for (const part of parts) {
    for (let at = 0; at + 1 < part.length; at += 2) sum += part.readUInt16BE(at);
    if (part.length % 2 === 1) sum += (part[part.length - 1] as number) << 8;
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** The bytes of an IP address with a port; undefined for anything else. */
function ipOf(end: Endpoint | undefined): Buffer | undefined {
  if (end === undefined || !(end.port > 0 && end.port <= 0xffff)) return undefined;
  const [zoneless] = end.address.split('%', 1) as [string];
  const address = zoneless.replace(/^::ffff:(?=[\d.]+$)/i, '');
  if (isIPv4(address)) return Buffer.from(address.split('.').map(Number));
  return isIP(address) === 6 ? ipv6(address) : undefined;
}

function ipv6(text: string): Buffer {
  const [head, tail] = text.replace(/[\d.]+\.\d+$/, dottedAsGroups).split('::') as [string, string?];
  const groups = (part: string | undefined): string[] => (part ? part.split(':') : []);
  const [first, last] = [groups(head), groups(tail)];
  const zeros = Array.from({ length: 8 - first.length - last.length }, () => '0');
  const bytes = Buffer.alloc(16);
  [...first, ...zeros, ...last].forEach((group, i) => bytes.writeUInt16BE(Number.parseInt(group, 16), 2 * i));
  return bytes;
}

function dottedAsGroups(dotted: string): string {
  const [a, b, c, d] = dotted.split('.').map(Number) as [number, number, number, number];
  return `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
}
