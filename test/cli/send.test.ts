// `milter-stream send`: a message past milters that do everything there is, and past those that fail.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { runCli } from '../../lib/cli/cli.js';
import { ACCEPT, CONTINUE, DISCARD, REJECT, TEMPFAIL, type MilterProtocol } from '../../lib/index.js';
import { toBytes } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { agrees, fakeMilter, silence } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { cli, fakeIo, throwing } from './io.js';
import { answering, saying, serving } from './milters.js';

const folder = shortFolder(t);

/** A file of this content; its path. */
function file(name: string, content: string | Buffer): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

const MAIL = 'From: Alice <alice@example.org>\nTo: bob@example.com\nSubject: hello\n\nOne.\nTwo.\n';
const mail = file('mail.eml', MAIL);

/** A milter that hears QUIT and the end of the connection, and does nothing; `ended` resolves when it has heard that. */
async function lingering(t: Test): Promise<{ address: string; ended: Promise<unknown> }> {
  let over: (value: unknown) => void;
  const ended = new Promise((resolve) => (over = resolve));
  const address = await answering(t, (socket) => {
    socket.allowHalfOpen = true;
    const { stream } = fakeMilter();
    socket.once('end', over).pipe(stream, { end: false }).pipe(socket);
  });
  return { address, ended };
}

/** What was printed, without times. */
const timeless = (text: string): string => text.replace(/ *\d+(\.\d+)? ms/g, '');

const send = async (address: string, ...argv: string[]) => {
  const said = await cli(['send', mail, '--to', address, ...argv]);
  return { ...said, out: timeless(said.out) };
};

t.test('a message that is changed: what became of each recipient, of the envelope, and each line', async (t) => {
  const address = await serving(t, {
    rcpt(this: MilterProtocol, recipient: string) {
      return recipient === '<nobody@example.com>' ? this.setReply(550, '5.1.1', ['Nobody', 'of that name']) : CONTINUE;
    },
    body() {},
    eob(this: MilterProtocol) {
      this.chgHeader('Subject', 'hello \x1b[31m');
      this.addHeader('X-Seen', 'yes');
      this.addRcpt('<carol@example.com>');
      this.chgFrom('<bounces@example.org>');
      this.quarantine('looked \x07 odd');
      this.replBody('One.\r\nThree.\r\n\rbyte \xff\r\n');
    },
  });
  const said = await send(address, '--rcpt', 'bob@example.com', '--rcpt', '<nobody@example.com>');
  t.strictSame(said, {
    code: 0,
    err: '',
    out: `${mail}: DELIVERED at eob,
  on hold (quarantine): looked \\x07 odd
  <bob@example.com>: accepted
  <nobody@example.com>: rejected, 550 5.1.1 Nobody / of that name
  envelope:
- from <alice@example.org>
+ from <bounces@example.org>
  to <bob@example.com>
- to <nobody@example.com>
+ to <carol@example.com>
  message:
  From: Alice <alice@example.org>
  To: bob@example.com
- Subject: hello
+ Subject: hello \\x1b[31m
+ X-Seen: yes
  One.
- Two.
+ Three.
+ \\rbyte ÿ
`,
  });
});

t.test('a message that is not changed', async (t) => {
  const address = await serving(t, {});
  t.strictSame(await send(address), {
    code: 0,
    err: '',
    out: `${mail}: DELIVERED at eob,\n  <bob@example.com>: accepted\n  the message is unchanged\n`,
  });
  t.strictSame(await send(address, '--quiet'), { code: 0, out: '', err: '' });
});

t.test('each verdict has its exit status and its words', async (t) => {
  const verdicts: ReadonlyArray<readonly [unknown, number, string]> = [
    [ACCEPT, 0, 'DELIVERED'],
    [REJECT, 1, 'REJECTED'],
    [TEMPFAIL, 2, 'REFUSED FOR NOW'],
    [DISCARD, 3, 'DISCARDED'],
  ];
  for (const [verdict, status, words] of verdicts) {
    const address = await serving(t, { eob: () => verdict });
    const { code, out } = await send(address);
    t.equal(code, status);
    t.ok(out.startsWith(`${mail}: ${words} at eob,`), out);
    t.equal((await send(address, '-q')).code, status);
  }
  const worded = await serving(t, {
    mailFrom(this: MilterProtocol) {
      return this.setReply(451, '', 'Later \x1b[2J');
    },
  });
  t.strictSame(await send(worded), {
    code: 2,
    err: '',
    out: `${mail}: REFUSED FOR NOW at mailFrom,\n  451 Later \\x1b[2J\n`,
  });
});

