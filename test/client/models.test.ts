// The models of the two mail servers, header by header: what test/integration/models.test.ts has seen the real ones do.
import t, { type Test } from 'tap';
import { MilterChain } from '../../lib/client/index.js';
import type { MailServerName } from '../../lib/client/models.js';
import { createSession, MilterProtocol, SMFIF_ALLOPTS, SMFIP_HDR_LEADSPC } from '../../lib/index.js';

type Edit = readonly [
  method: 'addHeader' | 'insHeader' | 'chgHeader' | 'replBody' | 'addRcpt' | 'delRcpt',
  ...args: unknown[],
];

class Editor extends MilterProtocol<{ edits: readonly Edit[]; heard: string[] }> {
  override header(name: string, value: string) {
    this.context.heard.push(`${name}:${value}`);
  }
  override body(chunk: Buffer) {
    this.context.heard.push(JSON.stringify(chunk.toString('latin1')));
  }
  override eob() {
    for (const [method, ...args] of this.context.edits) (this[method] as (...args: unknown[]) => void)(...args);
  }
}

const OWN = 'Received: own\r\n';
const BASE = ['A: 0', 'X: 1', 'x: 2'];

interface Given {
  readonly head?: readonly string[];
  readonly own?: string;
  readonly smfipOptions?: number;
}

interface Made {
  /** The headers as they are sent on, the server's own Received as `R`. */
  readonly sent: string;
  readonly body: string;
  readonly to: readonly string[];
  /** What the last milter has heard. */
  readonly heard: string;
}

async function made(
  like: MailServerName,
  milters: ReadonlyArray<readonly Edit[]>,
  { head = BASE, own = OWN, smfipOptions = 0 }: Given = {},
): Promise<Made> {
  let heard: string[] = [];
  const streams = milters.map((edits) => {
    heard = [];
    return createSession(Editor, { smfifOptions: SMFIF_ALLOPTS, smfipOptions, context: { edits, heard } });
  });
  const chain = new MilterChain(streams, { like, ownHeaders: own, defaultAction: 'throw' });
  await chain.connect();
  const message = `${head.join('\r\n')}\r\n\r\nbody\r\n`;
  const result = await chain.send({ from: '<a@example.org>', to: ['<b@example.com>'], message });
  await chain.quit();
  const text = result.message.toString('latin1');
  const end = text.indexOf('\r\n\r\n');
  const lines = text.slice(0, end).split(/\r\n(?![ \t])/);
  return {
    sent: lines.map((line) => (`${line}\r\n` === OWN ? 'R' : line)).join(', '),
    body: text.slice(end + 4),
    to: result.envelope.to,
    heard: heard.join(', '),
  };
}

