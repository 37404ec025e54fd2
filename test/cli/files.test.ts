// The files that commands write: never what they read, for their owner alone, and what was there before is kept until
// something takes its place.
import { EventEmitter } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  createReadStream,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { PassThrough } from 'node:stream';
import t from 'tap';
import { runCli } from '../../lib/cli/cli.js';
import { OutputFile } from '../../lib/cli/output-file.js';
import { data, OFFER } from '../helpers/capture.js';
import { shortFolder } from '../helpers/folder.js';
import { until } from '../helpers/until.js';
import { capturesIn } from './captures.js';
import { cli, fakeIo, Kept, type Said } from './io.js';
import { serving } from './milters.js';

const folder = shortFolder(t);
const { written, captured } = capturesIn(folder);
const mode = (path: string): number => statSync(path).mode & 0o777;
const isRoot = process.geteuid!() === 0;

/** Runs a command line whose stdin and stdout are these files. */
async function redirected(argv: readonly string[], { from, to }: { from?: string; to?: string }): Promise<Said> {
  const io = fakeIo();
  const stdin = from === undefined ? io.stdin : createReadStream('', { fd: openSync(from, 'r') });
  const stdout = to === undefined ? io.stdout : Object.assign(new Kept(), { fd: openSync(to, 'a') });
  const code = await runCli(argv, { ...io, stdin, stdout });
  stdin.destroy();
  return { code, out: stdout.text, err: io.stderr.text };
}

t.test('what a command reads it does not write, by whatever name', async (t) => {
  const path = await captured(t, 'same.jsonl');
  const before = readFileSync(path);
  const [soft, hard] = [join(folder, 'soft.jsonl'), join(folder, 'hard.jsonl')];
  symlinkSync(path, soft);
  linkSync(path, hard);
  const roundabout = `${folder}/../${basename(folder)}/same.jsonl`;
  for (const name of [path, roundabout, soft, hard]) {
    for (const option of ['--output', '--html']) {
      const said = await cli(['decode', path, option, name]);
      t.match(said, { code: 64, out: '', err: `decode: ${name} is the file that is read` }, `${option} ${name}`);
    }
    t.match(await redirected(['decode', '-', '-o', name], { from: path }), {
      code: 64,
      err: `${name} is the file that is read`,
    });
    for (const argv of [
      ['decode', name],
      ['decode', name, '--html', '-'],
      ['decode', name, '-o', '-', '--format', 'jsonl'],
      ['replay', name, '--to', 'inet:1'],
    ]) {
      const said = await redirected(argv, { to: path });
      t.match(said, { code: 64, out: '', err: 'The standard output is the file that is read' }, argv.join(' '));
    }
  }
  t.ok(readFileSync(path).equals(before));
  t.equal((await redirected(['decode', '-'], { from: path, to: '/dev/null' })).code, 0, 'others are');
  t.equal((await redirected(['decode', '/dev/null'], { from: '/dev/null', to: '/dev/null' })).code, 65, 'a device is');
});

t.test('send --output: not over the message itself, and for its owner alone', async (t) => {
  const mail = join(folder, 'mail.eml');
  writeFileSync(mail, 'Subject: hi\n\nbody\n');
  const milter = await serving(t, {});
  const said = await cli(['send', mail, '--to', milter, '-o', mail]);
  t.match(said, { code: 64, out: '', err: /mail\.eml is the file that is read/ });
  t.equal(readFileSync(mail, 'utf8'), 'Subject: hi\n\nbody\n');
  const result = join(folder, 'result.eml');
  writeFileSync(result, 'old', { mode: 0o644 });
  t.equal((await cli(['send', mail, '--to', milter, '-o', result])).code, 0);
  t.match(readFileSync(result, 'utf8'), /^Subject: hi/);
  t.equal(mode(result), 0o600);
});

