/** AsyncFactory: every session in this process and thread. */
import type { Socket } from 'node:net';
import { availableParallelism } from 'node:os';
import { MilterError } from '../errors.js';
import { optionError } from '../option-rules.js';
import { serve, type Served } from './connection.js';
import { Factory } from './factory.js';
import { threadLink } from './links.js';
import { checkCloneable, moduleOf, workerStart } from './module-of.js';
import { Pool, poolOwner } from './pool.js';
import { RemoteCalls } from './remote-calls.js';
import { setUp, tearDown } from './runtime.js';

/**
 * Serves mail servers from one event loop: the right choice for milters that wait (for DNS, databases, other services)
 * rather than compute. A callback that blocks holds all sessions up.
 *
 *   const factory = new AsyncFactory('inet:8891@127.0.0.1', MyMilter, SMFIF_ADDHDRS);
 *   await factory.run();
 */
export class AsyncFactory<Context = unknown, Shared = unknown> extends Factory<Context, Shared> {
  #shared: unknown;
  /** The threads of callInThread, where a callback is marked. */
  #pool: Pool | undefined;

  protected check(): void {
    const { Milter, inThread, options } = this.milterClass;
    if (inThread.size > 0) {
      moduleOf(Milter, 'callInThread');
      checkCloneable(options.context, 'callInThread');
    }
    const { socket } = this.options;
    if (socket === 'child') {
      throw optionError('socket', 'must be that of the parent: AsyncFactory has no children', socket);
    }
  }

  protected async start(): Promise<void> {
    const { Milter, inThread, options } = this.milterClass;
    this.#shared = await setUp(Milter, options.context);
    if (inThread.size === 0) return;
    const pool = this.#threads();
    try {
      await pool.start();
    } catch (error) {
      await this.stop();
      throw error;
    }
    this.#pool = pool;
  }

  protected serve(socket: Socket, overloaded: boolean, closed: () => void): Served {
    const report = (error: MilterError): void => this.report(error);
    const shared = this.#shared;
    const elsewhere =
      this.#pool === undefined ? {} : { elsewhere: new RemoteCalls(this.#pool, this.milterClass.options) };
    const extras = { shared, overloaded, ...elsewhere };
    return serve(socket, this.milterClass, extras, { report, closed }, this.options.sharedReads);
  }

  protected async stop(): Promise<void> {
    await this.#pool?.stop();
    await tearDown(this.milterClass.Milter, this.#shared, (error) => this.logAndReport(error));
  }

  protected replaceWorkers(): Promise<void> {
    const message =
      'AsyncFactory cannot reload: its own process has the milter loaded. ThreadFactory and ForkFactory can';
    return Promise.reject(new MilterError('ERR_MILTER_UNSUPPORTED', message));
  }

  #threads(): Pool {
    const { workers, startTimeout, closeTimeout } = this.options;
    return new Pool(
      threadLink(this.options),
      workerStart(this.milterClass, 'callInThread', this.options),
      {
        size: workers ?? availableParallelism(),
        perSession: false,
        startTimeout,
        stopTimeout: closeTimeout,
        patience: this.milterClass.options.callbackDeadline,
      },
      poolOwner(this.milterClass.options.log, (error) => this.logAndReport(error)),
    );
  }
}
