// runFilter() in processes of its own: a milter as a service, with signals on one side and systemd on the other.
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { demandBuild } from '../helpers/built.js';
import { runProgram, type Running } from '../helpers/example.js';
import { fakeNotify } from '../helpers/fake-notify.js';
import { shortFolder } from '../helpers/folder.js';
import { Mta, say } from '../helpers/mta.js';
import { needs } from '../helpers/real.js';
import { lineOf, marksAMessage, serviceLine, startService } from '../helpers/service.js';
import { until } from '../helpers/until.js';

demandBuild();

const FACTORIES = ['AsyncFactory', 'ThreadFactory', 'ForkFactory'];

const LATER = { type: 'replyCode', text: /^421 4\.3\.2 / };

/** A mail server that is connected to a program on a Unix socket. */
async function dial(t: Test, path: string): Promise<Mta> {
  const socket = connect(path);
  t.teardown(() => void socket.destroy());
  const mta = new Mta(socket);
  await once(socket, 'connect');
  await mta.negotiate();
  return mta;
}

for (const name of FACTORIES) {
  const running = async (t: Test, env?: Record<string, string>): Promise<{ program: Running; path: string }> => {
    const path = `${shortFolder(t)}/s`;
    const program = startService(t, serviceLine(name, path), env);
    await lineOf(program, `info listening on unix:${path}`);
    return { program, path };
  };

  t.test(`P142 ${name}: SIGTERM and SIGINT let messages in progress end, and the program with them`, async (t) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const { program, path } = await running(t);
      const mta = await dial(t, path);
      await mta.ask(say.mail());
      program.kill(signal);
      await lineOf(program, 'info closing: the messages in progress are finished');
      mta.send(say.eob());
      t.match([await mta.reply(), await mta.reply()], [{ type: 'addHeader' }, { type: 'continue' }]);
      t.match(await mta.ask(say.mail(), say.eob()), LATER);
      mta.send(say.quit());
      t.equal(await program.ended, 0, program.err());
      t.match(program.out(), /\nclose\nover\nhandlers left: 0\n$/);
    }
  });

  t.test(`P142 ${name}: the second signal ends everything at once`, async (t) => {
    for (const [first, second] of [
      ['SIGTERM', 'SIGTERM'],
      ['SIGINT', 'SIGTERM'],
    ] as const) {
      const { program, path } = await running(t);
      const mta = await dial(t, path);
      await mta.ask(say.mail());
      program.kill(first);
      await lineOf(program, 'info closing: the messages in progress are finished');
      program.kill(second);
      await lineOf(program, 'info closing at once');
      await mta.closed;
      t.equal(await program.ended, 0, program.err());
      t.match(program.out(), /\nclose\nover\nhandlers left: 0\n$/);
    }
  });

  t.test(`${name} tells systemd that it is ready, reloads and stops`, async (t) => {
    const { env, told } = fakeNotify(t);
    const { program, path } = await running(t, env);
    await until('READY=1', () => told().length === 1);
    program.kill('SIGHUP');
    await until('the reload', () => told().length === 3);
    await marksAMessage(t, path);
    program.kill('SIGTERM');
    t.equal(await program.ended, 0, program.err());
    t.match(told(), [
      `READY=1|STATUS=listening on unix:${path}|`,
      'RELOADING=1|MONOTONIC_USEC=N|STATUS=reloading|',
      new RegExp(`^READY=1\\|STATUS=listening on unix:${path}; reload`),
      'STOPPING=1|STATUS=finishing the messages in progress|',
    ]);
    t.equal(told().length, 4);
  });
}

t.test('AsyncFactory cannot reload, says so, and keeps running', async (t) => {
  const path = `${shortFolder(t)}/s`;
  const program = startService(t, serviceLine('AsyncFactory', path));
  await lineOf(program, 'listening ');
  program.kill('SIGHUP');
  const what = await lineOf(program, 'sessionError ');
  t.match(what, /^ERR_MILTER_UNSUPPORTED: /);
  t.ok(program.out().includes(`error reload failed: ${what.replace(/^\w+: /, '')}\n`));
  await marksAMessage(t, path);
  program.kill('SIGTERM');
  t.equal(await program.ended, 0, program.err());
});

/** Prints what comes to a Unix datagram socket, a line for each datagram. Descriptors that come along are closed. */
const RECEIVER = `
import json, socket, sys
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind(sys.argv[1])
print("bound", flush=True)
while True:
    print(json.dumps(receiver.recv(65536).decode()), flush=True)
`;

const noPython = spawnSync('python3', ['--version']).status === 0 ? {} : { skip: 'no python3 to receive datagrams' };

t.test('the real systemd-notify tells it as systemd reads it', { ...noPython, ...needs('systemd') }, async (t) => {
  const folder = shortFolder(t);
  const receiver = runProgram('python3', ['-c', RECEIVER, `${folder}/notify`]);
  t.teardown(() => receiver.kill('SIGKILL'));
  await receiver.printed('bound');
  const program = startService(t, serviceLine('AsyncFactory', `${folder}/s`), { NOTIFY_SOCKET: `${folder}/notify` });
  /** The rest of the first datagram that begins with these lines. */
  const told = (...lines: string[]): Promise<string> => lineOf(receiver, JSON.stringify(lines.join('\n')).slice(0, -1));
  const now = (): bigint => process.hrtime.bigint() / 1000n;
  await told('READY=1', `STATUS=listening on unix:${folder}/s`);
  const before = now();
  program.kill('SIGHUP');
  const [time, rest] = (await told('RELOADING=1', 'MONOTONIC_USEC=')).split('\\n') as [string, string];
  t.ok(BigInt(time) >= before && BigInt(time) <= now(), 'by the clock that systemd uses');
  t.equal(rest, 'STATUS=reloading"');
  await told('READY=1', `STATUS=listening on unix:${folder}/s; reload failed: `);
  program.kill('SIGTERM');
  await told('STOPPING=1', 'STATUS=finishing the messages in progress');
  t.equal(await program.ended, 0, program.err());
  t.notMatch(program.out(), /^warn/m);
});
