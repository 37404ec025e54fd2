// The modification methods: what they make of a message, seen at the next hop.
import type { Test } from 'tap';
import { ACCEPT, DISCARD, REJECT, SMFIF_ALLOPTS, SMFIF_ADDHDRS, SMFIP_HDR_LEADSPC } from '../../../lib/index.js';
import type { SinkMessage } from '../../helpers/sink.js';
import { Editor, type Edit } from '../milters.js';
import type { MilterRun, Rig, ServerName } from '../rig.js';
import { BODY, HEAD, headerOf, letter, longBody, opened, OWN_RECEIVED, send } from './letters.js';

/** What a message has at the next hop. */
interface Arriving {
  head: readonly string[];
  body: string;
  from: string;
  /** ESMTP arguments of the sender. */
  args: object;
  /** In alphabetical order. */
  to: readonly string[];
  /** ESMTP arguments of each recipient. */
  toArgs: readonly object[];
}

interface Case {
  title: string;
  edits: readonly Edit[];
  /** What is not as it was sent. */
  changed: Partial<Arriving> | Readonly<Record<ServerName, Partial<Arriving>>>;
}

export const SENT_HEAD: readonly string[] = [...HEAD, 'X-Two: first', 'X-Other: o', 'X-Two: second'];
const ARRIVED_HEAD: readonly string[] = [OWN_RECEIVED, ...SENT_HEAD];

// The head with something done to it.
const top = (...lines: string[]): Partial<Arriving> => ({ head: [...lines, ...ARRIVED_HEAD] });
const bottom = (...lines: string[]): Partial<Arriving> => ({ head: [...ARRIVED_HEAD, ...lines] });
const before = (line: string, ...lines: string[]): Partial<Arriving> => ({
  head: ARRIVED_HEAD.flatMap((each) => (each === line ? [...lines, each] : [each])),
});
const instead = (line: string, ...lines: string[]): Partial<Arriving> => ({
  head: ARRIVED_HEAD.flatMap((each) => (each === line ? lines : [each])),
});

