/** What every factory does: listen, count connections, tell of errors, drain and close. */
import createDebug from 'debug';
import { EventEmitter } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { MilterError } from '../errors.js';
import { MilterClass } from '../session/milter-class.js';
import type { ProtocolClass } from '../session/protocol.js';
import { formatAddress, parseAddress, type ListenAddress, type SocketAddress } from '../address.js';
import type { Served } from './connection.js';
import { listen, type Listening } from '../sockets/listen.js';
import { factoryOptions, type CheckedFactoryOptions, type FactoryOptions } from './options.js';
import { isMilterWorker, workerContext } from './worker-context.js';

const debug = createDebug('milter:factory');

/** The events of a factory, with their arguments. */
export interface FactoryEvents {
  /** It listens. */
  listening: [address: SocketAddress];
  /** A callback failed, or a session: it was answered by the error policy, or ended. */
  sessionError: [error: MilterError];
  /** The last session is over. */
  close: [];
}

export abstract class Factory<Context = unknown, Shared = unknown> extends EventEmitter<FactoryEvents> {
  protected readonly milterClass: MilterClass;
  protected readonly options: CheckedFactoryOptions;

  readonly #address: ListenAddress;
  readonly #server: Server;
  readonly #served = new Set<Served>();
  /** Connections above maxConnections with overload 'queue': accepted, since Node cannot but accept, and left unread. */
  #waiting: Socket[] = [];
  #listening: Listening | undefined;
  #running: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #emptied: (() => void) | undefined;

  /**
   * @param socketStr `inet:8891@127.0.0.1`, `inet:127.0.0.1:8891`, `unix:/run/my.sock`, `systemd`, …; port 0 is any free
   *   port
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
    super();
    this.#address = parseAddress(socketStr, 'listen');
    this.options = factoryOptions(third, fourth, fifth);
    this.milterClass = new MilterClass(MyMilter, this.options.session);
    workerContext()?.classes.push(this.milterClass.Milter);
    this.check();
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => this.#accept(socket));
  }

  /** Checks what else this factory needs of its options, and of the class. @throws MilterError ERR_MILTER_OPTION */
  protected abstract check(): void;
  /** Gets ready for the first session. */
  protected abstract start(): Promise<void>;
  /** Serves a connection; `closed` is called when it is over. */
  protected abstract serve(socket: Socket, overloaded: boolean, closed: () => void): Served;
  /** Cleans up after the last session. */
  protected abstract stop(): Promise<void>;
  /** Has new workers take the place of the old ones. */
  protected abstract replaceWorkers(): Promise<void>;

  /** What it listens on, with the port that was found for port 0; undefined before run() and after close(). */
  get address(): SocketAddress | undefined {
    return this.#listening?.address;
  }

  /** How many connections are served. */
  get connections(): number {
    return this.#served.size;
  }

