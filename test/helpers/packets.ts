/**
 * One packet as an object and as bytes, for every kind of packet in both directions. The hexadecimal was written by
 * hand from the format in draft-adams-milter-protocol and from what Sendmail and Postfix put on the wire; no byte of it
 * was made by this library. One fixture, many proofs: see test/codec/packets.test.ts.
 */
import type { Command, Reply } from '../../lib/codec/index.js';

interface Case<Direction extends string, Packet> {
  readonly name: string;
  readonly direction: Direction;
  readonly packet: Packet;
  readonly hex: string;
  /** Servers and milters send it, and it must be read; the encoder writes something else or refuses. */
  readonly readOnly?: true;
}

export type CommandFixture = Case<'command', Command>;
export type ReplyFixture = Case<'reply', Reply>;
export type Fixture = CommandFixture | ReplyFixture;

const command = (name: string, packet: Command, hex: string): CommandFixture => ({
  name,
  direction: 'command',
  packet,
  hex,
});
const reply = (name: string, packet: Reply, hex: string): ReplyFixture => ({ name, direction: 'reply', packet, hex });

/** The bytes that are no UTF-8 in `caf\xe9`, as the library's strings have them. */
const latinCafe = 'caf\udce9';

export const commands: readonly CommandFixture[] = [
  command(
    'O: version 6, all actions, all protocol steps',
    { type: 'negotiate', version: 6, actions: 0x1ff, protocol: 0x1fffff },
    '00 00 00 0d 4f 00 00 00 06 00 00 01 ff 00 1f ff ff',
  ),
  command(
    'O: version 2 of an old Sendmail that offers nothing',
    { type: 'negotiate', version: 2, actions: 0, protocol: 0 },
    '00 00 00 0d 4f 00 00 00 02 00 00 00 00 00 00 00 00',
  ),
  command(
    'O: every bit set reads as a positive number',
    { type: 'negotiate', version: 6, actions: 0xffff_ffff, protocol: 0x8000_0000 },
    '00 00 00 0d 4f 00 00 00 06 ff ff ff ff 80 00 00 00',
  ),
  {
    ...command(
      'O: with bytes behind the three numbers',
      { type: 'negotiate', version: 6, actions: 0x1ff, protocol: 0x1fffff },
      '00 00 00 10 4f 00 00 00 06 00 00 01 ff 00 1f ff ff 01 02 03',
    ),
    readOnly: true,
  },
  command(
    'D: two macros for CONNECT',
    {
      type: 'macro',
      stage: 'C',
      macros: [
        ['j', 'mx.b.org'],
        ['{daemon_name}', 'd1'],
      ],
    },
    `00 00 00 1e 44 43 6a 00 6d 78 2e 62 2e 6f 72 67 00
     7b 64 61 65 6d 6f 6e 5f 6e 61 6d 65 7d 00 64 31 00`,
  ),
  command('D: none for DATA', { type: 'macro', stage: 'T', macros: [] }, '00 00 00 02 44 54'),
  command(
    'D: an empty value',
    { type: 'macro', stage: 'M', macros: [['{auth_authen}', '']] },
    '00 00 00 11 44 4d 7b 61 75 74 68 5f 61 75 74 68 65 6e 7d 00 00',
  ),
  command(
    'D: the same name twice, and a value that is no UTF-8',
    {
      type: 'macro',
      stage: 'R',
      macros: [
        ['v', latinCafe],
        ['v', 'b'],
      ],
    },
    '00 00 00 0d 44 52 76 00 63 61 66 e9 00 76 00 62 00',
  ),
  command(
    'D: for a letter that is no command',
    { type: 'macro', stage: '\xff', macros: [['i', '1']] },
    '00 00 00 06 44 ff 69 00 31 00',
  ),
  {
    ...command(
      'D: an odd number of strings',
      {
        type: 'macro',
        stage: 'E',
        macros: [
          ['i', '1'],
          ['j', ''],
        ],
      },
      '00 00 00 08 44 45 69 00 31 00 6a 00',
    ),
    readOnly: true,
  },
  command(
    'C: IPv4',
    { type: 'connect', hostname: 'mx.a.org', family: '4', port: 25000, address: '192.0.2.1' },
    '00 00 00 17 43 6d 78 2e 61 2e 6f 72 67 00 34 61 a8 31 39 32 2e 30 2e 32 2e 31 00',
  ),
  command(
    'C: a port with a zero byte in it',
    { type: 'connect', hostname: 'mx.a.org', family: '4', port: 25, address: '192.0.2.1' },
    '00 00 00 17 43 6d 78 2e 61 2e 6f 72 67 00 34 00 19 31 39 32 2e 30 2e 32 2e 31 00',
  ),
  command(
    'C: IPv6 as Postfix writes it',
    { type: 'connect', hostname: 'mx.a.org', family: '6', port: 25000, address: '2001:db8::1' },
    '00 00 00 19 43 6d 78 2e 61 2e 6f 72 67 00 36 61 a8 32 30 30 31 3a 64 62 38 3a 3a 31 00',
  ),
  command(
    'C: IPv6 as Sendmail writes it',
    { type: 'connect', hostname: '[IPv6:2001:db8::1]', family: '6', port: 25000, address: 'IPv6:2001:db8::1' },
    `00 00 00 28 43 5b 49 50 76 36 3a 32 30 30 31 3a 64 62 38 3a 3a 31 5d 00 36 61 a8
     49 50 76 36 3a 32 30 30 31 3a 64 62 38 3a 3a 31 00`,
  ),
  command(
    'C: an address that is not known',
    { type: 'connect', hostname: 'localhost', family: 'U', port: 0, address: '' },
    '00 00 00 0c 43 6c 6f 63 61 6c 68 6f 73 74 00 55',
  ),
  command(
    'C: a Unix socket',
    { type: 'connect', hostname: 'localhost', family: 'L', port: 0, address: '/run/x' },
    '00 00 00 15 43 6c 6f 63 61 6c 68 6f 73 74 00 4c 00 00 2f 72 75 6e 2f 78 00',
  ),
  command(
    'C: a host name in UTF-8 and the highest port',
    { type: 'connect', hostname: 'bücher.example', family: '4', port: 65535, address: '192.0.2.1' },
    '00 00 00 1e 43 62 c3 bc 63 68 65 72 2e 65 78 61 6d 70 6c 65 00 34 ff ff 31 39 32 2e 30 2e 32 2e 31 00',
  ),
  command(
    'C: nothing known at all',
    { type: 'connect', hostname: '', family: '4', port: 0, address: '' },
    '00 00 00 06 43 00 34 00 00 00',
  ),
  {
    ...command(
      'C: port and address behind a U',
      { type: 'connect', hostname: 'localhost', family: 'U', port: 0, address: '' },
      '00 00 00 10 43 6c 6f 63 61 6c 68 6f 73 74 00 55 00 19 2d 00',
    ),
    readOnly: true,
  },
  {
    ...command(
      'C: a family that nobody knows',
      { type: 'connect', hostname: 'a', family: 'x', port: 0, address: '' },
      '00 00 00 07 43 61 00 78 01 02 03',
    ),
    readOnly: true,
  },
  command('H', { type: 'helo', name: 'mx.a.org' }, '00 00 00 0a 48 6d 78 2e 61 2e 6f 72 67 00'),
  command('H: empty', { type: 'helo', name: '' }, '00 00 00 02 48 00'),
  command(
    'M: an address and one argument',
    { type: 'mailFrom', address: '<a@a.org>', args: ['SIZE=100'] },
    '00 00 00 14 4d 3c 61 40 61 2e 6f 72 67 3e 00 53 49 5a 45 3d 31 30 30 00',
  ),
  command('M: the null sender', { type: 'mailFrom', address: '<>', args: [] }, '00 00 00 04 4d 3c 3e 00'),
  command(
    'M: the null sender of Postfix for mail that is not SMTP',
    { type: 'mailFrom', address: '', args: [] },
    '00 00 00 02 4d 00',
  ),
  command(
    'M: SMTPUTF8, several arguments, an empty one among them',
    { type: 'mailFrom', address: '<é@a.org>', args: ['BODY=8BITMIME', '', 'SMTPUTF8'] },
    `00 00 00 24 4d 3c c3 a9 40 61 2e 6f 72 67 3e 00
     42 4f 44 59 3d 38 42 49 54 4d 49 4d 45 00 00 53 4d 54 50 55 54 46 38 00`,
  ),
  command(
    'R: an address and one argument',
    { type: 'rcpt', address: '<b@b.org>', args: ['NOTIFY=NEVER'] },
    '00 00 00 18 52 3c 62 40 62 2e 6f 72 67 3e 00 4e 4f 54 49 46 59 3d 4e 45 56 45 52 00',
  ),
  command(
    'R: no argument',
    { type: 'rcpt', address: '<b@b.org>', args: [] },
    '00 00 00 0b 52 3c 62 40 62 2e 6f 72 67 3e 00',
  ),
  command('T', { type: 'data' }, '00 00 00 01 54'),
  command('L', { type: 'header', name: 'Subject', value: 'hi' }, '00 00 00 0c 4c 53 75 62 6a 65 63 74 00 68 69 00'),
  command(
    'L: folded, with its leading space',
    { type: 'header', name: 'Subject', value: ' hi\n\tyou' },
    '00 00 00 12 4c 53 75 62 6a 65 63 74 00 20 68 69 0a 09 79 6f 75 00',
  ),
  command('L: an empty value', { type: 'header', name: 'X', value: '' }, '00 00 00 04 4c 58 00 00'),
  command(
    'L: a value that is no UTF-8',
    { type: 'header', name: 'X', value: `${latinCafe}: \udc80\udcff` },
    '00 00 00 0c 4c 58 00 63 61 66 e9 3a 20 80 ff 00',
  ),
  command(
    'L: a value in UTF-8 of four bytes beside a byte that is none',
    { type: 'header', name: 'X', value: '😀\udcf0' },
    '00 00 00 09 4c 58 00 f0 9f 98 80 f0 00',
  ),
  command('N', { type: 'eoh' }, '00 00 00 01 4e'),
  command('B', { type: 'body', chunk: Buffer.from('Hi\r\n') }, '00 00 00 05 42 48 69 0d 0a'),
  command(
    'B: any bytes, NUL among them',
    { type: 'body', chunk: Buffer.of(0, 0x80, 0xff, 0, 0x0d) },
    '00 00 00 06 42 00 80 ff 00 0d',
  ),
  { ...command('B: empty', { type: 'body', chunk: Buffer.alloc(0) }, '00 00 00 01 42'), readOnly: true },
  command('E', { type: 'eob' }, '00 00 00 01 45'),
  command(
    'E: with a last piece of the body',
    { type: 'eob', chunk: Buffer.from('Hi\r\n') },
    '00 00 00 05 45 48 69 0d 0a',
  ),
  command('A', { type: 'abort' }, '00 00 00 01 41'),
  command('Q', { type: 'quit' }, '00 00 00 01 51'),
  command('K', { type: 'quitNewConnection' }, '00 00 00 01 4b'),
  command('U', { type: 'unknown', line: 'FOO bar' }, '00 00 00 09 55 46 4f 4f 20 62 61 72 00'),
  command('U: 8-bit', { type: 'unknown', line: `FOO ${latinCafe}` }, '00 00 00 0a 55 46 4f 4f 20 63 61 66 e9 00'),
];

