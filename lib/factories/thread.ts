/** ThreadFactory: sessions in worker threads. */
import { optionError } from '../option-rules.js';
import { threadLink, type StartLink } from './links.js';
import { PooledFactory } from './pooled.js';

/**
 * Serves mail servers from a pool of threads, so that milters which compute use all cores and hold nobody up. The class
 * needs `static module = import.meta.url`. A thread that dies costs the messages it had a temporary refusal, no more.
 *
 *   const factory = new ThreadFactory('inet:8891@127.0.0.1', MyMilter, SMFIF_ADDHDRS);
 *   await factory.run();
 */
export class ThreadFactory<Context = unknown, Shared = unknown> extends PooledFactory<Context, Shared> {
  protected override link(): StartLink {
    return threadLink(this.options);
  }

  protected override checkSocket(): void {
    const { socket } = this.options;
    if (socket === 'child')
      throw optionError('socket', 'must be that of the parent: Node cannot move one to a thread', socket);
  }
}
