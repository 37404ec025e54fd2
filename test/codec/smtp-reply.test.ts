// The SMTP reply inside a REPLYCODE packet. Limits and rules are those of smfi_setreply() and smfi_setmlreply(), and of
// Postfix, which checks what it receives; RFC 3463 has the syntax of enhanced codes.
import * as fc from 'fast-check';
import t from 'tap';
import { decodeReply, encodeReply, formatSmtpReply, parseSmtpReply } from '../../lib/codec/index.js';
import { show } from '../../lib/errors.js';
import { packet } from '../helpers/bytes.js';

const loose = formatSmtpReply as (rcode: unknown, xcode: unknown, message: unknown) => string;

t.test('P104 the code is 400 to 599, as a number or as a string', async (t) => {
  for (const code of [400, 421, 450, 499, 500, 550, 599, '421', '554']) {
    t.equal(loose(code, '', 'no'), `${code} no`);
  }
  const strings = [
    '',
    '5',
    '55',
    '5x0',
    '5500',
    '099',
    '300',
    '354',
    '399',
    '600',
    '-550',
    ' 550',
    '550 ',
    '550\n',
    '٥٥٠',
  ];
  for (const code of [...strings, 0, 99, 399, 600, -550, 550.5, Number.NaN, null, undefined, {}, 5500n, true]) {
    t.throws(
      () => loose(code, '', 'no'),
      { code: 'ERR_MILTER_ARGUMENT', message: /the code must be 400 to 599, got / },
      show(code),
    );
  }
});

t.test('P104 a code of success is refused with a hint at ACCEPT', async (t) => {
  for (const code of [200, 250, '251']) {
    t.throws(() => loose(code, '2.0.0', 'ok'), { code: 'ERR_MILTER_ARGUMENT', message: /no refusal; .*return ACCEPT/ });
  }
});

t.test('P105 the enhanced code has its syntax and the class of the code', async (t) => {
  t.equal(formatSmtpReply(550, '5.7.1', 'no'), '550 5.7.1 no');
  t.equal(formatSmtpReply(450, '4.999.999', 'no'), '450 4.999.999 no');
  for (const xcode of [
    '5',
    '5.7',
    '5.7.',
    '.7.1',
    '5.7.1.2',
    '5.7.1000',
    '6.7.1',
    '5.a.1',
    ' 5.7.1',
    '5.7.1 ',
    '5.7.1\n',
  ]) {
    t.throws(
      () => formatSmtpReply(550, xcode, 'no'),
      { code: 'ERR_MILTER_ARGUMENT', message: /the enhanced code must be like 5\.7\.1, got / },
      xcode,
    );
  }
  for (const xcode of [null, undefined, 5, ['5.7.1']]) {
    t.throws(() => loose(550, xcode, 'no'), { code: 'ERR_MILTER_ARGUMENT', message: /the enhanced code/ });
  }
  for (const [code, xcode] of [
    [550, '4.7.1'],
    [450, '5.7.1'],
    [550, '2.0.0'],
  ] as const) {
    t.throws(() => formatSmtpReply(code, xcode, 'no'), { message: `the enhanced code ${xcode} is of another class` });
  }
});

