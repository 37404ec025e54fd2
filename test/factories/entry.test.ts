/** The program of worker threads and processes, spoken to as a factory does. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Worker } from 'node:worker_threads';
import { isEnvelope, unpack, type Envelope } from '../../lib/factories/batch.js';
import { BatchPipe, FROM_WORKER, PIPES, TO_WORKER } from '../../lib/factories/batch-pipe.js';
import type { FromWorker, ToWorker } from '../../lib/factories/messages.js';
import { workerStart } from '../../lib/factories/module-of.js';
import type { ProtocolClass } from '../../lib/index.js';
import { MilterClass } from '../../lib/session/milter-class.js';
import { checkOptions } from '../../lib/session/options.js';
import { shortFolder } from '../helpers/folder.js';
import { writeModule } from '../helpers/modules.js';
import { Mortal, touch } from '../helpers/mortal.js';
import { Mta, say } from '../helpers/mta.js';
import { bytesOf, OFFER } from '../helpers/relay.js';
import { until } from '../helpers/until.js';

const ENTRY = new URL('../../lib/factories/protocol-host.js', import.meta.url);

interface Spoken {
  /** Sends a batch, or something else. */
  tell(message: object, socket?: Socket): void;
  readonly heard: FromWorker[];
  readonly ended: Promise<unknown>;
}

function gather(heard: FromWorker[]): (message: Envelope<FromWorker>) => void {
  return (message) => void heard.push(...unpack(message));
}

function thread(t: Test): Spoken {
  const worker = new Worker(ENTRY);
  const heard: FromWorker[] = [];
  worker.on('message', gather(heard));
  worker.on('error', () => {});
  t.teardown(() => worker.terminate());
  return {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- it is a thread, no window
    tell: (message) => worker.postMessage(message),
    heard,
    ended: once(worker, 'exit').then(([code]) => code as unknown),
  };
}

function child(t: Test): Spoken & { readonly process: ReturnType<typeof fork> } {
  const process = fork(ENTRY, [], { serialization: 'advanced', stdio: ['ignore', 'inherit', 'ignore', 'ipc'] });
  const heard: FromWorker[] = [];
  process.on('message', gather(heard));
  t.teardown(() => void process.kill('SIGKILL'));
  return {
    process,
    tell: (message, socket) => void process.send(message, socket, { keepOpen: true }),
    heard,
    ended: once(process, 'exit').then(([code, signal]) => (code ?? signal) as unknown),
  };
}

/** A child whose batches go through a pipe, as ForkFactory has it where no sockets go with them. */
function pipedChild(t: Test): Spoken & { readonly pipe: Socket } {
  const process = fork(ENTRY, [], {
    env: { ...globalThis.process.env, [PIPES]: 'yes' },
    stdio: ['ignore', 'inherit', 'ignore', 'ipc', 'pipe', 'pipe'],
  });
  const heard: FromWorker[] = [];
  const pipe = process.stdio[TO_WORKER] as Socket;
  const input = (process.stdio as unknown[])[FROM_WORKER] as Socket;
  const hear = (messages: readonly FromWorker[]): void => void heard.push(...messages);
  const batches = new BatchPipe<ToWorker, FromWorker>(input, pipe, hear, () => t.fail('nonsense'));
  t.teardown(() => void process.kill('SIGKILL'));
  return {
    pipe,
    tell: (message) => void (isEnvelope<ToWorker>(message) ? batches.send(unpack(message)) : process.send(message)),
    heard,
    ended: once(process, 'close').then(([code, signal]) => (code ?? signal) as unknown),
  };
}

const batch = (...milterStream: ToWorker[]): object => ({ milterStream });
const bytes = (...commands: Parameters<typeof bytesOf>): ToWorker => [
  'bytes',
  1,
  Uint8Array.from(bytesOf(...commands)),
];
const has = ({ heard }: Spoken, name: string): Promise<unknown> =>
  until(name, () => heard.some(([each]) => each === name));

function start(t: Test, Milter = Mortal as unknown as ProtocolClass): object {
  const trace = join(shortFolder(t), 'trace');
  touch(trace);
  const told = workerStart(new MilterClass(Milter, checkOptions({ context: { trace } })), 'x', {
    socket: 'parent',
    sharedReads: true,
  });
  return batch(['start', { ...told, worker: 'worker' }]);
}

