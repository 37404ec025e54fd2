/** Workers that are played by the test: what they are sent is kept, and they say what the test makes them say. */
import type { Socket } from 'node:net';
import { encodeReply, type Reply } from '../../lib/codec/index.js';
import type { MilterError } from '../../lib/errors.js';
import type { Link, LinkEvents, StartLink } from '../../lib/factories/links.js';
import type { FromWorker, ToWorker, WorkerStart } from '../../lib/factories/messages.js';
import { Pool, type PoolOptions } from '../../lib/factories/pool.js';
import { settled } from './streams.js';

export class FakeWorker implements Link {
  readonly name: string;
  /** What it was sent and the test has not looked at. */
  sent: ToWorker[] = [];
  /** The sockets that came. */
  readonly sockets: Socket[] = [];
  /** It was told to die: a fake one does at once. */
  killed = false;
  /** Whether it answers what it is sent. */
  answers = true;

  readonly #events: LinkEvents;
  #over = false;

  constructor(events: LinkEvents, name: string) {
    this.#events = events;
    this.name = name;
  }

  send(batch: readonly ToWorker[], socket?: Socket): void {
    this.sent.push(...batch);
    if (socket !== undefined) this.sockets.push(socket);
    if (this.answers && !this.#over) queueMicrotask(() => this.#events.received([], true));
    if (batch.some(([what]) => what === 'stop') && this.answers)
      queueMicrotask(() => this.die('ended with exit code 0'));
  }

  kill(): void {
    this.killed = true;
    this.die('ended with exit code 1');
  }

  /** It says something. */
  says(...messages: FromWorker[]): void {
    if (!this.#over) this.#events.received(messages, false);
  }

  /** It writes replies of a session. */
  replies(tenant: number, ...replies: Reply[]): void {
    for (const reply of replies) this.says(['bytes', tenant, Uint8Array.from(encodeReply(reply, 0xffffff))]);
  }

  /** It answers a batch that it has not answered. */
  wakes(): void {
    this.#events.received([], true);
  }

  die(how = 'ended with exit code 3', cause?: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#events.ended(how, cause);
  }

  /** What it was sent since the last time, by name. */
  names(): string[] {
    return this.take().map(([name]) => name);
  }

  take(): ToWorker[] {
    return this.sent.splice(0);
  }

  /** The bytes of a session that it was sent since the last time. */
  bytes(tenant: number): Buffer {
    const parts = this.take().filter((message) => message[0] === 'bytes' && message[1] === tenant);
    return Buffer.concat(parts.map((message) => message[2] as Uint8Array));
  }
}

export interface FakePool {
  readonly pool: Pool;
  /** All workers that were started, in order. */
  readonly workers: FakeWorker[];
  /** What the pool told its owner. */
  readonly errors: MilterError[];
  readonly messages: FromWorker[];
  /** Whether new workers get ready by themselves. */
  eager: boolean;
}

/** A pool of fake workers. */
export function fakePool(options: Partial<PoolOptions> = {}): FakePool {
  const workers: FakeWorker[] = [];
  const errors: MilterError[] = [];
  const messages: FromWorker[] = [];
  const start: StartLink = (events) => {
    const worker = new FakeWorker(events, `fake ${workers.length + 1}`);
    workers.push(worker);
    if (fake.eager) queueMicrotask(() => worker.says(['ready']));
    return worker;
  };
  const owner = {
    failure: (error: MilterError): void => void errors.push(error),
    message: (message: FromWorker): void => void messages.push(message),
  };
  const all: PoolOptions = {
    size: 2,
    perSession: false,
    startTimeout: 30_000,
    stopTimeout: 30_000,
    patience: 8000,
    ...options,
  };
  const pool = new Pool(start, { module: 'file:///m.js', className: 'M' } as WorkerStart, all, owner);
  const fake: FakePool = { pool, workers, errors, messages, eager: true };
  return fake;
}

/** A pool of fake workers that has started. */
export async function startedPool(options: Partial<PoolOptions> = {}): Promise<FakePool> {
  const fake = fakePool(options);
  await fake.pool.start();
  await settled();
  for (const worker of fake.workers) worker.take();
  return fake;
}
