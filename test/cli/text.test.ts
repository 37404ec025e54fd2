// The parts that make text: what goes to a terminal, the diff, addresses, percentiles, the bar.
import * as fc from 'fast-check';
import t from 'tap';
import { Message } from '../../lib/client/index.js';
import { diffLines } from '../../lib/cli/diff.js';
import { macrosOf, party, recipientsIn, senderIn } from '../../lib/cli/envelope.js';
import { hintLines, hintsFor, insideQueue } from '../../lib/cli/hints.js';
import { Latencies, Latency } from '../../lib/cli/latency.js';
import { nearest } from '../../lib/cli/nearest.js';
import { plain } from '../../lib/cli/plain.js';
import { Progress } from '../../lib/cli/progress.js';
import { count, jsonLine, milliseconds, paintFor, printable } from '../../lib/cli/terminal.js';
import { toText } from '../../lib/codec/text.js';
import { Kept } from './io.js';

t.test('nothing that a terminal acts upon gets through, and what was there can be seen', (t) => {
  t.equal(printable('plain ä 漢 🙂\ttab'), 'plain ä 漢 🙂\ttab');
  t.equal(printable('\x1b]0;title\x07'), '\\x1b]0;title\\x07');
  t.equal(printable('\r\n\0\x7f'), '\\r\\n\\x00\\x7f');
  t.equal(printable('\x9b31m'), '\\u{9b}31m', 'a control of 8 bits, as UTF-8');
  t.equal(printable(toText(Buffer.from([0x9b, 0xff]))), '\\x9b\\xff', 'and as a byte');
  t.equal(printable('a\u202eb\u2066\u200b\u2028\u{e0001}'), 'a\\u{202e}b\\u{2066}\\u{200b}\\u{2028}\\u{e0001}');
  fc.assert(
    fc.property(fc.uint8Array(), (bytes) => {
      const text = toText(bytes);
      const json = jsonLine(text);
      // oxlint-disable-next-line no-control-regex -- they are what must not be there
      const quiet = !/[\0-\x08\x0a-\x1f\x7f-\x9f]|\p{Cf}|\p{Cs}/u.test(printable(text));
      return quiet && !/[\p{Cc}\p{Cf}\p{Cs}]/u.test(json.slice(0, -1)) && JSON.parse(json) === text;
    }),
  );
  t.equal(jsonLine({ a: '\x9b\u{e0001}' }), '{"a":"\\u009b\\udb40\\udc01"}\n');
  t.end();
});

t.test('colours: for a terminal, NO_COLOR over FORCE_COLOR over what the stream is', (t) => {
  const red = (tty: boolean, env: Record<string, string>): string => paintFor(new Kept(tty), env).red('x');
  const painted = '\x1b[31mx\x1b[0m';
  t.equal(red(true, {}), painted);
  t.equal(red(false, {}), 'x');
  t.equal(red(true, { TERM: 'dumb' }), 'x');
  t.equal(red(true, { NO_COLOR: '1' }), 'x');
  t.equal(red(true, { NO_COLOR: '' }), painted, 'an empty one says nothing');
  t.equal(red(false, { FORCE_COLOR: '1' }), painted);
  t.equal(red(false, { FORCE_COLOR: '0' }), 'x');
  t.equal(red(true, { FORCE_COLOR: '1', NO_COLOR: '1' }), 'x');
  t.end();
});

t.test('numbers are readable', (t) => {
  t.strictSame([count(1, 'line'), count(0, 'line'), count(1234, 'line')], ['1 line', '0 lines', '1,234 lines']);
  t.strictSame([0.1234, 12.34, 1234.5].map(milliseconds), ['0.123 ms', '12.3 ms', '1235 ms']);
  t.end();
});

t.test('a diff has both texts in it, and no line that need not be there', (t) => {
  const show = (a: string, b: string): string =>
    diffLines(a.split(''), b.split(''))
      .map(({ mark, line }) => `${mark}${line}`.trim())
      .join('');
  t.equal(show('abc', 'abc'), 'abc');
  t.equal(show('abc', 'axc'), 'a-b+xc');
  t.equal(show('', 'ab'), '+a+b');
  t.equal(show('ab', ''), '-a-b');
  t.equal(show('abcd', 'bcde'), '-abcd+e');
  t.equal(show('aab', 'ab'), 'a-ab');
  t.equal(show('xaybz', 'qarbs'), '-x+qa-y+rb-z+s');
  const lines = fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 30 });
  fc.assert(
    fc.property(lines, lines, (before, after) => {
      const edits = diffLines(before, after);
      const side = (mark: string): string[] => edits.filter((edit) => edit.mark !== mark).map(({ line }) => line);
      const kept = edits.filter(({ mark }) => mark === ' ').length;
      const whole = side('+').join() === before.join() && side('-').join() === after.join();
      return whole && kept === longestCommon(before, after);
    }),
  );
  t.end();
});

