/** The packets that codec and streams are measured with, and how a socket would deliver them. */
import { encodeCommand, encodeReply, type Command, type Reply } from 'milter-stream/codec';
import type { Amount } from './throughput.js';

/** The text of a header as mail has many. */
export const VALUE = 'from mx.example.org by mail.example.com; x 12';
const MIB = 1024 * 1024;
const FILL = 'milter-stream\r\n';

/** Packets of one kind, one behind the other. */
export interface Packets {
  readonly name: string;
  readonly bytes: Buffer;
  readonly amount: Amount;
}

/** One packet many times over, up to about `total` bytes. */
export function repeated(name: string, packet: Buffer, total: number): Packets {
  const packets = Math.max(1, Math.ceil(total / packet.length));
  const bytes = Buffer.concat(Array.from({ length: packets }, () => packet));
  return { name, bytes, amount: { packets, bytes: bytes.length } };
}

/** The same in the pieces that a socket gives. */
export function cut(bytes: Buffer, chunkSize: number): Buffer[] {
  const chunks: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += chunkSize) chunks.push(bytes.subarray(at, at + chunkSize));
  return chunks;
}

/** What the table calls packets in pieces. */
export function label(name: string, chunkSize: number): string {
  return `${name}, ${chunkSize === 65_536 ? '64 KiB' : `${chunkSize.toLocaleString('en')} B`} chunks`;
}

/** The sizes of headers and bodies, the same for every library. */
export const HEADERS_TOTAL = 2 * MIB;
export const BODIES_TOTAL = 64 * MIB;
export const BODIES = '64 KiB bodies';

const HEADER: Command = { type: 'header', name: 'Received', value: VALUE };
const EIGHT_BIT: Command = { type: 'header', name: 'Subject', value: 'Grüße aus Köln, schöne Woche und bis bald zu' };
const BODY: Command = { type: 'body', chunk: Buffer.alloc(65_535, FILL) };

export const HEADERS = `${encodeCommand(HEADER).length}-byte headers`;

/** Which packets are read in pieces of which sizes: a whole read of Node, the segments of Ethernet, small reads. */
export function decodeTraffic(): ReadonlyArray<{ packets: Packets; chunkSizes: readonly number[] }> {
  const eightBit = encodeCommand(EIGHT_BIT);
  return [
    { packets: repeated(HEADERS, encodeCommand(HEADER), HEADERS_TOTAL), chunkSizes: [65_536, 1_460, 1_024] },
    { packets: repeated(`${eightBit.length}-byte UTF-8 headers`, eightBit, HEADERS_TOTAL), chunkSizes: [65_536] },
    { packets: repeated(BODIES, encodeCommand(BODY), BODIES_TOTAL), chunkSizes: [65_536, 1_460, 1_024] },
  ];
}

/** What is written, and how many of it at a time. */
export function encodeTraffic(): ReadonlyArray<{ name: string; reply: Reply; amount: Amount }> {
  const traffic = (name: string | undefined, reply: Reply, packets: number) => {
    const { length } = encodeReply(reply);
    return { name: name ?? `${length}-byte headers`, reply, amount: { packets, bytes: length * packets } };
  };
  return [
    traffic(undefined, { type: 'addHeader', name: 'Received', value: VALUE }, 50_000),
    traffic(BODIES, { type: 'replBody', chunk: Buffer.alloc(65_535, FILL) }, 500),
  ];
}
