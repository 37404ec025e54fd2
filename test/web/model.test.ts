// Records as what the page shows: nothing lost, nothing that hides, and nothing that is too long; and what became of messages.
import * as fc from 'fast-check';
import t from 'tap';
import { Conversation, type CaptureEvent, type ConversationRecord } from '../../lib/capture/index.js';
import { toBytes, toText } from '../../lib/codec/index.js';
import { Itemizer, type Item, type ItemOptions } from '../../lib/web/model.js';
import { beginning, visible } from '../../lib/web/visible.js';
import { packet, u32 } from '../helpers/bytes.js';
import { answer, OFFER } from '../helpers/capture.js';
import { commands, replies } from '../helpers/packets.js';
import { hex } from '../helpers/bytes.js';
import { c, connect, macros, opening, ordinary, scene, type Line } from './scenes.js';

const { parse } = JSON;

function items(events: readonly CaptureEvent[], options?: ItemOptions): Item[] {
  const itemizer = new Itemizer(options);
  const open = new Map<string, Conversation>();
  return events.flatMap((event) => {
    const { session } = event;
    if (!open.has(session)) open.set(session, new Conversation(session));
    return open
      .get(session)!
      .take(event)
      .map((record) => itemizer.item(record));
  });
}

/** What is told of the messages, in the order of its telling. */
function news(...said: Line[]): unknown[] {
  return items(scene('s', said)).flatMap((item) => (item.news === undefined ? [] : [item.news]));
}

const mail = packet('M', '<a@a.org>');
const rcpt = packet('R', '<b@b.org>');
const eob = packet('E');
const begun = { n: 1, sender: '<a@a.org>' };

/** Of the packets that all tests share: name and line. */
const SHOWN = `
  negotiate version 6
  macro for connect: j {daemon_name}
  macro for data
  connect mx.a.org [192.0.2.1]:25000
  connect mx.a.org [2001:db8::1]:25000
  connect localhost
  connect localhost /run/x
  helo mx.a.org
  mailFrom <a@a.org> SIZE=100
  rcpt <b@b.org> NOTIFY=NEVER
  data
  header Subject:  hi\\n\\tyou
  eoh
  body 4 bytes
  eob
  unknown FOO caf\\xe9
  abort
  quitNewConnection
  continue
  replyCode 550-5.7.1 A\\r\\n550 5.7.1 B
  addHeader X-A: yes
  insHeader before 0, X-A: yes
  chgHeader Subject, number 1: new
  chgHeader Subject, number 1, removed
  addRcpt <c@b.org>
  addRcptPar <c@b.org> NOTIFY=NEVER
  addRcptPar <c@b.org>
  delRcpt <b@b.org>
  chgFrom <z@a.org>
  chgFrom <z@a.org> RET=HDRS
  replBody 4 bytes
  quarantine spam
  setSymList for connect: j
`;

/** The other way round, by a second hand. */
function invisible(text: string): string {
  return text.replace(/\\(?:(\\)|r|n|t|x([0-9a-f]{2})|u\{([0-9a-f]+)\})/g, (all, slash, byte, point) => {
    if (slash !== undefined) return '\\';
    if (byte !== undefined) return String.fromCodePoint(parseInt(byte, 16) + (parseInt(byte, 16) > 0x7f ? 0xdc00 : 0));
    return point === undefined ? (parse(`"${all}"`) as string) : String.fromCodePoint(parseInt(point, 16));
  });
}

t.test('any bytes become visible text, of which the same bytes can be made again', async (t) => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array(),
        fc.string({ unit: 'binary' }).map((text) => Buffer.from(text)),
      ),
      (bytes) => {
        const shown = visible(toText(bytes));
        t.notMatch(shown, /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u);
        return Buffer.from(bytes).equals(toBytes(invisible(shown)));
      },
    ),
  );
  t.equal(
    visible('a\\b\r\n\t\0\x7f\u0085\u202e\u2028\u3164\u0600\udc80\udcff\ud800 ä 😀'),
    'a\\\\b\\r\\n\\t\\x00\\x7f\\u{85}\\u{202e}\\u{2028}\\u{3164}\\u{600}\\x80\\xff\\u{d800} ä 😀',
  );
});

t.test('the beginning of a text cuts no character in two', async (t) => {
  t.equal(beginning('abc', 3), 'abc');
  t.equal(beginning('abcd', 3), 'abc');
  t.equal(beginning('ab😀d', 3), 'ab');
  t.equal(beginning('a😀d', 3), 'a😀');
  t.equal(beginning('ab\ud83dd', 3), 'ab\ud83d');
});

