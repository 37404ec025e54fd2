// Messages and edits for which the client's models of the mail servers are compared with the servers.
import type { Edit } from '../milters.js';
import { BODIES, ENVELOPE, headerCases, SENT_HEAD } from './edits.js';
import { BODY, HEAD } from './letters.js';

export interface ModelCase {
  readonly title: string;
  /** Those of the first milter, and of the second. */
  readonly edits: readonly Edit[];
  readonly second?: readonly Edit[];
  /** The message, where it is not the usual one; in latin1. */
  readonly head?: readonly string[];
  readonly body?: string;
}

export const USUAL = { head: SENT_HEAD, body: BODY };

const one = (title: string, ...edits: Edit[]): ModelCase => ({ title, edits });

/** The same cases with another message. */
const having = (head: readonly string[], prefix: string, cases: readonly ModelCase[]): ModelCase[] =>
  cases.map(({ title, edits }) => ({ title: `${prefix}: ${title}`, edits, head }));

/** What a mail server of its own accord puts into a message, or looks at. */
const NOTED = ['Received', 'Date', 'From', 'Message-Id', 'Return-Path', 'Full-Name', 'Resent-Date', 'Bcc', 'To'];

/** An address in the form that Sendmail makes of it, or any text where it is no list of addresses. */
const valueOf = (name: string, n: number): string => (/From|To|Bcc/.test(name) ? `x${n}@example.net` : `value ${n}`);

const without = (...names: string[]): string[] =>
  SENT_HEAD.filter((line) => !names.some((name) => line.startsWith(`${name}:`)));

const RECEIVED = ['Received: from a by b; Sat, 01 Jan 2000 11:00:00 +0000', 'Received: from c by d\r\n\tfor e; then'];

const positions: readonly ModelCase[] = [
  ...[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 1000, 0x7fff_ffff].map((index) =>
    one(`insHeader(${index})`, ['insHeader', index, 'X-New', 'v']),
  ),
  one(
    'insHeader() again and again counts what was inserted',
    ['insHeader', 2, 'X-A', '1'],
    ['insHeader', 2, 'X-B', '2'],
    ['insHeader', 3, 'X-C', '3'],
    ['insHeader', 11, 'X-D', '4'],
    ['insHeader', 11, 'X-E', '5'],
    ['insHeader', 12, 'X-F', '6'],
  ),
  one(
    'insHeader() after a removal',
    ['chgHeader', 'From', ''],
    ['insHeader', 2, 'X-A', '1'],
    ['insHeader', 9, 'X-B', '1'],
    ['insHeader', 10, 'X-C', '1'],
  ),
  one('insHeader() of a name that is there', ['insHeader', 0, 'X-Two', '0'], ['insHeader', 14, 'X-Two', '1.5']),
  one(
    'what was inserted below the own Received is counted by chgHeader()',
    ['insHeader', 1, 'X-Two', '0'],
    ['chgHeader', 'X-Two', 'changed', 1],
    ['chgHeader', 'X-Two', 'changed too', 3],
  ),
  one(
    'what was inserted at the top hides from chgHeader(), and the own Received does not any more',
    ['insHeader', 0, 'X-Top', '0'],
    ['chgHeader', 'X-Top', 'changed', 1],
  ),
  one('the same with Received', ['insHeader', 0, 'X-Top', '0'], ['chgHeader', 'Received', 'from me', 1]),
  one('and removed', ['insHeader', 0, 'X-Top', '0'], ['chgHeader', 'Received', '', 1], ['insHeader', 1, 'X-B', '2']),
  one(
    'what was added is found',
    ['addHeader', 'X-New', '1'],
    ['addHeader', 'X-New', '2'],
    ['chgHeader', 'X-New', 'c', 2],
  ),
  one('and removed and added', ['addHeader', 'X-New', '1'], ['chgHeader', 'X-New', ''], ['addHeader', 'X-New', '2']),
  one('one that is not there, of a name that is', ['chgHeader', 'X-Two', 'third', 3]),
  one('far from being there', ['chgHeader', 'X-Two', 'ninth', 9], ['chgHeader', 'x-two', 'tenth', 10]),
  one('removed, then changed', ['chgHeader', 'X-Two', ''], ['chgHeader', 'X-Two', 'back', 1]),
  one('removed, then changed by the next number', ['chgHeader', 'X-Two', ''], ['chgHeader', 'X-Two', 'back', 2]),
  one('removed and added', ['chgHeader', 'X-Other', ''], ['addHeader', 'x-oTHER', 'new']),
  one(
    'all of it, from the top',
    ['insHeader', 0, 'X-A', '1'],
    ['chgHeader', 'X-Two', '', 2],
    ['addHeader', 'X-Two', 'new'],
    ['chgHeader', 'X-Two', 'changed', 2],
    ['insHeader', 4, 'X-B', '2'],
    ['chgHeader', 'X-A', 'changed'],
    ['chgHeader', 'X-B', ''],
    ['addHeader', 'X-C', '3'],
    ['insHeader', 1000, 'X-D', '4'],
  ),
];

