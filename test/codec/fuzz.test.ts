// Anything at all: random bytes, random packets, random chunks. FUZZ_RUNS=100000 looks longer; a failure prints its seed.
import * as fc from 'fast-check';
import t from 'tap';
import {
  commandParser,
  decodeCommand,
  decodeReply,
  encodeCommand,
  encodeReply,
  MilterError,
  parseSmtpReply,
  replyParser,
  toText,
  type Command,
  type OddPacket,
  type Reply,
} from '../../lib/codec/index.js';
import { packet, u32 } from '../helpers/bytes.js';

const numRuns = Number(process.env['FUZZ_RUNS'] ?? 1500);

type Packet = Command | Reply | OddPacket;

// ---- Packets ----------------------------------------------------------------------------------------------------

/** Text as it may stand in a packet: from any bytes without NUL. */
const text = fc
  .oneof(
    fc.string({ unit: 'binary', maxLength: 30 }).map((each) => Buffer.from(each, 'utf8')),
    fc.uint8Array({ maxLength: 30 }),
  )
  .map((bytes) => toText(bytes.filter((byte) => byte !== 0)));
const filled = text.filter((each) => each !== '');
const chunk = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
const filledChunk = chunk.filter((each) => each.length > 0);
const number = fc.oneof(fc.nat(10), fc.integer({ min: 0, max: 0xffff_ffff }));
const letter = fc.nat(255).map((code) => String.fromCharCode(code));
const args = fc.array(text, { maxLength: 4 });
const macros = fc.array(fc.tuple(text, text), { maxLength: 5 });
const lists = fc.array(fc.record({ stage: number, names: text }), { minLength: 1, maxLength: 4 });
const is = <T extends string>(type: T): fc.Arbitrary<T> => fc.constant(type);

const bare = <T extends string>(...types: readonly T[]): fc.Arbitrary<{ type: T }> =>
  fc.constantFrom(...types).map((type) => ({ type }));

const anyCommand: fc.Arbitrary<Command> = fc.oneof(
  fc.record({ type: is('negotiate'), version: number, actions: number, protocol: number }),
  fc.record({ type: is('macro'), stage: letter, macros }),
  fc.record({
    type: is('connect'),
    hostname: text,
    family: fc.constantFrom('4', '6', 'L'),
    port: fc.nat(65_535),
    address: text,
  }),
  fc.record({
    type: is('connect'),
    hostname: text,
    family: letter.filter((each) => !'46L'.includes(each)),
    port: fc.constant(0),
    address: fc.constant(''),
  }),
  fc.record({ type: is('helo'), name: text }),
  fc.record({ type: is('mailFrom'), address: text, args }),
  fc.record({ type: is('rcpt'), address: text, args }),
  fc.record({ type: is('header'), name: filled, value: text }),
  fc.record({ type: is('body'), chunk: filledChunk }),
  fc.record({ type: is('eob'), chunk: filledChunk }),
  fc.record({ type: is('unknown'), line: text }),
  bare('data', 'eoh', 'eob', 'abort', 'quit', 'quitNewConnection'),
);

const anyReply: fc.Arbitrary<Reply> = fc.oneof(
  fc.record({ type: is('negotiate'), version: number, actions: number, protocol: number }),
  fc.record({ type: is('negotiate'), version: number, actions: number, protocol: number, macros: lists }),
  bare('continue', 'accept', 'reject', 'tempFail', 'discard', 'connFail', 'shutdown', 'skip', 'progress'),
  fc.record({ type: is('replyCode'), text }),
  fc.record({ type: is('addHeader'), name: filled, value: text }),
  fc.record({ type: fc.constantFrom('insHeader', 'chgHeader'), index: number, name: filled, value: text }),
  fc.record({ type: fc.constantFrom('addRcpt', 'delRcpt'), address: text }),
  fc.record({ type: fc.constantFrom('addRcptPar', 'chgFrom'), address: text }),
  fc.record({ type: fc.constantFrom('addRcptPar', 'chgFrom'), address: text, args: text }),
  fc.record({ type: is('replBody'), chunk }),
  fc.record({ type: is('quarantine'), reason: text }),
  fc.record({ type: is('setSymList'), stage: number, names: text }),
);

// ---- Bytes ------------------------------------------------------------------------------------------------------

/** Cuts bytes at random places: the sizes of the pieces, over and over. */
function cutAt(bytes: Buffer, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] as number;
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return pieces;
}

const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 400 })), {
  minLength: 1,
  maxLength: 20,
});

/** Bytes that are nearly packets: right frames around anything, wrong lengths, torn ends. */
const nearlyPackets = fc
  .array(
    fc.oneof(
      fc
        .tuple(fc.constantFrom(...'OCHMRTLNBEAQKDUcartdsp4fy+-2bhimeqlz\0'.split('')), fc.uint8Array({ maxLength: 40 }))
        .map(([code, payload]) => packet(code, payload)),
      fc
        .tuple(fc.nat(60), fc.uint8Array({ maxLength: 40 }))
        .map(([length, bytes]) => Buffer.concat([u32(length), bytes])),
      fc.uint8Array({ maxLength: 12 }),
    ),
    { maxLength: 8 },
  )
  .map((parts) => Buffer.concat(parts));

/** What a parser makes of chunks: the packets, and the error if there was one. */
function outcome(direction: 'command' | 'reply', lenient: boolean, chunks: readonly Buffer[]): [Packet[], unknown] {
  const packets: Packet[] = [];
  const parser = direction === 'command' ? commandParser({ lenient }) : replyParser({ lenient });
  try {
    for (const each of chunks) parser.parse(each, { packet: (packet) => packets.push(packet) });
    parser.end();
  } catch (error) {
    return [packets, error];
  }
  return [packets, undefined];
}