t.test('what is shown of each command and each reply', async (t) => {
  const shown = (from: 'mta' | 'milter', raw: Buffer): unknown => {
    const conversation = new Conversation('s');
    conversation.take({ type: 'open', session: 's', time: 0, only: from });
    const [record] = conversation.take({ type: 'data', session: 's', time: 0, from, bytes: raw });
    const { name, text, fields } = new Itemizer().item(record as ConversationRecord);
    return [name, text, Object.fromEntries(fields!.map(([key, ...value]) => [key, value.join('|')]))];
  };
  const texts = new Set<string>();
  for (const [from, all] of [['mta', commands] as const, ['milter', replies] as const]) {
    for (const each of all) {
      const [name, text, fields] = shown(from, hex(each.hex)) as [string, string, Record<string, string>];
      texts.add(`${name} ${text}`.trimEnd());
      if (each.readOnly) continue;
      t.equal(name, each.packet.type);
      const said = Object.values(each.packet).filter((value) => typeof value === 'string' && value !== name);
      for (const value of said.slice(name === 'macro' ? 1 : 0))
        t.ok(Object.values(fields).includes(visible(value as string)), `${name}: ${String(value)}`);
    }
  }
  for (const line of SHOWN.trim().split(/\n +/)) t.ok(texts.has(line), line);
  t.strictSame(shown('mta', packet('D', Buffer.from([7]), 'i', '1')), ['macro', 'for 0x07: i', { i: '1' }]);
  t.strictSame(shown('milter', packet('O', u32(6), u32(0), u32(0x80000001), u32(77), '{x}')), [
    'negotiate',
    'version 6',
    {
      version: '6',
      actions: '0x0',
      protocol: '0x80000001: SMFIP_NOCONNECT 0x80000000',
      'macros for stage 77': '{x}',
    },
  ]);
  t.strictSame(shown('mta', packet('B', Buffer.from('x'))), ['body', '1 byte', { chunk: 'x' }]);
  t.strictSame(shown('mta', packet('E', Buffer.from('xy'))), ['eob', '2 bytes', { chunk: 'xy' }]);
  t.strictSame(shown('mta', packet('Z', Buffer.from('\0'))), [
    'unrecognized',
    "'Z' (0x5a), 1 byte",
    { payload: '\\x00' },
  ]);
  t.match(shown('mta', packet('H', Buffer.from('x'))), ['malformed', /name/, { error: /name/ }]);
});

t.test('a packet has its place, its bytes, its problem and what it answers', async (t) => {
  const all = items([
    { type: 'open', session: 's', time: 1 },
    { type: 'data', session: 's', time: 2, from: 'mta', bytes: OFFER },
    { type: 'data', session: 's', time: 5, from: 'milter', bytes: answer() },
    { type: 'data', session: 's', time: 6, from: 'milter', bytes: Buffer.concat([packet('p'), packet('\x01')]) },
    { type: 'data', session: 's', time: 7, from: 'mta', bytes: Buffer.from('GET / HTTP/1.1\r\n') },
    { type: 'close', session: 's', time: Infinity, from: 'mta' },
    { type: 'open', session: 's', time: 9 },
  ]);
  t.match(all[0], { kind: 'open', id: 1, session: 's', at: 0, time: 1 });
  t.match(all[2], {
    kind: 'packet',
    at: 2,
    from: 'milter',
    number: 2,
    offset: 0,
    code: "'O' (0x4f)",
    answers: { number: 1, ms: 3 },
    size: 17,
    bytes: answer().toString('base64'),
  });
  t.match(all[3], { problem: 'Nobody has asked for it' });
  t.match(all[5], { kind: 'garbage', size: 16, bytes: Buffer.from('GET / HTTP/1.1\r\n').toString('base64') });
  t.match(all[6], { kind: 'close', id: 1, at: 6, time: 0 });
  t.match(all[7], { kind: 'open', id: 2, at: 0 }, 'a name that comes again is another session');
});

t.test('what is long is cut, and it is said how much is missing', async (t) => {
  const long = 'x'.repeat(1_000);
  const said: Line[] = [
    ['>', 1, packet('L', long, `${long}y`)],
    ['>', 1, packet('B', Buffer.from(long))],
  ];
  const cut = items(scene('s', said), { limit: 10 }).slice(3, 5);
  t.strictSame(cut[0]!.fields, [
    ['name', 'x'.repeat(10), '990 more characters'],
    ['value', 'x'.repeat(10), '991 more characters'],
  ]);
  t.strictSame(cut[1]!.fields, [['chunk', 'x'.repeat(10), '990 more bytes']]);
  t.match(cut[1], { size: 1_005, bytes: Buffer.from('\0\0\x03\xe9Bxxxxx', 'latin1').toString('base64') });
  const whole = items(scene(long, said)).slice(3, 5);
  t.equal(whole[0]!.text, `${'x'.repeat(300)}…`);
  t.equal(whole[0]!.session, `${'x'.repeat(300)}…`);
  t.strictSame(whole[0]!.fields![1], ['value', `${long}y`]);
  for (const limit of [0, 1.5, NaN]) t.throws(() => new Itemizer({ limit }), { code: 'ERR_MILTER_OPTION' });
});