t.test('with several messages the exit status is the worst', async (t) => {
  const subjects: Record<string, unknown> = { a: ACCEPT, d: DISCARD, t: TEMPFAIL, r: REJECT };
  const address = await serving(t, {
    header: (name: string, value: string) => (name === 'S' ? subjects[value] : CONTINUE),
  });
  const files = Object.fromEntries(Object.keys(subjects).map((s) => [s, file(`${s}.eml`, `S: ${s}\n\n`)]));
  const all = async (order: string) =>
    (await cli(['send', ...order.split('').map((s) => files[s]!), '--to', address])).code;
  t.equal(await all('aa'), 0);
  t.equal(await all('da'), 3);
  t.equal(await all('tda'), 2);
  t.equal(await all('atrd'), 1);
});

t.test('colours for a terminal: what is gone is red, what is new is green', async (t) => {
  const address = await serving(t, {
    eob(this: MilterProtocol) {
      this.chgHeader('Subject', 'new');
    },
  });
  const { out } = await cli(['send', mail, '--to', address], { tty: true });
  t.match(out, '\x1b[31m- Subject: hello\x1b[0m\n\x1b[32m+ Subject: new\x1b[0m\n');
  t.match(out, '\x1b[2m  From: ');
  t.match(out, '\x1b[1m\x1b[32mDELIVERED');
  t.notOk((await cli(['send', mail, '--to', address], { tty: true, env: { NO_COLOR: '1' } })).out.includes('\x1b'));
});

t.test('long runs are folded, large bodies are not compared, long lines are cut', async (t) => {
  const address = await serving(t, {
    header() {},
    body() {},
    eob(this: MilterProtocol) {
      if (this.macro('i') === 'short') this.chgHeader('B10', 'new');
      else this.replBody(`${'new\r\n'.repeat(this.macro('i') === 'long' ? 70 : 1_300_000)}${'x'.repeat(700)}`);
    },
  });
  const headers = Array.from({ length: 20 }, (_, i) => `B${i}: b\n`).join('');
  const long = file('long.eml', `${headers}\n${'old\n'.repeat(62)}`);
  const of = async (macro: string) => (await cli(['send', long, '--to', address, '--macro', `eob:i=${macro}`])).out;
  const short = await of('short');
  t.match(
    short,
    '  message:\n  … 7 unchanged lines\n  B7: b\n  B8: b\n  B9: b\n- B10: b\n+ B10: new\n  B11: b\n  B12: b\n  B13: b\n  … 6 unchanged lines\n  … the body is unchanged, 310 bytes\n',
  );
  const folded = await of('long');
  t.match(
    folded,
    `${'- old\n'.repeat(60)}- … 2 more lines that are gone\n${'+ new\n'.repeat(60)}+ … 11 more new lines\n`,
  );
  t.match(await of('huge'), '- a body of 310 bytes\n+ a body of 6,500,702 bytes\n');
  const cut = file('cut.eml', `S: ${'y'.repeat(600)}\n\n${'old\n'.repeat(2)}`);
  const { out } = await cli(['send', cut, '--to', address, '--macro', 'eob:i=long']);
  t.match(out, `  S: ${'y'.repeat(497)}… (603 characters)\n`);
});