// ---- Properties -------------------------------------------------------------------------------------------------

t.test('P6 P14 random bytes never cause anything but a MilterError', async () => {
  const any = fc.oneof(
    nearlyPackets,
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  );
  fc.assert(
    fc.property(any, sizes, fc.boolean(), fc.constantFrom('command', 'reply'), (bytes, at, lenient, direction) => {
      const [packets, error] = outcome(direction, lenient, cutAt(bytes, at));
      for (const odd of packets) if (odd.type === 'malformed' && !(odd.error instanceof MilterError)) return false;
      return error === undefined || error instanceof MilterError;
    }),
    { numRuns: numRuns * 2 },
  );
});

t.test('P2 random bytes read the same however they are cut, good packets and error alike', async () => {
  fc.assert(
    fc.property(nearlyPackets, sizes, fc.boolean(), fc.constantFrom('command', 'reply'), (bytes, at, lenient, way) => {
      const [whole, failed] = outcome(way, lenient, [bytes]);
      const [pieces, failedToo] = outcome(way, lenient, cutAt(bytes, at));
      return (
        (failed as MilterError | undefined)?.code === (failedToo as MilterError | undefined)?.code &&
        JSON.stringify(whole) === JSON.stringify(pieces)
      );
    }),
    { numRuns },
  );
});

t.test('P8 what a lenient parser gives has all the bytes, in order, in `raw`', async () => {
  fc.assert(
    fc.property(nearlyPackets, fc.constantFrom('command', 'reply'), (bytes, direction) => {
      const [packets] = outcome(direction, true, [bytes]);
      const read = Buffer.concat(packets.map((each) => each.raw as Buffer));
      return bytes.subarray(0, read.length).equals(read);
    }),
    { numRuns },
  );
});

t.test('P12 every command survives encoding and decoding, and decoding and encoding', async () => {
  fc.assert(
    fc.property(anyCommand, (command) => {
      const bytes = encodeCommand(command);
      const read = decodeCommand(bytes);
      return JSON.stringify(inOrder(read)) === JSON.stringify(inOrder(command)) && encodeCommand(read).equals(bytes);
    }),
    { numRuns: numRuns * 2 },
  );
});

t.test('P12 every reply survives encoding and decoding, and decoding and encoding', async () => {
  fc.assert(
    fc.property(anyReply, (reply) => {
      const bytes = encodeReply(reply);
      const read = decodeReply(bytes);
      return JSON.stringify(inOrder(read)) === JSON.stringify(inOrder(reply)) && encodeReply(read).equals(bytes);
    }),
    { numRuns: numRuns * 2 },
  );
});

/** The properties in alphabetical order: the order in which an object was made says nothing. */
function inOrder(packet: object): unknown {
  return Object.entries(packet).sort(([a], [b]) => (a < b ? -1 : 1));
}

t.test('P2 P3 random packets in random chunks come out as they are, strict and lenient', async () => {
  fc.assert(
    fc.property(fc.array(anyCommand, { maxLength: 30 }), sizes, fc.boolean(), (commands, at, lenient) => {
      const bytes = Buffer.concat(commands.map((each) => encodeCommand(each)));
      const [packets, error] = outcome('command', lenient, cutAt(bytes, at));
      return error === undefined && JSON.stringify(packets.map(inOrder)) === JSON.stringify(commands.map(inOrder));
    }),
    { numRuns: Math.ceil(numRuns / 3) },
  );
});

t.test('P7 random packets that end too early are all there, up to the one that was torn', async () => {
  fc.assert(
    fc.property(fc.array(anyReply, { minLength: 1, maxLength: 10 }), fc.nat(), (replies, end) => {
      const all = replies.map((each) => encodeReply(each));
      const bytes = Buffer.concat(all);
      const torn = bytes.subarray(0, end % bytes.length);
      const [packets, error] = outcome('reply', false, [torn]);
      const read = Buffer.concat(packets.map((each) => each.raw as Buffer));
      const clean = read.length === torn.length;
      return (
        read.equals(bytes.subarray(0, read.length)) &&
        (clean ? error === undefined : (error as MilterError).code === 'ERR_MILTER_TRUNCATED')
      );
    }),
    { numRuns },
  );
});

t.test('P110 any text is an SMTP reply or a MilterError', async () => {
  const nearly = fc
    .array(fc.oneof(fc.constantFrom('550', '450', '-', ' ', '5.7.1', '\r\n', '\r', '%', '%%', '5.7.', 'no'), text))
    .map((parts) => parts.join(''));
  fc.assert(
    fc.property(nearly, (each) => {
      try {
        return parseSmtpReply(each).lines.length > 0;
      } catch (error) {
        return error instanceof MilterError && error.code === 'ERR_MILTER_MALFORMED';
      }
    }),
    { numRuns },
  );
});

t.test('P13 an encoder given anything at all throws a MilterError or writes what can be read again', async () => {
  const anything = fc.oneof(
    fc.anything(),
    anyReply.chain((reply) =>
      fc
        .tuple(
          fc.constantFrom(...Object.keys(reply)),
          fc.oneof(fc.anything(), fc.constant('a\0b'), fc.constant('\ud800')),
        )
        .map(([field, value]) => Object.assign({}, reply, { [field]: value })),
    ),
  );
  fc.assert(
    fc.property(anything, (value) => {
      let bytes: Buffer;
      try {
        bytes = encodeReply(value as Reply);
      } catch (error) {
        return error instanceof MilterError;
      }
      return encodeReply(decodeReply(bytes)).equals(bytes);
    }),
    { numRuns: numRuns * 2 },
  );
});
