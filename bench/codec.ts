/**
 * `npm run bench:codec`: how many packets a second the codec reads and writes, alone and inside its streams, beside a bare
 * walk over the frames (the limit) and two other protocols' libraries on packets of like size.
 *
 * Each line names its traffic. The rounds of all lines are interleaved and the median counts: compare within one run.
 *
 *   npm run bench:codec -- --json      for machines
 *   npm run bench:codec -- --rounds 9  for patience
 */
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import mqtt from 'mqtt-packet';
import { Parser as PgParser } from 'pg-protocol/dist/parser.js';
import { createDecoder, createEncoder, type Reply } from 'milter-stream';
import { commandParser, encodeCommand, encodeReply, type Command } from 'milter-stream/codec';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean' },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '0.4' },
  },
});
const SECONDS = Number(options.seconds);

const VALUE = 'from mx.example.org by mail.example.com; x 12';
const HEADER: Command = { type: 'header', name: 'Received', value: VALUE };
const EIGHT_BIT: Command = { type: 'header', name: 'Subject', value: 'Grüße aus Köln, schöne Woche und bis bald zu' };
const BODY: Command = { type: 'body', chunk: Buffer.alloc(65_535, 'milter-stream\r\n') };
const ADD_HEADER: Reply = { type: 'addHeader', name: 'Received', value: VALUE };
const REPL_BODY: Reply = { type: 'replBody', chunk: Buffer.alloc(65_535, 'milter-stream\r\n') };

interface Line {
  readonly traffic: string;
  readonly what: string;
  /** Does some work; says how many packets and bytes that was. */
  readonly work: () => Promise<Amount> | Amount;
}

interface Amount {
  readonly packets: number;
  readonly bytes: number;
}

/** Bytes of one packet, many times over, cut into chunks as a socket would give them. */
function traffic(packet: Buffer, chunkSize: number, total: number): { chunks: Buffer[]; amount: Amount } {
  const packets = Math.max(1, Math.ceil(total / packet.length));
  const all = Buffer.concat(Array.from({ length: packets }, () => packet));
  const chunks: Buffer[] = [];
  for (let at = 0; at < all.length; at += chunkSize) chunks.push(all.subarray(at, at + chunkSize));
  return { chunks, amount: { packets, bytes: all.length } };
}

/** The limit: adds up lengths and looks at nothing else. */
function bareWalk(chunks: Buffer[]): number {
  let count = 0;
  let skip = 0;
  const head = Buffer.alloc(4);
  let headBytes = 0;
  for (const chunk of chunks) {
    let at = 0;
    while (at < chunk.length) {
      if (skip > 0) {
        const step = Math.min(skip, chunk.length - at);
        at += step;
        skip -= step;
      } else if (headBytes === 0 && chunk.length - at >= 4) {
        skip = chunk.readUInt32BE(at);
        at += 4;
        count++;
      } else {
        head[headBytes++] = chunk[at++] as number;
        if (headBytes < 4) continue;
        skip = head.readUInt32BE(0);
        headBytes = 0;
        count++;
      }
    }
  }
  return count;
}

let sum = 0;
const sink = {
  packet(): void {
    sum++;
  },
};

function decodeLines(name: string, packet: Buffer, size: number, chunkSize: number): Line[] {
  const { chunks, amount } = traffic(packet, chunkSize, size);
  const label = `${name}, ${chunkSize === 65_536 ? '64 KiB' : `${chunkSize.toLocaleString('en')} B`} chunks`;
  return [
    { traffic: label, what: 'bare frame walk (limit)', work: () => ((sum += bareWalk(chunks)), amount) },
    {
      traffic: label,
      what: 'decode, pure',
      work() {
        const parser = commandParser();
        for (const chunk of chunks) parser.parse(chunk, sink);
        return amount;
      },
    },
    {
      traffic: label,
      what: 'decode, createDecoder()',
      async work() {
        const decoder = createDecoder();
        decoder.on('data', () => sum++);
        await pipeline(Readable.from(chunks, { objectMode: false }), decoder);
        return amount;
      },
    },
  ];
}

function pgLine(name: string, packet: Buffer, size: number): Line {
  const { chunks, amount } = traffic(packet, 65_536, size);
  return {
    traffic: `${name}, 64 KiB chunks`,
    what: 'pg-protocol, decode',
    work() {
      const parser = new PgParser();
      for (const chunk of chunks) parser.parse(chunk, () => sum++);
      return amount;
    },
  };
}

