// Listening on a socket that somebody else has opened: systemd's socket activation, and descriptors by number.
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, mkdirSync, openSync, statSync, writeFileSync } from 'node:fs';
import * as net from 'node:net';
import { lstat } from 'node:fs/promises';
import t, { type Test } from 'tap';
import { AsyncFactory, MilterProtocol, parseAddress, type InheritedSocket } from '../../lib/index.js';
import { inheritedDescriptor, pathOf } from '../../lib/sockets/inherited.js';
import { demandBuild } from '../helpers/built.js';
import { dial, serve } from '../helpers/dial.js';
import { thrown } from '../helpers/eob.js';
import type { Running } from '../helpers/example.js';
import { shortFolder } from '../helpers/folder.js';
import { times } from '../helpers/milter.js';
import { onFreePorts } from '../helpers/ports.js';
import { demand, needs } from '../helpers/real.js';
import { lineOf, marksAMessage, serviceLine, startService } from '../helpers/service.js';
import { until } from '../helpers/until.js';

demandBuild();

const FACTORIES = ['AsyncFactory', 'ThreadFactory', 'ForkFactory'];

const NO_STREAM = 'it is no stream socket to listen on (listen EINVAL: invalid argument)';

const elsewhere = process.platform === 'linux' ? false : 'only Linux tells the path of a socket';

const inherited = (text: string): InheritedSocket => parseAddress(text) as InheritedSocket;

/** The descriptor of something of Node's. */
const fdOf = (owner: unknown): number => (owner as { _handle: { fd: number } })._handle.fd;

/**
 * A socket that is bound and that nobody in this process accepts from: what systemd has in its hands. It is cluster's way
 * of making one, and closed only when this process ends: for who listens on it in here closes it.
 */
function held(path?: string): number {
  type Make = (address: string, port: number, type: number) => { readonly fd: number };
  const { _createServerHandle: make } = net as unknown as { _createServerHandle: Make };
  return (path === undefined ? make('127.0.0.1', 0, 4) : make(path, -1, -1)).fd;
}

/** Has systemd-socket-activate listen, wait for the first connection, and become the program. */
async function activated(t: Test, program: readonly string[], ...options: string[]): Promise<Running> {
  demand('systemd');
  const running = startService(t, ['systemd-socket-activate', ...options, ...program]);
  let over = false;
  void running.ended.then(() => (over = true));
  await until('systemd to listen', () => over || running.err().includes('Listening on '));
  const complaint = /Failed to listen.*/.exec(running.err())?.[0];
  if (complaint !== undefined) throw new Error(complaint);
  return running;
}