t.test('P106 lines have at most 980 bytes, there are at most 32, and none holds CR, LF or NUL', async (t) => {
  t.equal(formatSmtpReply(550, '', 'x'.repeat(980)).length, 984);
  t.equal(formatSmtpReply(550, '', 'é'.repeat(490)).length, 494, 'bytes count, not characters');
  t.equal(formatSmtpReply(550, '', '%'.repeat(980)).length, 4 + 1960, 'the text counts, not what doubling makes of it');
  t.throws(() => formatSmtpReply(550, '', 'x'.repeat(981)), { message: /a line has 981 bytes; at most 980/ });
  t.throws(() => formatSmtpReply(550, '', ['a', 'é'.repeat(491)]), { message: /a line has 982 bytes/ });
  const lines = Array.from({ length: 32 }, (_, i) => `line ${i}`);
  t.strictSame(parseSmtpReply(formatSmtpReply(550, '5.7.1', lines)).lines, lines);
  t.throws(() => formatSmtpReply(550, '', [...lines, 'x']), { message: /has 33 lines; at most 32/ });
  t.throws(() => formatSmtpReply(550, '', []), {
    code: 'ERR_MILTER_ARGUMENT',
    message: /a string or an array of lines/,
  });
  for (const line of ['a\r', '\na', 'a\r\nb', 'a\0']) {
    for (const message of [line, ['fine', line]]) {
      t.throws(() => formatSmtpReply(550, '', message), {
        code: 'ERR_MILTER_ARGUMENT',
        message: /a line holds "\\(r|n|u0000)" at \d; give several lines as an array/,
      });
    }
  }
  for (const message of [null, undefined, 7, {}, new Set(['a'])]) {
    t.throws(() => loose(550, '', message), { code: 'ERR_MILTER_ARGUMENT', message: /a string or an array of lines/ });
  }
  t.throws(() => loose(550, '', ['a', 7]), { code: 'ERR_MILTER_ARGUMENT', message: /each line must be a string/ });
  t.throws(() => formatSmtpReply(550, '', '\ud800'), { code: 'ERR_MILTER_TEXT' });
});

t.test('P107 each % is doubled on the way out and single on the way in', async (t) => {
  t.equal(formatSmtpReply(550, '', 'a 100% %s %%'), '550 a 100%% %%s %%%%');
  const { lines, barePercent } = parseSmtpReply('550 a 100%% %%s %%%%');
  t.strictSame(lines, ['a 100% %s %%']);
  t.equal(barePercent, false);
});

t.test('P108 several lines: one code, a hyphen on all but the last, CRLF between, one NUL', async (t) => {
  const text = formatSmtpReply(550, '5.7.1', ['A', '', 'B']);
  t.equal(text, '550-5.7.1 A\r\n550-5.7.1 \r\n550 5.7.1 B');
  t.strictSame(encodeReply({ type: 'replyCode', text }), packet('y', '550-5.7.1 A\r\n550-5.7.1 \r\n550 5.7.1 B'));
  t.equal(formatSmtpReply(421, '', ['A', 'B']), '421-A\r\n421 B');
  t.equal(formatSmtpReply(421, '', ''), '421 ', 'an empty text is allowed');
  t.equal(formatSmtpReply(421, '', ['']), '421 ');
});

t.test('P105 P110 a line that begins with a digit gets an enhanced code, or Postfix would refuse it', async (t) => {
  t.equal(formatSmtpReply(550, '', '3 strikes'), '550 5.0.0 3 strikes');
  t.equal(formatSmtpReply(450, '', ['no', '2 late']), '450-4.0.0 no\r\n450 4.0.0 2 late');
  t.equal(formatSmtpReply(550, '5.7.1', '3 strikes'), '550 5.7.1 3 strikes', 'which there is already');
  t.equal(formatSmtpReply(550, '', 'no 3'), '550 no 3');
});