t.test('a file that is there is for its owner alone from then on', async (t) => {
  const path = await captured(t, 'modes.jsonl');
  for (const [option, name] of [
    ['-o', 'open.jsonl'],
    ['--html', 'open.html'],
  ] as const) {
    const target = join(folder, name);
    writeFileSync(target, 'old');
    chmodSync(target, 0o644);
    t.equal((await cli(['decode', path, option, target])).code, 0);
    t.equal(mode(target), 0o600, option);
    t.notMatch(readFileSync(target, 'utf8'), /^old/);
  }
  const recording = join(folder, 'recording.jsonl');
  writeFileSync(recording, 'something longer than the first line of a capture, whatever it may be');
  chmodSync(recording, 0o664);
  const argv = ['record', recording, '--listen', 'inet:0', '--upstream', 'inet:1'];
  t.equal((await cli(argv, { signal: AbortSignal.abort() })).code, 0);
  t.equal(mode(recording), 0o600);
  t.equal(readFileSync(recording, 'utf8'), '{"format":"milter-stream capture","version":1}\n');
});

t.test('a file of somebody else is written, and stays as open as it is', { skip: !isRoot }, async (t) => {
  const path = await captured(t, 'ours.jsonl');
  const theirs = join(folder, 'theirs.jsonl');
  writeFileSync(theirs, 'x'.repeat(100_000));
  chmodSync(theirs, 0o644);
  chownSync(theirs, 12_345, 12_345);
  const { ino } = statSync(theirs);
  t.equal((await cli(['decode', path, '-o', theirs])).code, 0);
  t.match(statSync(theirs), { uid: 12_345, ino });
  t.equal(mode(theirs), 0o644);
  t.equal(readFileSync(theirs, 'utf8'), readFileSync(path, 'utf8'));
});

t.test('links to a file stay, and lead to what is new', async (t) => {
  const path = await captured(t, 'linked.jsonl');
  const [first, second, link, ahead] = ['1', '2', '3', '4'].map((name) => join(folder, `${name}.jsonl`)) as [
    string,
    string,
    string,
    string,
  ];
  writeFileSync(first, 'x'.repeat(100_000));
  linkSync(first, second);
  symlinkSync(first, link);
  symlinkSync(join(folder, 'not-yet.jsonl'), ahead);
  for (const name of [second, link]) {
    writeFileSync(first, 'x'.repeat(100_000));
    t.equal((await cli(['decode', path, '-o', name])).code, 0);
    t.ok(readFileSync(first).equals(readFileSync(path)), name);
  }
  t.ok(lstatSync(link).isSymbolicLink());
  t.equal((await cli(['decode', path, '-o', ahead])).code, 0);
  t.ok(readFileSync(join(folder, 'not-yet.jsonl')).equals(readFileSync(path)));
});

t.test('a FIFO takes a capture as it comes', async (t) => {
  const path = await captured(t, 'piped.jsonl');
  const fifo = join(folder, 'fifo');
  execFileSync('mkfifo', ['-m', '644', fifo]);
  const got = readFile(fifo);
  t.equal((await cli(['decode', path, '-o', fifo, '--format', 'jsonl'])).code, 0);
  t.ok((await got).equals(readFileSync(path)));
  t.ok(statSync(fifo).isFIFO());
  t.equal(mode(fifo), 0o644);
});

t.test('what cannot be read takes nothing’s place', async (t) => {
  const target = join(folder, 'stays.jsonl');
  const page = join(folder, 'stays.html');
  const garbage = join(folder, 'garbage.jsonl');
  writeFileSync(garbage, 'no capture');
  for (const file of [join(folder, 'none.jsonl'), garbage]) {
    for (const argv of [
      ['-o', target],
      ['--html', page],
    ]) {
      const bare = await cli(['decode', file, ...argv]);
      t.match(bare, { code: file === garbage ? 65 : 66, out: '' });
      t.notOk(existsSync(argv[1]!));
      writeFileSync(argv[1]!, 'old');
      t.strictSame(await cli(['decode', file, ...argv]), bare);
      t.equal(readFileSync(argv[1]!, 'utf8'), 'old');
      unlinkSync(argv[1]!);
    }
  }
});

