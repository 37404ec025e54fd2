// replay: captures played again.
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import t from 'tap';
import { encodeCommand } from '../../lib/codec/index.js';
import { runCli } from '../../lib/cli/cli.js';
import { SMFIP_NR_HELO, TEMPFAIL, type MilterProtocol } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { answer, data, OFFER, said } from '../helpers/capture.js';
import { silence } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { say } from '../helpers/mta.js';
import { recorded } from '../helpers/recorded.js';
import { ALL, capturesIn } from './captures.js';
import { cli, fakeIo } from './io.js';
import { saying, serving } from './milters.js';

const folder = shortFolder(t);
const { written, captured } = capturesIn(folder);

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

t.test('replay: where nothing was played there is nothing to agree on, and it says so', async (t) => {
  const milter = await serving(t, ALL);
  const nothing = { code: 65, out: /: nothing was played\n$/, err: /replay: Nothing was played: / };
  const empty = await written('empty.jsonl', []);
  t.match(await cli(['replay', empty, '--to', milter]), nothing);
  const bare = await written('bare.jsonl', [
    { type: 'open', session: 's', time: 1000 },
    { type: 'close', session: 's', time: 1000 },
  ]);
  t.match(await cli(['replay', bare, '--to', milter]), nothing, 'nobody said anything');
  const replies = await written('replies.jsonl', [
    { type: 'open', session: 's', time: 1000 },
    data('milter', Buffer.concat([answer(), packet('c')]), 1000),
  ]);
  t.match(
    await cli(['replay', replies, '--to', milter]),
    { ...nothing, out: /^session s: nothing was played, 0 messages/ },
    'the mail server is not there',
  );
  t.match(await cli(['replay', replies, '--to', milter, '--json', '-q']), { code: 65, out: '', err: nothing.err });
  const macros = await written('macros.jsonl', [
    { type: 'open', session: 's', time: 1000 },
    data('mta', encodeCommand(say.macros('C', { j: 'mx' })), 1000),
  ]);
  t.match(await cli(['replay', macros, '--to', milter]), { code: 65 }, 'macros alone are answered by nobody');
  const away = await cli(['replay', await captured(t, 'away.jsonl'), '--to', 'unix:/nowhere/at.all']);
  t.match(away, { code: 69, err: '' }, 'what kept it from playing is told instead');
});

t.test('replay --session: a session that is not there is told by its name', async (t) => {
  const path = await captured(t, 'named.jsonl', ALL, [[{}], [{}]]);
  const milter = await serving(t, ALL);
  t.match(await cli(['replay', path, '--to', milter, '--session', '9\x1b']), {
    code: 65,
    out: '0 sessions, 0 messages: nothing was played\n',
    err: /replay: There is no session 9\\x1b in .*named\.jsonl\n$/,
  });
  t.match(await cli(['replay', path, '--to', milter, '--session', '2', '--session', 'x', '--session', 'y']), {
    code: 65,
    out: /^session 2: the same[^]*\n1 session, 1 message: no difference\n$/,
    err: /There is no session x, y in /,
  });
  t.match(await cli(['replay', path, '--to', 'unix:/nowhere/at.all', '--session', '2', '--session', 'x']), {
    code: 69,
    err: /There is no session x in /,
  });
});

t.test('replay --speed: a gap of more than 24.8 days is as long as any other', async (t) => {
  const path = await written('days.jsonl', [
    { type: 'open', session: 's', time: 1000 },
    data('mta', OFFER, 1000),
    data('milter', answer(), 1000),
    data('mta', encodeCommand(say.connect()), 1000),
    data('milter', packet('c'), 1000),
    data('mta', encodeCommand(say.helo()), 1000 + 30 * 86_400_000),
    data('milter', packet('c'), 1000 + 30 * 86_400_000),
  ]);
  const warnings: string[] = [];
  const warned = (warning: Error): void => void warnings.push(warning.name);
  process.on('warning', warned);
  t.teardown(() => process.off('warning', warned));
  // A timer that is too long for setTimeout() would be over at once, long before this one.
  const stopping = new AbortController();
  const milter = await serving(t, { ...ALL, connect: () => void setTimeout(() => stopping.abort(), 100) });
  const { code, out } = await cli(['replay', path, '--to', milter, '--speed', '1', '-v'], { signal: stopping.signal });
  t.equal(code, 130);
  t.match(out, / connect /);
  t.notMatch(out, / helo /);
  t.strictSame(warnings, []);
});

t.test('replay: Ctrl-C ends it, and what was played is told', async (t) => {
  const stopping = new AbortController();
  const io = fakeIo({ signal: stopping.signal });
  const stdin = new PassThrough();
  const ended = runCli(['replay', '-', '--to', await serving(t, ALL)], { ...io, stdin });
  stdin.write(readFileSync(await captured(t, 'first.jsonl')));
  await io.stdout.printed('session 1: the same');
  await new Promise(setImmediate); // it waits for more
  stopping.abort();
  t.equal(await ended, 130, 'though more might come');
  t.match(io.stdout.text, /\n1 session, 1 message: no difference\n$/);
  t.equal(io.stderr.text, 'milter-stream replay: Interrupted: not everything was played\n');
});
