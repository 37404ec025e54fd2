// JSON Lines and pcapng, written and read back; and what may be wrong with a file.
import * as fc from 'fast-check';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { toBytes } from '../../lib/codec/index.js';
import {
  captureWriter,
  decodeConversation,
  readCapture,
  writeCapture,
  type CaptureEvent,
  type CaptureFormat,
  type ReadCaptureOptions,
} from '../../lib/capture/index.js';
import { cut, hex, packet } from '../helpers/bytes.js';
import { answer, collect, collectUntilError, data, lines, OFFER, said } from '../helpers/capture.js';
import { shortFolder } from '../helpers/folder.js';

const TIME = 1_700_000_000_123.25;
const at = (address: string, port: number) => ({ address, port });
const open = (session: string, more: object = {}): CaptureEvent => ({ type: 'open', session, time: TIME, ...more });
const close = (session: string, more: object = {}): CaptureEvent => ({
  type: 'close',
  session,
  time: TIME + 9,
  ...more,
});
const helo = packet('H', 'caf\u00e9');
const body = packet('B', Buffer.alloc(5000, 0x61));

const EVENTS: readonly CaptureEvent[] = [
  open('a', { mta: at('192.0.2.1', 40_000), milter: at('192.0.2.2', 8891) }),
  data('mta', OFFER, TIME + 0.5, 'a'),
  open('b', { mta: at('', 0), milter: at('/run/m.sock', 0) }),
  data('mta', OFFER, TIME + 1, 'b'),
  data('milter', answer(), TIME + 1.5, 'a'),
  open('c', { mta: at('2001:db8::1', 40_001), milter: at('2001:db8::ffff:192.0.2.3', 8891) }),
  data('mta', Buffer.concat([helo, body]), TIME + 2, 'a'),
  data('mta', OFFER, TIME + 2, 'c'),
  open('late', { mta: at('::ffff:192.0.2.7', 40_003), milter: at('192.0.2.2', 8891), late: true }),
  data('milter', packet('c'), TIME + 2.5, 'late'),
  open('d', { mta: at('fe80::1%lo', 1), milter: at('::1', 8891) }),
  data('mta', OFFER, TIME + 3, 'd'),
  open('e', { mta: at('2001:db8:1:2:3:4:5:6', 1), milter: at('192.0.2.2', 8891) }),
  data('mta', OFFER, TIME + 3, 'e'),
  open('f', { mta: at('192.0.2.1', 1), milter: at('mx.example', 8891) }),
  data('mta', OFFER, TIME + 3, 'f'),
  close('b', { from: 'milter' }),
  close('a', { from: 'mta' }),
  close('c', { from: 'milter', error: 'read ECONNRESET' }),
];

const write = async (events: readonly CaptureEvent[], format: CaptureFormat): Promise<Buffer> =>
  Buffer.concat(await collect(writeCapture(events, format)));
const read = (file: Buffer, options?: ReadCaptureOptions): Promise<CaptureEvent[]> =>
  collect(readCapture([file], options));
const conversations = async (file: Buffer | readonly CaptureEvent[]): Promise<Record<string, string[]>> => {
  const events = Buffer.isBuffer(file) ? readCapture([file]) : file;
  const all = await collect(decodeConversation(events));
  const sessions: Record<string, string[]> = {};
  for (const record of all) (sessions[record.session] ??= []).push(...lines([record]));
  return sessions;
};

t.test('JSON Lines are read back as they were written, to the bit', async (t) => {
  const file = await write(EVENTS, 'jsonl');
  t.strictSame(await read(file), EVENTS);
  t.strictSame(await collect(readCapture(cut(file, 7))), EVENTS, 'in pieces of 7 bytes');
  const others: CaptureEvent[] = [
    open('x', { only: 'mta' }),
    { type: 'gap', session: 'x', time: 1, from: 'mta', missing: 7 },
    data('mta', Buffer.alloc(0), 1, 'x'),
    { type: 'problem', session: '', time: 1, text: 'Frame 3: odd' },
    close('x', { error: 'lost' }),
  ];
  t.strictSame(await read(await write(others, 'jsonl')), others);
  const large = [data('mta', Buffer.alloc(2_500_000, 0x61), 1, 'x')];
  const pieces = await read(await write(large, 'jsonl'));
  t.strictSame([pieces.length, said(pieces, 'mta')], [3, large[0] && said(large, 'mta')], 'much in one event');
});

