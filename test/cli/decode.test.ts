// decode and replay: captures shown, made into others, and played again.
import { appendFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import t, { type Test } from 'tap';
import { writeCapture, type CaptureEvent, type CaptureFormat } from '../../lib/capture/index.js';
import { encodeCommand } from '../../lib/codec/index.js';
import { runCli } from '../../lib/cli/cli.js';
import { SMFIP_NR_HELO, TEMPFAIL, type MilterProtocol } from '../../lib/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import { answer, collect, connection, data, OFFER, pcapOf, said } from '../helpers/capture.js';
import { silence } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { STAGES, type Script } from '../helpers/milter.js';
import { say } from '../helpers/mta.js';
import { recorded } from '../helpers/recorded.js';
import { cli, fakeIo } from './io.js';
import { saying, serving } from './milters.js';

const folder = shortFolder(t);
const ALL: Script = Object.fromEntries(STAGES.map((stage) => [stage, () => {}]));

async function written(
  name: string,
  events: readonly CaptureEvent[],
  format: CaptureFormat = 'jsonl',
): Promise<string> {
  const path = join(folder, name);
  writeFileSync(path, Buffer.concat(await collect(writeCapture(events, format))));
  return path;
}

/** A capture of real sessions. */
async function captured(
  t: Test,
  name: string,
  script: Script = ALL,
  sessions?: Parameters<typeof recorded>[2],
): Promise<string> {
  return written(name, await recorded(t, await serving(t, script), sessions));
}

t.test('decode: every packet there is, in words, times in UTC', async (t) => {
  const commands = [
    say.unknown('NOOP \u202e'),
    { type: 'connect', hostname: 'local', family: 'U', port: 0, address: '' },
    { type: 'connect', hostname: 'local', family: 'L', port: 0, address: '/run/x' },
    say.macros('?', { a: '1' }),
    say.macros('M', { i: 'Q1' }),
    say.mail('<a@example.org>', 'SIZE=1'),
    { type: 'header', name: 'A', value: '' },
    { type: 'header', name: 'B', value: ' leading' },
    { type: 'eob', chunk: Buffer.from('last\n') },
    say.body('one\r\ntwo'),
    { type: 'eob' },
  ] as const;
  const lists = Buffer.concat([u32(0), Buffer.from('j {x}\0'), u32(3), Buffer.from('\0')]);
  const replies = [
    packet('O', u32(6), u32(0x1ff), u32(0), lists),
    packet('i', u32(1), Buffer.from('N\0V\0')),
    packet('m', u32(2), Buffer.from('N\0\0')),
    packet('m', u32(2), Buffer.from('N\0V\0')),
    packet('+', Buffer.from('<x@y>\0')),
    packet('-', Buffer.from('<x@y>\0')),
    packet('2', Buffer.from('<x@y>\0NOTIFY=NEVER\0')),
    packet('e', Buffer.from('<x@y>\0')),
    packet('b', Buffer.from('new\n')),
    packet('l', u32(1), Buffer.from('j\0')),
    packet('y', Buffer.from('550-5.7.1 no\r\n550 5.7.1 never\0')),
    packet('y', Buffer.from('nonsense\0')),
    packet('d'),
    packet('p'),
    packet('h', Buffer.from('no end')),
    packet('z', Buffer.alloc(30, 1)),
  ];
  const time = Date.UTC(2026, 0, 2, 3, 4, 5, 6);
  const path = await written('words.jsonl', [
    { type: 'open', session: '\x1b[1m', time, mta: { address: '192.0.2.1', port: 25 } },
    data('mta', OFFER, time, '\x1b[1m'),
    data('mta', Buffer.concat(commands.map((command) => encodeCommand(command))), time, '\x1b[1m'),
    data('milter', Buffer.concat(replies), time + 12.5, '\x1b[1m'),
    { type: 'close', session: '\x1b[1m', time: 1e300, from: 'mta', error: 'reset' },
  ]);
  const { code, out, err } = await cli(['decode', path, '--body', '--summary']);
  t.equal(err, '');
  t.equal(code, 65, 'there is a packet that cannot be read');
  for (const line of [
    '2026-01-02 03:04:05.006 \\x1b[1m 192.0.2.1:25 to an unknown address',
    '03:04:05.006 \\x1b[1m → unknown NOOP \\u{202e}',
    '→ connect local [] U',
    '→ connect local [/run/x] L',
    '→ macro for ?: a=1',
    '→ macro for mailFrom: i=Q1',
    '→ mailFrom <a@example.org> SIZE=1',
    '→ header A:',
    '→ header B: leading',
    '→ eob with 5 bytes of the body ! ',
    '    | last\n',
    '→ body 8 bytes',
    '    | one\n    | two\n',
    'macros 0: j {x}; 3: none (12.5 ms)',
    '← insHeader 1 N: V',
    '← chgHeader 2 N removed',
    '← chgHeader 2 N: V',
    '← addRcpt <x@y>',
    '← delRcpt <x@y>',
    '← addRcptPar <x@y> NOTIFY=NEVER',
    '← chgFrom <x@y>\u0020!',
    '← replBody 4 bytes',
    '    | new\n',
    '← setSymList 1: j',
    '← replyCode 550 5.7.1 no / never',
    '← replyCode nonsense',
    '← discard',
    `← malformed 'h' (0x68): 6e 6f 20 65 6e 64 "no end" ! `,
    '← progress',
    `← unrecognized 'z' (0x7a), 30 bytes: ${'01 '.repeat(24)}… "${'\\u0001'.repeat(24)}"`,
    '\n\\x1b[1m Closed by the mail server: reset',
  ])
    t.ok(out.includes(line), line);
  t.match(out, /^1 session, 1 message$/m);
  t.match(await cli(['decode', path, '--json', '--summary', '--session', 'none']), {
    code: 0,
    out: /^\{"type":"summary","sessions":0,/,
  });
  const json = (await cli(['decode', path, '--json'])).out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as object);
  t.match(
    json.find((line) => 'packet' in line && (line.packet as { type: string }).type === 'body'),
    { packet: { chunk: 8 } },
  );
  const coloured = await cli(['decode', path], { tty: true, env: { TERM: 'xterm' } });
  t.ok(coloured.out.includes('\x1b[31mreplyCode\x1b[0m'));
});

t.test('decode: captures of tcpdump and bare bytes, from a file or the standard input', async (t) => {
  const helo = encodeCommand(say.helo());
  const pcap = pcapOf(
    connection([
      ['mta', OFFER],
      ['milter', answer()],
      ['mta', helo],
      ['milter', packet('c')],
    ]),
  );
  t.match(await cli(['decode', '-', '--port', '8891'], { stdin: pcap }), {
    code: 0,
    out: /→ helo mx\.example\.org\n.*← continue/,
  });
  t.match(await cli(['decode', '-', '--port', '1'], { stdin: pcap }), { code: 0, out: '' });
  t.match(await cli(['decode', '-', '--from', 'mta'], { stdin: helo }), {
    code: 0,
    out: '1 What the mail server said\n1 → helo mx.example.org\n1 Closed by the mail server\n',
  });
  t.match(await cli(['decode', '-', '--from', 'milter'], { stdin: packet('a') }), { code: 0, out: /1 ← accept\n/ });
  const none = await cli(['decode', '-', '--from', 'milter', '--summary'], { stdin: answer(0, 0) });
  t.match(none.out, /negotiate version 6, actions none, protocol none\n[^]*\n1 session, 0 messages\n$/);
  t.match(await cli(['decode', '-'], { stdin: helo }), {
    code: 65,
    out: '',
    err: /decode: No capture: it may be what one side said/,
  });
});

t.test('decode: a capture that is cut is read up to there, and says so', async (t) => {
  const path = await captured(t, 'cut.jsonl');
  const whole = readFileSync(path);
  writeFileSync(path, whole.subarray(0, whole.length - 30));
  const { code, out, err } = await cli(['decode', path]);
  t.equal(code, 65);
  t.match(out, /← continue[^]*The capture ends here, and the connection was still open/);
  t.match(err, /decode: The file is cut: its last line has no end \(line \d+\)/);
  const middle = await captured(t, 'middle.jsonl');
  const lines = readFileSync(middle, 'utf8').split('\n');
  lines[4] = '{"type":"data"';
  writeFileSync(middle, lines.join('\n'));
  t.match(await cli(['decode', middle]), {
    code: 65,
    err: '',
    out: /! Line 5: it is no JSON object\n[^]*bytes are missing here/,
  });
  const line = await captured(t, 'line.jsonl');
  appendFileSync(line, 'nonsense\n');
  t.match(
    await cli(['decode', line]),
    { code: 65, err: '', out: /! Line \d+: it is no JSON object\n$/ },
    'nothing of a session is missing',
  );
  const frames = await captured(t, 'frames.jsonl');
  const pcapng = join(folder, 'frames.pcapng');
  t.equal((await cli(['decode', frames, '-o', pcapng])).code, 0);
  writeFileSync(pcapng, readFileSync(pcapng).subarray(0, -10));
  t.match(await cli(['decode', pcapng]), { code: 65, out: /→ negotiate/, err: /cut/ });
});

t.test('decode: what cannot be read, or not be written, and what makes no sense', async (t) => {
  const path = await captured(t, 'plain.jsonl');
  t.match(await cli(['decode', join(folder, 'none')]), { code: 66, err: /Cannot read .*none: ENOENT/ });
  t.match(await cli(['decode', folder]), { code: 66, err: /EISDIR/ });
  t.match(await cli(['decode', path, '-o', join(folder, 'no', 'a.jsonl')]), { code: 73, err: /Cannot write .*ENOENT/ });
  for (const [argv, message] of [
    [['-o', '-'], /--output - needs --format/],
    [['-o', 'a.txt'], /ends in \.jsonl or \.pcapng/],
    [['--format', 'jsonl'], /--format is for --output/],
    [['-o', 'a.jsonl', '--verdict', 'reject'], /--verdict is of no use there/],
    [['-o', 'a.jsonl', '--json'], /--json is of no use there/],
    [['--from', 'both'], /--from must be mta or milter/],
    [['--only', 'x'], /--only must be/],
  ] as const) {
    t.match(await cli(['decode', path, ...argv]), { code: 64, out: '', err: message }, argv.join(' '));
  }
});

t.test('decode --output: another format, some sessions, without what is private', async (t) => {
  const path = await captured(t, 'two.jsonl', ALL, [[{}], [{}]]);
  const pcapng = join(folder, 'two.pcapng');
  t.strictSame(await cli(['decode', path, '-o', pcapng]), { code: 0, out: '', err: '' });
  t.equal(statSync(pcapng).mode & 0o777, 0o600);
  const times = (text: string): string => text.replaceAll(/[\d.]+ ms/g, '').replaceAll(/^[\d:. -]+ (?=\d)/gm, '');
  t.equal(
    times((await cli(['decode', pcapng])).out).replaceAll(/Closed.*/g, ''),
    times((await cli(['decode', path])).out).replaceAll(/Closed.*/g, ''),
  );
  const one = await cli(['decode', path, '-o', '-', '--format', 'jsonl', '--session', '2', '--redact']);
  t.equal(one.code, 0);
  t.notMatch(one.out, /a@example\.org|"session":"1"/);
  t.match(one.out, /^\{"format":"milter-stream capture"[^]*user-/);
  t.match((await cli(['decode', path, '--redact'])).out, /mailFrom <user-/);
  appendFileSync(path, '{"type":"data"');
  const saved = join(folder, 'saved.jsonl');
  t.match(await cli(['decode', path, '-o', saved]), { code: 65, err: /cut/ });
  t.match(await cli(['decode', saved, '--session', '2']), { code: 0, out: /→ quit/ }, 'what was before is kept');
  appendFileSync(path, '\n');
  t.match(await cli(['decode', path, '-o', saved]), { code: 65, err: '' });
});

t.test('decode: a slow reader is waited for, and one that has gone ends it', async (t) => {
  const path = await captured(t, 'slow.jsonl');
  const whole = (await cli(['decode', path])).out;
  const chunks: string[] = [];
  const slow = new Writable({
    highWaterMark: 1,
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk.toString());
      setImmediate(done);
    },
  });
  t.equal(await runCli(['decode', path], { ...fakeIo(), stdout: slow }), 0);
  t.equal(chunks.join(''), whole);
  const gone = new Writable({ write: (_chunk, _encoding, done) => done(new Error('EPIPE')) });
  t.equal(await runCli(['decode', path], { ...fakeIo(), stdout: gone }), 0);
  const goes = new Writable({
    highWaterMark: 1,
    write() {
      setImmediate(() => goes.destroy());
    },
  });
  t.equal(await runCli(['decode', path, '-o', '-', '--format', 'jsonl'], { ...fakeIo(), stdout: goes }), 0);
});

