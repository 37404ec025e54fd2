// Redaction: nothing private is left, and the conversation can still be read.
import * as fc from 'fast-check';
import t from 'tap';
import { parseSmtpReply } from '../../lib/codec/index.js';
import {
  decodeConversation,
  redactCapture,
  type CaptureEvent,
  type ConversationRecord,
  type PacketRecord,
  type RedactOptions,
} from '../../lib/capture/index.js';
import { cut, hex, packet, u32 } from '../helpers/bytes.js';
import { answer, collect, collectUntilError, data, lines, OFFER, said } from '../helpers/capture.js';
import { commands, replies } from '../helpers/packets.js';

const SECRET = /secret/i;
const s = (text: string): Buffer => Buffer.from(`${text}\0`);
const connect = (family: string, address: string): Buffer =>
  packet('C', 'mail.secret.org', Buffer.concat([Buffer.from(family), hex('61a8'), s(address)]));

const talk: CaptureEvent[] = [
  {
    type: 'open',
    session: 's',
    time: 0,
    mta: { address: '198.51.100.7', port: 4711 },
    milter: { address: '/run/secret.sock', port: 0 },
  },
  data('mta', OFFER),
  data('milter', answer()),
  data(
    'mta',
    packet(
      'D',
      Buffer.from('C'),
      'j',
      'mx.secret.org',
      '{client_addr}',
      '192.0.2.77',
      '_',
      'mail.secret.org [192.0.2.77]',
      '{daemon_name}',
      'smtpd',
      '{cert}',
      '',
    ),
  ),
  data('mta', connect('4', '192.0.2.77')),
  data('milter', packet('c')),
  data('mta', packet('H', 'mail.SECRET.org')),
  data('milter', packet('c')),
  data('mta', packet('D', Buffer.from('M'), 'i', '4XyZ', '{mail_addr}', 'ann@secret.org', '{auth_authen}', 'secret')),
  data('mta', packet('M', '<ann@secret.org>', 'SIZE=100', 'AUTH=ann@secret.org', 'SMTPUTF8')),
  data('milter', packet('c')),
  data('mta', packet('R', '<bob@secret.org>', 'ORCPT=rfc822;bob@secret.org', 'NOTIFY=NEVER')),
  data('milter', packet('y', '550-5.7.1 Secret one\r\n550 5.7.1 secret two')),
  data('mta', packet('U', 'SECRET word')),
  data('milter', packet('c')),
  data('mta', packet('L', 'Subject', ' The secret\n\tplan')),
  data('milter', packet('c')),
  data('mta', packet('B', Buffer.from('secret\r\nsecret\r\n'))),
  data('milter', packet('c')),
  data('mta', packet('E', Buffer.from('secret'))),
  data('milter', packet('h', 'X-A', 'secret')),
  data('milter', packet('m', u32(1), 'Subject', '')),
  data('milter', packet('i', u32(1), 'Subject', 'secret')),
  data('milter', packet('+', '<ann@secret.org>')),
  data('milter', packet('2', '<ann@secret.org>', 'NOTIFY=NEVER ORCPT=rfc822;ann@secret.org')),
  data('milter', packet('-', 'ann@secret.org')),
  data('milter', packet('e', '<>')),
  data('milter', packet('b', Buffer.from('secret'))),
  data('milter', packet('b')),
  data('milter', packet('q', 'secret')),
  data('milter', packet('a')),
  data('mta', packet('A')),
  data('mta', packet('Z', 'secret')),
  data('mta', packet('H', Buffer.from('secret'))),
  data('mta', packet('Q')),
  { type: 'problem', session: '', time: 0, text: 'Frame 3: odd' },
  { type: 'close', session: 's', time: 9, from: 'mta' },
];

const redact = (events: readonly CaptureEvent[], options?: RedactOptions): Promise<CaptureEvent[]> =>
  collect(redactCapture(events, options));
const decoded = (events: readonly CaptureEvent[]): Promise<ConversationRecord[]> => collect(decodeConversation(events));
const packets = async (events: readonly CaptureEvent[]): Promise<Array<Record<string, never>>> =>
  (await decoded(events)).flatMap((record) => (record.type === 'packet' ? [record.packet as never] : []));
/** What there is of each packet but its content. */
const bones = (records: readonly ConversationRecord[]): unknown[] =>
  records
    .filter((record): record is PacketRecord => record.type === 'packet')
    .map(({ raw: _, offset: __, packet: its, problem, ...rest }) => [its.type, problem !== undefined, rest]);