t.test('of very many fields some are shown, and how many more there are', async (t) => {
  const item = (said: Buffer, options?: ItemOptions): Item => items(scene('s', [['>', 1, said]]), options)[3] as Item;
  const args = item(packet('M', '<a@a.org>', Buffer.alloc(100_000)));
  t.equal(args.fields!.length, 200);
  t.equal(args.moreFields, 100_001 - 200);
  t.equal(args.text.length, '<a@a.org>'.length + 292);
  const pairs = item(packet('D', Buffer.from(`M${'a\0b\0'.repeat(1_000)}`)));
  t.strictSame([pairs.fields!.length, pairs.moreFields], [200, 800]);
  t.ok(pairs.text.length <= 301);
  const long = item(packet('M', '<a@a.org>', ...Array.from({ length: 100 }, () => '\x07'.repeat(5_000))));
  t.strictSame([long.fields!.length, long.moreFields], [5, 96], 'nor more than 64 Ki characters of all of them');
  t.ok(JSON.stringify(long).length < 150_000);
  t.equal(item(packet('M', '<a@a.org>', 'b')).moreFields, undefined);
  t.strictSame(item(packet('M', 'abcdef', 'b', 'c'), { limit: 1 }).fields, [
    ['address', 'a', '5 more characters'],
    ['argument', 'b'],
  ]);
});

t.test('numbers that JSON does not have, and times that no date can have, are none', async (t) => {
  const record = { type: 'packet', session: 's', from: 'milter', number: 2, offset: 0, raw: c } as const;
  for (const time of [NaN, Infinity, -Infinity, 8.65e15, -8.65e15]) {
    const answers = { number: 1, stage: 'helo', ms: time } as const;
    const item = new Itemizer().item({ ...record, time, packet: { type: 'continue' as const }, answers });
    t.equal(item.time, 0, String(time));
    t.equal(item.answers!.ms, Number.isFinite(time) ? time : 0);
  }
});

t.test('what becomes of an evening’s messages', async (t) => {
  const told = items(ordinary()).flatMap(({ session, news }) => (news === undefined ? [] : [[session, news]]));
  t.strictSame(told, [
    ['1', { n: 1, sender: '<anna@example.org>' }],
    ['1', { n: 1, queueId: '4Zf1Xk2bQ7z9' }],
    ['1', { n: 1, recipient: '<bert@example.com>' }],
    ['1', { n: 1, queueId: '4Zf1Xk2bQ7z9' }],
    ['1', { n: 1, recipient: '<carla@example.com>' }],
    ...Array.from({ length: 3 }, () => ['1', { n: 1, queueId: '4Zf1Xk2bQ7z9' }]),
    ['1', { n: 1, edit: true }],
    ['1', { n: 1, edit: true }],
    ['1', { n: 1, verdict: 'accept' }],
    ['2', { n: 1, sender: '<sale@bulk.example.net>' }],
    ['2', { n: 1, queueId: '4Zf1Xm0cRTz9' }],
    ['2', { n: 1, recipient: '<info@example.com>' }],
    ...Array.from({ length: 3 }, () => ['2', { n: 1, queueId: '4Zf1Xm0cRTz9' }]),
    ['2', { n: 1, verdict: 'reject' }],
    ['3', { n: 1, sender: '<Jürgen@müller.example>' }],
    ['3', { n: 1, edit: true }],
    ['3', { n: 1, queueId: '4Zf1Xn5dSVz9' }],
    ['3', { n: 1, recipient: '<nobody@example.com>' }],
    ['3', { n: 1, refused: true }],
    ['3', { n: 1, verdict: 'aborted' }],
    ['4', { n: 1, sender: '<>' }],
    ['4', { n: 1, queueId: '4Zf1Xp7fTWz9' }],
    ['4', { n: 1, recipient: '<postmaster@example.com>' }],
    ...Array.from({ length: 2 }, () => ['4', { n: 1, queueId: '4Zf1Xp7fTWz9' }]),
    ['4', { n: 1, edit: true }],
    ['4', { n: 1, verdict: 'quarantine' }],
  ]);
});

