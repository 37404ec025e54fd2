// Bytes of both sides as a conversation: who answers what, what is against the rules, what cannot be told.
import t from 'tap';
import {
  Conversation,
  decodeConversation,
  type CaptureEvent,
  type ConversationRecord,
  type OpenEvent,
} from '../../lib/capture/index.js';
import { cut, packet, u32 } from '../helpers/bytes.js';
import { answer, collect, collectUntilError, data, lines, OFFER } from '../helpers/capture.js';
import { commands, replies } from '../helpers/packets.js';
import { hex } from '../helpers/bytes.js';

const c = packet('c');
const connect = hex(commands.find(({ name }) => name === 'C: IPv4')!.hex);
const helo = packet('H', 'mx.a.org');
const mail = packet('M', '<a@a.org>');
const rcpt = packet('R', '<b@b.org>');
const header = packet('L', 'X', 'y');
const body = packet('B', Buffer.from('Hi\r\n'));
const open: OpenEvent = { type: 'open', session: 's', time: 0 };
const close: CaptureEvent = { type: 'close', session: 's', time: 99, from: 'mta' };

/** `>` what the mail server says, `<` what the milter does. */
type Talk = ReadonlyArray<readonly ['>' | '<', ...Buffer[]]>;

function events(talk: Talk): CaptureEvent[] {
  return talk.flatMap(([who, ...packets], i) => packets.map((bytes) => data(who === '>' ? 'mta' : 'milter', bytes, i)));
}

async function heard(talk: Talk, agreed = answer()): Promise<string[]> {
  const all = await collect(decodeConversation([open, ...events([['>', OFFER], ['<', agreed], ...talk]), close]));
  return lines(all).slice(3, -1);
}

t.test('each reply is given the command that it answers, and how long that took', async (t) => {
  const talk: Talk = [
    ['>', OFFER],
    ['<', answer()],
    ['>', packet('D', Buffer.from('C')), connect],
    ['<', c],
    ['>', mail],
    ['<', c],
    ['>', packet('E')],
    ['<', packet('p')],
    ['<', packet('h', 'X', 'y')],
    ['<', packet('b', Buffer.from('1')), packet('b', Buffer.from('2'))],
    ['<', packet('a')],
    ['>', packet('A'), packet('Q')],
  ];
  const all = await collect(decodeConversation([open, ...events(talk), close]));
  t.strictSame(lines(all), [
    'open an unknown address to an unknown address',
    'mta negotiate',
    'milter negotiate <1',
    'mta macro',
    'mta connect',
    'milter continue <4',
    'mta mailFrom',
    'milter continue <6',
    'mta eob',
    'milter progress',
    'milter addHeader',
    'milter replBody',
    'milter replBody',
    'milter accept <8',
    'mta abort',
    'mta quit',
    'close Closed by the mail server',
  ]);
  const last = all.find((record) => record.type === 'packet' && record.packet.type === 'accept');
  t.match(last, { number: 13, offset: 17 + 5 + 5 + 5 + 9 + 6 + 6, answers: { number: 8, ms: 4 }, raw: packet('a') });
});

t.test('P41 what is agreed not to be answered waits for no reply', async (t) => {
  const NR_HDR = 0x80;
  t.strictSame(
    await heard(
      [
        ['>', header, header, packet('N')],
        ['<', c],
      ],
      answer(NR_HDR),
    ),
    ['mta header', 'mta header', 'mta eoh', 'milter continue <5'],
  );
  t.strictSame(
    await heard([
      ['>', header],
      ['<', c],
    ]),
    ['mta header', 'milter continue <3'],
  );
  t.strictSame(
    await heard(
      [
        ['>', header],
        ['<', c],
      ],
      answer(NR_HDR),
    ),
    ['mta header', 'milter continue: Nobody has asked for it'],
    'and one is a reply that nobody asked for',
  );
});

t.test('what is against what was agreed is told', async (t) => {
  t.match(await heard([['>', helo]], answer(0x2)), ['mta helo: The milter asked not to get it: SMFIP_NOHELO']);
  t.match(await heard([['>', packet('U', 'x')]], answer(0, 0, 2)), ['mta unknown: It came with protocol version 3']);
  t.match(await heard([['>', packet('T')]], answer(0, 0, 3)), ['mta data: It came with protocol version 4; agreed']);
  t.match(await heard([['>', packet('U', 'x')]], answer(0, 0, 3)), ['mta unknown']);
  t.match(await heard([['>', OFFER]]), ['mta negotiate: A second offer']);
  t.match(
    await heard(
      [
        ['>', body],
        ['<', packet('s')],
        ['>', body],
        ['<', c],
        ['>', packet('E')],
      ],
      answer(0x400),
    ),
    [
      'mta body',
      'milter skip <3',
      'mta body: The milter asked for no more of the body',
      'milter continue <5',
      'mta eob',
    ],
  );
  const stubborn = await heard(
    [
      ['>', body],
      ['<', packet('s')],
      ['>', body, body, packet('E'), body],
    ],
    answer(0x400),
  );
  t.equal(stubborn.filter((line) => line.includes('no more of the body')).length, 2, 'until the message is over');
  t.match(
    await heard([
      ['>', body],
      ['<', packet('s')],
    ]),
    ['mta body', 'milter skip <3: SMFIP_SKIP was not agreed'],
  );
});