const noted: readonly ModelCase[] = [SENT_HEAD, without('From', 'Date', 'Message-Id')].flatMap((head, i) =>
  NOTED.flatMap((name): ModelCase[] =>
    having(head, `${name} ${i === 0 ? 'with' : 'without'} the usual headers`, [
      one(`addHeader()`, ['addHeader', name, valueOf(name, 1)]),
      one(`addHeader() twice`, ['addHeader', name, valueOf(name, 1)], ['addHeader', name, valueOf(name, 2)]),
      one(`insHeader()`, ['insHeader', 2, name, valueOf(name, 1)]),
      one(`chgHeader()`, ['chgHeader', name, valueOf(name, 1)]),
      one(`chgHeader() of the second`, ['chgHeader', name, valueOf(name, 1), 2]),
      one(`removed`, ['chgHeader', name, '']),
      one(`removed and added`, ['chgHeader', name, ''], ['addHeader', name, valueOf(name, 1)]),
      one(`removed and changed`, ['chgHeader', name, ''], ['chgHeader', name, valueOf(name, 1)]),
    ]),
  ),
);

const received = having([...RECEIVED, ...SENT_HEAD], 'Received twice', [
  one('addHeader()', ['addHeader', 'Received', 'new']),
  one('the first is changed', ['chgHeader', 'Received', 'new']),
  one('the second is changed', ['chgHeader', 'received', 'new', 2]),
  one('the third is not there', ['chgHeader', 'Received', 'new', 3]),
  one('all are removed', ['chgHeader', 'Received', '', 2], ['chgHeader', 'Received', '', 1]),
  one('removed from the top', ['chgHeader', 'Received', '', 1], ['chgHeader', 'Received', '', 1]),
]);

/** A message that somebody has sent on, which is what Sendmail has more defaults for. */
const RESENT_HEAD = [
  'Resent-From: dora@example.org',
  'Resent-To: emil@example.net',
  'Resent-Date: Sun, 02 Jan 2000 12:00:00 +0000',
  'Resent-Message-Id: <2@example.org>',
  ...SENT_HEAD,
];

const resent = having(RESENT_HEAD, 'sent on', [
  one('nothing'),
  one('addHeader()', ['addHeader', 'Resent-Date', 'now'], ['addHeader', 'Resent-To', 'x1@example.net']),
  one('insHeader()', ['insHeader', 1, 'Resent-Date', 'now'], ['insHeader', 4, 'Resent-Sender', 'x1@example.net']),
  one('chgHeader()', ['chgHeader', 'Resent-Date', 'now'], ['chgHeader', 'Resent-Message-Id', '']),
  one('chgHeader() of one that is not there', ['chgHeader', 'Resent-Reply-To', 'x1@example.net']),
]);

