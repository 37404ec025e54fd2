// Macros: which the client sends, under which letter, and what a milter's lists change.
import t from 'tap';
import { MilterClient, type ClientMacros, type ClientOptions } from '../../lib/client/index.js';
import { createSession, MilterProtocol, SMFIF_ALLOPTS, type MacroDict } from '../../lib/index.js';
import { agrees, fakeMilter, list } from '../helpers/fake-milter.js';

const OWN = { j: 'localhost', '{daemon_name}': 'milter-stream', v: 'milter-stream', _: 'localhost [127.0.0.1]' };

/** The commands of a connection and a message as the milter heard them: a letter with its macros, or a name. */
async function told(options: ClientOptions = {}, macros?: ClientMacros, negotiate = agrees()): Promise<unknown[]> {
  const { stream, heard } = fakeMilter({ negotiate });
  const client = new MilterClient(stream, options);
  await client.connect();
  const to = ['<b@example.com>', '<c@example.com>'];
  await client.send({ from: '<a@example.org>', to, message: 'A: 1\r\n\r\nbody', ...(macros && { macros }) });
  await client.unknown('FOO');
  await client.quit();
  return heard.map((each) =>
    each.type === 'macro' ? { [each.stage]: queued(Object.fromEntries(each.macros)) } : each.type,
  );
}

/** Queue ids count up: what they look like is enough. */
function queued(macros: Record<string, string>): Record<string, string> {
  return /^MS[0-9A-F]{6,}$/.test(macros['i'] ?? '') ? { ...macros, i: 'ID' } : macros;
}

/** The macros of one letter. */
const under = (letter: string, all: unknown[]): unknown[] =>
  all.flatMap((each) =>
    typeof each === 'object' && letter in each! ? [(each as Record<string, unknown>)[letter]] : [],
  );

const BOTH = [
  'negotiate',
  { C: OWN },
  'connect',
  { H: {} },
  'helo',
  { M: { i: 'ID', '{mail_addr}': 'a@example.org' } },
  'mailFrom',
  { R: { '{rcpt_addr}': 'b@example.com', i: 'ID' } },
  'rcpt',
  { R: { '{rcpt_addr}': 'c@example.com', i: 'ID' } },
  'rcpt',
  { T: { i: 'ID' } },
  'data',
  { L: { i: 'ID' } },
  'header',
  { N: { i: 'ID' } },
  'eoh',
  { B: { i: 'ID' } },
  'body',
  { E: { i: 'ID' } },
  'eob',
  'abort',
  { U: {} },
  'unknown',
  'quit',
];

t.test(
  'P81 the macros of a stage come right before its command; like Postfix always, even if there are none',
  async (t) => {
    t.strictSame(await told(), BOTH);
  },
);

t.test('P81 like Sendmail they come where there are any, and headers and body have none', async (t) => {
  const less = BOTH.filter(
    (each) => each !== 'abort' && (typeof each === 'string' || !['H', 'L', 'B', 'U'].some((letter) => letter in each)),
  );
  t.strictSame(await told({ like: 'sendmail' }), less);
});

t.test('P81 P35 macros are sent, too, for a command that is not', async (t) => {
  const heard = async (like: 'postfix' | 'sendmail'): Promise<[unknown[], string[]]> => {
    const all = await told({ like }, {}, agrees(6, 0, 0x37f));
    const letters = all.flatMap((each) => (typeof each === 'object' ? Object.keys(each!) : []));
    return [all.filter((each) => typeof each === 'string'), letters];
  };
  t.strictSame(
    await heard('postfix'),
    [
      ['negotiate', 'eob', 'abort', 'quit'],
      ['C', 'H', 'M', 'R', 'R', 'T', 'E', 'U'],
    ],
    'not for the content, in Postfix',
  );
  t.strictSame(await heard('sendmail'), [
    ['negotiate', 'eob', 'quit'],
    ['C', 'M', 'R', 'R', 'T', 'N', 'E'],
  ]);
});

t.test('P37 Postfix knows the SMTP client by more names, for those who ask', async (t) => {
  const all = await told({}, {}, agrees(6, 0x1ff, 0, list(0, '{client_addr} client_name {client_port} j')));
  t.strictSame(under('C', all), [
    { '{client_addr}': '127.0.0.1', client_name: 'localhost', '{client_port}': '25000', j: 'localhost' },
  ]);
});