/** @param s what stands between colon and value where the milter says nothing about it */
export function headerCases(s: '' | ' '): Case[] {
  return [
    {
      title: 'addHeader() adds at the end',
      edits: [['addHeader', 'X-New', 'v']],
      changed: bottom(`X-New:${s}v`),
    },
    {
      title: 'addHeader() of a name that is there: Postfix at the end, Sendmail before the first of them',
      edits: [['addHeader', 'X-Two', 'third']],
      changed: { postfix: bottom(`X-Two:${s}third`), sendmail: before('X-Two: first', `X-Two:${s}third`) },
    },
    {
      title: 'addHeader() with a folded value, CRLF or LF',
      edits: [['addHeader', 'X-New', 'a\r\n b\n\tc']],
      changed: bottom(`X-New:${s}a\r\n b\r\n\tc`),
    },
    {
      title: 'addHeader() with a space in front of the value',
      edits: [['addHeader', 'X-New', ' v']],
      changed: bottom(`X-New:${s} v`),
    },
    {
      title: 'addHeader() without a value',
      edits: [['addHeader', 'X-New:', '']],
      changed: bottom(`X-New:${s}`),
    },
    {
      title: 'addHeader() with text and with bytes that are no text',
      edits: [['addHeader', 'X-New', 'café \udce9\udcff']],
      changed: bottom(`X-New:${s}caf\xc3\xa9 \xe9\xff`),
    },
    {
      title: 'insHeader(0) goes above the server itself, each above the one before',
      edits: [
        ['insHeader', 0, 'X-A', '1'],
        ['insHeader', 0, 'X-B', '2'],
      ],
      changed: top(`X-B:${s}2`, `X-A:${s}1`),
    },
    {
      title: 'insHeader(1) goes above everything that the milter has heard',
      edits: [
        ['insHeader', 1, 'X-A', '1'],
        ['insHeader', 1, 'X-B', '2'],
      ],
      changed: instead(OWN_RECEIVED, OWN_RECEIVED, `X-B:${s}2`, `X-A:${s}1`),
    },
    {
      title: 'insHeader() further down: Postfix counts what it hands on, Sendmail its own list',
      edits: [['insHeader', 3, 'X-New', 'v']],
      changed: {
        postfix: before('Subject: one', `X-New:${s}v`),
        sendmail: instead(OWN_RECEIVED, OWN_RECEIVED, `X-New:${s}v`),
      },
    },
    {
      title: 'insHeader() behind the end adds at the end',
      edits: [['insHeader', 1000, 'X-New', 'v']],
      changed: bottom(`X-New:${s}v`),
    },
    {
      title: 'chgHeader() changes the first of a name',
      edits: [['chgHeader', 'X-Two', '1st']],
      changed: instead('X-Two: first', `X-Two:${s}1st`),
    },
    {
      title: 'chgHeader() changes the second of several',
      edits: [['chgHeader', 'X-Two', '2nd\n folded', 2]],
      changed: instead('X-Two: second', `X-Two:${s}2nd\r\n folded`),
    },
    {
      title: 'chgHeader() takes the index 0 for 1 (P117)',
      edits: [['chgHeader', 'X-Two', '1st', 0]],
      changed: instead('X-Two: first', `X-Two:${s}1st`),
    },
    {
      title: "chgHeader() finds a name in other letters: Postfix takes the milter's, Sendmail keeps its own",
      edits: [['chgHeader', 'sUBJECT', 'two']],
      changed: {
        postfix: instead('Subject: one', `sUBJECT:${s}two`),
        sendmail: instead('Subject: one', `Subject:${s}two`),
      },
    },
    {
      title: 'chgHeader() without a value removes',
      edits: [
        ['chgHeader', 'Subject'],
        ['chgHeader', 'X-Two', '', 2],
      ],
      changed: { head: ARRIVED_HEAD.filter((line) => line !== 'Subject: one' && line !== 'X-Two: second') },
    },
    {
      title: 'chgHeader() removes all of a name, from the last to the first',
      edits: [
        ['chgHeader', 'X-Two', '', 2],
        ['chgHeader', 'X-Two', '', 1],
      ],
      changed: { head: ARRIVED_HEAD.filter((line) => !line.startsWith('X-Two')) },
    },
    {
      title: 'chgHeader() from the first to the last: on Postfix the second becomes the first',
      edits: [
        ['chgHeader', 'X-Two', '', 1],
        ['chgHeader', 'X-Two', '', 2],
      ],
      changed: {
        postfix: instead('X-Two: first'),
        sendmail: { head: ARRIVED_HEAD.filter((line) => !line.startsWith('X-Two')) },
      },
    },
    {
      title: 'chgHeader() of one that is not there adds it',
      edits: [['chgHeader', 'X-New', 'v', 1]],
      changed: bottom(`X-New:${s}v`),
    },
    {
      title: 'chgHeader() removes nothing where nothing is',
      edits: [
        ['chgHeader', 'X-New', '', 1],
        ['chgHeader', 'X-Two', '', 3],
      ],
      changed: {},
    },
    {
      title: 'a large header',
      edits: [['addHeader', 'X-New', `${'y'.repeat(70)}\n `.repeat(700)]],
      changed: bottom(`X-New:${s}${`${'y'.repeat(70)}\r\n `.repeat(700)}`),
    },
  ];
}

const [berta, cleo] = ['berta@example.net', 'cleo@example.net'];

export const ENVELOPE: Case[] = [
  { title: 'addRcpt()', edits: [['addRcpt', 'dora@example.net']], changed: { to: [berta, cleo, 'dora@example.net'] } },
  {
    title: 'addRcpt() with an argument, and one with two',
    edits: [
      ['addRcpt', '<dora@example.net>', 'NOTIFY=NEVER'],
      ['addRcpt', '<emil@example.net>', ['NOTIFY=SUCCESS,DELAY', 'ORCPT=rfc822;x+2By@example.net']],
    ],
    changed: {
      to: [berta, cleo, 'dora@example.net', 'emil@example.net'],
      toArgs: [{}, {}, { NOTIFY: 'NEVER' }, { NOTIFY: 'SUCCESS,DELAY', ORCPT: 'rfc822;x+y@example.net' }],
    },
  },
  { title: 'addRcpt() of one that is there', edits: [['addRcpt', berta]], changed: {} },
  { title: 'delRcpt() with brackets, as rcpt() had it', edits: [['delRcpt', `<${cleo}>`]], changed: { to: [berta] } },
  { title: 'delRcpt() without brackets', edits: [['delRcpt', berta]], changed: { to: [cleo] } },
  { title: 'delRcpt() of one that is not there', edits: [['delRcpt', 'zoe@example.net']], changed: {} },
  {
    title: 'delRcpt() of all and addRcpt() of another',
    edits: [
      ['delRcpt', berta],
      ['delRcpt', cleo],
      ['addRcpt', 'dora@example.net'],
    ],
    changed: { to: ['dora@example.net'] },
  },
  { title: 'chgFrom()', edits: [['chgFrom', 'dora@example.org']], changed: { from: 'dora@example.org' } },
  {
    title: 'chgFrom() with arguments',
    edits: [['chgFrom', '<dora@example.org>', ['RET=HDRS', 'ENVID=QQ314159']]],
    changed: { from: 'dora@example.org', args: { RET: 'HDRS', ENVID: 'QQ314159' } },
  },
  { title: 'chgFrom() to the null sender', edits: [['chgFrom', '']], changed: { from: '' } },
];

