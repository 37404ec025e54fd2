/** AsyncFactory: every session in this process and thread. */
import type { Socket } from 'node:net';
import { MilterError } from '../errors.js';
import type { ProtocolClass } from '../session/protocol.js';
import { serve, type Served } from './connection.js';
import { Factory } from './factory.js';
import type { FactoryOptions } from './options.js';

/**
 * Serves mail servers from one event loop: the right choice for milters that wait (for DNS, databases, other services)
 * rather than compute. A callback that blocks holds all sessions up.
 *
 *   const factory = new AsyncFactory('inet:8891@127.0.0.1', MyMilter, SMFIF_ADDHDRS);
 *   await factory.run();
 */
export class AsyncFactory<Context = unknown, Shared = unknown> extends Factory {
  #shared: unknown;

  /**
   * @param socketStr `inet:8891@127.0.0.1`, `inet:127.0.0.1:8891`, `unix:/run/my.sock`, …; port 0 is any free port
   * @param MyMilter a class that extends MilterProtocol
   * @param smfifOptions SMFIF_ bits: what the milter may do to messages; default 0
   * @param tcpListenQueue how many connections may wait to be accepted; default 50
   * @param sockChmod mode of a Unix socket; default 0o666
   * @throws MilterError ERR_MILTER_OPTION, ERR_MILTER_ADDRESS
   */
  constructor(
    socketStr: string,
    MyMilter: ProtocolClass<Context, Shared>,
    smfifOptions?: number,
    tcpListenQueue?: number,
    sockChmod?: number,
  );
  /** @param options instead of the other arguments */
  constructor(socketStr: string, MyMilter: ProtocolClass<Context, Shared>, options: FactoryOptions<Context>);
  constructor(
    socketStr: string,
    MyMilter: ProtocolClass<Context, Shared>,
    smfifOptions: number,
    options: FactoryOptions<Context>,
  );
  constructor(
    socketStr: string,
    MyMilter: ProtocolClass<Context, Shared>,
    third?: unknown,
    fourth?: unknown,
    fifth?: unknown,
  ) {
    super(socketStr, MyMilter, third, fourth, fifth);
  }

  protected async start(): Promise<void> {
    const { Milter, options } = this.milterClass;
    try {
      this.#shared = await Milter.setup?.(options.context);
    } catch (cause) {
      const message = `${Milter.name}.setup() failed: ${cause instanceof Error ? cause.message : String(cause)}`;
      throw new MilterError('ERR_MILTER_CALLBACK', message, { cause });
    }
  }

  protected serve(socket: Socket, overloaded: boolean, closed: () => void): Served {
    const report = (error: MilterError): void => this.report(error);
    const served = serve(socket, this.milterClass, { shared: this.#shared, overloaded }, { report, closed });
    socket.resume();
    return served;
  }

  protected async stop(): Promise<void> {
    const { Milter } = this.milterClass;
    try {
      await Milter.teardown?.(this.#shared);
    } catch (cause) {
      const message = `${Milter.name}.teardown() failed: ${cause instanceof Error ? cause.message : String(cause)}`;
      this.report(new MilterError('ERR_MILTER_CALLBACK', message, { cause }));
    }
  }
}
