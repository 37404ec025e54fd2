// sniff and decode as programs, in processes of their own, as they are built: signals, and outputs of all kinds.
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import type { MilterProtocol } from '../../lib/index.js';
import { demandBuild, root } from '../helpers/built.js';
import { shortFolder } from '../helpers/folder.js';
import { gate } from '../helpers/milter.js';
import { MAIL } from '../helpers/recorded.js';
import { until } from '../helpers/until.js';
import { ALL, capturesIn } from './captures.js';
import { serving } from './milters.js';

demandBuild();

const folder = shortFolder(t);
const { captured } = capturesIn(folder);

function start(...argv: string[]): ChildProcessWithoutNullStreams {
  const env = { PATH: process.env['PATH'] };
  return spawn(process.execPath, [join(root, 'dist/cli/main.js'), ...argv], { stdio: 'pipe', env });
}

/** Collects what a program prints, and tells when it has printed something. */
function reading(child: ChildProcessWithoutNullStreams): {
  text: () => string;
  printed: (what: RegExp) => Promise<RegExpExecArray>;
} {
  let all = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (all += chunk));
  return {
    text: () => all,
    async printed(what) {
      for (;;) {
        const found = what.exec(all);
        if (found !== null) return found;
        await once(child.stdout, 'data');
      }
    },
  };
}

async function stuck(t: Test): Promise<{
  child: ChildProcessWithoutNullStreams;
  out: ReturnType<typeof reading>;
  sent: Promise<string>;
  go: () => void;
}> {
  const { promise, open: go } = gate();
  const begun = gate();
  const milter = await serving(t, {
    async eob(this: MilterProtocol) {
      begun.open();
      await promise;
    },
  });
  t.teardown(() => go());
  const child = start('sniff', '--listen', 'inet:0', '--upstream', milter);
  t.teardown(() => child.kill('SIGKILL'));
  const out = reading(child);
  const [, address] = (await out.printed(/listening on (\S+),/)) as unknown as [string, string];
  const client = new MilterClient(address);
  await client.connect();
  const sent = client.send(MAIL).then(
    async ({ verdict }) => {
      await client.quit();
      return verdict;
    },
    () => 'lost',
  );
  await begun.promise;
  return { child, out, sent, go };
}

t.test('the first SIGINT lets the messages in progress come to their end', async (t) => {
  const { child, out, sent, go } = await stuck(t);
  child.kill('SIGINT');
  go();
  const [err, [code]] = await Promise.all([text(child.stderr), once(child, 'close')]);
  t.strictSame([await sent, code, err], ['accept', 0, '']);
  t.match(out.text(), /1 session, 1 message\n {2}1 accept\n/);
});

t.test('a second one ends them at once', async (t) => {
  const { child, out, sent } = await stuck(t);
  await out.printed(/→ eob/);
  child.kill('SIGINT');
  const again = setInterval(() => child.kill('SIGTERM'), 100);
  await once(child, 'close');
  clearInterval(again);
  t.equal(await sent, 'lost');
  t.match(out.text(), /1 session, 1 message\n {2}1 aborted\n/);
});

t.test('a reader who has gone ends it, like head: what has begun comes to its end', async (t) => {
  for (const more of [[], ['--json']]) {
    const child = start('sniff', '--listen', 'inet:0', '--upstream', await serving(t, ALL), ...more);
    t.teardown(() => child.kill('SIGKILL'));
    const [address] = await reading(child).printed(/inet:\d+@127\.0\.0\.1/);
    const client = new MilterClient(address);
    await client.connect();
    child.stdout.destroy();
    t.equal((await client.send(MAIL)).verdict, 'accept');
    await client.quit();
    const [err, [code]] = await Promise.all([text(child.stderr), once(child, 'close')]);
    t.strictSame([err, code], ['', 0]);
  }
});

/** A line for the shell, where $ms is the program. */
async function shell(line: string): Promise<{ code: unknown; out: string; err: string }> {
  const ms = `'${process.execPath}' '${join(root, 'dist/cli/main.js')}'`;
  const child = spawn('sh', ['-c', line.replaceAll('$ms', ms)], { stdio: 'pipe', cwd: folder });
  child.stdin.end();
  const [out, err, [code, signal]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return { code: code ?? signal, out, err };
}

t.test('decode: a file that cannot be written whole leaves the old one, and nothing beside it', async (t) => {
  const path = await captured(t, 'big.jsonl', ALL, [
    [{ message: `A: b\n\n${'x'.repeat(70)}\n`.padEnd(60_000, 'y\n') }],
  ]);
  const old = join(folder, 'old.jsonl');
  writeFileSync(old, 'old');
  // Beyond 8 KiB an error; without who listens for it, a signal that ends the process.
  const options = `NODE_OPTIONS="--import=data:text/javascript,process.on('SIGXFSZ',()=>{})"`;
  const full = await shell(`ulimit -f 16; ${options} $ms decode ${path} -o old.jsonl`);
  t.match(full, { code: 73, out: '', err: 'milter-stream decode: Cannot write old.jsonl: EFBIG' });
  t.equal(readFileSync(old, 'utf8'), 'old');
  t.strictSame(readdirSync(folder).toSorted(), ['big.jsonl', 'old.jsonl']);
});

t.test('decode: Ctrl-C leaves the old file, and nothing beside it', async (t) => {
  const old = join(folder, 'stays.jsonl');
  writeFileSync(old, 'old');
  const child = start('decode', '-', '-o', old);
  t.teardown(() => child.kill('SIGKILL'));
  child.stdin.write(readFileSync(await captured(t, 'first.jsonl')));
  await until('a file beside it', () => readdirSync(folder).some((name) => name.startsWith('.stays')));
  child.kill('SIGINT');
  const [, signal] = (await once(child, 'close')) as [unknown, string];
  t.equal(signal, 'SIGINT', 'a shell sees how it ended');
  t.equal(readFileSync(old, 'utf8'), 'old');
  t.notOk(readdirSync(folder).some((name) => name.endsWith('.tmp')));
});

t.test(
  'decode: /dev/stdout and /dev/stdin are what they are called',
  { skip: !existsSync('/dev/stdout') },
  async (t) => {
    const path = await captured(t, 'devices.jsonl');
    const whole = readFileSync(path, 'utf8');
    t.strictSame(await shell(`$ms decode ${path} -o /dev/stdout --format jsonl | cat`), {
      code: 0,
      out: whole,
      err: '',
    });
    const both = await shell(`{ $ms decode /dev/stdin -o /dev/stdout --format jsonl; } < ${path} > out.jsonl`);
    t.strictSame(both, { code: 0, out: '', err: '' });
    t.equal(readFileSync(join(folder, 'out.jsonl'), 'utf8'), whole);
    t.match(await shell(`$ms decode - -o ${path} < ${path}`), { code: 64, err: 'is the file that is read' });
    t.match(await shell(`$ms decode ${path} >> ${path}`), {
      code: 64,
      err: 'The standard output is the file that is read',
    });
    t.equal(readFileSync(path, 'utf8'), whole);
  },
);

t.test('a full disk under what is printed is told', { skip: !existsSync('/dev/full') }, async (t) => {
  const path = await captured(t, 'full.jsonl');
  const err = /^milter-stream: Cannot write to the standard output: ENOSPC/;
  for (const line of ['--man', `decode ${path}`, `decode ${path} -o - --format jsonl`, 'send --help']) {
    t.match(await shell(`$ms ${line} > /dev/full`), { code: 73, err }, line);
  }
});
