/** ForkFactory: sessions in processes of their own. */
import type { Socket } from 'node:net';
import { serialize } from 'node:v8';
import type { ConnectionEvents, Served } from './connection.js';
import { HandedSocket } from './handed-socket.js';
import { processLink, type StartLink } from './links.js';
import { checkCloneable } from './module-of.js';
import type { Pool } from './pool.js';
import type { PoolWorker } from './pool-worker.js';
import { PooledFactory } from './pooled.js';

/**
 * Serves mail servers from a pool of processes: what ThreadFactory does, with the walls of the operating system between
 * the workers. The class needs `static module = import.meta.url`.
 *
 *   const factory = new ForkFactory('inet:8891@127.0.0.1', MyMilter, SMFIF_ADDHDRS);
 *   await factory.run();
 */
export class ForkFactory<Context = unknown, Shared = unknown> extends PooledFactory<Context, Shared> {
  protected override link(): StartLink {
    return processLink(this.options);
  }

  protected override check(): void {
    super.check();
    // Less gets into another process than into a thread.
    checkCloneable(this.milterClass.options.context, this.constructor.name, serialize);
  }

  protected override checkSocket(): void {}

  protected override entrust(socket: Socket, pool: Pool, worker: PoolWorker, events: ConnectionEvents): Served {
    if (this.options.socket === 'child') {
      return new HandedSocket(socket, pool, worker, this.milterClass.options.eobDeadline, events);
    }
    return super.entrust(socket, pool, worker, events);
  }
}
