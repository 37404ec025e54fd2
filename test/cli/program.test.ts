// The program itself, in processes of its own: as it is built, and once from the sources.
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import t from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import { REJECT, type MilterProtocol } from '../../lib/index.js';
import { demandBuild, root } from '../helpers/built.js';
import { runProgram } from '../helpers/example.js';
import { fakeMilter } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { answering, serving } from './milters.js';

demandBuild();

const program = join(root, 'dist/cli/main.js');
const folder = shortFolder(t);
const mail = join(folder, 'mail.eml');
writeFileSync(mail, 'Subject: hi \x1b[31m\n\nbody\n');
const milter = join(folder, 'milter.mjs');
writeFileSync(
  milter,
  `import { MilterProtocol } from ${JSON.stringify(join(root, 'dist/index.js'))};
  export class Slow extends MilterProtocol {
    async eob() {
      if (this.macro('i') === 'slow') console.log('begun');
      if (this.macro('i') === 'slow') await new Promise(() => {});
      this.addHeader('X-Pid', String(process.pid));
    }
  }`,
);

interface Ended {
  readonly code: unknown;
  readonly out: string;
  readonly err: string;
}

function start(argv: readonly string[], env: Record<string, string> = {}): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, [program, ...argv], { stdio: 'pipe', env: { PATH: process.env['PATH'], ...env } });
}

