// One fixture, many proofs: each packet of test/helpers/packets.ts goes through every way of reading and writing.
import t from 'tap';
import {
  commandParser,
  decodeCommand,
  decodeReply,
  encodeCommand,
  encodeReply,
  replyParser,
  type Command,
  type OddPacket,
  type Reply,
} from '../../lib/codec/index.js';
import { cut, hex, packet, u16, u32 } from '../helpers/bytes.js';
import { commands, fixtures, replies, type Fixture } from '../helpers/packets.js';

type Packet = Command | Reply | OddPacket;

/** What a parser makes of some chunks. */
function parse(direction: Fixture['direction'], chunks: readonly Buffer[]): Packet[] {
  const packets: Packet[] = [];
  const parser = direction === 'command' ? commandParser() : replyParser();
  for (const chunk of chunks) parser.parse(chunk, { packet: (packet) => packets.push(packet) });
  parser.end();
  return packets;
}

const decode = (fixture: Fixture): Packet =>
  fixture.direction === 'command' ? decodeCommand(hex(fixture.hex)) : decodeReply(hex(fixture.hex));

const encode = (fixture: Fixture): Buffer =>
  fixture.direction === 'command' ? encodeCommand(fixture.packet) : encodeReply(fixture.packet);

/** The fields alone, to compare with an object literal. */
const plain = (packet: Packet): object => ({ ...packet });

const title = (fixture: Fixture): string => `${fixture.direction} ${fixture.name}`;

t.test('P11 P42-P52 P55 P116 P123 every packet decodes to its object, field by field', async (t) => {
  for (const fixture of fixtures) t.strictSame(plain(decode(fixture)), fixture.packet, title(fixture));
});

t.test('P1 P12 P101 P116 every packet encodes to its bytes, and the length counts code and payload', async (t) => {
  for (const fixture of fixtures.filter((each) => each.readOnly !== true)) {
    t.equal(encode(fixture).toString('hex'), hex(fixture.hex).toString('hex'), title(fixture));
  }
});

t.test('P12 what was decoded encodes to the bytes it came from', async (t) => {
  for (const fixture of commands.filter((each) => each.readOnly !== true)) {
    t.strictSame(encodeCommand(decodeCommand(hex(fixture.hex))), hex(fixture.hex), title(fixture));
  }
  for (const fixture of replies) {
    t.strictSame(encodeReply(decodeReply(hex(fixture.hex))), hex(fixture.hex), title(fixture));
  }
});

t.test('P2 every packet is the same when its bytes come one at a time', async (t) => {
  for (const fixture of fixtures) {
    const packets = parse(fixture.direction, cut(hex(fixture.hex), 1));
    t.strictSame(packets.map(plain), [fixture.packet], title(fixture));
    t.strictSame(packets[0]?.raw, hex(fixture.hex), `raw of ${title(fixture)}`);
  }
});

t.test('P2 P3 every packet between two neighbours is the same, cut at every offset', async (t) => {
  for (const list of [commands, replies]) {
    for (const [i, fixture] of list.entries()) {
      const trio = [list.at(i - 1) as Fixture, fixture, list[(i + 1) % list.length] as Fixture];
      const bytes = Buffer.concat(trio.map((each) => hex(each.hex)));
      const wanted = trio.map((each) => each.packet);
      for (let at = 0; at <= bytes.length; at++) {
        const packets = parse(fixture.direction, [bytes.subarray(0, at), bytes.subarray(at)]);
        // One assertion for each cut would be ten thousand of them: only a difference speaks.
        if (!sameAs(packets, wanted)) t.strictSame(packets.map(plain), wanted, `${title(fixture)}, cut at ${at}`);
      }
      t.pass(title(fixture));
    }
  }
});

function sameAs(packets: readonly Packet[], wanted: readonly Packet[]): boolean {
  return JSON.stringify(packets) === JSON.stringify(wanted);
}

t.test('P3 all packets of a direction come out of one chunk, in order, each with its own bytes', async (t) => {
  for (const list of [commands, replies]) {
    const bytes = list.map((each) => hex(each.hex));
    const packets = parse(list === commands ? 'command' : 'reply', [Buffer.concat(bytes)]);
    t.strictSame(
      packets.map(plain),
      list.map((each) => each.packet),
    );
    t.strictSame(
      packets.map((each) => each.raw),
      bytes,
    );
  }
});