t.test('--verbose shows every step; --json has everything, and loses no byte', async (t) => {
  const address = await serving(
    t,
    {
      connect() {},
      helo() {},
      mailFrom() {},
      rcpt() {},
      header: () => CONTINUE,
      body() {},
      eob(this: MilterProtocol) {
        this.addHeader('X-Byte', 'caf\udce9 \x9b');
        this.replBody(Buffer.from('caf\xe9\r\n', 'latin1'));
      },
    },
    { statics: { noReply: ['header'] } },
  );
  const odd = file('odd.eml', Buffer.from('Subject: caf\xe9\n\nbody\n', 'latin1'));
  const argv = [
    'send',
    odd,
    '--to',
    address,
    '--from',
    '<> SIZE=9',
    '--hostname',
    'mx.example.org',
    '--address',
    '192.0.2.1',
    '--port',
    '99',
    '--helo',
    'there',
  ];
  const { out } = await cli([...argv, '-v']);
  t.match(
    timeless(out),
    `  connect  continue  mx.example.org [192.0.2.1]
  helo     continue  there
  mailFrom continue  <> SIZE=9
  rcpt     continue  <recipient@example.com>
  header   not answered  Subject:caf\\xe9
  body     continue  6 bytes
  eob      continue
${odd}: DELIVERED at eob,\n`,
  );
  const { code, out: json } = await cli([...argv, '--json']);
  t.equal(code, 0);
  t.equal(json.split('\n').length, 2, 'one line');
  t.notMatch(json, /\x9b/);
  const result = JSON.parse(json) as Record<string, unknown> & { message: string; steps: Array<{ ms: number }> };
  t.match(result, {
    file: odd,
    milters: [address],
    verdict: 'accept',
    stage: 'eob',
    hangUp: false,
    recipients: [{ address: '<recipient@example.com>', outcome: 'continue' }],
    modifications: [
      { type: 'replBody', chunk: 'caf\udce9\r\n' },
      { type: 'addHeader', name: 'X-Byte', value: 'caf\udce9 \x9b' },
    ],
    envelope: { from: '<>', to: ['<recipient@example.com>'] },
    errors: [],
    steps: [
      {
        stage: 'connect',
        command: { type: 'connect', hostname: 'mx.example.org', address: '192.0.2.1', port: 99 },
        reply: { type: 'continue' },
      },
      { stage: 'helo' },
      { stage: 'mailFrom', command: { args: ['SIZE=9'] } },
      { stage: 'rcpt' },
      { stage: 'header' },
      { stage: 'body', command: { type: 'body', bytes: 6 } },
      { stage: 'eob' },
    ],
  });
  t.ok(result.steps.every(({ ms }) => ms >= 0));
  t.strictSame(
    toBytes(result.message),
    Buffer.from('Subject: caf\xe9\r\nX-Byte: caf\xe9 \xc2\x9b\r\n\r\ncaf\xe9\r\n', 'latin1'),
  );
});

t.test('the message from the standard input, the result into a file or to the standard output', async (t) => {
  const address = await serving(t, {
    eob(this: MilterProtocol) {
      this.addHeader('X-Seen', 'yes');
    },
  });
  const result = 'A: b\r\nX-Seen: yes\r\n\r\nbody';
  const output = join(folder, 'result.eml');
  const { code, out } = await cli(['send', '-', '--to', address, '-o', output], { stdin: 'A: b\n\nbody' });
  t.equal(code, 0);
  t.match(out, 'standard input: DELIVERED');
  t.equal(readFileSync(output, 'latin1'), result);
  t.strictSame(await cli(['send', '-', '--to', address, '-o', '-'], { stdin: 'A: b\n\nbody' }), {
    code: 0,
    out: result,
    err: '',
  });
  const nowhere = await cli(['send', '-', '--to', address, '-o', join(folder, 'no', 'where')], { stdin: 'A: b\n\n' });
  t.equal(nowhere.code, 73);
  t.match(nowhere.err, /^milter-stream send: standard input: Cannot write .*ENOENT/);
  const refused = await serving(t, { eob: () => REJECT });
  t.strictSame(await cli(['send', '-', '--to', refused, '-o', '-'], { stdin: 'A: b\n\n' }), {
    code: 1,
    out: '',
    err: '',
  });
});

t.test('several milters are asked one after the other', async (t) => {
  const first = await serving(t, {
    eob(this: MilterProtocol) {
      this.addHeader('X-First', 'yes');
    },
  });
  const second = await serving(t, { header: (name: string) => (name === 'X-First' ? REJECT : CONTINUE) });
  const said = await send(first, '--to', second, '-v');
  t.equal(said.code, 1);
  t.match(said.out, `  ${first} eob      continue\n  ${second} header   continue`);
  t.match(said.out, `REJECTED at header by ${second},`);
});