/** The headers alone. */
async function seen(...args: Parameters<typeof made>): Promise<Pick<Made, 'sent' | 'heard'>> {
  const { sent, heard } = await made(...args);
  return { sent, heard: heard.replace(/, "[^]*/, '') };
}

type Row = readonly [what: string, edits: readonly Edit[], postfix: string, sendmail: string, given?: Given];

async function holds(t: Test, rows: readonly Row[]): Promise<void> {
  for (const [what, edits, postfix, sendmail, given] of rows) {
    t.equal((await made('postfix', [edits], given)).sent, postfix, `Postfix: ${what}`);
    t.equal((await made('sendmail', [edits], given)).sent, sendmail, `Sendmail: ${what}`);
  }
}

t.test('P128 insHeader() counts the own Received in Postfix, and nine headers of its own in Sendmail', async (t) => {
  const at = (index: number): Edit[] => [['insHeader', index, 'N', 'v']];
  await holds(t, [
    ['0 is the top', at(0), 'N: v, R, A: 0, X: 1, x: 2', 'N: v, R, A: 0, X: 1, x: 2'],
    ['1 is below the own Received', at(1), 'R, N: v, A: 0, X: 1, x: 2', 'R, N: v, A: 0, X: 1, x: 2'],
    ['2', at(2), 'R, A: 0, N: v, X: 1, x: 2', 'R, N: v, A: 0, X: 1, x: 2'],
    ['8', at(8), 'R, A: 0, X: 1, x: 2, N: v', 'R, N: v, A: 0, X: 1, x: 2'],
    ['9', at(9), 'R, A: 0, X: 1, x: 2, N: v', 'R, A: 0, N: v, X: 1, x: 2'],
    ['10', at(10), 'R, A: 0, X: 1, x: 2, N: v', 'R, A: 0, X: 1, N: v, x: 2'],
    ['1000 is the end', at(1000), 'R, A: 0, X: 1, x: 2, N: v', 'R, A: 0, X: 1, x: 2, N: v'],
    ['1, own headers not said', at(1), 'N: v, A: 0, X: 1, x: 2', 'N: v, A: 0, X: 1, x: 2', { own: '' }],
    [
      '2, more own headers said',
      at(2),
      'R, Own: 1, N: v, A: 0, X: 1, x: 2',
      'R, N: v, Own: 1, A: 0, X: 1, x: 2',
      { own: `${OWN}Own: 1\r\n` },
    ],
  ]);
});

t.test('P128 addHeader() goes to the end in Postfix, above the first of its name in Sendmail', async (t) => {
  await holds(t, [
    ['a new name', [['addHeader', 'N', 'v']], 'R, A: 0, X: 1, x: 2, N: v', 'R, A: 0, X: 1, x: 2, N: v'],
    ['a name that is there', [['addHeader', 'X', 'v']], 'R, A: 0, X: 1, x: 2, X: v', 'R, A: 0, X: v, X: 1, x: 2'],
    [
      'Received',
      [['addHeader', 'Received', 'v']],
      'R, A: 0, X: 1, x: 2, Received: v',
      'Received: v, R, A: 0, X: 1, x: 2',
    ],
    [
      'one of which Sendmail has a default, in the place and with the name of that',
      [['addHeader', 'date', 'v']],
      'R, A: 0, Date: d, date: v',
      'R, Date: v, A: 0, Date: d',
      { head: ['A: 0', 'Date: d'] },
    ],
  ]);
});

t.test('P128 chgHeader() counts what the milter has heard', async (t) => {
  const [first, second] = [
    ['chgHeader', 'X', '', 1],
    ['chgHeader', 'X', '', 2],
  ] as const;
  await holds(t, [
    ['the name in other letters', [['chgHeader', 'x', 'v', 1]], 'R, A: 0, x: v, x: 2', 'R, A: 0, X: v, x: 2'],
    ['one too many', [['chgHeader', 'X', 'v', 3]], 'R, A: 0, X: 1, x: 2, X: v', 'R, A: 0, X: v, X: 1, x: 2'],
    ['a new name', [['chgHeader', 'N', 'v']], 'R, A: 0, X: 1, x: 2, N: v', 'R, A: 0, X: 1, x: 2, N: v'],
    ['nothing to remove', [['chgHeader', 'N', '']], 'R, A: 0, X: 1, x: 2', 'R, A: 0, X: 1, x: 2'],
    ['the own Received is not meant', [['chgHeader', 'Received', '']], 'R, A: 0, X: 1, x: 2', 'R, A: 0, X: 1, x: 2'],
    [
      'not even below something else',
      [
        ['insHeader', 0, 'N', 'v'],
        ['chgHeader', 'Received', 'w'],
      ],
      'N: v, R, A: 0, X: 1, x: 2, Received: w',
      'N: v, Received: w, R, A: 0, X: 1, x: 2',
    ],
    ['from the first to the last', [first, second], 'R, A: 0, x: 2', 'R, A: 0'],
    ['from the last to the first', [second, first], 'R, A: 0', 'R, A: 0'],
    ['a removed one', [first, ['chgHeader', 'X', 'v', 1]], 'R, A: 0, X: v', 'R, A: 0, X: v, x: 2'],
    [
      'one that Sendmail fills in',
      [['chgHeader', 'date', 'v']],
      'R, Date: own, A: 0, date: v',
      'R, Date: v, A: 0',
      { head: ['A: 0'], own: `${OWN}Date: own\r\n` },
    ],
    [
      'one that Sendmail fills in, removed, and back',
      [
        ['chgHeader', 'Date', ''],
        ['addHeader', 'Date', 'v'],
      ],
      'R, Date: own, A: 0, Date: v',
      'R, Date: v, A: 0',
      { head: ['A: 0'], own: `${OWN}Date: own\r\n` },
    ],
  ]);
  t.equal(
    (await made('sendmail', [[['chgHeader', 'Date', '']]], { own: `${OWN}Date: own\r\n` })).sent,
    'R, A: 0, X: 1, x: 2',
    'and removed',
  );
});

t.test('P87 with SMFIP_HDR_LEADSPC values are what stands behind the colon', async (t) => {
  const edits: Edit[] = [
    ['addHeader', 'N', 'v'],
    ['chgHeader', 'X', ' w'],
    ['addHeader', 'M', ''],
  ];
  await holds(t, [
    ['without', edits, 'R, A:0, X:  w, N: v, M: ', 'R, A:0, X:  w, N: v, M: ', { head: ['A:0', 'X:1'] }],
    [
      'with',
      edits,
      'R, A:0, X: w, N:v, M:',
      'R, A:0, X: w, N:v, M:',
      { head: ['A:0', 'X:1'], smfipOptions: SMFIP_HDR_LEADSPC },
    ],
  ]);
});

t.test('headers that a mail server does not take in, or does not send on', async (t) => {
  for (const [name, postfix, sendmail] of [
    ['Return-Path', ['R, To: b', 'To:b'], ['R, To: b', 'Return-Path:v, To:b']],
    ['Content-Length', ['R, To: b', 'To:b'], ['R, To: b', 'Content-Length:v, To:b']],
    ['Bcc', ['R, To: b', 'To:b'], ['R, To: b', 'Bcc:v, To:b']],
    ['Full-Name', ['R, Full-Name: v, To: b', 'Full-Name:v, To:b'], ['R, To: b', 'Full-Name:v, To:b']],
    [
      'Resent-Date',
      ['R, Resent-Date: v, To: b', 'Resent-Date:v, To:b'],
      ['R, Resent-Date: v, To: b', 'Resent-Date:v, To:b'],
    ],
  ] as const) {
    for (const [like, [sent, heard]] of [
      ['postfix', postfix],
      ['sendmail', sendmail],
    ] as const) {
      t.strictSame(await seen(like, [[]], { head: [`${name}: v`, 'To: b'] }), { sent, heard }, `${name}, ${like}`);
    }
    await holds(t, [
      [`${name}, new`, [['addHeader', name, 'v']], `R, To: b, ${name}: v`, 'R, To: b', { head: ['To: b'] }],
    ]);
  }
  await holds(t, [
    ['Bcc alone', [], 'R, A: 0', 'R, A: 0, Bcc:', { head: ['A: 0', 'Bcc: x'] }],
    ['Bcc added', [['addHeader', 'Bcc', 'x']], 'R, A: 0, Bcc: x', 'R, A: 0, Bcc:', { head: ['A: 0'] }],
    [
      'sent on, and again',
      [['insHeader', 1, 'Resent-To', 'v']],
      'R, Resent-To: v, Resent-Date: d',
      'R, Resent-To: v, Resent-Date: d',
      { head: ['Resent-Date: d'] },
    ],
    ['no value', [], 'R, Date:, Subject:', 'R, Subject:', { head: ['Date:', 'Subject:'] }],
    ['a space before the colon', [], 'R, A: 0, B:\t1', 'R, A: 0, B:\t1', { head: ['A : 0', 'B \t:\t1'] }],
  ]);
});

t.test('P128 between two milters Sendmail keeps the place of what was removed, and does not count it', async (t) => {
  const removed: Edit[] = [['chgHeader', 'X', '', 1]];
  for (const [what, first, second, postfix, sendmail, heard] of [
    ['added', removed, ['addHeader', 'X', 'v'], 'R, A: 0, x: 2, X: v', 'R, A: 0, X: v, x: 2', 'A:0, x:2'],
    ['changed', removed, ['chgHeader', 'X', 'v'], 'R, A: 0, X: v', 'R, A: 0, x: v', 'A:0, x:2'],
    ['the next', removed, ['chgHeader', 'X', 'v', 2], 'R, A: 0, x: 2, X: v', 'R, A: 0, X: v, x: 2', 'A:0, x:2'],
    [
      'a new one at the top',
      [['insHeader', 0, 'N', 'v']],
      ['chgHeader', 'N', 'w'],
      'N: w, R, A: 0, X: 1, x: 2',
      'N: w, R, A: 0, X: 1, x: 2',
      'N:v, A:0, X:1, x:2',
    ],
  ] as ReadonlyArray<readonly [string, Edit[], Edit, string, string, string]>) {
    t.strictSame(await seen('postfix', [first, [second]]), { sent: postfix, heard }, `Postfix: ${what}`);
    t.strictSame(await seen('sendmail', [first, [second]]), { sent: sendmail, heard }, `Sendmail: ${what}`);
  }
  const given = { head: ['A: 0', 'Date: d', 'B: 1'] };
  const dateless: Edit[] = [['chgHeader', 'Date', '']];
  for (const [method, sent] of [
    ['chgHeader', 'R, A: 0, Date: v, B: 1'],
    ['addHeader', 'R, Date: v, A: 0, B: 1'],
  ] as const) {
    const made = await seen('sendmail', [dateless, [[method, 'Date', 'v']]], given);
    t.strictSame(made, { sent, heard: 'A:0, B:1' }, `${method}() where both a default and a header are gone`);
  }
  const unsent: Edit[] = [['addHeader', 'Return-Path', 'v']];
  t.strictSame(
    await seen('sendmail', [unsent, []]),
    { sent: 'R, A: 0, X: 1, x: 2', heard: 'Return-Path:v, A:0, X:1, x:2' },
    'what is not sent on is heard all the same',
  );
});

t.test('P127 the lines of a new body end in CRLF, whatever the milter ends them with', async (t) => {
  for (const like of ['postfix', 'sendmail'] as const) {
    for (const [body, sent] of [
      ['', ''],
      ['a', 'a\r\n'],
      ['a\n\nb\r\n', 'a\r\n\r\nb\r\n'],
      ['\r\n', '\r\n'],
      ['a\r', 'a\r\r\n'],
      ['a\rb\r\r\n', 'a\rb\r\r\n'],
    ] as const) {
      t.equal((await made(like, [[['replBody', body]]])).body, sent, `${like}: ${JSON.stringify(body)}`);
    }
  }
});

t.test('P127 the next milter hears the end of the last line of a new body, unless it is behind Sendmail', async (t) => {
  for (const [like, heard] of [
    ['postfix', '"a\\r\\nb\\r\\n"'],
    ['sendmail', '"a\\r\\nb"'],
  ] as const) {
    const both = await made(like, [[['replBody', 'a\nb']], []]);
    t.ok(both.heard.endsWith(`, ${heard}`), both.heard);
    t.equal(both.body, 'a\r\nb\r\n');
  }
});

t.test(
  'P129 addRcpt() of an address that is there does nothing, in whatever letters; delRcpt() wants the same ones',
  async (t) => {
    for (const like of ['postfix', 'sendmail'] as const) {
      t.strictSame((await made(like, [[['addRcpt', 'B@EXAMPLE.com']]])).to, ['<b@example.com>'], like);
      t.strictSame((await made(like, [[['delRcpt', 'B@example.com']]])).to, ['<b@example.com>'], like);
    }
  },
);