t.test('JSON Lines say the packets in words, for people and for grep', async (t) => {
  const text = (await write(EVENTS, 'jsonl')).toString();
  const all = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  t.strictSame(all[0], { format: 'milter-stream capture', version: 1 });
  t.match(all[5], {
    from: 'milter',
    offset: 0,
    packets: [{ number: 2, type: 'negotiate', answers: { number: 1, ms: 1 } }],
  });
  t.match(all[7], {
    from: 'mta',
    offset: 17,
    packets: [
      { type: 'helo', name: 'caf\u00e9' },
      { type: 'body', chunk: 'a'.repeat(5000) },
    ],
  });
  t.match(all[10], { notes: [/^Not synchronised/] });
  const odd = await write(
    [data('mta', OFFER), data('mta', packet('H', Buffer.of(0xe9))), data('mta', packet('L', hex('5800 e9 00')))],
    'jsonl',
  );
  const [, , malformed, header] = odd
    .toString()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, never[]>);
  t.match(malformed?.['packets']?.[0], { type: 'malformed', error: /helo/, problem: String });
  t.strictSame(toBytes(String((header?.['packets']?.[0] as { value?: string } | undefined)?.value)), Buffer.of(0xe9));
});

t.test('a bad line is named, what a session lacks for it is told, and the others are read', async (t) => {
  const good = (await write(EVENTS, 'jsonl')).toString().split('\n');
  const bad = (i: number, line: string): Buffer => Buffer.from(good.map((its, k) => (k === i ? line : its)).join('\n'));
  const problems = async (file: Buffer): Promise<string[]> =>
    (await read(file)).flatMap((event) => (event.type === 'problem' ? [event.text] : []));

  const nonsense = bad(2, '{"type":"data"');
  t.strictSame(await problems(nonsense), ['Line 3: it is no JSON object']);
  t.match((await conversations(nonsense))['a']?.slice(1), [
    /Not synchronised/,
    '17 bytes are missing here',
    /Not sync/,
    /^close/,
  ]);
  const whole = await conversations(EVENTS);
  t.strictSame((await conversations(nonsense))['b'], whole['b']);

  const line = { type: 'data', session: 'q', time: 1, from: 'mta', bytes: 'QQ==' };
  const fails = async (change: object): Promise<string> =>
    (await problems(bad(2, JSON.stringify({ ...line, ...change })))).join();
  t.equal(await fails({}), '');
  t.equal(await problems(bad(2, 'null')).then(String), 'Line 3: it is no JSON object');
  t.equal(await fails({ session: 1 }), 'Line 3: session must be a string');
  t.equal(await fails({ time: '1' }), 'Line 3: time must be a date, in ms since 1970');
  t.equal(await fails({ from: 'me' }), 'Line 3: from must be mta or milter');
  t.equal(await fails({ bytes: 'Q*==' }), 'Line 3: bytes must be base64');
  t.equal(await fails({ bytes: 'QQ=' }), 'Line 3: bytes must be base64');
  t.equal(await fails({ bytes: 1 }), 'Line 3: bytes must be base64');
  t.equal(await fails({ offset: -1 }), 'Line 3: offset must be a whole number');
  t.equal(await fails({ type: 'gap' }), 'Line 3: missing must be a whole number');
  t.equal(await fails({ type: 'gap', from: 1 }), 'Line 3: from must be mta or milter');
  t.equal(await fails({ type: 'x' }), 'Line 3: type must be open, data, close, gap or problem');
  t.equal(await fails({ type: 'problem' }), '', 'a problem without words');
  t.equal(
    await fails({ type: 'open', mta: 1, milter: { address: '', port: -1 }, late: 1, only: 'x' }),
    '',
    'what is none is left out',
  );
  t.equal(await problems(bad(2, '  ')).then(String), '', 'an empty line');
  const back = bad(2, JSON.stringify({ ...line, session: 'a', offset: 5, bytes: OFFER.toString('base64') }));
  t.match((await conversations(back))['a'], [/open/, 'garbage 5 bytes are missing here']);
  const twice = Buffer.from([...good.slice(0, 3), good[2], ...good.slice(3)].join('\n'));
  t.match((await conversations(twice))['a'], [/open/, /negotiate/, 'garbage Bytes are missing here']);
});

t.test('a file that is no capture, or is cut, is an error that names the place', async (t) => {
  const file = await write(EVENTS, 'jsonl');
  const fails = async (bytes: Buffer | string, options?: ReadCaptureOptions): Promise<string> => {
    const { error } = await collectUntilError(readCapture([Buffer.from(bytes)], options));
    t.match(error, { code: 'ERR_MILTER_CAPTURE', name: 'MilterError' });
    return (error as Error).message;
  };
  t.equal(await fails(''), 'No capture: the file is empty (offset 0)');
  t.equal(await fails(OFFER), 'No capture: it may be what one side said; then it must be told which side (offset 0)');
  t.equal(await fails(hex('1f8b0800')), 'No capture: the file is compressed; gunzip it first (offset 0)');
  t.match(await fails('PK'), 'neither JSON Lines nor pcapng nor pcap (it begins with 504b)');
  t.match(await fails('{"a":1}\n'), 'No capture: it does not say milter-stream capture (line 1)');
  t.match(await fails('{"a'), 'No capture: it does not say');
  t.match(
    await fails('{"format":"milter-stream capture","version":2}\n'),
    'The capture is of version 2; version 1 is read here',
  );
  t.match(
    await fails(file.subarray(0, file.length - 20)),
    `The file is cut: its last line has no end (line ${EVENTS.length + 1})`,
  );
  t.strictSame(await read(file.subarray(0, file.length - 1)), EVENTS, 'a last line without LF');
  t.match(
    await fails(`{"format":"milter-stream capture","version":1}\n${'x'.repeat(17 * 1024 * 1024)}`),
    'A line of more than 16777216 characters (line 2)',
  );
  const { all } = await collectUntilError(readCapture([file.subarray(0, file.length - 20)]));
  t.strictSame(all, EVENTS.slice(0, -1), 'all before the cut is given');
  t.throws(() => captureWriter('pcap' as CaptureFormat), {
    code: 'ERR_MILTER_OPTION',
    message: /jsonl or pcapng, not "pcap"/,
  });
});