  /**
   * Starts listening; resolves when it does. In a worker, which has imported the program that runs the factory, it does
   * nothing; see isMilterWorker().
   * @throws MilterError ERR_MILTER_LISTEN for a port in use, a path that is a regular file, …; ERR_MILTER_CLOSING after
   *   close(); ERR_MILTER_OPTION for a sockOwner or sockGroup that this machine does not have; what `static setup()`
   *   throws, as the cause of ERR_MILTER_CALLBACK; ERR_MILTER_WORKER for a worker that does not start
   */
  run(): Promise<void> {
    if (isMilterWorker()) return Promise.resolve();
    if (this.#closing !== undefined || this.options.signal?.aborted === true) {
      return Promise.reject(new MilterError('ERR_MILTER_CLOSING', 'The factory is closed'));
    }
    return (this.#running ??= this.#run());
  }

  async #run(): Promise<void> {
    this.options.signal?.addEventListener('abort', this.#onAbort, { once: true });
    try {
      await this.start();
      this.#listening = await this.#listen();
    } catch (error) {
      this.options.signal?.removeEventListener('abort', this.#onAbort);
      throw error;
    }
    // From here on an error of the server is one of accepting: it costs that connection, not the process.
    this.#server.on('error', (cause) => {
      this.report(new MilterError('ERR_MILTER_LISTEN', `Cannot accept a connection: ${cause.message}`, { cause }));
    });
    debug('listening on %s', formatAddress(this.#listening.address));
    this.emit('listening', this.#listening.address);
  }

  /**
   * Stops listening, lets the messages in progress end, refuses new ones for now, and resolves when the last session
   * is over. After closeTimeout, or when it is called again, the sessions end at once: abort() and close() are called.
   */
  close(): Promise<void> {
    if (this.#closing !== undefined) {
      this.#destroyAll();
      return this.#closing;
    }
    return (this.#closing = this.#close());
  }

  /**
   * Has new workers, which load the milter's module as it is now, take all new connections. The old ones finish theirs
   * and end. Resolves when the new ones serve.
   * @throws MilterError ERR_MILTER_UNSUPPORTED from AsyncFactory, which has no workers; ERR_MILTER_WORKER, or what
   *   `static setup()` throws, when a new one does not start: then everything stays as it was; ERR_MILTER_CLOSING
   */
  async reload(): Promise<void> {
    if (isMilterWorker()) return;
    if (this.#listening === undefined) throw new MilterError('ERR_MILTER_CLOSING', 'The factory is not running');
    await this.replaceWorkers();
  }

  /** `await using factory = …` closes it. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.options.signal?.removeEventListener('abort', this.#onAbort);
    if (this.#running === undefined) return;
    try {
      await this.#running;
    } catch {
      return; // run() has failed, and its caller knows
    }
    this.#server.close();
    for (const socket of this.#waiting.splice(0)) this.#serve(socket, true);
    for (const served of this.#served) served.drain();
    await this.#release();
    this.#listening = undefined;
    const timeout = setTimeout(() => this.#destroyAll(), this.options.closeTimeout);
    if (this.#served.size > 0) await new Promise<void>((resolve) => (this.#emptied = resolve));
    clearTimeout(timeout);
    await this.stop();
    this.emit('close');
  }

  async #listen(): Promise<Listening> {
    try {
      return await listen(this.#server, this.#address, this.options.listen);
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  /** A socket's file that cannot be removed is told of: everything else has to end all the same. */
  async #release(): Promise<void> {
    try {
      await this.#listening?.release();
    } catch (cause) {
      const message = `Cannot remove the socket: ${(cause as Error).message}`;
      this.logAndReport(new MilterError('ERR_MILTER_LISTEN', message, { cause }));
    }
  }

  readonly #onAbort = (): void => {
    this.close().catch((error: unknown) => this.report(error as MilterError));
  };

  #destroyAll(): void {
    for (const served of this.#served) served.destroy();
  }

  #accept(socket: Socket): void {
    const { maxConnections, overload } = this.options;
    if (this.#served.size < maxConnections) this.#serve(socket, false);
    else if (overload === 'queue') this.#waiting.push(socket);
    else if (overload === 'tempfail') this.#serve(socket, true);
    else socket.destroy();
  }

  #serve(socket: Socket, overloaded: boolean): void {
    const served = this.serve(socket, overloaded, () => {
      this.#served.delete(served);
      const next = this.#waiting.shift();
      if (next !== undefined) this.#serve(next, false);
      if (this.#served.size === 0) this.#emptied?.();
    });
    this.#served.add(served);
  }

  /** A listener that fails harms neither sessions nor workers. */
  protected report(error: MilterError): void {
    try {
      this.emit('sessionError', error);
    } catch (failure) {
      debug('a listener failed: %s', failure);
    }
  }

  /** What no session has logged. */
  protected logAndReport(error: MilterError): void {
    this.milterClass.options.log.error({ err: error, code: error.code }, error.message);
    this.report(error);
  }
}
