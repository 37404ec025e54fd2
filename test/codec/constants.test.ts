// Numbers and letters, written out by hand once more: from mfdef.h and mfapi.h as draft-adams-milter-protocol has them.
import t from 'tap';
import * as constants from '../../lib/constants.js';
import { decodeCommand, plainAddress } from '../../lib/codec/index.js';
import { MilterError, show } from '../../lib/errors.js';
import { actionNames, protocolNames } from '../../lib/names.js';
import { packet, u16 } from '../helpers/bytes.js';

const commandLetters = {
  SMFIC_ABORT: 'A',
  SMFIC_BODY: 'B',
  SMFIC_CONNECT: 'C',
  SMFIC_MACRO: 'D',
  SMFIC_BODYEOB: 'E',
  SMFIC_HELO: 'H',
  SMFIC_QUIT_NC: 'K',
  SMFIC_HEADER: 'L',
  SMFIC_MAIL: 'M',
  SMFIC_EOH: 'N',
  SMFIC_OPTNEG: 'O',
  SMFIC_QUIT: 'Q',
  SMFIC_RCPT: 'R',
  SMFIC_DATA: 'T',
  SMFIC_UNKNOWN: 'U',
};

const replyLetters = {
  SMFIR_ADDRCPT: '+',
  SMFIR_DELRCPT: '-',
  SMFIR_ADDRCPT_PAR: '2',
  SMFIR_SHUTDOWN: '4',
  SMFIR_ACCEPT: 'a',
  SMFIR_REPLBODY: 'b',
  SMFIR_CONTINUE: 'c',
  SMFIR_DISCARD: 'd',
  SMFIR_CHGFROM: 'e',
  SMFIR_CONN_FAIL: 'f',
  SMFIR_ADDHEADER: 'h',
  SMFIR_INSHEADER: 'i',
  SMFIR_SETSYMLIST: 'l',
  SMFIR_CHGHEADER: 'm',
  SMFIR_PROGRESS: 'p',
  SMFIR_QUARANTINE: 'q',
  SMFIR_REJECT: 'r',
  SMFIR_SKIP: 's',
  SMFIR_TEMPFAIL: 't',
  SMFIR_REPLYCODE: 'y',
  SMFIR_OPTNEG: 'O',
};

const actionBits = {
  SMFIF_ADDHDRS: 1,
  SMFIF_CHGBODY: 2,
  SMFIF_ADDRCPT: 4,
  SMFIF_DELRCPT: 8,
  SMFIF_CHGHDRS: 16,
  SMFIF_QUARANTINE: 32,
  SMFIF_CHGFROM: 64,
  SMFIF_ADDRCPT_PAR: 128,
  SMFIF_SETSYMLIST: 256,
};

const protocolBits = {
  SMFIP_NOCONNECT: 1,
  SMFIP_NOHELO: 2,
  SMFIP_NOMAIL: 4,
  SMFIP_NORCPT: 8,
  SMFIP_NOBODY: 16,
  SMFIP_NOHDRS: 32,
  SMFIP_NOEOH: 64,
  SMFIP_NR_HDR: 128,
  SMFIP_NOUNKNOWN: 256,
  SMFIP_NODATA: 512,
  SMFIP_SKIP: 1024,
  SMFIP_RCPT_REJ: 2048,
  SMFIP_NR_CONN: 4096,
  SMFIP_NR_HELO: 8192,
  SMFIP_NR_MAIL: 16_384,
  SMFIP_NR_RCPT: 32_768,
  SMFIP_NR_DATA: 65_536,
  SMFIP_NR_UNKN: 131_072,
  SMFIP_NR_EOH: 262_144,
  SMFIP_NR_BODY: 524_288,
  SMFIP_HDR_LEADSPC: 1_048_576,
  SMFIP_MDS_256K: 268_435_456,
  SMFIP_MDS_1M: 536_870_912,
};

const others = {
  SMFIF_MODBODY: 2,
  SMFIF_ALLOPTS_V1: 0x0f,
  SMFIF_ALLOPTS_V2: 0x3f,
  SMFIF_ALLOPTS_V6: 0x1c0,
  SMFIF_ALLOPTS: 0x1ff,
  ALLOPTS: 0x1ff,
  SMFIP_NOHREPL: 128,
  SMFIP_ALLPROTOS_V1: 0x3f,
  SMFIP_ALLPROTOS_V2: 0x7f,
  SMFIP_ALLPROTOS_V6: 0x1f_ff80,
  SMFIP_ALLPROTOS: 0x1f_ffff,
  ALLPROTOS: 0x1f_ffff,
  SMFIA_UNKNOWN: 'U',
  SMFIA_UNIX: 'L',
  SMFIA_INET: '4',
  SMFIA_INET6: '6',
  SMFIM_CONNECT: 0,
  SMFIM_HELO: 1,
  SMFIM_ENVFROM: 2,
  SMFIM_ENVRCPT: 3,
  SMFIM_DATA: 4,
  SMFIM_EOM: 5,
  SMFIM_EOH: 6,
  SMFI_VERSION: 6,
  SMFI_VERSION_MIN: 2,
  MILTER_MDS_64K: 64 * 1024 - 1,
  MILTER_MDS_256K: 256 * 1024 - 1,
  MILTER_MDS_1M: 1024 * 1024 - 1,
  MILTER_CHUNK_SIZE: 65_535,
  CONTINUE: 'continue',
  ACCEPT: 'accept',
  REJECT: 'reject',
  TEMPFAIL: 'tempFail',
  DISCARD: 'discard',
  CONN_FAIL: 'connFail',
  SHUTDOWN: 'shutdown',
  SKIP: 'skip',
};

const bytesOf = (letters: Record<string, string>): Record<string, number> =>
  Object.fromEntries(Object.entries(letters).map(([name, letter]) => [name, letter.charCodeAt(0)]));

