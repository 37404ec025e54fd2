/** What ThreadFactory and ForkFactory share: a pool of workers, and a relay for each connection. */
import { availableParallelism } from 'node:os';
import type { Socket } from 'node:net';
import type { MilterError } from '../errors.js';
import { optionError } from '../option-rules.js';
import { serve, type ConnectionEvents, type Served } from './connection.js';
import { Factory } from './factory.js';
import type { StartLink } from './links.js';
import { checkCloneable, moduleOf, workerStart } from './module-of.js';
import { Pool, poolOwner } from './pool.js';
import type { PoolWorker } from './pool-worker.js';
import { Relay } from './relay.js';

export abstract class PooledFactory<Context = unknown, Shared = unknown> extends Factory<Context, Shared> {
  #pool: Pool | undefined;

  /** Says whether the option `socket` is one of this factory's. */
  protected abstract checkSocket(): void;
  /** Says how its workers are started. */
  protected abstract link(): StartLink;

  protected override check(): void {
    moduleOf(this.milterClass.Milter, this.constructor.name);
    this.checkSocket();
    const { errorPolicy, context } = this.milterClass.options;
    if (typeof errorPolicy === 'function') {
      throw optionError(
        'errorPolicy',
        `cannot be a function under ${this.constructor.name}: make it \`static errorPolicy\` of the class`,
        errorPolicy,
      );
    }
    checkCloneable(context, this.constructor.name);
  }

  protected async start(): Promise<void> {
    const { workers, perSession, startTimeout, closeTimeout } = this.options;
    this.#pool = new Pool(
      this.link(),
      workerStart(this.milterClass, this.constructor.name, this.options),
      {
        size: workers ?? availableParallelism(),
        perSession,
        startTimeout,
        stopTimeout: closeTimeout,
        patience: this.milterClass.options.callbackDeadline,
      },
      poolOwner(this.milterClass.options.log, (error) => this.logAndReport(error)),
    );
    await this.#pool.start();
  }

  protected serve(socket: Socket, overloaded: boolean, closed: () => void): Served {
    const events = { report: (error: MilterError) => this.report(error), closed };
    const pool = this.#pool as Pool;
    const worker = overloaded ? undefined : pool.acquire();
    if (worker !== undefined) return this.entrust(socket, pool, worker, events);
    return serve(socket, this.milterClass, { overloaded: true }, events, this.options.sharedReads);
  }

  /** Has a worker serve a connection. */
  protected entrust(socket: Socket, pool: Pool, worker: PoolWorker, events: ConnectionEvents): Served {
    return new Relay(socket, pool, worker, this.milterClass.options, events, this.options.sharedReads);
  }

  protected async stop(): Promise<void> {
    await this.#pool?.stop();
  }

  protected override replaceWorkers(): Promise<void> {
    return (this.#pool as Pool).reload();
  }
}