t.test('P110 a reply is taken apart as strictly as Postfix does it', async (t) => {
  const same = (text: string, wanted: object): boolean =>
    t.strictSame(parseSmtpReply(text), wanted, JSON.stringify(text));
  const none = { enhanced: '', barePercent: false };
  same('550 5.7.1 No', { ...none, code: 550, enhanced: '5.7.1', lines: ['No'] });
  same('550-5.7.1 A\r\n550 5.7.1 B', { ...none, code: 550, enhanced: '5.7.1', lines: ['A', 'B'] });
  same('450 try later', { ...none, code: 450, lines: ['try later'] });
  same('421 ', { ...none, code: 421, lines: [''] });
  same('550 5.7.1', { ...none, code: 550, enhanced: '5.7.1', lines: [''] });
  same('550-5.7.1\r\n550 5.7.1', { ...none, code: 550, enhanced: '5.7.1', lines: ['', ''] });
  same('550-5.7.1 A\r\n550 B', { ...none, code: 550, enhanced: '5.7.1', lines: ['A', 'B'] });
  same('550-5.7.1 A\r\n550 5.7.10 B', { ...none, code: 550, enhanced: '5.7.1', lines: ['A', '5.7.10 B'] });
  same('550-5.7.1 A\r\n550 5.7.1x', { ...none, code: 550, enhanced: '5.7.1', lines: ['A', '5.7.1x'] });
  same('550 5.7.1  two', { ...none, code: 550, enhanced: '5.7.1', lines: [' two'] });
  same('550 5.7 no', { ...none, code: 550, lines: ['5.7 no'] });
  same('550 5.7.1000 no', { ...none, code: 550, lines: ['5.7.1000 no'] });
  const wrong: ReadonlyArray<readonly [string, RegExp]> = [
    ['', /does not begin with a code/],
    ['550', /does not begin with a code/],
    ['55', /does not begin with a code/],
    ['250 ok', /does not begin with a code/],
    ['650 no', /does not begin with a code/],
    ['5x0 no', /does not begin with a code/],
    ['550_no', /does not begin with a code/],
    ['550-no', /line 1 needs " " behind the code/],
    ['550 A\r\n550 B', /line 1 needs "-" behind the code/],
    ['550-A\r\n550-B', /line 2 needs " " behind the code/],
    ['550-A\r\n550', /line 2 needs " " behind the code/],
    ['550-A\r\n', /line 2 has another code than 550/],
    ['550 A\r\n', /line 1 needs "-"/],
    ['550-A\r\n551 B', /line 2 has another code than 550/],
    ['550-A\r\n450 B', /line 2 has another code/],
    ['550-A\n550 B', /line 1 needs " "/],
    ['550 A\nB', /line 1 holds a bare CR or LF or a NUL/],
    ['550 A\r', /line 1 holds a bare CR or LF or a NUL/],
    ['550-A\r\n550 B\0', /line 2 holds a bare CR or LF or a NUL/],
    ['550 4.7.1 no', /line 1 has an enhanced code of another class/],
    ['550 2.0.0 ok', /line 1 has an enhanced code of another class/],
    ['450 3 strikes', /line 1 has an enhanced code of another class/],
    ['550-5.7.1 A\r\n550 4.7.1 B', /line 2 has an enhanced code of another class/],
  ];
  for (const [text, says] of wrong) {
    t.throws(
      () => parseSmtpReply(text),
      { code: 'ERR_MILTER_MALFORMED', packet: 'replyCode', message: says },
      JSON.stringify(text),
    );
  }
});

t.test('P112 a % that is not doubled is read, dropped as Postfix does, and flagged', async (t) => {
  for (const [text, lines] of [
    ['550 all 100% sure', ['all 100 sure']],
    ['550 %%%', ['%']],
    ['550-a\r\n550 %%b%', ['a', '%b']],
    ['550 %', ['']],
  ] as const) {
    const reply = decodeReply(packet('y', text));
    t.ok(reply.type === 'replyCode' && reply.text === text, 'the codec leaves it alone');
    t.match(parseSmtpReply(text), { lines, barePercent: true });
  }
});

t.test('P104-P108 whatever can be formatted can be parsed, and says the same', async () => {
  const line = fc.string({ unit: 'binary', maxLength: 40 }).filter((text) => !/[\r\n\0]/.test(text));
  const reply = fc.record({
    code: fc.integer({ min: 400, max: 599 }),
    subject: fc.option(fc.tuple(fc.nat(999), fc.nat(999)), { nil: undefined }),
    lines: fc.array(line, { minLength: 1, maxLength: 32 }),
  });
  fc.assert(
    fc.property(reply, ({ code, subject, lines }) => {
      const given = subject === undefined ? '' : `${Math.floor(code / 100)}.${subject.join('.')}`;
      const parsed = parseSmtpReply(formatSmtpReply(code, given, lines));
      const added = given === '' && parsed.enhanced !== '';
      return (
        parsed.code === code &&
        !parsed.barePercent &&
        JSON.stringify(parsed.lines) === JSON.stringify(lines) &&
        (added ? lines.some((each) => /^\d/.test(each)) : parsed.enhanced === given)
      );
    }),
    { numRuns: 2000 },
  );
});