t.test('a mistake is told before anything is sent', async (t) => {
  const heard: string[] = [];
  const address = await serving(t, { mailFrom: () => void heard.push('mailFrom') });
  mkdirSync(join(folder, 'dir'));
  const files = {
    binary: file('binary.eml', Buffer.from('\x89PNG\r\n\x1a\n\0\0\0', 'latin1')),
    mbox: file('mbox.eml', `From alice Sat Jan  1\n${MAIL}`),
    broken: file('broken.eml', 'A: b\nC: d\n e\nno header\n\n'),
    nul: file('nul.eml', 'A: b\nC: \0\n\n'),
    marked: file('marked.eml', `\ufeff${MAIL}`),
    utf16: file('utf16.eml', Buffer.from(`\ufeff${MAIL}`, 'utf16le')),
  };
  const mistakes: ReadonlyArray<readonly [argv: string[], status: number, words: string]> = [
    [[mail], 64, '--to is missing: where the milter listens, like --to inet:8891@127.0.0.1'],
    [[mail, '--to', 'inet:x@y'], 64, 'Bad socket address "inet:x@y": "x" is no port number'],
    [[mail, '--to', 'inet:0'], 64, 'Bad socket address "inet:0": port 0 is nothing to connect to'],
    [
      [mail, '--to', address, '--to', 'systemd'],
      64,
      'Bad socket address "systemd": an inherited socket is one to listen on, not to connect to',
    ],
    [[mail, '--to', address, '--rcpt', '<a@b'], 64, '--rcpt "<a@b": its bracket is not closed'],
    [[mail, '--to', address, '--from', 'a b c@d'], 64, '--from "a b c@d": "c@d" is no ESMTP argument like SIZE=100'],
    [
      [mail, '--to', address, '--macro', 'i=1'],
      64,
      '--macro "i=1": must be STAGE:NAME=VALUE, like rcpt:{rcpt_mailer}=local',
    ],
    [
      [mail, '--to', address, '--rcpt', 'a@b X=1', '--rcpt', 'c@d'],
      64,
      '--rcpt: all recipients must have the same arguments',
    ],
    [[mail, '--to', address, '--protocol-version', '5'], 64, '--protocol-version must be 2, 3, 4 or 6, got "5"'],
    [[mail, '--to', address, '--hostname', 'a\nb'], 64, '--hostname must be a line of text, got "a\\nb"'],
    ...['nonsense', '999.1.1.1', '::zz', './s', ''].map((text): [string[], number, string] => [
      [mail, '--to', address, '--address', text],
      64,
      text === ''
        ? '--address must be a line of text, got ""'
        : `--address must be an IP address, or the path of a Unix socket from / on, got "${text}"`,
    ]),
    [[mail, '--to', address, '--helo', ''], 64, '--helo must be a line of text, got ""'],
    [[mail, mail, '--to', address, '--output', 'x'], 64, '--output takes a single message'],
    [[mail, '--to', address, '--output', 'x', '-n', '2'], 64, '--output takes a single message'],
    [
      [mail, '--to', address, '--output', '-', '--json'],
      64,
      '--output - has the standard output for itself: neither --json nor --verbose',
    ],
    [['-', '-', '--to', address], 64, 'the standard input (-) can be read only once'],
    [[join(folder, 'missing'), '--to', address], 66, `Cannot read ${join(folder, 'missing')}: there is no such file`],
    [[mail, join(folder, 'dir'), '--to', address], 66, `Cannot read ${join(folder, 'dir')}: it is a folder`],
    [[join(mail, 'x'), '--to', address], 66, `Cannot read ${join(mail, 'x')}: ENOTDIR`],
    [
      [files.binary, '--to', address],
      65,
      `${files.binary}: Line 1 of the message is no header, it has no name and colon: "\\udc89PNG`,
    ],
    [[files.mbox, '--to', address], 65, `${files.mbox}: Line 1 of the message is no header`],
    [
      [mail, files.broken, '--to', address],
      65,
      `${files.broken}: Line 4 of the message is no header, it has no name and colon: "no header`,
    ],
    ...[files.marked, files.utf16].map((path): [string[], number, string] => [
      [path, '--to', address],
      65,
      `${path}: A byte order mark is before the first header (save it as UTF-8 without one)`,
    ]),
    [[files.nul, '--to', address], 65, `${files.nul}: Line 2 of the message is no header, it holds a NUL`],
  ];
  for (const [argv, status, words = ''] of mistakes) {
    const { code, out, err } = await cli(['send', ...argv]);
    t.strictSame([code, out], [status, ''], argv.join(' '));
    t.ok(err.startsWith(`milter-stream send: ${words}`), err);
    t.notMatch(err, /\n +at /, 'no stack');
  }
  t.match((await cli(['send', files.mbox, '--to', address])).err, '(the first line is that of an mbox)\n');
  t.strictSame(heard, []);
  const io = fakeIo({ stdin: MAIL });
  t.equal(await runCli(['send', files.nul, '-', '--to', address], io), 65);
  t.notOk(io.stdin.readableDidRead, 'files are opened one after the other, however many there are');
});