t.test('a capture is read from a path, and its file is let go of', async (t) => {
  const path = join(shortFolder(t), 'capture');
  writeFileSync(path, await write(EVENTS, 'pcapng'));
  t.equal((await collect(readCapture(path))).length > 10, true);
  for await (const event of readCapture(path)) {
    t.equal(event.type, 'open');
    break;
  }
  await t.rejects(collect(readCapture(`${path}.not`)), { code: 'ENOENT' });
  let returned = false;
  async function* endless(): AsyncGenerator<Buffer> {
    try {
      yield await write(EVENTS, 'jsonl');
      for (;;) yield Buffer.from('\n');
    } finally {
      returned = true;
    }
  }
  for await (const event of readCapture(endless())) if (event.type === 'close') break;
  t.ok(returned);
});

t.test('what one side said, in bare bytes', async (t) => {
  const bytes = Buffer.concat([packet('c'), packet('h', 'X', 'y')]);
  const all = await collect(decodeConversation(readCapture(cut(bytes, 3), { from: 'milter' })));
  t.strictSame(lines(all), [
    'open What the milter said',
    'milter continue',
    'milter addHeader',
    'close Closed by the milter',
  ]);
  t.match(
    await read(await write(EVENTS, 'jsonl'), { from: 'mta' }),
    [{ type: 'open', session: 'a' }],
    'a capture is one all the same',
  );
  const odd = await collect(decodeConversation(readCapture([Buffer.from('PK')], { from: 'mta' })));
  t.match(lines(odd), [/What the mail server said/, /inside a packet/]);
  t.match(lines(await collect(decodeConversation(readCapture([], { from: 'mta' })))), [/open/, /close/]);
});

t.test('pcapng: the same conversations are read back, with their names and real ends', async (t) => {
  const events = await read(await write(EVENTS, 'pcapng'));
  t.strictSame(await conversations(events), await conversations(EVENTS));
  const opened = events.filter(({ type }) => type === 'open');
  t.strictSame(opened.map(({ session }) => session).join(), 'a,b,c,d,e,f,late');
  for (const event of opened) {
    const { time, ...rest } = EVENTS.find(
      ({ type, session }) => type === 'open' && session === event.session,
    ) as CaptureEvent;
    t.match(event, rest);
    const first = event.session === 'late' ? TIME + 2.5 : time;
    t.ok(Math.abs(event.time - first) < 0.001, 'to the microsecond');
  }
  t.equal((events.at(-1) as CaptureEvent).time > TIME, true);
  const gap: CaptureEvent[] = [
    open('a'),
    data('mta', OFFER, TIME, 'a'),
    { type: 'gap', session: 'a', time: TIME, from: 'mta', missing: 100 },
    { type: 'problem', session: '', time: 1, text: 'Frame 3: odd' },
    data('mta', helo, TIME, 'a'),
    data('milter', answer(), TIME, 'a'),
    close('a'),
  ];
  t.match((await conversations(await write(gap, 'pcapng')))['a'], [/open/, /mta negotiate/, /100 bytes are missing/]);
  const unopened = await conversations(await write([data('mta', OFFER, TIME, 'x')], 'pcapng'));
  t.match(unopened['x'], [/open .*seen from the middle on/, 'mta negotiate', /close/]);
});

t.test('pcapng of anything that can be said gives the same bytes', async (t) => {
  const event = fc.record({
    side: fc.constantFrom('mta' as const, 'milter' as const),
    bytes: fc.uint8Array({ maxLength: 4000 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(fc.constantFrom('a', 'b'), event), { maxLength: 30 }), async (spoken) => {
      const events = [
        open('a'),
        open('b'),
        ...spoken.map(([session, { side, bytes }]) => data(side, Buffer.from(bytes), TIME, session)),
        close('a', { from: 'milter' }),
      ];
      const found = await read(await write(events, 'pcapng'));
      for (const session of ['a', 'b']) {
        t.strictSame(said(found, 'mta', session), said(events, 'mta', session));
        t.strictSame(said(found, 'milter', session), said(events, 'milter', session));
      }
    }),
    { numRuns: 100 },
  );
});
