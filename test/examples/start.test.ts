// `npm start`: what somebody sees who tries the library for the first time.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import { demandBuild, root } from '../helpers/built.js';

demandBuild();

interface Program {
  /** What it has printed so far. */
  readonly out: () => string;
  readonly err: () => string;
  /** Resolves when it has printed something. */
  printed(what: string): Promise<void>;
  kill(signal: NodeJS.Signals): void;
  /** Its exit status, or the signal that ended it. */
  readonly ended: Promise<number | string>;
}

function start(script: string, ...args: string[]): Program {
  const child = spawn(process.execPath, ['--import', 'tsx', `examples/${script}`, ...args], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env['PATH'] }, // nothing of tap's: it would run the program with its own loader
  });
  const text = { out: '', err: '' };
  for (const [name, stream] of [
    ['out', child.stdout],
    ['err', child.stderr],
  ] as const) {
    stream.setEncoding('utf8').on('data', (chunk: string) => (text[name] += chunk));
  }
  const ended = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string);
  return {
    out: () => text.out,
    err: () => text.err,
    async printed(what) {
      while (!text.out.includes(what)) {
        const over = await Promise.race([ended.then(() => true), once(child.stdout, 'data').then(() => false)]);
        if (over && !text.out.includes(what))
          throw new Error(`It ended before it printed ${what}:\n${text.err}${text.out}`);
      }
    },
    kill: (signal) => void child.kill(signal),
    ended,
  };
}

const folder = mkdtempSync(join(tmpdir(), 'milter-'));
t.teardown(() => rmSync(folder, { recursive: true }));

/** What the milter hears of the sample, line by line. */
const HEARD = [
  'connect  laptop.example.org [192.0.2.7] port 25000, family 4, macros {"j":"localhost",',
  'helo     laptop.example.org',
  'mailFrom <alice@example.org> SIZE=612 BODY=8BITMIME',
  'rcpt     <bob@example.com>',
  'rcpt     <nobody@example.com>',
  'data     queue id MS',
  'header   Received: from laptop.example.org (laptop.example.org [192.0.2.7]) by mx.example.com',
  'header   Subject: Lunch on Thursday?',
  'eoh',
  'body     79 bytes',
  'eob      79 bytes of body in all',
  'abort    after a complete message',
];

/** The verdict, and the message before and after. */
const SHOWN = [
  `${join(root, 'examples/sample.eml')}: DELIVERED at eob`,
  '  <bob@example.com>: accepted',
  '  <nobody@example.com>: rejected, 550 5.1.1 There is nobody here of that name',
  '- to <nobody@example.com>',
  '  From: Alice Example <alice@example.org>',
  '- Subject: Lunch on Thursday?',
  '+ Subject: [tested] Lunch on Thursday?',
  '+ X-Test-Milter: 79 bytes of body',
  '  … the body is unchanged, 79 bytes',
];

/** Each line appears, in this order, alone or as the beginning of one. */
function holdsInOrder(t: Test, out: string, lines: readonly string[]): void {
  const printed = out.split('\n');
  let at = 0;
  for (const line of lines) {
    const found = printed.findIndex((each, i) => i >= at && each.startsWith(line));
    t.ok(found >= 0, line, { printed: out });
    if (found >= 0) at = found + 1;
  }
}

t.test('npm start -- --once shows the callbacks, the verdict and the change, and ends well', async (t) => {
  const program = start('start.ts', '--once', 'inet:0@127.0.0.1');
  t.equal(await program.ended, 0, program.err());
  holdsInOrder(t, program.out(), [...HEARD, ...SHOWN]);
  t.equal(program.err(), '');
  t.notOk(program.out().includes('\x1b'), 'no colours where nobody looks');
  t.notMatch(program.out(), /smtpd_milters/);
});