t.test('LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES are read as systemd means them', async (t) => {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => void server.close());
  const fd = fdOf(server);
  const count = fd - 2; // the last one is ours
  const names = Array.from({ length: count }, (_, i) => (i + 3 === fd ? 'milter' : `other-${i + 3}`));
  const env = { LISTEN_FDS: String(count), LISTEN_PID: String(process.pid), LISTEN_FDNAMES: names.join(':') };
  t.equal(inheritedDescriptor(inherited('systemd:milter'), env), fd);
  t.equal(inheritedDescriptor(inherited(`fd:${fd}`), {}), fd, 'by number, whatever the environment says');

  const refusals: ReadonlyArray<readonly [string, NodeJS.ProcessEnv, string]> = [
    ['systemd', {}, 'no socket was passed, LISTEN_FDS is not set: start it by its .socket unit'],
    [
      'systemd',
      { LISTEN_PID: env.LISTEN_PID },
      'no socket was passed, LISTEN_FDS is not set: start it by its .socket unit',
    ],
    [
      'systemd:milter',
      { ...env, LISTEN_PID: '1' },
      `LISTEN_PID is 1, this process is ${process.pid}: they are passed to the program started first, so start node itself, not npm or a shell`,
    ],
    [
      'systemd',
      { LISTEN_FDS: '1' },
      'LISTEN_PID is not set: they are passed to the program started first, so start node itself, not npm or a shell',
    ],
    ['systemd', { ...env, LISTEN_FDS: '0' }, "LISTEN_FDS is '0', which is no number of sockets"],
    ['systemd', { ...env, LISTEN_FDS: 'two' }, "LISTEN_FDS is 'two', which is no number of sockets"],
    ['systemd', { ...env, LISTEN_FDS: '4', LISTEN_FDNAMES: 'a:b' }, 'LISTEN_FDS is 4, but LISTEN_FDNAMES has 2 names'],
    [
      'systemd',
      { ...env, LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b' },
      'several among the sockets that were passed: a (fd:3), b (fd:4)',
    ],
    [
      'systemd',
      { ...env, LISTEN_FDS: '2', LISTEN_FDNAMES: undefined },
      'several among the sockets that were passed: unknown (fd:3), unknown (fd:4)',
    ],
    [
      'systemd:c',
      { ...env, LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b' },
      'none of that name among the sockets that were passed: a (fd:3), b (fd:4)',
    ],
    [
      'systemd:a',
      { ...env, LISTEN_FDS: '3', LISTEN_FDNAMES: 'a:b:a' },
      'several of that name among the sockets that were passed: a (fd:3), b (fd:4), a (fd:5)',
    ],
  ];
  for (const [socket, variables, what] of refusals) {
    const { code, message } = thrown(() => inheritedDescriptor(inherited(socket), variables));
    t.equal(code, 'ERR_MILTER_LISTEN');
    t.equal(message, `Cannot listen on ${socket}: ${what}`);
  }
});

t.test('what is no socket to listen on is refused by run()', async (t) => {
  const file = openSync(new URL(import.meta.url), 'r');
  const folder = openSync('/', 'r');
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => void server.close());
  for (const [fd, what] of [
    [1_000_000, 'descriptor 1000000 is not open'],
    [file, `descriptor ${file} is a file, no socket`],
    [folder, `descriptor ${folder} is no socket`],
    [fdOf(server), 'this process uses it already (listen EEXIST: file already exists)'],
  ] as const) {
    const factory = new AsyncFactory(`fd:${fd}`, MilterProtocol);
    await t.rejects(factory.run(), { code: 'ERR_MILTER_LISTEN', message: `Cannot listen on fd:${fd}: ${what}` });
    t.equal(factory.address, undefined);
    await factory.close();
  }
  t.ok(server.listening);

  const { port } = server.address() as net.AddressInfo;
  const socket = net.connect(port, '127.0.0.1');
  await once(socket, 'connect');
  t.teardown(() => void socket.destroy());
  const program = startService(t, serviceLine('AsyncFactory', 'fd:3'), {}, [fdOf(socket)]);
  t.equal(await lineOf(program, 'failed '), `ERR_MILTER_LISTEN: Cannot listen on fd:3: ${NO_STREAM}`);
  t.equal(await program.ended, 0);
});

t.test('the path of a Unix socket is found out, where the system tells', { skip: elsewhere }, async (t) => {
  const folder = shortFolder(t);
  mkdirSync(`${folder}/a folder`);
  const path = `${folder}/a folder/s`;
  const server = net.createServer().listen(path);
  await once(server, 'listening');
  t.teardown(() => void server.close());
  const fd = fdOf(server);
  t.equal(pathOf(fd), path);
  t.equal(pathOf(fd, '/no/such/table'), '', 'not where there is no such table');
  t.equal(pathOf(1_000_000), '', 'not of what is not there');
  const { ino } = statSync(`/proc/self/fd/${fd}`);
  for (const [row, found] of [
    [`0000000010f0092e: 00000002 00000000 00010000 0001 01 ${ino} /a`, '/a'],
    [`0000000010f0092e: 00000002 00000000 00010000 0001 01   ${ino} /a b`, '/a b'],
    [`0000000010f0092e: 00000002 00000000 00010000 0001 01 ${ino}`, ''],
    [`0000000010f0092e: 00000002 00000000 00010000 0001 01 ${ino} @abstract`, ''],
    [`0000000010f0092e: 00000002 00000000 00010000 0001 01 1${ino} /a`, ''],
  ] as const) {
    writeFileSync(`${folder}/table`, `Num       RefCount Protocol Flags    Type St Inode Path\n${row}\n`);
    t.equal(pathOf(fd, `${folder}/table`), found, row);
  }
});

t.test('the address is the real one, and what was inherited is left as it is', { skip: elsewhere }, async (t) => {
  const path = `${shortFolder(t)}/s`;
  const fd = held(path);
  const before = await lstat(path);
  const options = { sockChmod: 0o600, sockOwner: 12_345, sockGroup: 12_345 };
  for (const [where, address] of [
    [`fd:${fd}`, { kind: 'unix', path }],
    [`fd:${held()}`, { kind: 'inet', host: '127.0.0.1', port: Number, ipv6Only: false }],
  ] as const) {
    const { factory } = await serve(t, MilterProtocol, options, where);
    t.match(factory.address, address);
    const { mta } = await dial(t, factory);
    await mta.negotiate();
    mta.end();
    await factory.close();
    t.equal(factory.address, undefined);
  }
  const after = await lstat(path);
  t.strictSame([after.ino, after.mode, after.uid, after.gid], [before.ino, before.mode, before.uid, before.gid]);
});

