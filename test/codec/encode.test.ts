// What an encoder refuses, and what becomes of the memory that it writes into.
import { createContext, runInContext } from 'node:vm';
import t from 'tap';
import {
  commandParser,
  decodeCommand,
  encodeCommand,
  encodeReply,
  type Command,
  type Reply,
} from '../../lib/codec/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import { collectGarbage, memoryInUse } from '../helpers/memory.js';
import { commands, fixtures, replies } from '../helpers/packets.js';

/** The encoder of either direction, for objects that TypeScript would not let through. */
const loose = {
  command: encodeCommand as (packet: unknown, maxPayload?: number) => Buffer,
  reply: encodeReply as (packet: unknown, maxPayload?: number) => Buffer,
};

t.test('P9 a payload above the limit is refused for every packet that can have one', async (t) => {
  const long = 'x'.repeat(65_534);
  const chunk = Buffer.alloc(65_535);
  const largest: ReadonlyArray<readonly ['command' | 'reply', Command | Reply, string]> = [
    ['command', { type: 'macro', stage: 'C', macros: [['', long.slice(2)]] }, 'macros'],
    ['command', { type: 'connect', hostname: long.slice(4), family: '4', port: 1, address: '' }, 'hostname'],
    ['command', { type: 'helo', name: long }, 'name'],
    ['command', { type: 'mailFrom', address: long, args: [] }, 'address'],
    ['command', { type: 'rcpt', address: '', args: [long.slice(1)] }, 'args'],
    ['command', { type: 'header', name: 'X', value: long.slice(2) }, 'value'],
    ['command', { type: 'body', chunk }, 'chunk'],
    ['command', { type: 'eob', chunk }, 'chunk'],
    ['command', { type: 'unknown', line: long }, 'line'],
    [
      'reply',
      { type: 'negotiate', version: 6, actions: 0, protocol: 0, macros: [{ stage: 0, names: long.slice(16) }] },
      'macros',
    ],
    ['reply', { type: 'replyCode', text: long }, 'text'],
    ['reply', { type: 'addHeader', name: 'X', value: long.slice(2) }, 'value'],
    ['reply', { type: 'insHeader', index: 0, name: 'X', value: long.slice(6) }, 'value'],
    ['reply', { type: 'chgHeader', index: 0, name: long.slice(5), value: '' }, 'name'],
    ['reply', { type: 'addRcpt', address: long }, 'address'],
    ['reply', { type: 'addRcptPar', address: '', args: long.slice(1) }, 'args'],
    ['reply', { type: 'delRcpt', address: long }, 'address'],
    ['reply', { type: 'chgFrom', address: long }, 'address'],
    ['reply', { type: 'replBody', chunk }, 'chunk'],
    ['reply', { type: 'quarantine', reason: long }, 'reason'],
    ['reply', { type: 'setSymList', stage: 0, names: long.slice(4) }, 'names'],
  ];
  const bare = new Set(
    fixtures.filter((each) => Object.keys(each.packet).length === 1).map(({ packet }) => packet.type),
  );
  const wanted = new Set(fixtures.map(({ packet }) => packet.type).filter((type) => !bare.has(type) || type === 'eob'));
  t.strictSame(new Set(largest.map(([, { type }]) => type)), wanted, 'none is forgotten');
  for (const [direction, fits, field] of largest) {
    t.equal(loose[direction](fits).length, 5 + 65_535, `${fits.type}: 65,535 bytes pass`);
    t.equal(loose[direction](fits, 65_535).length, 5 + 65_535);
    t.throws(() => loose[direction](fits, 65_534), {
      code: 'ERR_MILTER_PACKET_TOO_LARGE',
      packet: fits.type,
      message: `The ${fits.type} packet is too large: a payload of 65535 bytes or more, and at most 65534 may be sent`,
    });
    const tooLarge = JSON.parse(JSON.stringify(fits), (key, value: unknown) => {
      if (key === 'chunk') return Buffer.alloc(65_536);
      return typeof value === 'string' && value.length > 60_000 ? `${value}x` : value;
    }) as object;
    t.throws(() => loose[direction](tooLarge), { code: 'ERR_MILTER_PACKET_TOO_LARGE' }, `${field} one byte longer`);
    t.equal(loose[direction](tooLarge, 65_536).length, 5 + 65_536, 'a higher limit lets it pass');
  }
});

