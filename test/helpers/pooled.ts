/** Factories with workers, for tests: made by name, run until the test is over, with all that they told. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Worker } from 'node:worker_threads';
import type { Test } from 'tap';
import { ForkFactory, ThreadFactory, type FactoryOptions, type ProtocolClass } from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { reach } from './dial.js';
import { Mta } from './mta.js';
import { FAST } from './workers.js';

// oxlint-disable-next-line typescript/no-explicit-any -- of whatever context
type AnyClass = ProtocolClass<any, any>;

export const KINDS = ['ThreadFactory', 'ForkFactory'] as const;
export type Kind = (typeof KINDS)[number];
export type Pooled = ThreadFactory | ForkFactory;

export function make(kind: Kind, MyMilter: AnyClass, options: FactoryOptions = {}, where = 'inet:0'): Pooled {
  const all = { ...FAST, ...options };
  return kind === 'ThreadFactory' ? new ThreadFactory(where, MyMilter, all) : new ForkFactory(where, MyMilter, all);
}

export interface Running {
  readonly factory: Pooled;
  /** All that it told in sessionError events. */
  readonly errors: MilterError[];
}

/** A factory that runs until the test is over. */
export async function run(t: Test, kind: Kind, MyMilter: AnyClass, options: FactoryOptions = {}): Promise<Running> {
  const factory = make(kind, MyMilter, options);
  const errors: MilterError[] = [];
  factory.on('sessionError', (error) => errors.push(error));
  t.teardown(() => Promise.all([factory.close(), factory.close()]));
  await factory.run();
  return { factory, errors };
}

/** A mail server that is connected to a factory. */
export async function dialled(t: Test, factory: Pooled): Promise<{ mta: Mta; socket: Socket }> {
  const socket = connect(reach(factory.address)).setNoDelay();
  t.teardown(() => void socket.destroy());
  const mta = new Mta(socket);
  await once(socket, 'connect');
  return { mta, socket };
}

/** The threads of this process, by number. */
const threads = new Map<number, Worker>();
process.on('worker', (worker: Worker) => {
  const { threadId } = worker;
  threads.set(threadId, worker);
  worker.once('exit', () => threads.delete(threadId));
});

/** How many threads this process has. */
export const threadCount = (): number => threads.size;

/** Does something to a worker from outside; `where` is `process/thread`. */
export function strike(where: string, signal: NodeJS.Signals): void {
  const [pid, thread] = where.split('/').map(Number) as [number, number];
  if (pid === process.pid) void threads.get(thread)?.terminate();
  else process.kill(pid, signal);
}