t.test('P2 P3 all packets of a direction are the same in chunks of every small size', async (t) => {
  for (const list of [commands, replies]) {
    const bytes = Buffer.concat(list.map((each) => hex(each.hex)));
    const wanted = list.map((each) => each.packet);
    for (let size = 1; size <= 64; size++) {
      const packets = parse(list === commands ? 'command' : 'reply', cut(bytes, size));
      if (!sameAs(packets, wanted)) t.strictSame(packets.map(plain), wanted, `chunks of ${size}`);
    }
    t.pass('1 to 64 bytes');
  }
});

t.test('P10 a letter means what its direction says, and a letter of the other direction is an error', async (t) => {
  t.equal(decodeCommand(hex('00 00 00 02 44 54')).type, 'macro');
  t.equal(decodeReply(hex('00 00 00 01 64')).type, 'discard');
  const read = { command: decodeCommand, reply: decodeReply };
  for (const [own, other] of [
    ['command', 'reply'],
    ['reply', 'command'],
  ] as const) {
    const mine = new Set(fixtures.filter((each) => each.direction === own).map((each) => hex(each.hex)[4]));
    const theirs = fixtures.filter((each) => each.direction === other && !mine.has(hex(each.hex)[4]));
    t.ok(theirs.length > 20, 'all letters but O');
    for (const fixture of theirs) {
      t.throws(() => read[own](hex(fixture.hex)), { code: 'ERR_MILTER_UNKNOWN_CODE' }, `${title(fixture)} as ${own}`);
    }
  }
});

t.test('P42 P44 P46 a CONNECT that ends too early is malformed, whatever is missing', async (t) => {
  const whole = packet('C', 'mx.a.org', Buffer.from('4'), u16(25), '192.0.2.1');
  // From one byte of the host name to all but the last NUL.
  for (let size = 5; size < whole.length; size++) {
    const torn = Buffer.concat([u32(size - 4), whole.subarray(4, size)]);
    t.throws(() => decodeCommand(torn), { code: 'ERR_MILTER_MALFORMED', packet: 'connect' }, `${size} bytes`);
  }
  t.throws(() => decodeCommand(packet('C', 'a')), { message: /family needs 1 bytes, 0 are left/ });
  t.throws(() => decodeCommand(packet('C', 'a', Buffer.from('6'), Buffer.of(1))), { message: /port needs 2 bytes/ });
  t.throws(() => decodeCommand(packet('C', 'a', Buffer.from('L'), u16(0))), { message: /address has no NUL/ });
});

t.test('P47 an empty address, <> and many arguments are told apart', async (t) => {
  for (const [letter, type] of [
    ['M', 'mailFrom'],
    ['R', 'rcpt'],
  ] as const) {
    const many = Array.from({ length: 1000 }, (_, i) => `X-ARG=${i}`);
    for (const args of [[], ['SIZE=1'], many]) {
      for (const address of ['', '<>', '<a@a.org>']) {
        const bytes = packet(letter, address, ...args);
        const command = decodeCommand(bytes);
        t.strictSame(plain(command), { type, address, args });
        t.strictSame(encodeCommand(command), bytes);
      }
    }
    t.strictSame(encodeCommand({ type, address: '<>' } as Command), packet(letter, '<>'), 'args may be left out');
  }
});

t.test('P50 a body of any size up to the limit survives, whatever its bytes', async (t) => {
  for (const size of [1, 2, 255, 256, 4096, 16_383, 16_384, 65_534, 65_535]) {
    const chunk = Buffer.from(Array.from({ length: size }, (_, i) => (i * 31) & 0xff));
    const bytes = packet('B', chunk);
    t.ok(encodeCommand({ type: 'body', chunk }).equals(bytes), `${size} written`);
    const [body] = parse('command', cut(bytes, 1460));
    t.ok(body?.type === 'body' && body.chunk.equals(chunk), `${size} read`);
  }
});