t.test('P9 characters count with all of their bytes, and a bare packet passes any limit', async (t) => {
  const value = 'é'.repeat(10);
  t.equal(encodeReply({ type: 'quarantine', reason: value }, 21).length, 26);
  t.throws(() => encodeReply({ type: 'quarantine', reason: value }, 20), { code: 'ERR_MILTER_PACKET_TOO_LARGE' });
  t.throws(() => encodeReply({ type: 'quarantine', reason: '€'.repeat(21_845) }), { message: /65536 bytes or more/ });
  t.equal(encodeReply({ type: 'quarantine', reason: '\udce9'.repeat(20) }, 21).length, 26, 'an escape is one byte');
  t.equal(encodeReply({ type: 'continue' }, 0).length, 5);
});

t.test('P9 what is far too large is refused before memory is taken for it', async (t) => {
  const chunk = new Uint8Array(new ArrayBuffer(64 * 1024 * 1024));
  const text = 'x'.repeat(64 * 1024 * 1024);
  const escaped = `\udce9${text}`;
  const before = process.memoryUsage().arrayBuffers;
  t.throws(() => loose.reply({ type: 'replBody', chunk }), { code: 'ERR_MILTER_PACKET_TOO_LARGE' });
  t.throws(() => encodeReply({ type: 'quarantine', reason: text }), { code: 'ERR_MILTER_PACKET_TOO_LARGE' });
  t.throws(() => encodeReply({ type: 'quarantine', reason: escaped }), { code: 'ERR_MILTER_PACKET_TOO_LARGE' });
  const taken = process.memoryUsage().arrayBuffers - before;
  t.ok(taken < 1024 * 1024, `${taken} bytes`);
});

t.test('P9 a limit that is no whole number is refused', async (t) => {
  for (const limit of [-1, 1.5, Number.NaN, '64K' as unknown as number]) {
    const says = { code: 'ERR_MILTER_OPTION', message: /^maxPayload must be a whole number from 0 to / };
    t.throws(() => encodeReply({ type: 'continue' }, limit), says);
    t.throws(() => encodeCommand({ type: 'quit' }, limit), says);
  }
});

t.test('P13 a NUL inside a string is refused, in every field of every packet', async (t) => {
  let fields = 0;
  for (const { direction, packet } of fixtures) {
    for (const [field, value] of Object.entries(packet)) {
      if (typeof value !== 'string' || field === 'type' || field === 'stage' || field === 'family') continue;
      if (packet.type === 'connect' && packet.family !== '4') continue;
      fields++;
      for (const text of ['\0', `${value}\0`, `a\0b`, `\0${value}`, '\udce9\0']) {
        t.throws(() => loose[direction]({ ...packet, [field]: text }), {
          code: 'ERR_MILTER_VALUE',
          packet: packet.type,
          message: `Cannot encode the ${packet.type} packet: ${field} holds a NUL`,
        });
      }
    }
  }
  t.ok(fields > 40, `${fields} fields`);
  t.throws(() => encodeCommand({ type: 'mailFrom', address: '', args: ['a', '\0'] }), { message: /args holds a NUL/ });
  t.throws(() => encodeCommand({ type: 'macro', stage: 'C', macros: [['\0', '']] }), { message: /macro name holds a/ });
  t.throws(() => encodeCommand({ type: 'macro', stage: 'C', macros: [['j', '\0']] }), { message: /macro value holds/ });
  const macros = [{ stage: 0, names: 'j\0i' }];
  t.throws(() => encodeReply({ type: 'negotiate', version: 6, actions: 0, protocol: 0, macros }), {
    message: /macro list/,
  });
});

t.test('a string with a surrogate that stands for no byte is refused, and the error names the field', async (t) => {
  t.throws(() => encodeReply({ type: 'addHeader', name: 'X', value: 'a\ud800' }), {
    code: 'ERR_MILTER_TEXT',
    packet: 'addHeader',
    message: /^Cannot encode the addHeader packet: value is no text: The lone surrogate U\+D800 stands for no byte/,
  });
  t.throws(() => encodeCommand({ type: 'rcpt', address: '<>', args: ['\udfff'] }), {
    code: 'ERR_MILTER_TEXT',
    message: /args is no text/,
  });
});

