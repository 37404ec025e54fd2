/** What every factory does: listen, count connections, tell of errors, drain and close. */
import createDebug from 'debug';
import { EventEmitter } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { MilterError } from '../errors.js';
import { MilterClass } from '../session/milter-class.js';
import type { ProtocolClass } from '../session/protocol.js';
import { formatAddress, parseAddress, type SocketAddress } from '../address.js';
import type { Served } from './connection.js';
import { listen, type Listening } from './listen.js';
import { factoryOptions, type CheckedFactoryOptions } from './options.js';

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

export abstract class Factory extends EventEmitter<FactoryEvents> {
  protected readonly milterClass: MilterClass;
  protected readonly options: CheckedFactoryOptions;

  readonly #address: SocketAddress;
  readonly #server: Server;
  readonly #served = new Set<Served>();
  /** Connections above maxConnections with overload 'queue': accepted, since Node cannot but accept, and left unread. */
  #waiting: Socket[] = [];
  #listening: Listening | undefined;
  #running: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #emptied: (() => void) | undefined;

  /** @throws MilterError ERR_MILTER_OPTION, ERR_MILTER_ADDRESS */
  constructor(socketStr: string, MyMilter: ProtocolClass, third: unknown, fourth: unknown, fifth: unknown) {
    super();
    this.#address = parseAddress(socketStr, 'listen');
    this.options = factoryOptions(third, fourth, fifth);
    this.milterClass = new MilterClass(MyMilter, this.options.session);
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => this.#accept(socket));
  }

  /** Gets ready for the first session. */
  protected abstract start(): Promise<void>;
  /** Serves a connection; `closed` is called when it is over. */
  protected abstract serve(socket: Socket, overloaded: boolean, closed: () => void): Served;
  /** Cleans up after the last session. */
  protected abstract stop(): Promise<void>;

  /** What it listens on, with the port that was found for port 0; undefined before run() and after close(). */
  get address(): SocketAddress | undefined {
    return this.#listening?.address;
  }

  /** How many connections are served. */
  get connections(): number {
    return this.#served.size;
  }

  /**
   * Starts listening; resolves when it does.
   * @throws MilterError ERR_MILTER_LISTEN for a port in use, a path that is a regular file, …; ERR_MILTER_CLOSING after
   *   close(); ERR_MILTER_OPTION for a sockOwner or sockGroup that this machine does not have; what `static setup()` throws, as the cause of ERR_MILTER_CALLBACK
   */
  run(): Promise<void> {
    if (this.#closing !== undefined || this.options.signal?.aborted === true) {
      return Promise.reject(new MilterError('ERR_MILTER_CLOSING', 'The factory is closed'));
    }
    return (this.#running ??= this.#run());
  }

  async #run(): Promise<void> {
    this.options.signal?.addEventListener('abort', this.#onAbort, { once: true });
    await this.start();
    try {
      this.#listening = await listen(this.#server, this.#address, this.options.listen);
    } catch (error) {
      await this.stop();
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
    await this.#listening?.release();
    this.#listening = undefined;
    const timeout = setTimeout(() => this.#destroyAll(), this.options.closeTimeout);
    if (this.#served.size > 0) await new Promise<void>((resolve) => (this.#emptied = resolve));
    clearTimeout(timeout);
    await this.stop();
    this.emit('close');
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

  protected report(error: MilterError): void {
    this.emit('sessionError', error);
  }
}