const bodyOf = (bytes: number): Partial<Arriving> => ({ body: longBody(bytes).toString('latin1') });

export const BODIES: Case[] = [
  { title: 'a string', edits: [['replBody', 'caf\u00e9 \udce9\r\n']], changed: { body: 'caf\xc3\xa9 \xe9\r\n' } },
  { title: 'lines with dots', edits: [['replBody', '.\r\n..\r\n.x\r\n']], changed: { body: '.\r\n..\r\n.x\r\n' } },
  { title: 'no line end at the end', edits: [['replBody', 'a\r\nb']], changed: { body: 'a\r\nb\r\n' } },
  { title: 'LF alone ends a line for both servers', edits: [['replBody', 'a\nb\n']], changed: { body: 'a\r\nb\r\n' } },
  { title: 'empty (P120)', edits: [['replBody', '']], changed: { body: '' } },
  { title: 'an empty stream', edits: [['stream', 0]], changed: { body: '' } },
  {
    title: 'several calls',
    edits: [
      ['replBody', 'a\r\n'],
      ['replBody', 'b\r\n'],
    ],
    changed: { body: 'a\r\nb\r\n' },
  },
  ...[65_535, 65_536, 200_000, 1_000_000].flatMap((bytes): Case[] => [
    { title: `${bytes} bytes (P119)`, edits: [['replBody', bytes]], changed: bodyOf(bytes) },
  ]),
  { title: 'a stream that is spooled', edits: [['stream', 300_000]], changed: bodyOf(300_000) },
  { title: 'a stream that is not', edits: [['stream', 300_000, { stream: true }]], changed: bodyOf(300_000) },
  {
    title: 'a stream and what stands around it, among other edits',
    edits: [
      ['addHeader', 'X-A', '1'],
      ['stream', 70_000],
      ['chgHeader', 'Subject', 'two'],
      ['replBody', 'end\r\n'],
      ['delRcpt', cleo],
    ],
    changed: {
      head: [...ARRIVED_HEAD.map((line) => line.replace('Subject: one', 'Subject: two')), 'X-A: 1'],
      body: `${longBody(70_000).toString('latin1')}end\r\n`,
      to: [berta],
    },
  },
];

/** Sends a message for each case through one milter on one connection, and compares all that arrives. */
async function compare(t: Test, rig: Rig, cases: readonly Case[], run: MilterRun = {}): Promise<void> {
  const context = { cases: cases.map(({ edits }) => edits), ...run.context };
  const arrived = new Map<number, SinkMessage>();
  await rig.milter(Editor, { smfifOptions: SMFIF_ALLOPTS, ...run, context }, async () => {
    const client = await rig.client();
    for (const [index, { title }] of cases.entries()) {
      const head = [...SENT_HEAD, `X-Case: ${index}`];
      const reply = await send(client, letter(head), { to: [`<${berta}>`, `<${cleo}>`] });
      t.equal(reply.code, 250, title);
    }
    for (const message of await rig.arrivals(cases.length)) arrived.set(Number(headerOf(message, 'X-Case')), message);
  });
  for (const [index, { title, changed }] of cases.entries()) {
    const expected = 'postfix' in changed ? changed[rig.server] : changed;
    t.strictSame(arriving(arrived.get(index) as SinkMessage), complete(expected), title);
  }
}