t.test('a value that the field cannot carry is refused, and the error names packet and field', async (t) => {
  const negotiate = { type: 'negotiate', version: 6, actions: 0, protocol: 0 };
  const connect = { type: 'connect', hostname: 'a', family: '4', port: 25, address: 'b' };
  const cases: ReadonlyArray<readonly ['command' | 'reply', object, RegExp]> = [
    ...[-1, 0.5, Number.NaN, 2 ** 32, '6', null, undefined, 1n].flatMap((value) =>
      (['version', 'actions', 'protocol'] as const).map(
        (field) =>
          [
            'command',
            { ...negotiate, [field]: value },
            new RegExp(`negotiate packet: ${field} must be a whole number from 0 to 4294967295, got `),
          ] as const,
      ),
    ),
    ['command', { ...connect, port: 65_536 }, /port must be a whole number from 0 to 65535, got 65536/],
    ['command', { ...connect, port: -1 }, /port must be/],
    ['command', { ...connect, family: '' }, /family must be one character of one byte/],
    ['command', { ...connect, family: '46' }, /family must be one character/],
    ['command', { ...connect, family: '€' }, /family must be one character/],
    ['command', { ...connect, family: 4 }, /family must be one character/],
    ['command', { ...connect, hostname: undefined }, /connect packet: hostname must be a string, got undefined/],
    ['command', { ...connect, address: null }, /address must be a string, got null/],
    ['command', { type: 'macro', macros: [] }, /stage must be one character/],
    ['command', { type: 'macro', stage: 'C' }, /macros must be an array of \[name, value\] pairs/],
    ['command', { type: 'macro', stage: 'C', macros: 'j' }, /macros must be an array of \[name, value\] pairs/],
    ['command', { type: 'macro', stage: 'C', macros: [null] }, /macros must be an array of \[name, value\] pairs/],
    ['command', { type: 'macro', stage: 'C', macros: ['ja'] }, /macros must be an array of \[name, value\] pairs/],
    ['command', { type: 'macro', stage: 'C', macros: [['j']] }, /macro value must be a string, got undefined/],
    ['command', { type: 'macro', stage: 'C', macros: [[1, '']] }, /macro name must be a string, got 1/],
    ['command', { type: 'mailFrom', address: '', args: 'SIZE=1' }, /args must be an array of strings/],
    ['command', { type: 'mailFrom', address: '', args: null }, /args must be an array of strings/],
    ['command', { type: 'rcpt', address: '', args: [1] }, /args must be a string, got 1/],
    ['command', { type: 'rcpt' }, /rcpt packet: address must be a string/],
    ['command', { type: 'header', name: '', value: 'x' }, /name must not be empty/],
    ['command', { type: 'header', name: 'X' }, /value must be a string, got undefined/],
    ['command', { type: 'header', name: undefined, value: '' }, /name must be a string, got undefined/],
    ['command', { type: 'body' }, /chunk must be a Buffer, got undefined/],
    ['command', { type: 'body', chunk: 'text' }, /chunk must be a Buffer, got "text"/],
    ['command', { type: 'body', chunk: [1] }, /chunk must be a Buffer, got an array of 1/],
    ['command', { type: 'body', chunk: new ArrayBuffer(1) }, /chunk must be a Buffer, got an object \(ArrayBuffer\)/],
    ['command', { type: 'body', chunk: new Uint16Array(1) }, /chunk must be a Buffer, got an object \(Uint16Array\)/],
    ['command', { type: 'eob', chunk: null }, /chunk must be a Buffer, got null/],
    ['reply', { type: 'addHeader', name: '', value: '' }, /name must not be empty/],
    ['reply', { type: 'insHeader', index: -1, name: 'X', value: '' }, /index must be a whole number/],
    ['reply', { type: 'chgHeader', index: 1, name: '', value: '' }, /name must not be empty/],
    ['reply', { type: 'addRcptPar', address: '', args: null }, /args must be a string, got null/],
    ['reply', { type: 'replBody', chunk: '' }, /chunk must be a Buffer/],
    ['reply', { ...negotiate, macros: 7 }, /macros must be an array of \{ stage, names \}/],
    ['reply', { ...negotiate, macros: 'j' }, /macros must be an array of \{ stage, names \}/],
    ['reply', { ...negotiate, macros: [null] }, /macro stage must be a whole number/],
    ['reply', { ...negotiate, macros: [{ stage: 0 }] }, /macro list must be a string, got undefined/],
  ];
  for (const [direction, packet, says] of cases) {
    t.throws(() => loose[direction](packet), { code: 'ERR_MILTER_VALUE', message: says }, says.source);
  }
});

t.test('P10 a type that the direction does not have is refused', async (t) => {
  for (const [direction, packet, says] of [
    ['command', { type: 'continue' }, 'There is no packet of type "continue" in this direction'],
    ['reply', { type: 'eob' }, 'There is no packet of type "eob"'],
    ['reply', { type: 'unrecognized', code: 1, payload: Buffer.alloc(0) }, '"unrecognized"'],
    ['reply', { type: 'toString' }, '"toString"'],
    ['reply', {}, 'of type undefined'],
    ['reply', null, 'of type undefined'],
    ['reply', 'continue', 'of type undefined'],
    ['reply', { type: Symbol('x') }, 'of type Symbol(x)'],
  ] as const) {
    t.throws(() => loose[direction](packet), { code: 'ERR_MILTER_VALUE', message: says }, says);
  }
});

