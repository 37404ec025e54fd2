// Packets whose content is wrong: refused by a strict reader, marked by a lenient one, and never read past their end.
import t from 'tap';
import {
  commandParser,
  decodeCommand,
  decodeReply,
  MilterError,
  replyParser,
  type Command,
  type OddPacket,
  type Reply,
} from '../../lib/codec/index.js';
import { hex, packet, u16, u32, u8 } from '../helpers/bytes.js';
import { commands, fixtures, replies } from '../helpers/packets.js';

function readLeniently(direction: 'command' | 'reply', bytes: Buffer): Array<Command | Reply | OddPacket> {
  const packets: Array<Command | Reply | OddPacket> = [];
  const parser = direction === 'command' ? commandParser({ lenient: true }) : replyParser({ lenient: true });
  parser.parse(bytes, { packet: (packet) => packets.push(packet) });
  parser.end();
  return packets;
}

const read = { command: decodeCommand, reply: decodeReply };

/** A packet, what it is called, and what its error says. */
type Malformed = readonly [direction: 'command' | 'reply', name: string, bytes: Buffer, says: RegExp];

const malformed: readonly Malformed[] = [
  // P14: strings without their NUL.
  ['command', 'helo', packet('H', Buffer.from('mx.a.org')), /helo packet: name has no NUL at its end/],
  ['command', 'helo', packet('H'), /name has no NUL at its end \(payload offset 0 of 0, begins \)/],
  ['command', 'mailFrom', packet('M', Buffer.from('<>')), /address has no NUL/],
  ['command', 'mailFrom', packet('M', '<>', Buffer.from('SIZE=1')), /args has no NUL/],
  ['command', 'rcpt', packet('R', Buffer.from('<>')), /address has no NUL/],
  ['command', 'rcpt', packet('R', '<>', 'A=1', Buffer.from('B')), /args has no NUL/],
  ['command', 'header', packet('L', 'X', Buffer.from('yes')), /value has no NUL/],
  ['command', 'unknown', packet('U', Buffer.from('FOO')), /line has no NUL/],
  ['command', 'macro', packet('D', Buffer.from('C'), Buffer.from('j')), /macro name has no NUL/],
  ['command', 'macro', packet('D', Buffer.from('C'), 'j', Buffer.from('a')), /macro value has no NUL/],
  ['reply', 'addRcpt', packet('+', Buffer.from('<>')), /address has no NUL/],
  ['reply', 'delRcpt', packet('-', Buffer.from('<>')), /address has no NUL/],
  ['reply', 'addHeader', packet('h', 'X', Buffer.from('yes')), /value has no NUL/],
  ['reply', 'insHeader', packet('i', u32(0), 'X', Buffer.from('yes')), /value has no NUL/],
  ['reply', 'chgHeader', packet('m', u32(1), 'X', Buffer.from('yes')), /value has no NUL/],
  ['reply', 'chgFrom', packet('e', Buffer.from('<>')), /address has no NUL/],
  ['reply', 'chgFrom', packet('e', '<>', Buffer.from('RET=HDRS')), /args has no NUL/],
  ['reply', 'addRcptPar', packet('2', '<>', Buffer.from('NOTIFY=NEVER')), /args has no NUL/],
  ['reply', 'quarantine', packet('q', Buffer.from('spam')), /reason has no NUL/],
  ['reply', 'replyCode', packet('y', Buffer.from('550 no')), /text has no NUL/],
  ['reply', 'setSymList', packet('l', u32(0), Buffer.from('j')), /names has no NUL/],
  // P17: negotiations that are too short; P16: scraps behind the lists.
  ['command', 'negotiate', packet('O'), /version needs 4 bytes, 0 are left/],
  ['command', 'negotiate', packet('O', u32(6), u32(0x1ff), u16(0), u8(0)), /protocol needs 4 bytes, 3 are left/],
  ['reply', 'negotiate', packet('O', u32(6), u32(0), u16(0)), /protocol needs 4 bytes, 2 are left/],
  ['reply', 'negotiate', packet('O', u32(6), u32(0), u32(0), u16(0)), /macro stage needs 4 bytes, 2 are left/],
  ['reply', 'negotiate', packet('O', u32(6), u32(0), u32(0), u32(0)), /macro list has no NUL/],
  ['reply', 'negotiate', packet('O', u32(6), u32(0), u32(0), u32(0), 'j', u32(1), Buffer.from('i')), /macro list has/],
  // P48, P49, P53: names, strings and letters that are not there.
  ['command', 'header', packet('L', '', 'value'), /name is empty/],
  ['command', 'header', packet('L', 'X'), /value has no NUL/],
  ['command', 'macro', packet('D'), /stage needs 1 bytes, 0 are left/],
  ['reply', 'addHeader', packet('h', '', 'value'), /name is empty/],
  ['reply', 'insHeader', packet('i', u32(1), '', 'value'), /name is empty/],
  ['reply', 'chgHeader', packet('m', u32(1), '', 'value'), /name is empty/],
  ['reply', 'insHeader', packet('i', u16(0)), /index needs 4 bytes, 2 are left/],
  // What nobody knows behind the last field: Postfix is as strict.
  ['command', 'helo', packet('H', 'a', 'b'), /the end has 2 bytes too many/],
  ['command', 'header', packet('L', 'X', 'a', 'b'), /the end has 2 bytes too many/],
  ['command', 'connect', packet('C', 'a', Buffer.from('4'), u16(1), 'b', u8(0)), /the end has 1 bytes too many/],
  ['reply', 'skip', packet('s', 'a@a.org'), /skip packet: the end has 8 bytes too many/],
  ['reply', 'continue', packet('c', u8(0)), /continue packet: the end has 1 bytes too many/],
  ['reply', 'addRcpt', packet('+', 'a', 'b'), /the end has 2 bytes too many/],
  ['reply', 'chgFrom', packet('e', 'a', 'b', 'c'), /the end has 2 bytes too many/],
  ['reply', 'replyCode', packet('y', '550 no', u8(0)), /the end has 1 bytes too many/],
  ['reply', 'setSymList', packet('l', u32(0), 'j', 'i'), /the end has 2 bytes too many/],
];

