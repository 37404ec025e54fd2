/** Captures for tests: frames and files put together by a second hand, not by lib/capture; and what is read out of them. */
import type { CaptureEvent, ConversationRecord, Side, Source } from '../../lib/capture/index.js';
import { packet, u16, u32, u8 } from './bytes.js';

export const MTA_PORT = 40_000;
export const MILTER_PORT = 8891;

export const OFFER = packet('O', u32(6), u32(0x1ff), u32(0x1fffff));

/** The answer to an offer. */
export function answer(protocol = 0, actions = 0x1ff, version = 6): Buffer {
  return packet('O', u32(version), u32(actions), u32(protocol));
}

export async function collect<T>(source: Source<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const each of source) all.push(each);
  return all;
}

/** What was given before the end, and what was thrown there. */
export async function collectUntilError<T>(source: Source<T>): Promise<{ all: T[]; error: unknown }> {
  const all: T[] = [];
  try {
    for await (const each of source) all.push(each);
    return { all, error: undefined };
  } catch (error) {
    return { all, error };
  }
}

export function data(from: Side, bytes: Buffer, time = 0, session = 's'): CaptureEvent {
  return { type: 'data', session, time, from, bytes };
}

/** All that a side said, in one piece. */
export function said(events: readonly CaptureEvent[], from: Side, session?: string): Buffer {
  return Buffer.concat(
    events.flatMap((event) =>
      event.type === 'data' && event.from === from && (session === undefined || event.session === session)
        ? [event.bytes]
        : [],
    ),
  );
}

/** Records as short lines: `mta helo`, `milter continue <3`, `garbage …`, each with its problem. */
export function lines(records: readonly ConversationRecord[]): string[] {
  return records.map((record) => {
    if (record.type !== 'packet') return `${record.type} ${record.text}`;
    const { from, packet: its, answers, problem } = record;
    return `${from} ${its.type}${answers === undefined ? '' : ` <${answers.number}`}${problem === undefined ? '' : `: ${problem}`}`;
  });
}

// ---- frames -------------------------------------------------------------------------------------------------------

export interface Tcp {
  readonly from: Side;
  readonly seq: number;
  readonly ack?: number;
  readonly flags?: string;
  readonly data?: Uint8Array;
}

/** A TCP segment, without check sum. */
export function tcpBytes({ from, seq, ack, flags = '', data: payload = Buffer.alloc(0) }: Tcp): Buffer {
  const ports = from === 'mta' ? [MTA_PORT, MILTER_PORT] : [MILTER_PORT, MTA_PORT];
  const bits =
    (flags.includes('F') ? 1 : 0) |
    (flags.includes('S') ? 2 : 0) |
    (flags.includes('R') ? 4 : 0) |
    (ack === undefined ? 0 : 0x10);
  return Buffer.concat([
    ...ports.map((port) => u16(port)),
    u32(seq),
    u32(ack ?? 0),
    u8(0x60),
    u8(bits),
    u16(65_535),
    u32(0),
    u32(0x01010101), // four options that do nothing
    payload,
  ]);
}

/** An IPv4 packet, without check sum. */
export function ipv4(from: Side, payload: Uint8Array, change: { fragment?: number; length?: number } = {}): Buffer {
  const [source, destination] = from === 'mta' ? ([1, 2] as const) : ([2, 1] as const);
  return Buffer.concat([
    u8(0x46),
    u8(0),
    u16(change.length ?? 24 + payload.length),
    u16(0),
    u16(change.fragment ?? 0x4000),
    u8(64),
    u8(6),
    u16(0),
    Buffer.of(192, 0, 2, source, 192, 0, 2, destination),
    u32(0x01010101), // options
    payload,
  ]);
}

export function ipv6(from: Side, payload: Uint8Array, next = 6, extensions: Uint8Array = Buffer.alloc(0)): Buffer {
  const ends = [1, 2].map((last) => Buffer.from([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]));
  if (from === 'milter') ends.reverse();
  const length = u16(payload.length + extensions.length);
  return Buffer.concat([u32(0x6000_0000), length, u8(next), u8(64), ...ends, extensions, payload]);
}

export function ethernet(type: number, payload: Uint8Array): Buffer {
  return Buffer.concat([Buffer.alloc(12), u16(type), payload]);
}

/** A TCP connection in segments, each side's bytes cut as given: handshake, data in turn, end. */
export function connection(
  said: ReadonlyArray<readonly [Side, Buffer]>,
  first: Record<Side, number> = { mta: 1000, milter: 2_000_000 },
): Tcp[] {
  const seq = { ...first };
  const other = { mta: 'milter', milter: 'mta' } as const;
  const segments: Tcp[] = [];
  const send = (from: Side, flags: string, bytes?: Buffer): void => {
    const withAck = segments.length > 0;
    segments.push({
      from,
      seq: seq[from] >>> 0,
      ...(withAck && { ack: seq[other[from]] >>> 0 }),
      flags,
      ...(bytes && { data: bytes }),
    });
    seq[from] += (bytes?.length ?? 0) + (/[SF]/.test(flags) ? 1 : 0);
  };
  send('mta', 'S');
  send('milter', 'S');
  send('mta', '');
  for (const [from, bytes] of said) send(from, '', bytes);
  send('mta', 'F');
  send('milter', 'F');
  send('mta', '');
  return segments;
}

// ---- files --------------------------------------------------------------------------------------------------------

export interface PcapOptions {
  readonly linkType?: number;
  readonly little?: boolean;
  readonly nano?: boolean;
  /** Bytes of each frame that are kept. */
  readonly snap?: number;
}

/** A pcap file; each frame comes 1 ms after the one before. */
export function pcapFile(frames: readonly Buffer[], options: PcapOptions = {}): Buffer {
  const { linkType = 101, little = false, nano = false, snap = Infinity } = options;
  const number = (value: number): Buffer => (little ? u32(value).swap32() : u32(value));
  const version = little ? Buffer.of(2, 0, 4, 0) : Buffer.of(0, 2, 0, 4);
  return Buffer.concat([
    number(nano ? 0xa1b23c4d : 0xa1b2c3d4),
    version,
    number(0),
    number(0),
    number(262_144),
    number(linkType),
    ...frames.flatMap((frame, i) => {
      const kept = frame.subarray(0, snap);
      const part = (i + 1) * (nano ? 1e6 : 1e3);
      return [number(1_700_000_000), number(part), number(kept.length), number(frame.length), kept];
    }),
  ]);
}

/** A pcap file of TCP segments over IPv4. */
export function pcapOf(segments: readonly Tcp[], options: PcapOptions = {}): Buffer {
  return pcapFile(
    segments.map((segment) => ipv4(segment.from, tcpBytes(segment))),
    options,
  );
}