function complete(changed: Partial<Arriving>): Arriving {
  const to = changed.to ?? [berta, cleo];
  return {
    head: ARRIVED_HEAD,
    body: BODY,
    from: 'anna@example.org',
    args: {},
    to,
    toArgs: to.map(() => ({})),
    ...changed,
  };
}

/** Without the header that says which case it is, and without the ORCPT that Postfix gives a recipient itself. */
function arriving(message: SinkMessage): Arriving {
  const { head, body } = opened(message);
  const to = message.rcptTo.map((address, i): [string, object] => {
    const { ORCPT, ...others } = message.rcptArgs[i] as Record<string, string>;
    return [address, ORCPT === undefined || ORCPT === `rfc822;${address}` ? others : { ...others, ORCPT }];
  });
  to.sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    head: head.filter((line) => !line.startsWith('X-Case: ')),
    body,
    from: message.mailFrom,
    args: message.mailArgs,
    to: to.map(([address]) => address),
    toArgs: to.map(([, args]) => args),
  };
}

export function edits(t: Test, rig: Rig): void {
  t.test('P116 P118 P128 the header methods, and the positions they count', rig.needs, async (t) => {
    await compare(t, rig, headerCases(' '));
  });

  t.test('P116 with SMFIP_HDR_LEADSPC the milter says what follows the colon', rig.needs, async (t) => {
    await compare(t, rig, headerCases(rig.version < 6 ? ' ' : ''), { smfipOptions: SMFIP_HDR_LEADSPC });
  });

  t.test('P122 P124 P129 the envelope methods', rig.needs, async (t) => {
    await compare(t, rig, ENVELOPE);
  });

  t.test('P119 P120 P127 the new body, whatever it is given as', rig.needs, async (t) => {
    await compare(t, rig, BODIES, { spoolMemory: 25_000 });
  });

  t.test('P121 edits are made by an ACCEPT as well', rig.needs, async (t) => {
    await compare(t, rig, [...BODIES.slice(0, 1), ...ENVELOPE.slice(0, 1)], { context: { verdict: ACCEPT } });
  });

  t.test('P130 edits before a refusal or a DISCARD are not made, and nothing arrives', rig.needs, async (t) => {
    const cases = [
      [
        ['addRcpt', 'dora@example.net'],
        ['replBody', 100_000],
      ],
    ];
    for (const [verdict, code] of [
      [REJECT, 5],
      [DISCARD, 2],
    ] as const) {
      await rig.milter(Editor, { smfifOptions: SMFIF_ALLOPTS, context: { cases, verdict } }, async () => {
        t.equal(Math.floor((await send(await rig.client())).code / 100), code, verdict);
      });
    }
  });

  t.test(
    'Modifications: what eob() throws after edits makes no edit, and the next message passes',
    rig.needs,
    async (t) => {
      const tooLarge = [
        ['addRcpt', 'dora@example.net'],
        ['replBody', 'new\r\n'],
        ['addHeader', 'X-New', 'y'.repeat(65_530)],
      ];
      const notAgreed = [
        ['addHeader', 'X-New', 'v'],
        ['replBody', 'new\r\n'],
      ];
      const refused = async (cases: unknown, smfifOptions: number, code: string): Promise<void> => {
        await rig.milter(Editor, { smfifOptions, context: { cases }, errors: [code] }, async () => {
          const client = await rig.client();
          t.equal((await send(client, letter([...HEAD, 'X-Case: 0']))).code, 451, code);
          t.equal((await send(client, letter([...HEAD, 'X-Case: 1']))).code, 250);
          const message = await rig.arrived();
          t.strictSame(opened(message), { head: [OWN_RECEIVED, ...HEAD, 'X-Case: 1'], body: BODY });
          t.strictSame(message.rcptTo, [berta]);
        });
      };
      await refused([tooLarge, []], SMFIF_ALLOPTS, 'ERR_MILTER_PACKET_TOO_LARGE');
      await refused([notAgreed, []], SMFIF_ADDHDRS, 'ERR_MILTER_NOT_NEGOTIATED');
    },
  );

  t.test('Options: with dryRun nothing is changed or refused', rig.needs, async (t) => {
    const cases = [...ENVELOPE, ...BODIES].map(({ title, edits }): Case => ({ title, edits, changed: {} }));
    await compare(t, rig, cases.slice(0, 12), { dryRun: true });
    await compare(t, rig, cases.slice(0, 1), { dryRun: true, context: { verdict: REJECT } });
  });
}
