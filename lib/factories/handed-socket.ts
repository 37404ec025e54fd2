/**
 * A connection that is handed to a process, socket and all. Ours stays open until the process says that it has the other
 * copy: should it die before, another one gets it; without that the mail server would wait for good.
 */
import type { Socket } from 'node:net';
import type { MilterError } from '../errors.js';
import type { ConnectionEvents, Served } from './connection.js';
import type { FromTenant } from './messages.js';
import type { Pool } from './pool.js';
import type { PoolWorker, Tenant } from './pool-worker.js';
import { unpackMilterError } from './portable.js';
import { DESTROY_WITHIN } from './relay.js';
import { Timer } from '../session/timer.js';

/** How many processes get it. */
const TRIES = 3;

export class HandedSocket implements Tenant, Served {
  readonly waiting = false;
  readonly patience: number;

  readonly #socket: Socket;
  readonly #pool: Pool;
  readonly #events: ConnectionEvents;
  #worker: PoolWorker;
  #tenant = 0;
  #tries = 0;
  #taken = false;
  #draining = false;
  #ending: Timer | undefined;

  /** @param patience how long the process may give no sign of life, in ms: nobody here knows what it is at work on */
  constructor(socket: Socket, pool: Pool, worker: PoolWorker, patience: number, events: ConnectionEvents) {
    this.patience = patience;
    this.#socket = socket;
    this.#pool = pool;
    this.#events = events;
    this.#worker = worker;
    socket.setNoDelay(true);
    socket.on('error', () => {}); // it is not read here, and its failures are told where it is
    this.#hand(worker);
  }

  receive(message: FromTenant): void {
    switch (message[0]) {
      case 'took':
        this.#taken = true;
        this.#socket.destroy();
        this.#worker.served();
        break;
      case 'report':
        this.#events.report(unpackMilterError(message[2], 'ERR_MILTER_CALLBACK', 'A session failed'));
        break;
      case 'closed':
        this.#worker.remove(this.#tenant);
        this.#over();
        break;
      default: // the others are not about connections that were handed over
    }
  }

  workerDied(_error: MilterError): void {
    const over = this.#taken || this.#ending !== undefined || ++this.#tries >= TRIES;
    const worker = over ? undefined : this.#pool.acquire();
    if (worker !== undefined) {
      this.#hand(worker);
      return;
    }
    this.#socket.destroy();
    this.#over();
  }

  #over(): void {
    this.#ending?.stop();
    this.#events.closed();
  }

  drain(): void {
    this.#draining = true;
    this.#worker.post(['drain', this.#tenant]);
  }

  destroy(): void {
    if (this.#ending !== undefined) return;
    const worker = this.#worker;
    worker.post(['destroy', this.#tenant]);
    this.#ending = new Timer(() => worker.kill('did not end its sessions'));
    this.#ending.start(DESTROY_WITHIN);
  }

  #hand(worker: PoolWorker): void {
    this.#worker = worker;
    this.#tenant = worker.add(this);
    worker.postSocket(['socket', this.#tenant], this.#socket);
    if (this.#draining) worker.post(['drain', this.#tenant]);
  }
}