for (const options of [{}, { keepLength: true }]) {
  t.test(`nothing private is left, and every packet is there (${JSON.stringify(options)})`, async (t) => {
    const redacted = await redact(talk, options);
    for (const from of ['mta', 'milter'] as const) {
      const text = said(redacted, from).toString('latin1');
      t.notMatch(text, SECRET);
      t.notMatch(text, /ann|bob|plan|word|192\.0\.2\.77/);
    }
    t.notMatch(JSON.stringify(redacted[0]), /secret|198\.51\.100/);
    t.strictSame(bones(await decoded(redacted)), bones(await decoded(talk)));
    if (options.keepLength) {
      t.strictSame(
        redacted.map((event) => event.type === 'data' && event.bytes.length),
        talk.map((event) => event.type === 'data' && event.bytes.length),
      );
    }
    t.match(redacted.at(-2), { type: 'problem' });
    t.match(redacted.at(-1), { type: 'close', from: 'mta' });
  });
}

t.test('the same is replaced by the same; what names nobody stays', async (t) => {
  const all = await packets(await redact(talk));
  const find = (type: string, nth = 0): Record<string, never> =>
    all.filter((each) => each['type'] === type)[nth] as Record<string, never>;
  const { address, args } = find('mailFrom') as unknown as { address: string; args: string[] };
  t.match(address, /^<user-[a-z2-9]{8}@host-[a-z2-9]{8}\.example>$/);
  t.match(args, ['SIZE=100', /^AUTH=text-/, 'SMTPUTF8']);
  t.match(find('addRcpt'), { address });
  t.match(find('addRcptPar'), { address, args: /^NOTIFY=NEVER ORCPT=text-\w+$/ });
  t.match(find('delRcpt'), { address: address.slice(1, -1) });
  t.match(find('chgFrom'), { address: '<>' });
  const rcpt = find('rcpt')['address'] as unknown as string;
  t.not(rcpt, address);
  t.equal(rcpt.split('@')[1], address.split('@')[1], 'the same domain');
  const macros = (nth: number): Record<string, string> =>
    Object.fromEntries((find('macro', nth) as unknown as { macros: Array<[string, string]> }).macros);
  t.match(macros(1), { i: '4XyZ', '{mail_addr}': address.slice(1, -1), '{auth_authen}': /^text-/ });
  t.match(macros(0), {
    '{daemon_name}': 'smtpd',
    '{client_addr}': find('connect')['address'],
    '{cert}': '',
    _: /^text-/,
  });
  t.equal(find('connect')['hostname'], find('helo')['name'], 'whatever their case');
  t.match(find('connect'), { address: /^24\d\.\d+\.\d+\.\d+$/, port: 25_000 });
  const reply = parseSmtpReply(find('replyCode')['text'] as unknown as string);
  t.match(reply, { code: 550, enhanced: '5.7.1', lines: [/^text-/, /^text-/] });
  t.match(find('header'), { name: 'Subject', value: /^ text-\w+$/ });
  t.match(find('chgHeader'), { index: 1, name: 'Subject', value: '' });
  t.match(String(find('body')['chunk']), '[16 bytes]\r\n');
  t.match(find('replBody', 1), { chunk: Buffer.alloc(0) });
  const again = await packets(await redact(talk));
  t.not(again.find((each) => each['type'] === 'mailFrom')?.['address'], address, 'another run, another word');
  const [one, two] = [await redact(talk, { key: 'k' }), await redact(talk, { key: Buffer.from('k') })];
  t.strictSame(one, two, 'unless the key is the same');
});

t.test('with keepLength lines, signs and the form of addresses stay', async (t) => {
  const all = await packets(await redact(talk, { keepLength: true }));
  const find = (type: string): Record<string, never> =>
    all.find((each) => each['type'] === type) as Record<string, never>;
  t.match(find('mailFrom')['address'], /^<\w{3}@\w{6}\.\w{3}>$/);
  t.match(find('header')['value'], /^ \w{3} \w{6}\n\t\w{4}$/);
  t.equal(String(find('body')['chunk']), 'xxxxxx\r\nxxxxxx\r\n');
  t.match(find('connect')['address'], /^1\d\d\.\d\.\d\.\d\d$/);
});