/** Headers in the message that Sendmail keeps to itself, or puts its own in place of. */
const unusual = [
  'Return-Path: <x@example.org>',
  'Full-Name: Anna',
  'Content-Length: 5',
  'Bcc: x@example.net',
  'Comments: c',
  'Via: a',
  'Mail-From: b',
  'X400-Received: c',
  'Delivered-To: d',
  'Precedence: bulk',
].flatMap((line): ModelCase[] => {
  const name = line.slice(0, line.indexOf(':'));
  return having([line, ...SENT_HEAD, line], line, [
    one('is there', ['insHeader', 3, 'X-A', '1']),
    one('changed', ['chgHeader', name, valueOf(name, 2), 2]),
    one('removed', ['chgHeader', name, '', 1], ['chgHeader', name, '', 3]),
    one('added', ['addHeader', name, valueOf(name, 1)]),
  ]);
});

const missing: readonly ModelCase[] = [
  ...['Date', 'From', 'Message-Id', 'Full-Name', 'Return-Path', 'Subject'].flatMap((name): ModelCase[] => {
    const head = [...without(name), `${name}:`];
    return [
      { ...one(`${name} without a value`, ['insHeader', 5, 'X-A', '1']), head },
      { ...one(`${name} without a value, changed`, ['chgHeader', name, valueOf(name, 1)]), head },
    ];
  }),
  { ...one('no recipients named', ['addHeader', 'X-A', '1']), head: without('To') },
  { ...one('Bcc alone'), head: [...without('To'), 'Bcc: x@example.net'] },
  { ...one('Bcc alone, added', ['addHeader', 'Bcc', 'x@example.net']), head: without('To') },
  { ...one('Cc alone'), head: [...without('To'), 'Cc: x@example.net', 'Bcc: y@example.net'] },
];

const envelopes: readonly ModelCase[] = [
  one('delRcpt() in other letters', ['delRcpt', 'BERTA@example.net']),
  one('delRcpt() in other letters of the domain', ['delRcpt', 'berta@EXAMPLE.net']),
  one('addRcpt() in other letters', ['addRcpt', 'BERTA@example.net']),
  one('addRcpt() in other letters of the domain', ['addRcpt', 'berta@EXAMPLE.net']),
  one('addRcpt() twice', ['addRcpt', 'dora@example.net'], ['addRcpt', '<dora@example.net>']),
  one('addRcpt() and delRcpt()', ['addRcpt', 'dora@example.net'], ['delRcpt', 'dora@example.net']),
  one('delRcpt() and addRcpt()', ['delRcpt', 'berta@example.net'], ['addRcpt', 'berta@example.net']),
  one('delRcpt() twice', ['delRcpt', 'berta@example.net'], ['delRcpt', 'berta@example.net']),
  one('chgFrom() twice', ['chgFrom', 'dora@example.org'], ['chgFrom', 'emil@example.org']),
];

/** What is done to a message, of whatever kind. */
export const CHANGES: readonly ModelCase[] = [...headerCases(' '), ...ENVELOPE, ...BODIES, ...positions];

/** Headers that a mail server treats in a way of its own. */
export const PARTICULAR: readonly ModelCase[] = [
  ...noted,
  ...received,
  ...resent,
  ...unusual,
  ...missing,
  ...envelopes,
];

const odd = (title: string, ...lines: string[]): ModelCase[] => [
  { title, head: [...HEAD, ...lines], edits: [] },
  { title: `${title}, changed`, head: [...HEAD, ...lines], edits: [['chgHeader', 'X-Odd', 'new']] },
  { title: `${title}, removed`, head: [...HEAD, ...lines], edits: [['chgHeader', 'X-Odd', '']] },
];

