/**
 * What runs in a worker, whatever carries its messages: it loads the milter's class, runs setup(), serves sessions and
 * the callbacks of callInThread, and runs teardown() when it is told to stop.
 */
import type { Socket } from 'node:net';
import { MilterClass } from '../session/milter-class.js';
import type { CheckedOptions, Logger } from '../session/options.js';
import { serve } from './connection.js';
import { findClass } from './find-class.js';
import type { FromWorker, ToWorker, WorkerStart } from './messages.js';
import { arrived } from './messages.js';
import { packDetails, packError, type PackedError } from './portable.js';
import { RelayedSession } from './relayed-session.js';
import { RemoteObject } from './remote-object.js';
import { setUp, tearDown } from './runtime.js';

/** Whom the messages about one tenant are for. */
interface Guest {
  bytes?(chunk: Buffer): void;
  taken?(bytes: number): void;
  end?(): void;
  lost?(why: PackedError): void;
  drain?(): void;
  destroy?(): void;
}

/** What carries the messages. */
export interface Transport {
  /** @param answer to a batch that came */
  send(batch: FromWorker[], answer: boolean): void;
  /** Ends the thread or process when everything that was sent is on its way. */
  exit(code: number): void;
}

type AboutTenant = Exclude<ToWorker, readonly ['start', WorkerStart] | readonly ['stop'] | readonly ['pulse']>;

export class WorkerHost {
  readonly #transport: Transport;
  readonly #guests = new Map<number, Guest>();
  readonly #objects = new Map<number, RemoteObject>();
  #class: MilterClass | undefined;
  #sharedReads = true;
  #shared: unknown;
  /** What came before the milter was ready. */
  #early: Array<{ message: ToWorker; socket: Socket | undefined }> = [];
  #batch: FromWorker[] = [];
  #due = false;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Takes a batch, and answers it with another. */
  receive(batch: readonly ToWorker[], socket?: Socket): void {
    this.#due = true; // what the batch brings about goes out together, below
    for (const message of batch) {
      if (this.#class !== undefined || message[0] === 'start') this.#handle(message, socket);
      else this.#early.push({ message, socket });
    }
    this.#flush(true);
  }

  /** The factory is gone: nobody is there to be told. */
  abandoned(): void {
    this.#transport.exit(0);
  }

  /** Whatever it is about to die of. */
  dying(error: unknown): void {
    this.#transport.send([['dying', packError(error)]], false);
  }

  #post(message: FromWorker): void {
    this.#batch.push(message);
    if (this.#due) return;
    this.#due = true;
    setImmediate(() => this.#flush(false));
  }

  #flush(answer: boolean): void {
    const batch = this.#batch;
    this.#due = false;
    if (batch.length === 0 && !answer) return;
    this.#batch = [];
    this.#transport.send(batch, answer);
  }

  #handle(message: ToWorker, socket: Socket | undefined): void {
    if (message[0] === 'start') void this.#start(message[1]);
    else if (message[0] === 'stop') void this.#stop();
    else if (message[0] !== 'pulse') this.#handleTenant(message, socket);
  }

  async #start(start: WorkerStart): Promise<void> {
    try {
      const Milter = await findClass(start.module, start.className);
      const options: CheckedOptions = { ...start.options, log: this.#log(start.worker) };
      const milterClass = new MilterClass(Milter, options);
      this.#shared = await setUp(Milter, options.context);
      this.#class = milterClass;
      this.#sharedReads = start.sharedReads;
    } catch (error) {
      this.#transport.send([['failed', packError(error)]], false);
      this.#transport.exit(1);
      return;
    }
    this.#due = true;
    this.#batch.push(['ready']);
    for (const { message, socket } of this.#early.splice(0)) this.#handle(message, socket);
    this.#flush(false);
  }

  async #stop(): Promise<void> {
    await tearDown((this.#class as MilterClass).Milter, this.#shared, (error) =>
      this.#post(['unclean', packError(error)]),
    );
    this.#flush(false);
    this.#transport.exit(0);
  }

  #handleTenant(message: AboutTenant, socket: Socket | undefined): void {
    const tenant = message[1];
    const guest = this.#guests.get(tenant);
    switch (message[0]) {
      case 'open':
        this.#open(tenant, message[2]);
        break;
      case 'socket':
        this.#serve(tenant, socket);
        break;
      case 'bytes':
        guest?.bytes?.(arrived(message[2]));
        break;
      case 'taken':
        guest?.taken?.(message[2]);
        break;
      case 'lost':
        guest?.lost?.(message[2]);
        break;
      case 'end':
      case 'drain':
      case 'destroy':
        guest?.[message[0]]?.();
        break;
      case 'object':
        this.#objects.set(
          tenant,
          new RemoteObject(tenant, this.#class as MilterClass, this.#shared, (m) => this.#post(m)),
        );
        break;
      case 'call':
        void this.#objects.get(tenant)?.call(message[2]);
        break;
      case 'detach':
        this.#objects.get(tenant)?.detach();
        break;
      case 'forget':
        this.#objects.get(tenant)?.detach();
        this.#objects.delete(tenant);
        break;
    }
  }

  #open(tenant: number, start: object): void {
    const post = (message: FromWorker): void => {
      if (message[0] === 'closed') this.#guests.delete(tenant);
      this.#post(message);
    };
    this.#guests.set(
      tenant,
      new RelayedSession(tenant, this.#class as MilterClass, { ...start, shared: this.#shared }, post),
    );
  }

  /** A connection whose other end was closed on its way here comes without its socket. */
  #serve(tenant: number, socket: Socket | undefined): void {
    this.#post(['took', tenant]);
    if (socket === undefined) {
      this.#post(['closed', tenant, undefined]);
      return;
    }
    socket.allowHalfOpen = true;
    const served = serve(
      socket,
      this.#class as MilterClass,
      { shared: this.#shared },
      {
        report: (error) => this.#post(['report', tenant, packError(error)]),
        closed: () => {
          this.#guests.delete(tenant);
          this.#post(['closed', tenant, undefined]);
        },
      },
      this.#sharedReads,
    );
    this.#guests.set(tenant, served);
  }

  /** A logger that writes in the factory's log. */
  #log(worker: string): Logger {
    const level =
      (name: keyof Logger) =>
      (details: object, text: string): void =>
        this.#post(['log', name, packDetails({ ...details, worker }), text]);
    return { info: level('info'), warn: level('warn'), error: level('error') };
  }
}