t.test('the SMTP client may have any address', async (t) => {
  const heard: unknown[] = [];
  const address = await serving(t, { connect: (...args: unknown[]) => void heard.push(args.slice(1, 3)) });
  for (const each of ['192.0.2.1', '2001:db8::1', '/run/s']) await send(address, '--address', each);
  t.strictSame(heard, [
    ['4', '192.0.2.1'],
    ['6', '2001:db8::1'],
    ['L', '/run/s'],
  ]);
});

t.test('a milter that does not close the connection after QUIT is not waited for', async (t) => {
  const { address, ended } = await lingering(t);
  t.equal((await send(address, '--timeout', '1h')).code, 0);
  await ended;
});

t.test('a signal ends what is at work, and what comes next', async (t) => {
  const controller = new AbortController();
  const address = await serving(t, { mailFrom: () => controller.abort() });
  const { code, err } = await cli(['send', mail, mail, '--to', address], { signal: controller.signal });
  t.equal(code, 69);
  t.equal(err.match(/mail\.eml: .*the caller has given up/gi)?.length, 2);
});

t.test('a milter that says progress for ever comes to an end', async (t) => {
  const slow = await saying(t, {
    mailFrom(line) {
      const timer = setInterval(() => line.write(packet('p')), 10);
      t.teardown(() => clearInterval(timer));
    },
  });
  const words =
    'The milter failed at mailFrom: It has not come to an end within 300 ms altogether: it says progress again and again, or takes its time for each answer\n';
  t.strictSame(await send(slow, '--limit', '300ms'), {
    code: 69,
    out: '',
    err: `milter-stream send: ${mail}: ${words}`,
  });
  const load = await send(slow, '--limit', '300ms', '-n', '2');
  t.equal(load.code, 69);
  t.equal(load.err, `milter-stream send: 2 messages failed: ${words}`);
});

t.test('a milter that fails: the failure and its exit status, and the next message all the same', async (t) => {
  const nobody = await answering(t, (socket) => socket.destroy());
  const greeting = await answering(t, (socket) => void socket.write('220 mx.example.org ESMTP\r\n'));
  const hangs = await saying(t, { eob: silence });
  const mute = await answering(t, () => {});
  const wrong = await saying(t, { negotiate: agrees(), eob: packet('O') });
  const failures: ReadonlyArray<readonly [string, number, RegExp]> = [
    ['inet:1@127.0.0.1', 69, /Cannot connect to inet:1@127\.0\.0\.1: connect ECONNREFUSED/],
    [join(folder, 'no.sock'), 69, /Cannot connect to unix:.*no\.sock: connect ENOENT/],
    [nobody, 69, /The milter failed at negotiate: The connection was lost/],
    [greeting, 76, /The milter failed at negotiate: .*an SMTP server/],
    [hangs, 69, /The milter failed at eob: It does not answer, and 500 ms are over/],
    [mute, 69, /The milter failed at negotiate: It does not answer, and 500 ms are over/],
    [wrong, 76, /The milter failed at eob: /],
  ];
  const all = await Promise.all(
    failures.map(([address]) => cli(['send', mail, mail, '--to', address, '--timeout', '500ms'])),
  );
  for (const [i, [address, status, words]] of failures.entries()) {
    const { code, out, err } = all[i]!;
    t.strictSame([code, out], [status, ''], address);
    t.match(err, words);
    t.equal(err.match(/^milter-stream send: .*mail\.eml: /gm)?.length, 2, 'both were tried');
  }
  const { code, out } = await cli(['send', mail, '--to', hangs, '--timeout', '0.5', '--json']);
  t.equal(code, 69);
  t.match(JSON.parse(out), { file: mail, error: { code: 'ERR_MILTER_TIMEOUT', stage: 'eob' } });
  const slow = await saying(t, { eob: (line) => line.write(packet('p')) });
  t.match((await send(slow, '--eob-timeout', '50ms')).err, /It has not come to an end within 50 ms/);
});