t.test('P10 every constant has the value of the protocol, and there is none besides', async (t) => {
  t.strictSame(
    { ...constants },
    { ...bytesOf(commandLetters), ...bytesOf(replyLetters), ...actionBits, ...protocolBits, ...others },
  );
});

t.test('the sets of bits are made of their bits', async (t) => {
  const sum = (bits: readonly number[]): number => bits.reduce((a, b) => a + b, 0);
  const actions = Object.values(actionBits);
  const steps = Object.values(protocolBits).slice(0, 21);
  t.equal(constants.SMFIF_ALLOPTS, sum(actions));
  t.equal(constants.SMFIF_ALLOPTS_V2 + constants.SMFIF_ALLOPTS_V6, constants.SMFIF_ALLOPTS);
  t.equal(constants.SMFIP_ALLPROTOS, sum(steps), 'the size bits are no steps');
  t.equal(constants.SMFIP_ALLPROTOS_V2 + constants.SMFIP_ALLPROTOS_V6, constants.SMFIP_ALLPROTOS);
});

t.test('a mask prints as the names of its bits, low bits first, unknown ones in hexadecimal', async (t) => {
  t.strictSame(actionNames(0), []);
  t.strictSame(actionNames(0x11), ['SMFIF_ADDHDRS', 'SMFIF_CHGHDRS']);
  t.strictSame(actionNames(constants.SMFIF_ALLOPTS), Object.keys(actionBits), 'each bit has one name');
  t.strictSame(actionNames(0x202), ['SMFIF_CHGBODY', '0x200']);
  t.strictSame(protocolNames(0), []);
  t.strictSame(protocolNames(0x10_0400), ['SMFIP_SKIP', 'SMFIP_HDR_LEADSPC']);
  t.strictSame(protocolNames(constants.SMFIP_ALLPROTOS), Object.keys(protocolBits).slice(0, 21));
  t.strictSame(protocolNames(0xc000_0000), ['0xc0000000'], 'the highest bit does not make it negative');
  t.strictSame(protocolNames(0x6000_0080 | 0), ['SMFIP_NR_HDR', 'SMFIP_MDS_1M', '0x40000000']);
  t.strictSame(protocolNames(0xc000_0000 | 0), ['0xc0000000']);
  t.strictSame(protocolNames(-1).slice(-1), ['0xcfe00000'], 'a number that JavaScript made negative is its 32 bits');
  for (const [names, bits] of [
    [actionNames, actionBits],
    [protocolNames, protocolBits],
  ] as const) {
    for (const [name, bit] of Object.entries(bits)) t.strictSame(names(bit), [name]);
  }
});

t.test('P45 an IPv6 address is the same with and without its prefix and brackets', async (t) => {
  for (const address of [
    '2001:db8::1',
    'IPv6:2001:db8::1',
    'ipv6:2001:db8::1',
    '[2001:db8::1]',
    '[IPV6:2001:db8::1]',
  ]) {
    t.equal(plainAddress(address), '2001:db8::1', address);
    const command = decodeCommand(packet('C', 'a', Buffer.from('6'), u16(25), address));
    t.ok(command.type === 'connect' && command.address === address, 'the codec itself leaves it as it came');
  }
  t.equal(plainAddress('[192.0.2.1]'), '192.0.2.1');
  t.equal(plainAddress('192.0.2.1'), '192.0.2.1');
  t.equal(plainAddress(''), '');
  t.equal(plainAddress('/run/IPv6:x'), '/run/IPv6:x');
});

t.test('a MilterError has its code, and of the details what is known', async (t) => {
  const cause = new Error('underneath');
  const bytes = Buffer.of(1);
  const full = new MilterError('ERR_MILTER_CALLBACK', 'it failed', {
    packet: 'helo',
    offset: 7,
    bytes,
    stage: 'helo',
    cause,
  });
  t.type(full, Error);
  t.match(full, { name: 'MilterError', code: 'ERR_MILTER_CALLBACK', packet: 'helo', offset: 7, stage: 'helo' });
  t.equal(full.message, 'it failed');
  t.equal(full.bytes, bytes);
  t.equal(full.cause, cause);
  t.match(String(full.stack), /^MilterError: it failed\n +at /, 'the stack begins with its name');
  const bare = new MilterError('ERR_MILTER_TIMEOUT', 'late');
  t.strictSame(Object.keys(bare).sort(), ['code', 'name']);
  t.notOk('cause' in bare, 'there is no cause where none was given');
  t.equal(new MilterError('ERR_MILTER_TIMEOUT', 'late', { cause: null }).cause, null, 'null can be thrown too');
});

t.test('an error shows values shortly and safely', async (t) => {
  class Thing {
    kind = 1;
  }
  const cases: ReadonlyArray<readonly [unknown, string]> = [
    ['a"b\n', '"a\\"b\\n"'],
    ['x'.repeat(60), `"${'x'.repeat(60)}"`],
    ['x'.repeat(61), `"${'x'.repeat(60)}…"`],
    [function named() {}, 'function named'],
    [Thing, 'function Thing'],
    [() => {}, 'a function'],
    [[1, 2], 'an array of 2'],
    [{}, 'an object (Object)'],
    [new Thing(), 'an object (Thing)'],
    [Object.create(null), 'an object'],
    [{ constructor: { name: Symbol('x') } }, 'an object'],
    [null, 'null'],
    [undefined, 'undefined'],
    [1.5, '1.5'],
    [-0, '0'],
    [2n ** 70n, '1180591620717411303424'],
    [Symbol('x'), 'Symbol(x)'],
    [true, 'true'],
  ];
  for (const [value, shown] of cases) t.equal(show(value), shown);
});
