/** createProxy(): stands between mail servers and a milter, or several. */
import { EventEmitter } from 'node:events';
import { createServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { parseAddress, type ListenAddress, type SocketAddress } from '../address.js';
import type { ChainedMilter } from '../client/chain.js';
import { over } from '../client/options.js';
import { MilterError } from '../errors.js';
import { dial } from '../sockets/dial.js';
import { listen, type Listening, type ListenOptions } from '../sockets/listen.js';
import { chainMilter, type ChainOptions } from './chain-milter.js';
import { ProxyConnection } from './connection.js';
import type { Dial } from './dialling.js';
import { checkProxyOptions, type CheckedProxyOptions } from './options.js';
import type { ProxyEvents, ProxyHooks, ProxyOptions } from './types.js';

/**
 * What is behind a proxy: the address of a milter; several in their order, with the options that MilterChain has, which
 * count over those of the proxy; or a function that gives a stream to a milter for each connection; its signal is aborted
 * when nobody waits for it any more.
 */
export type Upstream =
  | string
  | ReadonlyArray<string | ChainedMilter>
  | { readonly milters: ReadonlyArray<string | ChainedMilter>; readonly options: ChainOptions }
  | Dial;

/** Where a proxy listens, and the file of a Unix socket. */
export type ProxyListenOptions = Partial<ListenOptions>;

export class Proxy extends EventEmitter<ProxyEvents> {
  readonly #dial: Dial;
  readonly #hooks: ProxyHooks | undefined;
  readonly #options: CheckedProxyOptions;
  readonly #connections = new Set<ProxyConnection>();
  #starting: Promise<Listening> | undefined;
  #listening: Listening | undefined;
  #count = 0;
  #idle: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  constructor(upstream: Upstream, hooks: ProxyHooks | undefined, options: ProxyOptions) {
    super();
    this.#options = checkProxyOptions(options);
    this.#hooks = hooks;
    this.#dial = dialler(upstream, this.#options);
  }

  /** Where it listens; with the port that was found for port 0. */
  get address(): SocketAddress | undefined {
    return this.#listening?.address;
  }

  /** How many connections there are. */
  get connections(): number {
    return this.#connections.size;
  }

  /**
   * Listens for mail servers.
   * @param address a socket string
   * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_LISTEN, ERR_MILTER_SEQUENCE (it listens already, or was closed)
   */
  async listen(address: string, options: ProxyListenOptions = {}): Promise<SocketAddress> {
    this.#checkOpen();
    if (this.#starting !== undefined) throw new MilterError('ERR_MILTER_SEQUENCE', 'This proxy listens already');
    this.#starting = this.#open(parseAddress(address, 'listen'), options);
    try {
      this.#listening = await this.#starting;
    } catch (error) {
      this.#starting = undefined;
      throw error;
    }
    this.#checkOpen();
    return this.#listening.address;
  }

  async #open(place: ListenAddress, options: ProxyListenOptions): Promise<Listening> {
    const server = createServer({ pauseOnConnect: true, noDelay: true, keepAlive: true, allowHalfOpen: true });
    server.on('connection', (socket: Socket) => this.handle(socket));
    const { backlog = 50, sockChmod = 0o660, sockOwner, sockGroup } = options;
    const { address, release } = await listen(server, place, { backlog, sockChmod, sockOwner, sockGroup });
    // From here on an error of the server is one of accepting: it costs that connection, not the process.
    server.on('error', (cause) => {
      const what = `Cannot accept a connection: ${cause.message}`;
      this.emit('sessionError', new MilterError('ERR_MILTER_LISTEN', what, { cause }), '');
    });
    return {
      address,
      release() {
        server.close();
        return release();
      },
    };
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) throw new MilterError('ERR_MILTER_SEQUENCE', 'This proxy has been closed');
  }

  /** Takes a connection of a mail server: any stream. After close() it is destroyed. */
  handle(mta: Duplex): void {
    if (this.#closing !== undefined) {
      mta.destroy();
      return;
    }
    const id = String(++this.#count);
    const isWatched = (): boolean => this.listenerCount('event') > 0;
    const connection: ProxyConnection = new ProxyConnection(id, mta, this.#hooks, this.#options, {
      get watching() {
        return isWatched();
      },
      event: (event) => void this.emit('event', event),
      report: (error) => void this.emit('sessionError', error, id),
      closed: () => {
        this.#connections.delete(connection);
        if (this.#connections.size === 0) this.#idle?.();
      },
    });
    this.#connections.add(connection);
    void connection.start(this.#dial);
  }

  /**
   * Listens no more, and resolves when the connections that there are have come to their end. A second call ends them at
   * once.
   */
  close(): Promise<void> {
    if (this.#closing !== undefined) for (const each of this.#connections) each.destroy();
    return (this.#closing ??= this.#end());
  }

  async #end(): Promise<void> {
    const listening = await this.#starting?.catch(() => undefined);
    await listening?.release();
    if (this.#connections.size > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
  }

  /** Ends everything at once. */
  destroy(): Promise<void> {
    void this.close();
    return this.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }
}

function dialler(upstream: Upstream, options: CheckedProxyOptions): Dial {
  if (typeof upstream === 'function') return upstream;
  if (typeof upstream !== 'string') {
    const chain = 'milters' in upstream ? upstream : { milters: upstream, options: {} };
    const { onFailure, connectTimeout } = options;
    const defaultAction = onFailure === 'close' ? 'throw' : onFailure;
    return chainMilter(chain.milters, over({ defaultAction, connectTimeout }, chain.options));
  }
  const address = parseAddress(upstream, 'connect');
  return (signal) => dial(address, { connectTimeout: options.connectTimeout, signal });
}

/**
 * Stands between a mail server and a milter: what no hook changes passes byte for byte.
 * @param upstream where the milter is, or several
 * @param hooks look at each command and reply, change, drop, delay or answer it
 * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_OPTION
 */
export function createProxy(upstream: Upstream, hooks?: ProxyHooks, options: ProxyOptions = {}): Proxy {
  return new Proxy(upstream, hooks, options);
}