for (const kind of [thread, child, pipedChild]) {
  t.test(`a ${kind.name} serves, and stops when it is told to`, async (t) => {
    const it = kind(t);
    it.tell({ something: 'else' });
    it.tell(start(t));
    await has(it, 'ready');
    it.tell(batch(['open', 1, {}], bytes(OFFER)));
    await has(it, 'bytes');
    it.tell(batch(['stop']));
    t.equal(await it.ended, 0);
    t.strictSame(
      it.heard.map(([name]) => name),
      ['ready', 'bytes'],
    );
  });

  t.test(`a ${kind.name} that cannot start says so, and ends`, async (t) => {
    const it = kind(t);
    const Mine = class Mine extends (Mortal as unknown as ProtocolClass) {};
    const module = writeModule(shortFolder(t), 'mine.mjs', 'throw new Error("boom")');
    it.tell(start(t, Object.assign(Mine, { module })));
    t.equal(await it.ended, 1);
    t.match(it.heard, [['failed', { message: /boom$/ }]]);
  });
}

for (const kind of [child, pipedChild]) {
  t.test(`a ${kind.name} says what it dies of`, async (t) => {
    const it = kind(t);
    it.tell(start(t));
    await has(it, 'ready');
    it.tell(batch(['open', 1, {}], bytes(OFFER, say.macros('M', { do: 'throw' }), say.mail())));
    t.equal(await it.ended, 1);
    t.match(it.heard.at(-1), ['dying', { message: 'thrown outside of a callback' }]);
  });
}

t.test('a child that is told nonsense dies of it, and says so', async (t) => {
  const it = pipedChild(t);
  it.tell(start(t));
  await has(it, 'ready');
  it.pipe.write('GET / HTTP/1.1');
  t.equal(await it.ended, 1);
  t.match(it.heard.at(-1), ['dying', { code: 'ERR_MILTER_PACKET_TOO_LARGE' }]);
});

t.test('a child ends when its pipe does', async (t) => {
  const it = pipedChild(t);
  it.tell(start(t));
  await has(it, 'ready');
  it.pipe.destroy();
  t.equal(await it.ended, 0);
});

t.test('a child ignores signals that its factory gets too, and ends when that is gone', async (t) => {
  const it = child(t);
  const code =
    'setInterval(() => {}, 1000); export class Mine extends MilterProtocol { static module = import.meta.url; }';
  const module = writeModule(shortFolder(t), 'mine.mjs', code);
  const Mine = class Mine extends (Mortal as unknown as ProtocolClass) {};
  it.tell(start(t, Object.assign(Mine, { module })));
  await has(it, 'ready');
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) it.process.kill(signal);
  it.tell(batch(['open', 1, {}], bytes(OFFER)));
  await has(it, 'bytes');
  it.process.disconnect();
  t.equal(await it.ended, 0);
});

t.test('a child whose milter closes the channel ends as well', async (t) => {
  const it = child(t);
  const code = `export class Mine extends MilterProtocol {
    static module = import.meta.url;
    connect() { process.disconnect(); }
  }`;
  const Mine = class Mine extends (Mortal as unknown as ProtocolClass) {};
  it.tell(start(t, Object.assign(Mine, { module: writeModule(shortFolder(t), 'mine.mjs', code) })));
  await has(it, 'ready');
  it.tell(batch(['open', 1, {}], bytes(OFFER)));
  await has(it, 'bytes');
  it.tell(batch(bytes(say.connect())));
  t.equal(await it.ended, 0);
});

t.test('a child is handed a connection', async (t) => {
  const it = child(t);
  it.tell(start(t));
  await has(it, 'ready');
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [socket] = (await once(server, 'connection')) as [Socket];
  server.close();
  it.tell(batch(['socket', 1]), socket);
  await has(it, 'took');
  socket.destroy();
  const mta = new Mta(client);
  t.equal((await mta.negotiate()).type, 'negotiate');
  mta.end();
  await has(it, 'closed');
});