t.test('addresses of every form', async (t) => {
  const of = async (
    family: string,
    hostname: string,
    address: string,
    keepLength = false,
  ): Promise<Record<string, string>> => {
    const bytes = packet('C', hostname, Buffer.concat([Buffer.from(family), hex('0000'), s(address)]));
    return (
      await packets(await redact([data('mta', OFFER), data('mta', bytes)], { keepLength }))
    )[1] as unknown as Record<string, string>;
  };
  t.match(await of('6', '[IPv6:2001:db8::7]', 'IPv6:2001:db8::7'), {
    hostname: /^\[IPv6:2001:db8::[\da-f:]+\]$/,
    address: /^IPv6:2001:db8::[\da-f:]{19}$/,
  });
  t.match(await of('6', '192.0.2.7', 'IPv6:2001:db8::192.0.2.7', true), {
    hostname: /^1\d\d\.\d\.\d\.\d$/,
    address: /^IPv6:[\da-f]{4}:[\da-f]{3}::1\d\d\.\d\.\d\.\d$/,
  });
  t.match(await of('6', 'unknown', 'fe80::17', true), { hostname: 'unknown', address: /^[\da-f]{4}::[\da-f]{2}$/ });
  t.match(await of('4', 'localhost', '127.0.0.1'), { hostname: 'localhost', address: '127.0.0.1' });
  t.match(await of('6', '', '::1'), { hostname: '', address: '::1' });
  t.match(await of('L', '', '/run/x'), { address: /^\/path-/ });
  t.match(await of('L', '', '/run/x', true), { address: /^\/\w{3}\/\w$/ });
  const mail = async (address: string, keepLength = false): Promise<string> =>
    (
      (
        await packets(await redact([data('mta', OFFER), data('mta', packet('M', address))], { keepLength }))
      )[1] as unknown as Record<string, string>
    )['address'] as string;
  t.equal(await mail(''), '');
  t.equal(await mail('<>'), '<>');
  t.match(await mail('postmaster'), /^user-\w+$/);
  t.match(await mail('<a@[192.0.2.1]>'), /^<user-\w+@\[24\d\.[\d.]+\]>$/);
  t.match(await mail('caf\u00e9@\u00fc.org', true), /^\w{5}@\w{2}\.\w{3}$/, 'as many bytes');
});

t.test('what cannot be read is blank', async (t) => {
  const odd: CaptureEvent[] = [
    data('mta', Buffer.concat([OFFER, packet('B'), packet('y', 'secret')])),
    data('milter', packet('y', 'secret words')),
    data('mta', hex('7fffffff')),
    data('mta', Buffer.from('secret\r\n')),
    { type: 'gap', session: 's', time: 3, from: 'milter', missing: 3 },
    data('milter', Buffer.from('secret')),
    data('mta', Buffer.from('secret'), 4, 'other'),
  ];
  const redacted = await redact(odd);
  t.notMatch(JSON.stringify(redacted) + said(redacted, 'mta').toString() + said(redacted, 'milter').toString(), SECRET);
  t.equal(said(redacted, 'mta').length, said(odd, 'mta').length);
  t.match(lines(await decoded(redacted)), [
    /negotiate/,
    'mta body',
    'mta unrecognized',
    'milter replyCode',
    /garbage Not sync/,
    /garbage/,
    /garbage 3 bytes/,
  ]);
  const torn = await redact([data('mta', OFFER), data('mta', packet('H', 'secret').subarray(0, 9))]);
  t.match(torn, [{}, { bytes: Buffer.from('xxxxxxxxx') }], 'and what is cut');
  const long = packet('M', `<${'a'.repeat(100)}@x>`, Buffer.from('A\0'.repeat(300_000)));
  const [, grown] = await packets(await redact([data('mta', OFFER), data('mta', long)]));
  t.match(grown, { type: 'malformed' }, 'what would be too long');
});

t.test('a packet of every kind, and any bytes, come out as so many packets', async (t) => {
  const all = [
    data('mta', Buffer.concat(commands.map((each) => hex(each.hex)))),
    data('milter', Buffer.concat(replies.map((each) => hex(each.hex)))),
  ];
  for (const keepLength of [true, false]) {
    const types = async (events: readonly CaptureEvent[]): Promise<unknown[]> =>
      (await packets(events)).map(({ type }) => type);
    t.strictSame(await types(await redact(all, { keepLength })), await types(all));
  }
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), fc.integer({ min: 1, max: 50 }), async (bytes, size) => {
      const events = cut(Buffer.concat([OFFER, Buffer.from(bytes)]), size).map((part) => data('mta', part));
      t.equal(said(await redact(events, { keepLength: true }), 'mta').length, OFFER.length + bytes.length);
    }),
    { numRuns: 200 },
  );
});

t.test('an error comes behind everything before it', async (t) => {
  async function* source(): AsyncGenerator<CaptureEvent> {
    yield data('mta', OFFER);
    yield data('mta', OFFER.subarray(0, 7));
    throw new Error('cut');
  }
  const { all, error } = await collectUntilError(redactCapture(source()));
  t.match(all, [{ type: 'data' }, { type: 'data', bytes: Buffer.from('xxx\rxxx') }]);
  t.match(error, { message: 'cut' });
});