/** Messages whose headers are written in unusual ways, and new values and bodies of that kind. */
export const ODD: readonly ModelCase[] = [
  ...odd('a tab behind the colon', 'X-Odd:\tv'),
  ...odd('nothing behind the colon', 'X-Odd:v'),
  ...odd('two spaces', 'X-Odd:  v'),
  ...odd('a space before the colon', 'X-Odd : v'),
  ...odd('a tab before the colon', 'X-Odd\t: v'),
  ...odd('no value', 'X-Odd:'),
  ...odd('a value of one space', 'X-Odd: '),
  ...odd('spaces at the end', 'X-Odd: v  '),
  ...odd('a tab at the end of a folded line', 'X-Odd: v\t\r\n w \r\n\tx'),
  ...odd('the value begins on the next line', 'X-Odd:\r\n v'),
  ...odd('a folded line of spaces', 'X-Odd: v\r\n \r\n w'),
  ...odd('bytes that are no text', 'X-Odd: caf\xe9 \xff\x80'),
  ...odd('UTF-8', 'X-Odd: caf\xc3\xa9'),
  ...odd('many folds', `X-Odd: ${'y'.repeat(60)}${`\r\n\t${'z'.repeat(70)}`.repeat(200)}`),
  ...odd('one name in several cases', 'X-ODD: 1', 'x-odd: 2', 'X-Odd: 3'),
  ...odd('a percent sign and quotes', 'X-Odd: %d "%s" \\ (', "X-Odd: '"),
  ...odd('a line of 900 bytes', `X-Odd: ${'y'.repeat(893)}`),
  { title: 'no body', edits: [['addHeader', 'X-New', 'v']], body: '' },
  { title: 'an empty line', edits: [], body: '\r\n' },
  { title: 'bytes that are no text in the body', edits: [], body: '\xe9\xff \x80\r\n' },
  one('new values', ['addHeader', 'X-A', '\tv'], ['addHeader', 'X-B', 'v '], ['addHeader', 'X-C', '  v']),
  one('new values of spaces', ['addHeader', 'X-A', ' '], ['addHeader', 'X-B', ''], ['chgHeader', 'X-Two', ' ']),
  one('a new value that begins on the next line', ['addHeader', 'X-A', '\n v'], ['chgHeader', 'X-Two', '\n\tv']),
  one('a new value with a folded line of spaces', ['addHeader', 'X-A', 'v\n \n w']),
  one('new values in bytes', ['addHeader', 'X-A', '\udce9\udcff'], ['chgHeader', 'X-Two', 'caf\u00e9']),
  one('a body of lines with CR, LF and CRLF', ['replBody', 'a\nb\r\nc\n\nd\r\n\r\n']),
  one('a body with CR alone', ['replBody', 'a\rb\r\nc\r\r\nd\r\n']),
  one('a body that ends in CR', ['replBody', 'a\r']),
  one('a body of a long line', ['replBody', `${'x'.repeat(980)}\r\n`]),
  one('a body of one line end', ['replBody', '\r\n']),
  one('a body that ends in LF', ['replBody', 'a\n']),
  one('a body of spaces and dots', ['replBody', ' \r\n.\n..\n . \n.']),
  one('a long body without a line end at its end', ['replBody', 150_000], ['replBody', 'end']),
];