t.test('a reply that is none to its command is told', async (t) => {
  const to = async (command: Buffer, ...said: Buffer[]): Promise<string> =>
    (
      await heard(
        [
          ['>', command],
          ['<', ...said],
        ],
        answer(0x400, 0),
      )
    )
      .slice(1)
      .join('; ');
  t.equal(
    await to(helo, packet('p')),
    'milter progress: Progress before the end of the message: Sendmail takes it for a failure',
  );
  t.equal(await to(helo, packet('d')), 'milter discard <3: It is no answer to helo');
  t.equal(await to(connect, packet('d')), 'milter discard <3: It is no answer to connect');
  t.equal(await to(mail, packet('d')), 'milter discard <3');
  t.equal(await to(mail, packet('s')), 'milter skip <3: It is an answer to body, not to mailFrom');
  t.equal(await to(mail, packet('f')), 'milter connFail <3: Neither Sendmail nor Postfix takes it');
  t.equal(await to(mail, packet('4')), 'milter shutdown <3: Sendmail takes it for a failure');
  t.equal(await to(mail, packet('r')), 'milter reject <3');
  t.equal(await to(mail, packet('y', '550 5.7.1 no')), 'milter replyCode <3');
  t.equal(await to(mail, packet('y', '550 5.7.1 5%')), 'milter replyCode <3: A % in it is not doubled');
  t.match(await to(mail, packet('y', '250 yes')), 'milter replyCode <3: Malformed SMTP reply');
  t.equal(await to(mail, answer()), 'milter negotiate: It is no answer to mailFrom');
  t.equal(await to(mail, packet('l', u32(0), 'j')), 'milter setSymList: It is no answer to mailFrom');
  t.match(
    await to(mail, packet('q', 'x')),
    /quarantine: An edit outside of the end of the message: in the answer to mail/,
  );
  t.match(await to(packet('E'), packet('q', 'x')), 'milter quarantine: An edit that was not agreed: SMFIF_QUARANTINE');
  t.match(await to(mail, packet('c', 'x')), /milter malformed <3: .*too many/, 'a bad final reply is final');
  t.match(await to(mail, packet('z', 'x')), "milter unrecognized: 'z' (0x7a) is no letter of a milter's");
  t.match(await to(packet('\u0001')), '');
  const b = packet('b', Buffer.from('x'));
  const wrong = 'replBody: More of the body after something else: an error to Postfix';
  t.match(
    await heard([
      ['>', packet('E')],
      ['<', b, packet('p'), b, packet('c')],
    ]),
    [/mta eob/, /replBody$/, /progress$/, wrong],
  );
});

t.test('an offer that is answered wrongly is told', async (t) => {
  const to = async (...said: Buffer[]): Promise<string[]> =>
    lines(
      await collect(
        decodeConversation(
          events([
            ['>', OFFER],
            ['<', ...said],
          ]),
        ),
      ),
    ).slice(1, -1);
  t.match(await to(c), ['milter continue <1: The offer is answered with something else']);
  t.match(await to(answer(0, 0, 7)), ['milter negotiate <1: It wants protocol version 7; offered was 6']);
  t.match(await to(answer(0, 0, 1)), ['milter negotiate <1: It wants protocol version 1; offered was 6']);
  t.match(await to(answer(0x1000_0000, 0x200)), [/It wants what was not offered: 0x200, SMFIP_MDS_256K/]);
  const early = events([
    ['>', OFFER, helo],
    ['<', answer(), packet('s')],
  ]);
  t.match(lines(await collect(decodeConversation(early))), [
    'mta negotiate',
    'mta helo: It was sent before the offer was answered',
    'milter negotiate <1',
    'milter skip <2',
  ]);
  const old = events([
    ['>', packet('O', u32(2), u32(0), u32(0))],
    ['<', answer(0x3f, 0xf, 2)],
  ]);
  t.match(
    lines(await collect(decodeConversation(old))),
    ['mta negotiate', /^milter negotiate <1$/],
    'zeros mean version 1',
  );
  const unanswered = events([
    ['>', OFFER, body],
    ['<', c, packet('s')],
  ]);
  t.match(lines(await collect(decodeConversation(unanswered)))[3], /milter skip <2: SMFIP_SKIP was not agreed/);
});