t.test('each answer is the verdict that it is', async (t) => {
  const verdict = async (reply: Buffer, expected: unknown): Promise<void> => {
    t.strictSame(news(['>', 1, mail], ['<', 1, reply], ['>', 1, packet('A')]), [begun, { n: 1, verdict: expected }]);
  };
  await verdict(packet('a'), 'accept');
  await verdict(packet('r'), 'reject');
  await verdict(packet('t'), 'tempfail');
  await verdict(packet('d'), 'discard');
  await verdict(packet('4'), 'tempfail');
  await verdict(packet('f'), 'tempfail');
  await verdict(packet('y', '450 later'), 'tempfail');
  await verdict(packet('y', '550 never'), 'reject');
  await verdict(c, 'aborted');
  await verdict(packet('s'), 'aborted');
});

t.test('a recipient that is refused leaves the message alone; one that is accepted decides it', async (t) => {
  t.strictSame(news(['>', 1, mail, rcpt], ['<', 1, c, packet('r')], ['>', 1, rcpt], ['<', 1, packet('a')]).slice(1), [
    { n: 1, recipient: '<b@b.org>' },
    { n: 1, refused: true },
    { n: 1, recipient: '<b@b.org>' },
    { n: 1, verdict: 'accept' },
  ]);
});

t.test('an SMTP session may be decided before any message', async (t) => {
  t.strictSame(news(['>', 1, connect()], ['<', 1, packet('r')]), [{ n: 0, verdict: 'reject' }]);
  t.strictSame(news(['>', 1, packet('H', 'x')], ['<', 1, packet('a')]), [{ n: 0, verdict: 'accept' }]);
  t.strictSame(news(['>', 1, packet('U', 'x')], ['<', 1, packet('r')]), []);
});

t.test('a message may begin with any of its commands, and ends once', async (t) => {
  const id = macros('N', 'i', 'Q1');
  t.strictSame(
    news(['>', 1, id, packet('N')], ['<', 1, c], ['>', 1, eob], ['<', 1, packet('d')], ['>', 1, packet('A')]),
    [
      { n: 1, queueId: 'Q1' },
      { n: 1, verdict: 'discard' },
    ],
  );
  t.strictSame(news(['>', 1, rcpt]), [
    { n: 1, recipient: '<b@b.org>' },
    { n: 1, verdict: 'aborted' },
  ]);
  t.strictSame(news(['>', 1, mail], ['<', 1, packet('r')], ['>', 1, eob], ['<', 1, packet('r')]), [
    begun,
    { n: 1, verdict: 'reject' },
  ]);
  t.strictSame(news(['>', 1, mail], ['<', 1, c], ['>', 1, packet('Q')]), [begun, { n: 1, verdict: 'aborted' }]);
});

t.test('an answer to a command before the message is not about it', async (t) => {
  t.strictSame(news(['>', 1, mail, packet('A'), mail], ['<', 1, packet('r'), c]), [
    begun,
    { n: 1, verdict: 'aborted' },
    { n: 2, sender: '<a@a.org>' },
    { n: 2, verdict: 'aborted' },
  ]);
  t.strictSame(news(['<', 1, packet('r')]), [], 'nor is one that nobody has asked for');
});

t.test('the macros of MAIL are those of the message that begins with it', async (t) => {
  const id = (text: string): Buffer => macros('M', '{i}', text);
  t.strictSame(
    news(
      ['>', 1, id('Q1'), mail],
      ['<', 1, c],
      ['>', 1, eob],
      ['<', 1, c],
      ['>', 1, id('Q2'), mail, id(''), macros('M')],
    ),
    [
      { n: 1, queueId: 'Q1', sender: '<a@a.org>' },
      { n: 1, verdict: 'accept' },
      { n: 2, queueId: 'Q2', sender: '<a@a.org>' },
      { n: 2, verdict: 'aborted' },
    ],
  );
});

t.test('a new body in pieces is one edit, and an edit of no message is none', async (t) => {
  const piece = packet('b', Buffer.from('x'));
  t.strictSame(news(['>', 1, mail], ['<', 1, c], ['>', 1, eob], ['<', 1, piece, piece, packet('h', 'a', 'b'), c]), [
    begun,
    { n: 1, edit: true },
    { n: 1, edit: true },
    { n: 1, verdict: 'accept' },
  ]);
  t.strictSame(news(['<', 1, packet('h', 'a', 'b')]), []);
});

t.test('the one message that a scene has is told of as it goes', async (t) => {
  t.strictSame(news(...opening('Q', 'a@a.org', [], [])).at(-1), { n: 1, verdict: 'aborted' });
});