t.test('npm start stays, tells what to write into the configurations, and stops at Ctrl-C', async (t) => {
  const program = start('start.ts', 'inet:0@127.0.0.1');
  await program.printed('Ctrl-C stops');
  holdsInOrder(t, program.out(), [
    ...HEARD,
    ...SHOWN,
    '  ok       it is a milter, and answered the offer within',
    '  may do        SMFIF_ADDHDRS, SMFIF_CHGHDRS',
    'Postfix, main.cf:',
    '  smtpd_milters = inet:127.0.0.1:',
    'Sendmail, sendmail.mc:',
    "  INPUT_MAIL_FILTER(`my-milter', `S=inet:",
    'Listening on inet:',
  ]);
  const port = /smtpd_milters = inet:127\.0\.0\.1:(\d+)\n/.exec(program.out())?.[1];
  t.match(program.out(), `S=inet:${port}@127.0.0.1, F=T, T=S:10s;R:10s;E:5m')`);
  const client = new MilterClient(`inet:${port}@127.0.0.1`);
  await client.connect({ hostname: 'another.example.org' });
  const { message } = await client.send({ from: '', to: ['<b@example.com>'], message: 'Subject: hi\x1b[31m\n\nbody' });
  t.equal(message.toString(), 'Subject: [tested] hi\x1b[31m\r\nX-Test-Milter: 4 bytes of body\r\n\r\nbody');
  await program.printed('connect  another.example.org');
  await program.printed('header   Subject: hi·[31m');
  await client.quit();
  program.kill('SIGINT');
  t.equal(await program.ended, 0);
  t.match(program.out(), /Stopping: messages in progress are finished[^]*Stopped\.\n$/);
  t.equal(program.err(), '');
});

t.test('a second Ctrl-C ends a message in progress at once', async (t) => {
  const program = start('start.ts', 'inet:0@127.0.0.1');
  await program.printed('Ctrl-C stops');
  const port = /smtpd_milters = inet:127\.0\.0\.1:(\d+)\n/.exec(program.out())?.[1];
  const client = new MilterClient(`inet:${port}@127.0.0.1`);
  await client.connect({ hostname: 'waiting.example.org' });
  program.kill('SIGINT');
  await program.printed('Stopping');
  program.kill('SIGINT');
  t.equal(await program.ended, 0);
  await client.quit();
});

t.test('on a Unix socket it says who can reach it, and what a chrooted smtpd sees', async (t) => {
  const path = join(folder, 's');
  const program = start('start.ts', `unix:${path}`);
  await program.printed('Ctrl-C stops');
  for (const line of [
    `  smtpd_milters = unix:${path}\n`,
    `  INPUT_MAIL_FILTER(\`my-milter', \`S=unix:${path}, F=T,`,
    'mode 0666',
    'chroot',
  ]) {
    t.ok(program.out().includes(line), line, { printed: program.out() });
  }
  program.kill('SIGTERM');
  t.equal(await program.ended, 0);
  t.notOk(existsSync(path), 'the socket is gone');
});

t.test('what cannot be is said in words, with how to do it, and exit status 1', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  for (const [argument, words] of [
    [`inet:${port}@127.0.0.1`, `Cannot listen on inet:${port}@127.0.0.1: another process listens there`],
    ['unix:/no/such/folder/s', 'Cannot listen on unix:/no/such/folder/s: the folder is not there'],
    ['http:80', 'Bad socket address "http:80": http is none of inet, inet6, unix, local, systemd, fd'],
    ['--twice', "Unknown option '--twice'"],
  ] as const) {
    const program = start('start.ts', argument);
    t.equal(await program.ended, 1, argument);
    t.ok(program.err().startsWith(words), words, { printed: program.err() });
    t.match(program.err(), /\nUsage: npm start -- \[--once\] \[SOCKET\]/);
    t.notMatch(program.err(), /\n +at /, 'no stack');
  }
  server.close();
});

t.test('the example milter runs by itself', async (t) => {
  const program = start('testmilter.ts', `unix:${join(folder, 'alone')}`);
  await program.printed('Ctrl-C stops');
  const client = new MilterClient(join(folder, 'alone'));
  await client.connect();
  t.match(await client.send({ from: '', to: ['<Nobody@example.com>', '<nobody@example.com>'], message: 'A: b\n\n' }), {
    verdict: 'accept',
    recipients: [{ outcome: 'continue' }, { outcome: 'reject' }],
    message: Buffer.from('A: b\r\nX-Test-Milter: 0 bytes of body\r\n\r\n'),
  });
  await client.quit();
  await program.printed('close');
  program.kill('SIGINT');
  t.equal(await program.ended, 0);
});