/** By another way: row by row. */
function longestCommon(a: readonly string[], b: readonly string[]): number {
  let row = b.map(() => 0);
  for (const x of a) {
    const next: number[] = [];
    for (const [j, y] of b.entries()) {
      next.push(x === y ? (row[j - 1] ?? 0) + 1 : Math.max(row[j] ?? 0, next[j - 1] ?? 0));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}

t.test('texts that have little in common are not compared for ever', (t) => {
  const many = (what: string): string[] => Array.from({ length: 3_000 }, (_, i) => `${what}${i % 7}`);
  const edits = diffLines(['same', ...many('a'), 'end'], ['same', ...many('b'), 'end']);
  t.equal(edits.length, 6_002);
  t.strictSame(edits[0], { mark: ' ', line: 'same' });
  t.strictSame(edits[3_001], { mark: '+', line: 'b0' });
  t.strictSame(edits.at(-1), { mark: ' ', line: 'end' });
  t.end();
});

t.test('addresses of the command line', (t) => {
  const good: ReadonlyArray<readonly [string, string, string[]]> = [
    ['a@b.org', '<a@b.org>', []],
    ['<a@b.org>', '<a@b.org>', []],
    [' <a@b.org>  SIZE=100 BODY=8BITMIME ', '<a@b.org>', ['SIZE=100', 'BODY=8BITMIME']],
    ['a@b.org NOTIFY=NEVER', '<a@b.org>', ['NOTIFY=NEVER']],
    ['<>', '<>', []],
    ['postmaster', '<postmaster>', []],
    ['"a b > c"@d.org', '<"a b > c"@d.org>', []],
    ['<"a b"@d.org> X=1', '<"a b"@d.org>', ['X=1']],
  ];
  for (const [text, address, args] of good) t.strictSame(party('from', text), { address, args }, text);
  const bad: ReadonlyArray<readonly [string, string]> = [
    ['', 'there is no address in it'],
    ['   ', 'there is no address in it'],
    ['<>', 'there is no address in it'],
    ['<a@b.org', 'its bracket is not closed'],
    ['<a@b.org>SIZE=1', '"SIZE=1" does not belong behind an address'],
    ['a@b.org>', '">" does not belong behind an address'],
    ['<a b@c.org>', 'an address holds no spaces and brackets'],
    ['<a<b@c.org>', 'an address holds no spaces and brackets'],
    ['@b.org', 'a part of the address is missing'],
    ['a b c@d', '"c@d" is no ESMTP argument like SIZE=100'],
    ['a@', 'a part of the address is missing'],
    ['a@b.org\r\nDATA', 'an address holds no control characters'],
    ['a@b\0', 'an address holds no control characters'],
  ];
  for (const [text, words] of bad) {
    t.throws(() => party('rcpt', text), { exit: 64, message: `--rcpt ${JSON.stringify(text)}: ${words}` }, text);
  }
  t.end();
});

t.test('macros of the command line', (t) => {
  t.strictSame(
    macrosOf(['connect:j=mx', 'rcpt:{rcpt_mailer}=local', 'RCPT:rcpt_host=a=b:c', 'connect:j=later', 'eob:i=']),
    {
      connect: { j: 'later' },
      rcpt: { '{rcpt_mailer}': 'local', '{rcpt_host}': 'a=b:c' },
      eob: { i: '' },
    },
  );
  const bad: ReadonlyArray<readonly [string, string]> = [
    ['j=mx', 'must be STAGE:NAME=VALUE, like rcpt:{rcpt_mailer}=local'],
    ['connect:j', 'must be STAGE:NAME=VALUE, like rcpt:{rcpt_mailer}=local'],
    ['mail:i=1', 'the stage must be one of connect, helo, mailFrom, rcpt, data, header, eoh, body, eob'],
    ['eob:{a b}=1', '"{a b}" is no name of a macro'],
    ['eob:=1', '"" is no name of a macro'],
    ['eob:i=a\0b', 'the value holds a NUL'],
  ];
  for (const [text, words] of bad) {
    t.throws(
      () => macrosOf(['eob:i=1', text]),
      { exit: 64, message: `--macro ${JSON.stringify(text)}: ${words}` },
      text,
    );
  }
  t.end();
});

t.test('a message says who it is from and for', (t) => {
  const of = (text: string): [string, string[]] => {
    const { headers } = Message.parse(`${text}\n\n`);
    return [senderIn(headers), recipientsIn(headers)];
  };
  t.strictSame(of('A: b'), ['<sender@example.org>', ['<recipient@example.com>']]);
  t.strictSame(of('From: A <a@b.org>\nTo: c@d.org'), ['<a@b.org>', ['<c@d.org>']]);
  t.strictSame(
    of(
      'Return-Path: <x@y.org>\nFrom: a@b.org\nTO: "Q, \\" R" <c@d.org>,\n e@f.org (a, comment \\( here)\nCc: g@h.org, c@d.org\nBcc: i@j.org',
    ),
    ['<x@y.org>', ['<c@d.org>', '<e@f.org>', '<g@h.org>', '<i@j.org>']],
  );
  t.strictSame(of('Return-Path: <>\nTo: friends: a@b.org, <c@d.org>;, nobody'), ['<>', ['<a@b.org>', '<c@d.org>']]);
  t.strictSame(of('Return-Path: nonsense\nFrom: undisclosed:;\nTo: "unclosed, (open, c@d\x01, e@f@g'), [
    '<sender@example.org>',
    ['<recipient@example.com>'],
  ]);
  t.strictSame(of('To: a@b@c, <d e@f>x'), ['<sender@example.org>', ['<recipient@example.com>']]);
  fc.assert(
    fc.property(fc.string(), (text) => {
      const header = { name: 'To', value: text, bytes: Buffer.alloc(0) };
      return recipientsIn([header]).every((address) => /^<[^@\s]+@[^@\s]+>$/.test(address));
    }),
  );
  t.end();
});

t.test('what somebody may have meant', (t) => {
  const names = ['serve', 'send', 'doctor'];
  t.equal(nearest('sevre', names), 'serve', 'letters exchanged');
  t.equal(nearest('docter', names), 'doctor');
  t.equal(nearest('doctorr', names), 'doctor');
  t.equal(nearest('sen', names), 'send');
  t.equal(nearest('s', names), undefined, 'too little to say');
  t.equal(nearest('replay', names), undefined);
  t.end();
});

t.test('percentiles, in milliseconds', (t) => {
  const latency = new Latency();
  for (let ms = 1; ms <= 100; ms++) latency.record(ms);
  const { count: times, p50, p90, p99, max } = latency.summary();
  t.equal(times, 100);
  for (const [got, wanted] of [
    [p50, 50],
    [p90, 90],
    [p99, 99],
    [max, 100],
  ] as const) {
    t.ok(Math.abs(got - wanted) < 0.5, `${got} is ${wanted}`);
  }
  t.ok(p99 <= max);
  const all = new Latencies();
  all.record('b', 0);
  all.record('a', 1);
  all.record('b', 2);
  t.strictSame(
    Object.entries(all.summaries()).map(([name, summary]) => [name, summary.count]),
    [
      ['b', 2],
      ['a', 1],
    ],
  );
  t.end();
});

t.test('times of a clock that was set, or of a capture that says anything, are told as far as they can be', (t) => {
  const latency = new Latency();
  t.strictSame(latency.summary(), { count: 0, p50: 0, p90: 0, p99: 0, max: 0 });
  latency.record(NaN);
  t.equal(latency.summary().count, 0, 'it is none');
  for (const ms of [-1, -Infinity, -1e300, 0, 1e-300]) latency.record(ms);
  t.strictSame(latency.summary(), { count: 5, p50: 1e-6, p90: 1e-6, p99: 1e-6, max: 1e-6 });
  const most = Number.MAX_SAFE_INTEGER / 1e6;
  for (const ms of [Infinity, 1e300, 2 ** 53, most, 1e12]) latency.record(ms);
  const { count: times, p50, p99, max } = latency.summary();
  t.strictSame([times, p50, p99, max], [10, 1e-6, most, most]);
  t.end();
});

t.test('the bar is one line of a terminal, drawn now and then, and taken away', (t) => {
  let now = 0;
  const terminal = new Kept(true);
  const bar = new Progress(terminal, 10, () => now);
  bar.show(1);
  bar.show(2);
  now = 1_000;
  bar.show(5);
  bar.show(10);
  bar.end();
  const drawn = terminal.text.split('\r').map((line) => line.trimEnd());
  t.strictSame(drawn, [
    '',
    '[##......................] 10% 1/10 1000/s',
    '[############............] 50% 5/10 5/s',
    '[########################] 100% 10/10 10/s',
    '',
    '',
  ]);
  t.notMatch(terminal.text, /\n/);
  const file = new Kept(false);
  const none = new Progress(file, 10);
  none.show(10);
  none.end();
  t.equal(file.text, '');
  t.end();
});

t.test('packets as plain data: bytes are text, and a packet’s own bytes are not there', (t) => {
  const packet = { type: 'body', chunk: Buffer.from('a\xff', 'latin1'), raw: Buffer.from('x'), list: [{ n: null }, 1] };
  t.strictSame(plain(packet), { type: 'body', chunk: 'a\udcff', list: [{ n: null }, 1] });
  t.end();
});

t.test(
  'what to tell a mail server: a path below the queue is relative to it, for smtpd in its chroot and outside',
  (t) => {
    const unix = (path: string) => ({ kind: 'unix', path }) as const;
    t.equal(hintsFor(unix('/var/spool/postfix/milter/s')).postfix[0], 'smtpd_milters = unix:milter/s');
    t.equal(hintsFor(unix('/run/s')).postfix[0], 'smtpd_milters = unix:/run/s');
    t.equal(hintsFor(unix('/run/s'), '/run').postfix[0], 'smtpd_milters = unix:s');
    const inet = hintsFor({ kind: 'inet', host: '::1', port: 5, ipv6Only: true });
    t.match(inet, { postfix: ['smtpd_milters = inet:[::1]:5', String], sendmail: [/`S=inet6:5@::1, F=T, /] });
    t.strictSame(hintLines(hintsFor(unix(''))), [], 'one whose path nobody knows');
    t.equal(insideQueue('/q', '/q'), undefined);
    t.equal(insideQueue('/q2/s', '/q'), undefined);
    t.end();
  },
);