t.test('replay: the same is 0, a difference is 1 and shown, -v shows all', async (t) => {
  const path = await captured(t, 'replay.jsonl', ALL, [[{}], [{}]]);
  const same = await serving(t, ALL);
  t.match(await cli(['replay', path, '--to', same]), {
    code: 0,
    err: '',
    out: /^session 1: the same, 1 message, [\d.]+ ms\nsession 2: the same.*\n2 sessions, 2 messages: no difference\n$/,
  });
  const verbose = await cli(['replay', path, '--to', same, '-v', '--session', '2']);
  t.match(
    verbose.out,
    /^session 2[^]* {2}\d+ rcpt <b@example\.com> \([\d.]+ ms\)\n {4}continue\n[^]* {2}\d+ quit\n1 session, 1 message/,
  );
  const other = await serving(t, {
    ...ALL,
    eob(this: MilterProtocol) {
      this.chgHeader('Subject', 'new\x1b[1m');
      this.addRcpt('<x@example.com>');
    },
  });
  const changed = await cli(['replay', path, '--to', other, '-c', '2', '--speed', '1000', '--ignore-header', 'Date']);
  t.equal(changed.code, 1);
  t.match(
    changed.out,
    /session 1: 2 differences[^]*\d+ eob \([\d.]+ ms\)\n {4}- continue\n {4}\+ chgHeader 1 Subject: new\\x1b\[1m; addRcpt <x@example\.com>; continue\n/,
  );
  t.match(changed.out, /message MS\w+ of <a@example\.org>: envelope, message\n {2}envelope:\n/);
  t.match(changed.out, /^- Subject: hi$\n^\+ Subject: new\\x1b\[1m$/m);
  t.match(changed.out, /^2 sessions, 2 messages: 4 differences$/m);
  const refused = await serving(t, { ...ALL, rcpt: () => TEMPFAIL });
  t.match(
    (await cli(['replay', path, '--to', refused, '-v'])).out,
    /data not sent: every recipient was refused\n[^]*: verdict\n {4}- accept at eob\n {4}\+ no verdict\n/,
  );
  const held = await serving(t, {
    ...ALL,
    eob(this: MilterProtocol) {
      this.quarantine('hm');
    },
  });
  t.match(
    (await cli(['replay', path, '--to', held, '--like', 'sendmail'])).out,
    /quarantine\n {4}- accept at eob\n {4}\+ accept at eob, on hold: hm\n/,
  );
  const rejects = await serving(t, {
    ...ALL,
    eob(this: MilterProtocol) {
      return this.setReply(550, '5.7.1', 'no');
    },
  });
  t.match(
    (await cli(['replay', path, '--to', rejects])).out,
    /verdict, reply\n {4}- accept at eob\n {4}\+ reject at eob, 550 5\.7\.1 no\n/,
  );
});

t.test('replay: a message of which little is known', async (t) => {
  const path = await written('little.jsonl', [
    { type: 'open', session: 's', time: 1000 },
    data('mta', OFFER, 1000),
    data('milter', answer(), 1000),
    ...[say.connect(), say.header(), say.eob(), say.helo(), say.mail()].flatMap((command) => [
      data('mta', encodeCommand(command), 1001),
      data('milter', packet('c'), 1001),
    ]),
  ]);
  const milter = await saying(t, {
    eob: packet('y', Buffer.from('451 later\0')),
    connect: Buffer.concat([packet('c'), packet('c')]),
  });
  const { code, out } = await cli(['replay', path, '--to', milter]);
  t.equal(code, 1);
  t.match(out, /^ {2}The milter said unasked: continue\n/m);
  t.match(
    out,
    /\n {2}a message of an unknown sender: verdict, reply\n {4}- accept at eob\n {4}\+ tempFail at eob, 451 later\n/,
  );
});

t.test('replay: where nothing was answered there is an answer now', async (t) => {
  const path = await written('quiet.jsonl', [
    { type: 'open', session: 's', time: 1000 },
    data('mta', OFFER, 1000),
    data('milter', answer(SMFIP_NR_HELO), 1000),
    data('mta', encodeCommand(say.helo()), 1001),
  ]);
  const { code, out } = await cli(['replay', path, '--to', await saying(t, { helo: packet('r') })]);
  t.equal(code, 1);
  t.match(out, /\d+ helo mx\.example\.org \([\d.]+ ms\)\n {4}- no answer\n {4}\+ reject\n/);
});

t.test('replay: --json, --ignore, --quiet', async (t) => {
  const path = await captured(t, 'json.jsonl');
  const few = await serving(t, {
    mailFrom() {},
    rcpt() {},
    eob(this: MilterProtocol) {
      this.replBody('new');
    },
  });
  const { code, out } = await cli(['replay', path, '--to', few, '--json']);
  t.equal(code, 1);
  const [session, summary] = out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as object);
  t.match(session, {
    type: 'session',
    session: '1',
    differences: 3,
    notes: [/agrees to something else/],
    steps: [{ stage: 'negotiate', differs: true, was: [{ type: 'negotiate' }] }],
    messages: [
      {
        differences: ['message'],
        was: { verdict: 'accept', message: /body\r\n$/ },
        now: { message: /\r\n\r\nnew\r\n$/ },
      },
    ],
  });
  t.match(JSON.stringify(session), /"command":\{"type":"body","chunk":6\}.*\{"type":"replBody","chunk":3\}/);
  t.match(summary, { type: 'summary', sessions: 1, messages: 1, differences: 3 });
  t.match(await cli(['replay', path, '--to', few, '-q', '--ignore', 'negotiate']), { code: 1, out: '', err: '' });
  t.match(JSON.parse((await cli(['replay', path, '--to', await serving(t, ALL), '--json'])).out.split('\n')[0]!), {
    messages: [{ was: { verdict: 'accept' } }],
  });
});

t.test('replay: what goes wrong has an exit status, and what was before is played', async (t) => {
  const path = await captured(t, 'wrong.jsonl', ALL, [[{}], [{}]]);
  const milter = await serving(t, ALL);
  const away = await cli(['replay', path, '--to', 'unix:/nowhere/at.all', '-q']);
  t.match(away, {
    code: 69,
    out: '',
    err: /^milter-stream replay: session 1: Cannot connect to .*\nmilter-stream replay: session 2: /,
  });
  const silent = await saying(t, { data: silence });
  t.match(await cli(['replay', path, '--to', silent, '--timeout', '20ms', '--eob-timeout', '1s', '--session', '1']), {
    code: 69,
    out: /The milter failed at data \(packet \d+\): It does not answer/,
  });
  const wrong = await saying(t, { helo: packet('?') });
  t.match(await cli(['replay', path, '--to', wrong, '--json']), {
    code: 76,
    out: /"error":\{"code":"ERR_MILTER_UNKNOWN_CODE"/,
  });
  appendFileSync(path, '{"type":"da');
  t.match(await cli(['replay', path, '--to', milter]), {
    code: 65,
    out: /^session 1: the same[^]*2 sessions/,
    err: /replay: The file is cut/,
  });
  t.match(await cli(['replay', path, '--to', 'unix:/nowhere/at.all', '-q']), { code: 69, err: /The file is cut/ });
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  writeFileSync(path, [...lines, 'nonsense', ''].join('\n'));
  t.match(await cli(['replay', path, '--to', milter]), { code: 65, err: '', out: /no difference/ });
  t.match(await cli(['replay', join(folder, 'none'), '--to', milter]), { code: 66 });
  t.match(
    await cli(['replay', '-', '--to', milter, '--from', 'mta'], { stdin: said(await recorded(t, milter), 'mta') }),
    { code: 0, out: /session 1: the same, 0 messages/ },
  );
  for (const [argv, message] of [
    [[], /--to is missing/],
    [['--to', 'inet:0'], /port 0 is nothing to connect to/],
    [['--to', milter, '--speed', '0'], /--speed must be a number above 0/],
    [['--to', milter, '--speed', 'fast'], /--speed must be a number above 0/],
    [['--to', milter, '--ignore', 'nonsense'], /ignore must be a list of kinds/],
    [['--to', milter, '--port', '0'], /--port must be/],
    [['--to', milter, '--from', 'milter'], /--from must be/],
  ] as const) {
    t.match(await cli(['replay', path, ...argv]), { code: 64, err: message }, argv.join(' '));
  }
});