t.test('P14 P16 P17 P48 P49 P53 P116 a malformed packet is refused, by its name and its field', async (t) => {
  for (const [direction, name, bytes, says] of malformed) {
    const title = `${direction} ${bytes.toString('latin1', 4)}`;
    t.throws(() => read[direction](bytes), { code: 'ERR_MILTER_MALFORMED', packet: name, message: says }, title);
  }
});

t.test('P14 nothing is read beyond the packet: what follows in the chunk does not repair it', async (t) => {
  for (const [direction, name, bytes, says] of malformed) {
    const chunk = Buffer.concat([bytes, Buffer.alloc(64), Buffer.from('x\0y\0')]);
    const parser = direction === 'command' ? commandParser() : replyParser();
    t.throws(
      () => parser.parse(chunk, { packet: () => t.fail('no packet') }),
      { code: 'ERR_MILTER_MALFORMED', packet: name, message: says },
      `${direction} ${bytes.toString('latin1', 4)}`,
    );
  }
});

t.test('an error shows the place and the first bytes, as a copy', async (t) => {
  const bytes = packet('M', '<>', Buffer.alloc(100, 0x41));
  t.throws(() => decodeCommand(bytes), {
    message: `(payload offset 3 of 103, begins 3c3e00${'41'.repeat(29)})`,
    offset: 3,
    bytes: bytes.subarray(5, 37),
  });
  try {
    decodeCommand(bytes);
  } catch (error) {
    const shown = (error as MilterError).bytes as Buffer;
    bytes.fill(0);
    t.equal(shown[0], 0x3c, 'which does not change with the chunk');
  }
});

t.test('P8 P14 P17 a malformed packet comes as an object from a lenient parser, and its neighbours too', async (t) => {
  for (const [direction, name, bytes, says] of malformed) {
    const before = (direction === 'command' ? commands : replies)[0];
    const neighbour = hex(before?.hex ?? '');
    const packets = readLeniently(direction, Buffer.concat([neighbour, bytes, neighbour]));
    const odd = packets[1];
    t.strictSame(
      packets.map((each) => each.type),
      ['negotiate', 'malformed', 'negotiate'],
      `${direction} ${bytes.toString('latin1', 4)}`,
    );
    if (odd?.type !== 'malformed') continue;
    t.equal(odd.code, bytes[4]);
    t.type(odd.error, MilterError);
    t.match(odd.error, { code: 'ERR_MILTER_MALFORMED', packet: name, message: says });
    t.strictSame(odd.raw, bytes);
    t.strictSame(Object.keys(odd), ['type', 'code', 'error'], 'raw is not enumerable');
  }
});

