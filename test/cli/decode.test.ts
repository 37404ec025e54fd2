// decode: captures shown, and made into others.
import { appendFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import t from 'tap';
import { encodeCommand } from '../../lib/codec/index.js';
import { runCli } from '../../lib/cli/cli.js';
import { packet, u32 } from '../helpers/bytes.js';
import { answer, connection, data, OFFER, pcapOf } from '../helpers/capture.js';
import { shortFolder } from '../helpers/folder.js';
import { say } from '../helpers/mta.js';
import { ALL, capturesIn } from './captures.js';
import { cli, fakeIo } from './io.js';

const folder = shortFolder(t);
const { written, captured } = capturesIn(folder);

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
    { type: 'close', session: '\x1b[1m', time: 0, from: 'mta', error: 'reset' },
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
  const epipe = Object.assign(new Error('write EPIPE'), { code: 'EPIPE' });
  const gone = new Writable({ write: (_chunk, _encoding, done) => done(epipe) });
  t.equal(await runCli(['decode', path], { ...fakeIo(), stdout: gone }), 0);
  const goes = new Writable({
    highWaterMark: 1,
    write() {
      setImmediate(() => goes.destroy());
    },
  });
  t.equal(await runCli(['decode', path, '-o', '-', '--format', 'jsonl'], { ...fakeIo(), stdout: goes }), 0);
  t.equal(await runCli(['decode', path, '--html', '-'], { ...fakeIo(), stdout: goes }), 0);
});