async function run(argv: readonly string[], { input = '', env = {} } = {}): Promise<Ended> {
  const child = start(argv, env);
  child.stdin.end(input);
  const [out, err, [code, signal]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return { code: code ?? signal, out, err };
}

t.test('the program is one that a shell can start', async (t) => {
  t.match(readFileSync(program, 'utf8'), /^#!\/usr\/bin\/env node\n/);
  const help = await run(['--help']);
  t.match(help, { code: 0, err: '' });
  t.match(help.out, /^Usage: milter-stream COMMAND/);
  t.match(await run(['sned']), { code: 64, out: '', err: /did you mean send\?/ });
  const page = await run(['--man']);
  t.match(page.out, /^\.TH MILTER-STREAM 1 /);
});

t.test('from the sources, it is the same', async (t) => {
  const child = spawn(process.execPath, [...process.execArgv, join(root, 'lib/cli/main.ts'), '--version']);
  child.stdin.end();
  const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  t.strictSame({ code, out, err }, await run(['--version']));
});

t.test('a milter that does not close its connection keeps nobody waiting', async (t) => {
  const address = await answering(t, (socket) => {
    socket.allowHalfOpen = true;
    const { stream } = fakeMilter();
    socket.pipe(stream, { end: false }).pipe(socket);
  });
  const said = await run(['send', mail, '--to', address, '--timeout', '1h']);
  t.match(said, { code: 0, err: '', out: /DELIVERED/ });
});

t.test('send: the standard input, colours where they are wanted, the exit status', async (t) => {
  const address = await serving(t, {
    rcpt: (recipient: string) => (recipient === '<nobody@example.com>' ? REJECT : undefined),
    eob(this: MilterProtocol) {
      this.addHeader('X-Seen', 'yes');
    },
  });
  const input = readFileSync(mail, 'latin1');
  const argv = ['send', '-', '--to', address];
  const plain = await run(argv, { input });
  t.match(plain, { code: 0, err: '', out: /DELIVERED[^]*\n {2}Subject: hi \\x1b\[31m\n\+ X-Seen: yes\n/ });
  t.notOk(plain.out.includes('\x1b'));
  const coloured = await run(argv, { input, env: { FORCE_COLOR: '1' } });
  t.ok(coloured.out.includes('\x1b[32m+ X-Seen: yes\x1b[0m'));
  t.notOk(coloured.out.includes('hi \x1b'), 'what a message says has no colour');
  t.notOk((await run(argv, { input, env: { FORCE_COLOR: '1', NO_COLOR: '1' } })).out.includes('\x1b'));
  t.match(await run([...argv, '--rcpt', 'nobody@example.com', '-q'], { input }), { code: 1, out: '', err: '' });
});

t.test('a reader who has gone is no failure', async (t) => {
  for (const argv of [['--man'], ['send', mail, '--to', await serving(t, {}), '--json']]) {
    const child = start(argv);
    child.stdout.destroy();
    child.stdin.end();
    const [err, [code]] = await Promise.all([text(child.stderr), once(child, 'close')]);
    t.strictSame([err, code], ['', 0], argv[0]!);
  }
});

t.test('Ctrl-C ends a load, and what was measured is shown', async (t) => {
  let messages = 0;
  const address = await serving(t, {
    eob() {
      if (++messages === 5) child.kill('SIGINT');
    },
  });
  const child = start(['send', mail, '--to', address, '--repeat', '1000000']);
  child.stdin.end();
  const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  t.equal(code, 130);
  t.match(err, /^milter-stream send: interrupted, \d+ of 1,000,000 messages sent\n$/);
  t.match(out, /^\d+ messages on 1 connection in /);
});

t.test('serve: threads and processes find a class that does not say where it lives, and one that does', async (t) => {
  const two = join(folder, 'two.mjs');
  writeFileSync(
    two,
    `import { MilterProtocol } from ${JSON.stringify(join(root, 'dist/index.js'))};
    export default class extends MilterProtocol {
      eob() { this.addHeader('X-Context', String(this.context.n)); }
    }
    export class Named extends MilterProtocol {
      static module = import.meta.url;
      eob() { this.addHeader('X-Context', 'named'); }
    }`,
  );
  for (const factory of ['thread', 'fork']) {
    for (const [name, said] of [
      ['default', '5'],
      ['Named', 'named'],
    ] as const) {
      const options = ['--factory', factory, '--workers', '1', '--export', name, '--context', '{"n":5}'];
      const running = runProgram(process.execPath, [program, 'serve', two, 'inet:0', ...options]);
      t.teardown(() => running.kill('SIGKILL'));
      await running.printed('INPUT_MAIL_FILTER');
      const client = new MilterClient(/S=([^,]+),/.exec(running.out())![1]!);
      await client.connect();
      const { message } = await client.send({ from: 'a', to: ['b'], message: 'A: b\n\n' });
      t.match(message.toString(), `X-Context: ${said}\r\n`, `${factory} ${name}`);
      await client.quit();
      running.kill('SIGTERM');
      t.equal(await running.ended, 0);
    }
  }
});

t.test('serve: SIGTERM finishes the messages in progress, SIGHUP loads the module anew', async (t) => {
  const running = runProgram(process.execPath, [
    program,
    'serve',
    milter,
    'inet:0',
    '--factory',
    'fork',
    '--workers',
    '1',
  ]);
  t.teardown(() => running.kill('SIGKILL'));
  await running.printed('INPUT_MAIL_FILTER');
  const address = /S=([^,]+),/.exec(running.out())![1]!;
  const client = new MilterClient(address);
  await client.connect();
  const send = async (): Promise<string> => {
    const { message } = await client.send({ from: 'a', to: ['b'], message: 'A: b\n\n' });
    return /X-Pid: (\d+)/.exec(message.toString())![1]!;
  };
  const first = await send();
  running.kill('SIGHUP');
  await running.printed('reloaded');
  await client.quit();
  await client.connect();
  t.not(await send(), first, 'another process');
  await client.quit();
  running.kill('SIGTERM');
  t.equal(await running.ended, 0);
  t.match(running.out(), /closing: the messages in progress are finished/);
  t.equal(running.err(), '');
});

t.test('serve: a second signal ends everything at once', async (t) => {
  const running = runProgram(process.execPath, [program, 'serve', milter, 'inet:0']);
  t.teardown(() => running.kill('SIGKILL'));
  await running.printed('INPUT_MAIL_FILTER');
  const client = new MilterClient(/S=([^,]+),/.exec(running.out())![1]!, { macros: { eob: { i: 'slow' } } });
  await client.connect();
  const sent = client.send({ from: 'a', to: ['b'], message: 'A: b\n\n' }).then(
    ({ verdict }) => verdict,
    () => 'lost',
  );
  await running.printed('begun');
  running.kill('SIGINT');
  await running.printed('closing: the messages in progress are finished');
  running.kill('SIGINT');
  t.equal(await running.ended, 0);
  t.not(await sent, 'accept');
});