/** Two milters in a row. */
export const CHAINS: readonly ModelCase[] = [
  { title: 'nothing, and nothing', edits: [], second: [] },
  { title: 'added', edits: [['addHeader', 'X-New', '1']], second: [['chgHeader', 'X-New', '2']] },
  { title: 'inserted at the top', edits: [['insHeader', 0, 'X-New', '1']], second: [['chgHeader', 'X-New', '2']] },
  {
    title: 'inserted at the top, twice',
    edits: [['insHeader', 0, 'X-New', '1']],
    second: [['insHeader', 0, 'X-Top', '2']],
  },
  {
    title: 'the own Received is heard then',
    edits: [['insHeader', 0, 'X-New', '1']],
    second: [['chgHeader', 'Received', 'from nowhere']],
  },
  { title: 'removed and added', edits: [['chgHeader', 'X-Other', '']], second: [['addHeader', 'X-Other', 'new']] },
  { title: 'removed and changed', edits: [['chgHeader', 'X-Other', '']], second: [['chgHeader', 'X-Other', 'new']] },
  {
    title: 'the first is removed, the second is the first',
    edits: [['chgHeader', 'X-Two', '']],
    second: [['chgHeader', 'X-Two', 'new']],
  },
  { title: 'removed and removed', edits: [['chgHeader', 'X-Two', '']], second: [['chgHeader', 'X-Two', '']] },
  {
    title: 'removed, inserted behind',
    edits: [['chgHeader', 'From', '']],
    second: [
      ['insHeader', 4, 'X-A', '1'],
      ['insHeader', 9, 'X-B', '2'],
      ['insHeader', 12, 'X-C', '3'],
    ],
  },
  { title: 'Date removed and added', edits: [['chgHeader', 'Date', '']], second: [['addHeader', 'Date', 'now']] },
  { title: 'Date removed and changed', edits: [['chgHeader', 'Date', '']], second: [['chgHeader', 'Date', 'now']] },
  { title: 'Date added and changed', edits: [['addHeader', 'Date', 'now']], second: [['chgHeader', 'Date', 'then']] },
  { title: 'Date added and removed', edits: [['addHeader', 'Date', 'now']], second: [['chgHeader', 'Date', '']] },
  {
    title: 'one that Sendmail fills in, added and changed',
    head: without('Date'),
    edits: [['addHeader', 'Date', 'now']],
    second: [['chgHeader', 'Date', 'then']],
  },
  {
    title: 'one that Sendmail fills in, removed and added',
    head: without('Message-Id'),
    edits: [['chgHeader', 'Message-Id', '']],
    second: [['addHeader', 'Message-Id', '<2@example.org>']],
  },
  {
    title: 'one that is not sent on',
    edits: [['addHeader', 'Return-Path', 'x']],
    second: [['chgHeader', 'Return-Path', 'y']],
  },
  {
    title: 'Full-Name and Bcc',
    edits: [
      ['addHeader', 'Full-Name', 'x'],
      ['addHeader', 'Bcc', 'x@example.net'],
    ],
    second: [],
  },
  { title: 'Received added', edits: [['addHeader', 'Received', 'x']], second: [['addHeader', 'Received', 'y']] },
  {
    title: 'Received added and changed',
    edits: [['addHeader', 'Received', 'x']],
    second: [['chgHeader', 'Received', 'y']],
  },
  {
    title: 'Via removed and added',
    head: ['Via: x', ...SENT_HEAD, 'Via: y'],
    edits: [['chgHeader', 'Via', '', 2]],
    second: [['addHeader', 'Via', 'z']],
  },
  { title: 'a space before the value', edits: [['addHeader', 'X-New', ' v']], second: [['chgHeader', 'X-Two', ' v']] },
  { title: 'a tab before the value', edits: [['addHeader', 'X-New', '\tv']], second: [] },
  { title: 'no value', edits: [['addHeader', 'X-New', '']], second: [['addHeader', 'X-New', '']] },
  { title: 'folded', edits: [['addHeader', 'X-New', 'a\n b\n\tc']], second: [['chgHeader', 'X-Two', 'a\r\n b']] },
  {
    title: 'bytes that are no text',
    edits: [['addHeader', 'X-New', '\udce9']],
    second: [['chgHeader', 'X-New', '\udcff']],
  },
  { title: 'a new body', edits: [['replBody', 'new\r\n']], second: [] },
  { title: 'a new body without a line end', edits: [['replBody', 'new']], second: [['addHeader', 'X-New', 'v']] },
  { title: 'a new body with LF', edits: [['replBody', 'a\nb\n']], second: [] },
  { title: 'two new bodies', edits: [['replBody', 'new\r\n']], second: [['replBody', 'newer\r\n']] },
  { title: 'an empty body', edits: [['replBody', '']], second: [['replBody', 'a']] },
  { title: 'and none', edits: [['replBody', 'a']], second: [['replBody', '']] },
  { title: 'a long body', edits: [['replBody', 200_000]], second: [] },
  { title: 'recipients', edits: [['addRcpt', 'dora@example.net']], second: [['delRcpt', 'dora@example.net']] },
  {
    title: 'recipients there and back',
    edits: [['delRcpt', 'cleo@example.net']],
    second: [['addRcpt', 'cleo@example.net']],
  },
  { title: 'senders', edits: [['chgFrom', 'dora@example.org']], second: [['chgFrom', 'emil@example.org']] },
];