t.test('P8 P10 an unknown letter is an error when strict and an object with its payload when lenient', async (t) => {
  const cases: ReadonlyArray<readonly ['command' | 'reply', Buffer, string]> = [
    ['command', packet('z', Buffer.of(0, 0xff)), "the code 'z' (0x7a)"],
    ['command', packet('c'), "the code 'c' (0x63)"],
    ['command', packet('\x01', Buffer.of(1)), 'the code (0x01)'],
    ['command', packet('\xff'), 'the code (0xff)'],
    ['reply', packet('D', 'C'), "the code 'D' (0x44)"],
    ['reply', packet(' '), 'the code (0x20)'],
  ];
  for (const [direction, bytes, says] of cases) {
    t.throws(
      () => read[direction](bytes),
      { code: 'ERR_MILTER_UNKNOWN_CODE', packet: bytes.toString('latin1', 4, 5), message: says, bytes },
      says,
    );
    const [odd] = readLeniently(direction, Buffer.concat([bytes, packet('O', u32(6), u32(0), u32(0))]));
    t.strictSame({ ...odd }, { type: 'unrecognized', code: bytes[4], payload: bytes.subarray(5) });
    t.strictSame(odd?.raw, bytes);
  }
  const long = packet('z', Buffer.alloc(100, 1));
  t.throws(() => decodeCommand(long), { code: 'ERR_MILTER_UNKNOWN_CODE', bytes: long.subarray(0, 32) }, 'it shows 32');
});

t.test('P54 T, N, A, Q and K with a payload are themselves when lenient, malformed when strict', async (t) => {
  for (const [letter, type] of Object.entries({
    T: 'data',
    N: 'eoh',
    A: 'abort',
    Q: 'quit',
    K: 'quitNewConnection',
  })) {
    const bytes = packet(letter, 'what for');
    t.throws(() => decodeCommand(bytes), {
      code: 'ERR_MILTER_MALFORMED',
      packet: type,
      message: /the end has 9 bytes too many/,
    });
    const [command] = readLeniently('command', bytes);
    t.strictSame({ ...command }, { type });
    t.strictSame(command?.raw, bytes, 'raw has the payload');
  }
});

t.test('P8 a lenient parser reads good packets as a strict one does', async (t) => {
  for (const fixture of fixtures) {
    t.strictSame(
      readLeniently(fixture.direction, hex(fixture.hex)).map((packet) => Object.fromEntries(Object.entries(packet))),
      [fixture.packet],
      `${fixture.direction} ${fixture.name}`,
    );
  }
});

t.test('P4 P5 P7 frames that cannot be cut are an error for a lenient parser as well', async (t) => {
  const sink = { packet: () => t.fail('no packet') };
  t.throws(() => commandParser({ lenient: true }).parse(u32(0), sink), { code: 'ERR_MILTER_EMPTY_PACKET' });
  t.throws(() => replyParser({ lenient: true, maxPayload: 9 }).parse(u32(11), sink), {
    code: 'ERR_MILTER_PACKET_TOO_LARGE',
  });
  const torn = replyParser({ lenient: true });
  torn.parse(packet('c').subarray(0, 4), sink);
  t.throws(() => torn.end(), { code: 'ERR_MILTER_TRUNCATED' });
});

t.test('P7 decodeCommand() and decodeReply() take exactly one packet', async (t) => {
  const one = packet('c');
  t.equal(decodeReply(one).type, 'continue');
  t.throws(() => decodeReply(Buffer.alloc(0)), { code: 'ERR_MILTER_MALFORMED', message: /got 0$/ });
  t.throws(() => decodeReply(Buffer.concat([one, one])), {
    code: 'ERR_MILTER_MALFORMED',
    message: 'Expected the bytes of one packet, got 2',
  });
  t.throws(() => decodeReply(one.subarray(0, 4)), { code: 'ERR_MILTER_TRUNCATED' });
  t.throws(() => decodeReply(Buffer.concat([one, one.subarray(0, 2)])), { code: 'ERR_MILTER_TRUNCATED' });
  t.throws(() => decodeReply(u32(0)), { code: 'ERR_MILTER_EMPTY_PACKET' });
  t.throws(() => decodeCommand(Buffer.from('EHLO a\r\n')), { code: 'ERR_MILTER_PACKET_TOO_LARGE', message: /SMTP/ });
  const large = packet('b', Buffer.alloc(2_000_000));
  const reply = decodeReply(large);
  t.ok(reply.type === 'replBody' && reply.chunk.length === 2_000_000, 'whatever its size: it is in memory already');
});