t.test('P8 unknown letters and packets with a wrong content are shown, and the ones behind them too', async (t) => {
  t.match(
    await heard([
      ['>', packet('Z', 'x'), packet('H', Buffer.from('x')), packet('\u0003'), helo],
      ['<', c],
    ]),
    [
      "mta unrecognized: 'Z' (0x5a) is no letter of a mail server's",
      /^mta malformed: /,
      "mta unrecognized: 0x03 is no letter of a mail server's",
      'mta helo',
      'milter continue <6',
    ],
  );
});

t.test('P146 a session that does not begin with an offer is not synchronised: no packet is guessed', async (t) => {
  const talk: Talk = [
    ['>', helo],
    ['<', c],
    ['>', mail, OFFER],
    ['<', c],
  ];
  const all = await collect(decodeConversation([{ ...open, late: true }, ...events(talk), close]));
  t.strictSame(lines(all), [
    'open an unknown address to an unknown address, seen from the middle on',
    'garbage Not synchronised: it does not begin with an offer (the mail server)',
    'garbage Not synchronised (the milter)',
    'garbage Not synchronised (the mail server)',
    'garbage Not synchronised (the mail server)',
    'garbage Not synchronised (the milter)',
    'close Closed by the mail server',
  ]);
  t.strictSame(bytesOf(all, 'mta'), Buffer.concat([helo, mail, OFFER]), 'and all bytes are shown');

  const milterFirst = await collect(
    decodeConversation(
      events([
        ['<', c],
        ['>', OFFER],
        ['<', c],
      ]),
    ),
  );
  t.match(lines(milterFirst), ['garbage Not synchronised (the milter)', 'mta negotiate', 'garbage Not synchronised']);
  const smtp = await collect(decodeConversation(events([['>', Buffer.from('EHLO x\r\n')]])));
  t.match(lines(smtp), [/offer; the peer seems to be an SMTP client/]);
  const inPieces = cut(OFFER, 1).map((byte): readonly ['>', Buffer] => ['>', byte]);
  t.match(lines(await collect(decodeConversation(events(inPieces)))), ['mta negotiate']);
  const short = await collect(
    decodeConversation([data('mta', OFFER.subarray(0, 3)), data('mta', Buffer.alloc(0)), close]),
  );
  t.match(lines(short), ['garbage The bytes end inside a packet (the mail server)', 'close']);
});

t.test('behind bytes that are no packet nothing is read any more, in that direction', async (t) => {
  const broken = Buffer.concat([helo, hex('7f ff ff ff'), Buffer.from('more')]);
  const talk: Talk = [
    ['>', OFFER],
    ['<', answer()],
    ['>', broken],
    ['>', mail],
    ['<', c],
    ['<', Buffer.alloc(4), c],
  ];
  const all = await collect(decodeConversation([...events(talk), close]));
  t.match(lines(all), [
    'mta negotiate',
    'milter negotiate <1',
    'mta helo',
    /garbage Not synchronised from here on: A packet claims a payload of 2147483646 bytes/,
    'garbage Not synchronised (the mail server)',
    'milter continue',
    /garbage Not synchronised from here on: A packet of length 0/,
    'garbage Not synchronised (the milter)',
    /^close Closed by the mail server$/,
  ]);
  t.strictSame(bytesOf(all, 'mta'), Buffer.concat([OFFER, broken, mail]));
  const torn = events([
    ['>', OFFER],
    ['>', helo.subarray(0, 6)],
    ['>', Buffer.concat([helo.subarray(6), hex('ff ff')])],
    ['>', hex('ff ff 01')],
  ]);
  const found = await collect(decodeConversation(torn));
  t.strictSame(
    bytesOf(found, 'mta'),
    Buffer.concat([OFFER, helo, hex('ff ff ff ff 01')]),
    'also a length in two pieces',
  );
});

t.test('missing bytes end what can be read, and the place is told', async (t) => {
  const talk = events([
    ['>', OFFER],
    ['<', answer()],
    ['>', helo, mail.subarray(0, 7)],
  ]);
  const gap: CaptureEvent = { type: 'gap', session: 's', time: 4, from: 'mta', missing: 100 };
  const after = events([
    ['<', c],
    ['>', rcpt],
  ]);
  t.strictSame(lines(await collect(decodeConversation([...talk, gap, ...after, close]))).slice(3), [
    'garbage The bytes end inside a packet (the mail server)',
    'garbage 100 bytes are missing here: not synchronised from here on (the mail server)',
    'milter continue',
    'garbage Not synchronised (the mail server)',
    'close Closed by the mail server',
  ]);
  t.match(lines(await collect(decodeConversation([{ ...gap, missing: 0 }]))), [/^garbage Bytes are missing here/]);
});