t.test('--default-action stands in for a milter that fails', async (t) => {
  const hangs = await saying(t, { mailFrom: silence });
  const of = (action: string) => send(hangs, '--timeout', '500ms', '--default-action', action);
  const actions = ['accept', 'reject', 'tempfail', 'shutdown', 'quarantine'];
  const [accept, reject, tempfail, shutdown, quarantine] = await Promise.all(actions.map(of));
  t.equal(accept!.code, 0);
  t.match(accept!.out, 'default action, because: The milter failed at mailFrom: It does not answer');
  t.equal(reject!.code, 1);
  t.equal(tempfail!.code, 2);
  t.match(shutdown!.out, 'REFUSED FOR NOW');
  t.match(quarantine!.out, 'on hold');
  const json = await cli(['send', mail, '--to', hangs, '--timeout', '500ms', '--default-action', 'accept', '--json']);
  t.match(JSON.parse(json.out), { verdict: 'accept', errors: [{ code: 'ERR_MILTER_TIMEOUT', stage: 'mailFrom' }] });
});

t.test('a 421 ends the SMTP session: the next message begins another one', async (t) => {
  const sessions: string[] = [];
  const address = await serving(t, {
    connect: (name: string) => void sessions.push(name),
    rcpt(this: MilterProtocol) {
      return this.setReply(421, '4.3.2', 'Closing');
    },
  });
  const { code } = await cli(['send', mail, mail, '--to', address]);
  t.equal(code, 2);
  t.strictSame(sessions, ['localhost', 'localhost']);
});

t.test('--like and --protocol-version behave like another server', async (t) => {
  const versions: string[] = [];
  const address = await serving(t, { data: () => void versions.push('data'), connect() {} });
  t.equal((await send(address, '--protocol-version', '2', '--like', 'sendmail')).code, 0);
  t.strictSame(versions, [], 'version 2 has no DATA');
  t.equal((await send(address, '--macro', 'connect:j=other')).code, 0);
  t.strictSame(versions, ['data']);
});

t.test('a line end that is none of SMTP’s can be seen', async (t) => {
  const address = await serving(t, {
    body() {},
    eob(this: MilterProtocol) {
      this.replBody('one\r\ntwo\r\n');
    },
  });
  const { out } = await cli(['send', '-', '--to', address], { stdin: 'A: b\r\n\r\none\ntwo\r\nthree' });
  t.match(out, '- one\\n\n+ one\n  two\n- three\n');
});

t.test('a message without a body may get a header as well', async (t) => {
  const address = await serving(t, {
    eob(this: MilterProtocol) {
      this.addHeader('C', 'd');
    },
  });
  t.match((await cli(['send', '-', '--to', address], { stdin: 'A: b' })).out, '  A: b\n+ C: d\n');
});

t.test('an error of the program’s own ends it, and is shown whole', async (t) => {
  const io = fakeIo();
  throwing(io.stdout, /./, new TypeError('a bug'));
  t.equal(await runCli(['send', mail, '--to', await serving(t, {})], io), 70);
  t.match(io.stderr.text, /this is an error of milter-stream itself\nTypeError: a bug\n +at /);
});