for (const name of FACTORIES) {
  t.test(`${name}: connections wait in an inherited socket for the next program`, async (t) => {
    const path = `${shortFolder(t)}/s`;
    const fd = held(path);
    for (let i = 0; i < 2; i++) {
      const early = Promise.all(times(i * 3, path).map((each) => marksAMessage(t, each)));
      const program = startService(t, serviceLine(name, 'fd:4', { backlog: 1 }), {}, [fd, fd]);
      await lineOf(program, 'listening ');
      await early;
      await marksAMessage(t, path);
      program.kill('SIGTERM');
      t.equal(await program.ended, 0, program.err());
    }
    t.ok(existsSync(path), 'its file is not ours to remove');
  });

  t.test(`${name} is activated by systemd for a port`, needs('systemd'), async (t) => {
    for (const [socket, ...options] of [['systemd'], ['systemd:milter', '--fdname=milter']] as const) {
      const line = serviceLine(name, socket);
      const { program, port } = await onFreePorts(async (port) => ({
        program: await activated(t, line, `--listen=127.0.0.1:${port}`, ...options),
        port,
      }));
      await marksAMessage(t, `inet:${port}@127.0.0.1`);
      t.equal(await lineOf(program, 'listening '), `inet:${port}@127.0.0.1`);
      program.kill('SIGTERM');
      t.equal(await program.ended, 0, program.err());
    }
  });

  t.test(`${name} is activated by systemd for a Unix socket, by its name among others`, needs('systemd'), async (t) => {
    const folder = shortFolder(t);
    const paths = ['a', 'b', 'c'].map((each) => `${folder}/${each}`) as [string, string, string];
    const listen = paths.map((path) => `--listen=${path}`);
    for (const [socket, ...options] of [
      ['systemd:two', ...listen, '--fdname=one:two:three'],
      ['systemd', `--listen=${paths[1]}`],
    ] as const) {
      const program = await activated(t, serviceLine(name, socket), ...options);
      await marksAMessage(t, paths[1]);
      t.equal(await lineOf(program, 'listening '), `unix:${paths[1]}`);
      program.kill('SIGTERM');
      t.equal(await program.ended, 0, program.err());
      t.ok(existsSync(paths[1]), 'its file is not ours to remove');
    }
  });

  t.test(`${name} says which sockets systemd has passed, where it is not told which`, needs('systemd'), async (t) => {
    const folder = shortFolder(t);
    const listen = ['a', 'b'].map((each) => `--listen=${folder}/${each}`);
    for (const [socket, what] of [
      ['systemd', 'several among the sockets that were passed: one (fd:3), two (fd:4)'],
      ['systemd:three', 'none of that name among the sockets that were passed: one (fd:3), two (fd:4)'],
    ] as const) {
      const program = await activated(t, serviceLine(name, socket), ...listen, '--fdname=one:two');
      const client = net.connect(`${folder}/a`).on('error', () => {});
      t.equal(await lineOf(program, 'failed '), `ERR_MILTER_LISTEN: Cannot listen on ${socket}: ${what}`);
      t.equal(await program.ended, 0);
      client.destroy();
    }
  });
}

t.test('what systemd passes to a shell is not for the program that the shell starts', needs('systemd'), async (t) => {
  const path = `${shortFolder(t)}/s`;
  const shell = ['/bin/sh', '-c', '"$@"; exit $?', 'sh', ...serviceLine('AsyncFactory', 'systemd')];
  const program = await activated(t, shell, `--listen=${path}`);
  const client = net.connect(path).on('error', () => {});
  const failure = await lineOf(program, 'failed ');
  const [, theirs, ours] = /: LISTEN_PID is (\d+), this process is (\d+): /.exec(failure) ?? [];
  t.ok(Number(theirs) > 0 && Number(ours) > 0 && theirs !== ours, failure);
  t.equal(await program.ended, 0);
  client.destroy();
});

t.test('a datagram socket is refused', needs('systemd'), async (t) => {
  const line = serviceLine('AsyncFactory', 'systemd');
  const { program, port } = await onFreePorts(async (port) => ({
    program: await activated(t, line, '--datagram', `--listen=127.0.0.1:${port}`),
    port,
  }));
  const socket = createSocket('udp4');
  socket.send('hello', port, '127.0.0.1');
  t.equal(await lineOf(program, 'failed '), `ERR_MILTER_LISTEN: Cannot listen on systemd: ${NO_STREAM}`);
  t.equal(await program.ended, 0);
  socket.close();
});