t.test('P34 no macros go out for a command that the version does not have', async (t) => {
  const macros = { unknown: { x: '1' } };
  t.strictSame(under('T', await told({ macros }, {}, agrees(3))), []);
  t.strictSame(under('U', await told({ macros }, {}, agrees(3))), [{ x: '1' }]);
  t.strictSame(under('U', await told({ macros }, {}, agrees(2))), []);
});

t.test(
  'P102 macros take the place of those with their name, the message’s over the client’s; undefined leaves one out',
  async (t) => {
    const all = await told(
      {
        macros: {
          connect: { j: 'mx', v: undefined },
          helo: { '{tls_version}': '' },
          eob: { x: 'client', y: 'client' },
        },
      },
      { mailFrom: { i: undefined }, header: { h: '1' }, eob: { x: 'message' }, body: {} },
    );
    t.strictSame(under('C', all), [{ j: 'mx', '{daemon_name}': 'milter-stream', _: 'localhost [127.0.0.1]' }]);
    t.strictSame(under('H', all), [{ '{tls_version}': '' }], 'an empty value is sent');
    t.strictSame(under('M', all), [{ '{mail_addr}': 'a@example.org' }], 'as Postfix, which has no queue id yet');
    t.strictSame(under('L', all), [{ h: '1' }]);
    t.strictSame(under('B', all), [{}]);
    t.strictSame(under('E', all), [{ i: 'ID', x: 'message', y: 'client' }]);
  },
);

t.test('P37 P103 a list of the milter’s takes the place of a stage’s macros', async (t) => {
  const lists = [
    list(0, '{daemon_name}, j {missing}'),
    list(3, 'rcpt_addr {j}'),
    list(9, 'v'), // a stage that nobody knows
    list(5, '{i} x'),
  ];
  const all = await told(
    { macros: { eob: { '{x}': '1' }, connect: { '{i}': 'early' } } },
    {},
    agrees(6, 0x1ff, 0, ...lists),
  );
  t.strictSame(under('C', all), [{ '{daemon_name}': 'milter-stream', j: 'localhost' }], 'in the order of the list');
  t.strictSame(
    under('R', all),
    [
      { rcpt_addr: 'b@example.com', '{j}': 'localhost' },
      { rcpt_addr: 'c@example.com', '{j}': 'localhost' },
    ],
    'what an earlier stage had is known; the spelling is the list’s',
  );
  t.match(under('E', all), [{ '{i}': /^MS/, x: '1' }], 'the latest value counts');
  t.strictSame(under('T', all), [{ i: 'ID' }], 'a stage without a list has its own');
});

t.test('P37 what only a later stage knows cannot be sent yet', async (t) => {
  const all = await told({ macros: { eob: { x: '1' } } }, {}, agrees(6, 0x1ff, 0, list(2, 'x {rcpt_addr} i')));
  t.strictSame(under('M', all), [{ i: 'ID' }]);
});

t.test('P103 an empty list: the default to Postfix, nothing to Sendmail', async (t) => {
  const negotiate = agrees(6, 0x1ff, 0, list(0, ''), list(5, ' '));
  const postfix = await told({}, {}, negotiate);
  t.strictSame([under('C', postfix), under('E', postfix)], [[OWN], [{ i: 'ID' }]]);
  const sendmail = await told({ like: 'sendmail' }, {}, negotiate);
  t.strictSame([under('C', sendmail), under('E', sendmail)], [[], []]);
});

t.test('P28 P147 the lists of a milter of this library are understood', async (t) => {
  const seen: Array<[string, MacroDict]> = [];
  class Asking extends MilterProtocol {
    static readonly macros = { connect: ['j'], eob: ['i', 'mail_addr'] };
    override connect(...args: Parameters<MilterProtocol['connect']>) {
      seen.push(['connect', args[4]]);
    }
    override eoh(macros: MacroDict) {
      seen.push(['eoh', macros]);
    }
    override eob(macros: MacroDict) {
      seen.push(['eob', macros]);
    }
  }
  const client = new MilterClient(createSession(Asking, { smfifOptions: SMFIF_ALLOPTS }));
  await client.connect();
  await client.send({ from: 'a@example.org', to: ['b'], message: '' });
  const kept = seen.map(([stage, macros]) => [stage, queued({ ...macros } as Record<string, string>)]);
  const both = { i: 'ID', mail_addr: 'a@example.org' };
  t.strictSame(kept, [
    ['connect', { j: 'localhost' }],
    ['eoh', both],
    ['eob', both],
  ]);
});