export const replies: readonly ReplyFixture[] = [
  reply(
    'O: ADDHDRS and CHGHDRS, SKIP and HDR_LEADSPC',
    { type: 'negotiate', version: 6, actions: 0x11, protocol: 0x100400 },
    '00 00 00 0d 4f 00 00 00 06 00 00 00 11 00 10 04 00',
  ),
  reply(
    'O: with two lists of macros',
    {
      type: 'negotiate',
      version: 6,
      actions: 0x1ff,
      protocol: 0x400,
      macros: [
        { stage: 0, names: 'j {daemon_name}' },
        { stage: 5, names: 'i' },
      ],
    },
    `00 00 00 27 4f 00 00 00 06 00 00 01 ff 00 00 04 00
     00 00 00 00 6a 20 7b 64 61 65 6d 6f 6e 5f 6e 61 6d 65 7d 00
     00 00 00 05 69 00`,
  ),
  reply(
    'O: an empty list, and a stage that nobody knows',
    {
      type: 'negotiate',
      version: 6,
      actions: 0,
      protocol: 0,
      macros: [
        { stage: 6, names: '' },
        { stage: 0x0100_0080, names: 'i' },
      ],
    },
    '00 00 00 18 4f 00 00 00 06 00 00 00 00 00 00 00 00 00 00 00 06 00 01 00 00 80 69 00',
  ),
  reply('c', { type: 'continue' }, '00 00 00 01 63'),
  reply('a', { type: 'accept' }, '00 00 00 01 61'),
  reply('r', { type: 'reject' }, '00 00 00 01 72'),
  reply('t', { type: 'tempFail' }, '00 00 00 01 74'),
  reply('d', { type: 'discard' }, '00 00 00 01 64'),
  reply('f', { type: 'connFail' }, '00 00 00 01 66'),
  reply('4', { type: 'shutdown' }, '00 00 00 01 34'),
  reply('s', { type: 'skip' }, '00 00 00 01 73'),
  reply('p', { type: 'progress' }, '00 00 00 01 70'),
  reply(
    'y: one line',
    { type: 'replyCode', text: '550 5.7.1 No' },
    '00 00 00 0e 79 35 35 30 20 35 2e 37 2e 31 20 4e 6f 00',
  ),
  reply(
    'y: two lines',
    { type: 'replyCode', text: '550-5.7.1 A\r\n550 5.7.1 B' },
    '00 00 00 1a 79 35 35 30 2d 35 2e 37 2e 31 20 41 0d 0a 35 35 30 20 35 2e 37 2e 31 20 42 00',
  ),
  reply('y: a single %', { type: 'replyCode', text: '450 5% €' }, '00 00 00 0c 79 34 35 30 20 35 25 20 e2 82 ac 00'),
  reply('+', { type: 'addRcpt', address: '<c@b.org>' }, '00 00 00 0b 2b 3c 63 40 62 2e 6f 72 67 3e 00'),
  reply(
    '2: with arguments',
    { type: 'addRcptPar', address: '<c@b.org>', args: 'NOTIFY=NEVER' },
    '00 00 00 18 32 3c 63 40 62 2e 6f 72 67 3e 00 4e 4f 54 49 46 59 3d 4e 45 56 45 52 00',
  ),
  reply(
    '2: without arguments',
    { type: 'addRcptPar', address: '<c@b.org>' },
    '00 00 00 0b 32 3c 63 40 62 2e 6f 72 67 3e 00',
  ),
  reply('2: empty arguments', { type: 'addRcptPar', address: '<>', args: '' }, '00 00 00 05 32 3c 3e 00 00'),
  reply('-', { type: 'delRcpt', address: '<b@b.org>' }, '00 00 00 0b 2d 3c 62 40 62 2e 6f 72 67 3e 00'),
  reply('b', { type: 'replBody', chunk: Buffer.from('Hi\r\n') }, '00 00 00 05 62 48 69 0d 0a'),
  reply('b: empty', { type: 'replBody', chunk: Buffer.alloc(0) }, '00 00 00 01 62'),
  reply('h', { type: 'addHeader', name: 'X-A', value: 'yes' }, '00 00 00 09 68 58 2d 41 00 79 65 73 00'),
  reply(
    'h: 8-bit, folded',
    { type: 'addHeader', name: 'X', value: 'é\n \udce9' },
    '00 00 00 09 68 58 00 c3 a9 0a 20 e9 00',
  ),
  reply('h: an empty value', { type: 'addHeader', name: 'X', value: '' }, '00 00 00 04 68 58 00 00'),
  reply(
    'i: at the top',
    { type: 'insHeader', index: 0, name: 'X-A', value: 'yes' },
    '00 00 00 0d 69 00 00 00 00 58 2d 41 00 79 65 73 00',
  ),
  reply(
    'i: at the highest index',
    { type: 'insHeader', index: 0xffff_ffff, name: 'X', value: '' },
    '00 00 00 08 69 ff ff ff ff 58 00 00',
  ),
  reply(
    'm: the first Subject becomes another',
    { type: 'chgHeader', index: 1, name: 'Subject', value: 'new' },
    '00 00 00 11 6d 00 00 00 01 53 75 62 6a 65 63 74 00 6e 65 77 00',
  ),
  reply(
    'm: the first Subject goes away',
    { type: 'chgHeader', index: 1, name: 'Subject', value: '' },
    '00 00 00 0e 6d 00 00 00 01 53 75 62 6a 65 63 74 00 00',
  ),
  reply('e', { type: 'chgFrom', address: '<z@a.org>' }, '00 00 00 0b 65 3c 7a 40 61 2e 6f 72 67 3e 00'),
  reply(
    'e: with arguments',
    { type: 'chgFrom', address: '<z@a.org>', args: 'RET=HDRS' },
    '00 00 00 14 65 3c 7a 40 61 2e 6f 72 67 3e 00 52 45 54 3d 48 44 52 53 00',
  ),
  reply(
    'e: empty arguments, as some milters always send them',
    { type: 'chgFrom', address: '<>', args: '' },
    '00 00 00 05 65 3c 3e 00 00',
  ),
  reply('q', { type: 'quarantine', reason: 'spam' }, '00 00 00 06 71 73 70 61 6d 00'),
  reply('l: never seen', { type: 'setSymList', stage: 0, names: 'j' }, '00 00 00 07 6c 00 00 00 00 6a 00'),
];

export const fixtures: readonly Fixture[] = [...commands, ...replies];