t.test('what one side said alone is read from its first packet on, and held against nothing', async (t) => {
  const only: CaptureEvent = { type: 'open', session: 's', time: 0, only: 'milter' };
  const all = await collect(decodeConversation([only, ...events([['<', c, packet('h', 'X', 'y')]]), close]));
  t.strictSame(lines(all).slice(0, 3), ['open What the milter said', 'milter continue', 'milter addHeader']);
});

t.test('the end says what was not answered, how the connection ended, and whether it did', async (t) => {
  const talk = events([
    ['>', OFFER],
    ['<', answer()],
    ['>', helo],
  ]);
  const lost: CaptureEvent = { type: 'close', session: 's', time: 9, error: 'reset' };
  t.match(
    lines(await collect(decodeConversation([...talk, lost]))).at(-1),
    'close Closed: reset; not answered: 3 (helo)',
  );
  const cutShort = await collect(decodeConversation([...talk, data('mta', mail.subarray(0, 8))]));
  t.match(lines(cutShort).slice(-2), [
    'garbage The bytes end inside a packet (the mail server)',
    'close The capture ends here, and the connection was still open; not answered: 3 (helo)',
  ]);
  const ends = { mta: { address: '2001:db8::1', port: 25 }, milter: { address: '/run/x', port: 0 } };
  const opened = await collect(decodeConversation([{ ...open, ...ends }]));
  t.match(lines(opened), ['open [2001:db8::1]:25 to /run/x', 'close']);
});

t.test('a problem is told where it belongs, and an error when all before it was given', async (t) => {
  const problem = { type: 'problem', session: '', time: 3, text: 'Frame 3: odd' } as const;
  const boom = new Error('cut');
  async function* source(): AsyncGenerator<CaptureEvent> {
    yield data('mta', OFFER);
    yield problem;
    yield { ...problem, session: 's' };
    throw boom;
  }
  const { all, error } = await collectUntilError(decodeConversation(source()));
  t.strictSame(lines(all), [
    'mta negotiate',
    'problem Frame 3: odd',
    'problem Frame 3: odd',
    'close The capture ends here, and the connection was still open; not answered: 1 (negotiate)',
  ]);
  t.equal(error, boom);
});

t.test('what there is of a packet is shown whole, however it came', async (t) => {
  const torn = packet('B', Buffer.from(Array.from({ length: 500 }, (_, i) => i & 0xff))).subarray(0, 400);
  for (const size of [1, 3, 150]) {
    const all = await collect(decodeConversation([OFFER, ...cut(torn, size)].map((bytes) => data('mta', bytes))));
    t.strictSame(bytesOf(all, 'mta'), Buffer.concat([OFFER, torn]));
  }
});

t.test('two sessions at a time know nothing of each other', async (t) => {
  const talk = [data('mta', OFFER, 0, 'a'), data('mta', helo, 0, 'b'), data('milter', answer(), 0, 'a')];
  const all = await collect(decodeConversation(talk));
  t.strictSame(
    all.map((record) => record.session),
    ['a', 'b', 'a', 'a', 'b'],
  );
  t.match(lines(all)[2], 'milter negotiate <1');
});

t.test('every packet there is comes with all its bytes, however the stream is cut', async (t) => {
  const spoken = Buffer.concat(commands.map((each) => hex(each.hex)));
  const answered = Buffer.concat(replies.map((each) => hex(each.hex)));
  for (const size of [1, 7, 1000, 100_000]) {
    const conversation = new Conversation('s', { maxPayload: 70_000 });
    const large = packet('B', Buffer.alloc(66_000, 0x61));
    const all = [
      ...cut(Buffer.concat([spoken, large]), size).flatMap((bytes) => conversation.take(data('mta', bytes))),
      ...cut(answered, size).flatMap((bytes) => conversation.take(data('milter', bytes))),
    ];
    t.equal(all.length, commands.length + replies.length + 1);
    t.strictSame(bytesOf(all, 'mta'), Buffer.concat([spoken, large]));
    t.strictSame(bytesOf(all, 'milter'), answered);
  }
});

function bytesOf(all: readonly ConversationRecord[], from: 'mta' | 'milter'): Buffer {
  return Buffer.concat(
    all.flatMap((record) => {
      if (record.from !== from) return [];
      return record.type === 'packet' ? [record.raw] : (record.bytes ?? []);
    }),
  );
}