function mqttLine(name: string, payload: Buffer | string, size: number): Line {
  const packet = mqtt.generate({ cmd: 'publish', topic: 'Received', payload, qos: 0, dup: false, retain: false });
  const { chunks, amount } = traffic(packet, 65_536, size);
  return {
    traffic: `${name}, 64 KiB chunks`,
    what: 'mqtt-packet, decode',
    work() {
      const parser = mqtt.parser();
      parser.on('packet', () => sum++);
      for (const chunk of chunks) parser.parse(chunk);
      return amount;
    },
  };
}

/** A row of two columns, 'D' in PostgreSQL's protocol, about as long as the header packet. */
function pgRow(): Buffer {
  const columns = ['Received', VALUE].flatMap((text) => {
    const length = Buffer.alloc(4);
    length.writeInt32BE(text.length);
    return [length, Buffer.from(text)];
  });
  const body = Buffer.concat([Buffer.from([0, 2]), ...columns]);
  const head = Buffer.alloc(5, 'D');
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

/** CopyData, 'd' in PostgreSQL's protocol: bytes and nothing else. */
function pgCopyData(bytes: number): Buffer {
  const packet = Buffer.alloc(5 + bytes, 'd');
  packet.writeInt32BE(bytes + 4, 1);
  return packet;
}

function encodeLines(name: string, reply: Reply, count: number): Line[] {
  const bytes = encodeReply(reply).length * count;
  return [
    {
      traffic: name,
      what: 'encode, pure',
      work() {
        for (let i = 0; i < count; i++) sum += encodeReply(reply).length;
        return { packets: count, bytes };
      },
    },
    {
      traffic: name,
      what: 'encode, createEncoder()',
      async work() {
        const encoder = createEncoder();
        const drop = new Writable({ write: (_chunk, _encoding, done) => done() });
        await pipeline(Readable.from(Array.from({ length: count }, () => reply)), encoder, drop);
        return { packets: count, bytes };
      },
    },
  ];
}

const header = encodeCommand(HEADER);
const MIB = 1024 * 1024;
const lines: Line[] = [
  ...decodeLines(`${header.length}-byte headers`, header, 2 * MIB, 65_536),
  pgLine(`${header.length}-byte headers`, pgRow(), 2 * MIB),
  mqttLine(`${header.length}-byte headers`, VALUE, 2 * MIB),
  ...decodeLines(`${header.length}-byte headers`, header, 2 * MIB, 1_460),
  ...decodeLines(`${encodeCommand(EIGHT_BIT).length}-byte UTF-8 headers`, encodeCommand(EIGHT_BIT), 2 * MIB, 65_536),
  ...decodeLines('64 KiB bodies', encodeCommand(BODY), 64 * MIB, 65_536),
  pgLine('64 KiB bodies', pgCopyData(65_535), 64 * MIB),
  mqttLine('64 KiB bodies', Buffer.alloc(65_535), 64 * MIB),
  ...decodeLines('64 KiB bodies', encodeCommand(BODY), 64 * MIB, 1_460),
  ...encodeLines(`${encodeReply(ADD_HEADER).length}-byte headers`, ADD_HEADER, 50_000),
  ...encodeLines('64 KiB bodies', REPL_BODY, 500),
];

async function measure(line: Line): Promise<{ packets: number; bytes: number }> {
  const start = performance.now();
  let packets = 0;
  let bytes = 0;
  do {
    const amount = await line.work();
    packets += amount.packets;
    bytes += amount.bytes;
  } while (performance.now() - start < SECONDS * 1000);
  const seconds = (performance.now() - start) / 1000;
  return { packets: packets / seconds, bytes: bytes / seconds };
}

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[numbers.length >> 1] as number;

const results = lines.map(() => [] as Array<{ packets: number; bytes: number }>);
for (const line of lines) await line.work();
for (let round = 0; round < Number(options.rounds); round++) {
  for (const [i, line] of lines.entries()) results[i]?.push(await measure(line));
}
const table = lines.map(({ traffic: label, what }, i) => ({
  traffic: label,
  what,
  packetsPerSecond: Math.round(median((results[i] ?? []).map((each) => each.packets))),
  mbPerSecond: Math.round(median((results[i] ?? []).map((each) => each.bytes)) / 1e6),
}));
if (sum < 0) throw new Error('never: it keeps the work from being optimised away');

if (options.json) {
  console.log(
    JSON.stringify({ node: process.version, date: new Date().toISOString(), rounds: Number(options.rounds), table }),
  );
} else {
  console.log(`${'traffic'.padEnd(42)}${'what'.padEnd(26)}${'packets/s'.padStart(12)}${'MB/s'.padStart(9)}`);
  for (const row of table) {
    const packets = row.packetsPerSecond.toLocaleString('en').padStart(12);
    console.log(
      `${row.traffic.padEnd(42)}${row.what.padEnd(26)}${packets}${row.mbPerSecond.toLocaleString('en').padStart(9)}`,
    );
  }
}
