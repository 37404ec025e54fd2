/** A Relay with a real socket on one side, where the test plays the mail server, and the test's own workers on the other. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import type { Test } from 'tap';
import { encodeCommand, type Command, type Reply } from '../../lib/codec/index.js';
import type { MilterError } from '../../lib/errors.js';
import { Relay } from '../../lib/factories/relay.js';
import type { SessionOptions } from '../../lib/index.js';
import { checkOptions } from '../../lib/session/options.js';
import { startedPool, type FakePool, type FakeWorker } from './fake-workers.js';
import { Mta } from './mta.js';
import { settled } from './streams.js';
import { until } from './until.js';

export interface Stage extends FakePool {
  readonly mta: Mta;
  /** The mail server's end. */
  readonly client: Socket;
  readonly relay: Relay;
  /** The milter's end. */
  readonly socket: Socket;
  readonly reports: MilterError[];
  readonly first: FakeWorker;
  readonly second: FakeWorker;
  over: boolean;
}

/** A connection that has just been made, with the first of two workers. */
export async function open(t: Test, options: SessionOptions = {}, size = 2, sharedReads = true): Promise<Stage> {
  const fake = await startedPool({ size });
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true });
  const [socket] = (await once(server, 'connection')) as [Socket];
  server.close();
  t.teardown(() => {
    client.destroy();
    socket.destroy();
    const stopped = fake.pool.stop();
    for (const worker of fake.workers) worker.die();
    return stopped;
  });
  const reports: MilterError[] = [];
  const events = {
    report: (error: MilterError): void => void reports.push(error),
    closed: (): void => void (stage.over = true),
  };
  const worker = fake.pool.acquire();
  if (worker === undefined) throw new Error('no worker');
  const relay = new Relay(socket, fake.pool, worker, checkOptions(options), events, sharedReads);
  const stage: Stage = {
    ...fake,
    mta: new Mta(client),
    client,
    relay,
    socket,
    reports,
    over: false,
    get first() {
      return fake.workers[0] as FakeWorker;
    },
    get second() {
      return fake.workers[1] as FakeWorker;
    },
  };
  return stage;
}

export const OFFER: Command = { type: 'negotiate', version: 6, actions: 0x1ff, protocol: 0x1fffff };
export const agree = (protocol = 0): Reply => ({ type: 'negotiate', version: 6, actions: 0x1ff, protocol });
export const GO: Reply = { type: 'continue' };

/** A connection on which both have agreed. */
export async function agreed(
  t: Test,
  options: SessionOptions = {},
  protocol = 0,
  size = 2,
  sharedReads = true,
): Promise<Stage> {
  const stage = await open(t, options, size, sharedReads);
  stage.mta.send(OFFER);
  await until('the offer', () => stage.first.sent.some(([name]) => name === 'bytes'));
  stage.first.replies(1, agree(protocol));
  await stage.mta.reply();
  stage.first.take();
  return stage;
}

/** Sends commands that the first worker lets pass. */
export async function pass(stage: Stage, ...commands: Command[]): Promise<void> {
  for (const command of commands) {
    stage.mta.send(command);
    await heard(stage.first);
    stage.first.replies(1, GO);
    const { type } = await stage.mta.reply();
    if (type !== 'continue') throw new Error(`${command.type} was answered ${type}`);
  }
}

/** The bytes that come to a worker next. */
export async function heard(worker: FakeWorker, tenant = 1): Promise<Buffer> {
  await until('a command', () => worker.sent.some(([name]) => name === 'bytes'));
  await settled();
  return worker.bytes(tenant);
}

export const bytesOf = (...commands: Command[]): Buffer =>
  Buffer.concat(commands.map((command) => encodeCommand(command, 0xffffff)));