t.test('until all is written the old file is there, and where it fails it stays', async (t) => {
  const inside = join(folder, 'inside');
  mkdirSync(inside);
  const target = join(inside, 'a.jsonl');
  writeFileSync(target, 'old');
  const stdin = new PassThrough();
  const io = fakeIo();
  const ended = runCli(['decode', '-', '-o', target], { ...io, stdin });
  const text = readFileSync(await captured(t, 'source.jsonl'), 'utf8');
  stdin.write(text.slice(0, 1000));
  await until('a file beside it', () => readdirSync(inside).length === 2);
  t.equal(readFileSync(target, 'utf8'), 'old');
  const beside = readdirSync(inside).find((name) => name !== 'a.jsonl')!;
  t.match(beside, /^\.a\.jsonl\.[\w-]+\.tmp$/);
  t.equal(mode(join(inside, beside)), 0o600);
  // Something that cannot be replaced has come there meanwhile.
  unlinkSync(target);
  mkdirSync(target);
  stdin.end(text.slice(1000));
  t.equal(await ended, 73);
  t.match(io.stderr.text, /Cannot write .*a\.jsonl: EISDIR/);
  t.strictSame(readdirSync(inside), ['a.jsonl']);
  rmdirSync(target);
});

t.test('a name that leaves no room for another beside it is written to at once', async (t) => {
  const path = await captured(t, 'short.jsonl');
  const long = join(folder, `${'n'.repeat(240)}.jsonl`);
  writeFileSync(long, 'x'.repeat(100_000));
  t.equal((await cli(['decode', path, '-o', long])).code, 0);
  t.ok(readFileSync(long).equals(readFileSync(path)));
});

t.test('a signal takes the file away that is not whole, and ends the process as ever', async (t) => {
  const target = join(folder, 'signal.jsonl');
  const killed: unknown[] = [];
  const source = Object.assign(new EventEmitter(), {
    pid: 42,
    kill: (...args: unknown[]) => killed.push(args),
  }) as unknown as NodeJS.Process;
  const file = await OutputFile.beside(target, source);
  const stream = await file.begin();
  t.ok(readdirSync(folder).some((name) => name.startsWith('.signal')));
  source.emit('SIGTERM', 'SIGTERM');
  t.notOk(readdirSync(folder).some((name) => name.includes('signal')));
  t.strictSame(killed, [[42, 'SIGTERM']]);
  t.equal(source.listenerCount('SIGTERM'), 0, 'the second one finds nobody');
  stream.destroy();
  await file.drop();
  t.equal(source.listenerCount('SIGINT'), 0);
});

t.test('all ways to show a capture have the same exit status', async (t) => {
  const noPacket = data('mta', Buffer.from('GET / HTTP/1.0\r\n\r\n'), 1000);
  const open = { type: 'open', session: 's', time: 1000 } as const;
  const cut = await captured(t, 'cut.jsonl');
  writeFileSync(cut, readFileSync(cut).subarray(0, -30));
  const line = await captured(t, 'line.jsonl');
  appendFileSync(line, 'nonsense\n');
  const bytes = join(folder, 'bytes');
  writeFileSync(bytes, Buffer.alloc(100, 0xff));
  for (const [argv, code] of [
    [[await captured(t, 'good.jsonl')], 0],
    [[await written('no-packet.jsonl', [open, noPacket])], 65],
    [[await written('odd.jsonl', [open, data('mta', Buffer.concat([OFFER, Buffer.of(0, 0, 0, 1, 0x7a)]))])], 65],
    [[await written('torn.jsonl', [open, data('mta', OFFER.subarray(0, -2), 1000)])], 65],
    [[await written('gap.jsonl', [open, { type: 'gap', session: 's', time: 0, from: 'mta', missing: 1 }])], 65],
    [[await written('told.jsonl', [open, { type: 'problem', session: 's', time: 0, text: 'recorded' }])], 0],
    [[cut], 65],
    [[line], 65],
    [[bytes, '--from', 'mta'], 65],
    [[bytes], 65],
    [[folder], 66],
  ] as const) {
    for (const output of [
      [],
      ['--json'],
      ['-o', '-', '--format', 'jsonl'],
      ['-o', '-', '--format', 'pcapng'],
      ['--html', '-'],
      ['-o', join(folder, 'mode.pcapng')],
      ['--html', join(folder, 'mode.html')],
    ]) {
      t.equal((await cli(['decode', ...argv, ...output])).code, code, [basename(argv[0]), ...output].join(' '));
    }
  }
  t.notOk(readdirSync(dirname(bytes)).some((name) => name.endsWith('.tmp')));
});