t.test('P50 an empty body packet is never written: libmilter ends the session at one', async (t) => {
  t.throws(() => encodeCommand({ type: 'body', chunk: Buffer.alloc(0) }), {
    code: 'ERR_MILTER_VALUE',
    message: 'Cannot encode the body packet: chunk must not be empty',
  });
  t.strictSame(
    encodeReply({ type: 'replBody', chunk: Buffer.alloc(0) }),
    packet('b'),
    'in a reply it empties the body',
  );
});

t.test('a chunk may be any Uint8Array, of another realm too, and is copied', async (t) => {
  const foreign = runInContext('new Uint8Array([72, 105])', createContext()) as Uint8Array;
  const chunk = new Uint8Array([0, 72, 105, 0]).subarray(1, 3);
  for (const each of [foreign, chunk]) {
    const bytes = loose.reply({ type: 'replBody', chunk: each });
    each.fill(0);
    t.strictSame(bytes, packet('b', Buffer.from('Hi')));
  }
});

t.test('a failed packet leaves no trace in the next ones, and no packet changes once it is written', async (t) => {
  const written: Buffer[] = [];
  const wanted: Buffer[] = [];
  let failed = 0;
  for (let i = 0; i < 3000; i++) {
    const name = 'x'.repeat(i % 97);
    written.push(encodeCommand({ type: 'helo', name }));
    wanted.push(packet('H', name));
    try {
      encodeCommand({ type: 'header', name: 'Subject', value: `${name}\0` });
    } catch {
      failed++;
    }
  }
  t.equal(failed, 3000);
  t.ok(Buffer.concat(written).equals(Buffer.concat(wanted)));
});

t.test('the codec lets go of a chunk as soon as it has read it', async (t) => {
  const parser = commandParser();
  const parse = (bytes: Buffer, strict: boolean): WeakRef<ArrayBufferLike> => {
    const chunk = Buffer.from(new Uint8Array(bytes).buffer);
    try {
      parser.parse(chunk, { packet() {} });
    } catch {
      t.notOk(strict);
    }
    return new WeakRef(chunk.buffer);
  };
  const good = parse(Buffer.concat([packet('M', '<a@a.org>'), packet('L', 'X', 'é')]), true);
  const bad = parse(packet('H', Buffer.from('no end')), false);
  await collectGarbage();
  t.equal(good.deref(), undefined);
  t.equal(bad.deref(), undefined, 'also when the packet was malformed');
});

t.test('a packet of a million empty strings leaves nothing behind in the codec', async (t) => {
  const bytes = packet('U', Buffer.alloc(1_000_000));
  const before = await memoryInUse();
  t.throws(() => decodeCommand(bytes), { code: 'ERR_MILTER_MALFORMED' });
  const left = (await memoryInUse()) - before;
  t.ok(left < 1_000_000, `${left} bytes`);
});

t.test('strings that are kept do not hold on to the chunk they came in', async (t) => {
  const kept: string[] = [];
  const before = await memoryInUse();
  for (let i = 0; i < 500; i++) {
    const filler = packet('B', Buffer.alloc(60_000, 0x41));
    const chunk = Buffer.concat([packet('L', `X-Number-${i}`, `the value of header number ${i}`), filler]);
    const header = decodeCommand(chunk.subarray(0, chunk.length - filler.length));
    if (header.type === 'header') kept.push(header.name, header.value);
  }
  const each = Math.round(((await memoryInUse()) - before) / 500);
  t.ok(each < 2000, `${each} bytes for each header kept`);
  t.equal(kept.length, 1000);
});

t.test('P12 packets of a macro with thousands of strings are read and written like small ones', async (t) => {
  const macros = Array.from({ length: 5000 }, (_, i) => [`{m${i}}`, i % 7 === 0 ? '' : `${i}`] as const);
  const command: Command = { type: 'macro', stage: 'C', macros };
  const bytes = encodeCommand(command, 1_048_575);
  t.strictSame({ ...decodeCommand(bytes) }, command);
  t.strictSame({ ...decodeCommand(packet('L', 'X', 'y')) }, { type: 'header', name: 'X', value: 'y' });
});

t.test('P1 the fixtures cover every packet of both directions', async (t) => {
  t.equal(new Set(commands.map((each) => each.packet.type)).size, 15);
  t.equal(new Set(replies.map((each) => each.packet.type)).size, 21);
  t.strictSame(encodeReply({ type: 'insHeader', index: 1, name: 'X', value: 'y' }), packet('i', u32(1), 'X', 'y'));
});
