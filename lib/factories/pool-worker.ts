/**
 * One worker of a pool, and its tenants: the sessions, or the objects of callInThread, that live in it. What is posted in
 * one turn of the event loop goes out as one batch. The worker answers each batch, so one that does not is blocked,
 * stopped or about to die.
 */
import createDebug from 'debug';
import type { Socket } from 'node:net';
import { MilterError, show } from '../errors.js';
import { Timer } from '../session/timer.js';
import type { Link, StartLink } from './links.js';
import type { FromTenant, FromWorker, ToWorker, WorkerStart } from './messages.js';
import { unpackError, type PackedError } from './portable.js';

const debug = createDebug('milter:worker');

/** What lives in a worker. */
export interface Tenant {
  /** Takes a message about it. */
  receive(message: FromTenant): void;
  /** The worker is no more, and with it whatever it knew of this tenant. */
  workerDied(error: MilterError): void;
  /** It waits for the worker. */
  readonly waiting: boolean;
  /** How long the worker may give no sign of life on account of it, in ms. */
  readonly patience: number;
}

/** What a worker tells its pool. */
export interface WorkerOwner {
  /** It has done what it is there for. */
  served(): void;
  /** It has ended; `expected`: it was told to. */
  ended(worker: PoolWorker, error: MilterError, expected: boolean): void;
  /** What is about no tenant: log lines. */
  message(message: FromWorker): void;
  failure(error: MilterError): void;
}

/** How long things may take, in ms. */
export interface WorkerLimits {
  /** Getting ready. */
  readonly startTimeout: number;
  /** teardown(), when the last tenant has left. */
  readonly stopTimeout: number;
  /** Giving no sign of life, where no tenant waits longer. */
  readonly patience: number;
}

export type WorkerState = 'starting' | 'ready' | 'retired' | 'stopping' | 'dead';

/** A worker that answers nothing for so long gets no new tenants while there are others. */
const SLOW = 1_000;

export class PoolWorker {
  readonly name: string;
  state: WorkerState = 'starting';
  /** Resolves when it is ready. */
  readonly ready: Promise<void>;
  /** Resolves when it has ended, with what can be said about that. */
  readonly gone: Promise<MilterError>;

  readonly #owner: WorkerOwner;
  readonly #link: Link;
  readonly #tenants = new Map<number, Tenant>();
  readonly #limits: WorkerLimits;
  readonly #startTimer: Timer;
  readonly #stopTimer: Timer;
  #settleReady!: () => void;
  #settleGone!: (error: MilterError) => void;
  #wasReady = false;
  #batch: ToWorker[] = [];
  #scheduled = false;
  #nextTenant = 0;
  /** When the batches went out that were not answered yet, oldest first. */
  #unanswered: number[] = [];
  #lastWords: PackedError | undefined;
  /** Why it was killed. */
  #sentence: string | undefined;

  constructor(startLink: StartLink, start: Omit<WorkerStart, 'worker'>, limits: WorkerLimits, owner: WorkerOwner) {
    this.#owner = owner;
    this.#limits = limits;
    this.ready = new Promise((resolve) => (this.#settleReady = resolve));
    this.gone = new Promise((resolve) => (this.#settleGone = resolve));
    this.#link = startLink({
      received: (batch, answer) => this.#received(batch, answer),
      ended: (how, cause) => this.#ended(how, cause),
    });
    this.name = this.#link.name;
    const { startTimeout, stopTimeout } = limits;
    this.#startTimer = new Timer(() => this.kill(`did not get ready within ${startTimeout} ms`));
    this.#stopTimer = new Timer(() => this.kill(`did not stop within ${stopTimeout} ms`));
    this.#startTimer.start(startTimeout);
    this.post(['start', { ...start, worker: this.name }]);
    debug('%s starts', this.name);
  }

  get tenants(): number {
    return this.#tenants.size;
  }

  /** How many tenants wait for it. */
  get waiting(): number {
    let count = 0;
    for (const tenant of this.#tenants.values()) if (tenant.waiting) count++;
    return count;
  }

  /** Whether it can take a new tenant. */
  get open(): boolean {
    return (this.state === 'ready' || this.state === 'starting') && this.#sentence === undefined;
  }

  get slow(): boolean {
    return this.#silence() > SLOW;
  }

  /** It has answered something. */
  served(): void {
    this.#owner.served();
  }

  /** Takes a tenant in; what is posted under its number is about it. */
  add(tenant: Tenant): number {
    const number = ++this.#nextTenant;
    this.#tenants.set(number, tenant);
    return number;
  }

  /** Nothing that comes under this number is of interest any more. */
  remove(number: number): void {
    if (this.#tenants.delete(number)) this.#stopWhenEmpty();
  }

  post(message: ToWorker): void {
    this.#batch.push(message);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#flush());
  }

  /** Sends a message that a socket goes with. */
  postSocket(message: ToWorker, socket: Socket): void {
    this.#flush();
    this.#send([message], socket);
  }

  /** No new tenants; it stops when the last one has left. */
  retire(): void {
    if (!this.open) return;
    this.state = 'retired';
    this.#stopWhenEmpty();
  }

  /** Ends it, whatever it does. */
  kill(why: string): void {
    if (this.state === 'dead' || this.#sentence !== undefined) return;
    this.#sentence = why;
    this.#link.kill();
  }

  /** Has it give a sign of life, if it can. */
  pulse(): void {
    if (this.#tenants.size === 0 && this.#unanswered.length === 0) return;
    this.killIfBlocked();
    this.post(['pulse']);
  }

  /** Kills it if it gives no sign of life for longer than any of its tenants would wait, those included that have left. */
  killIfBlocked(): void {
    const silence = this.#silence();
    let patience = this.#limits.patience;
    for (const tenant of this.#tenants.values()) patience = Math.max(patience, tenant.patience);
    if (silence >= patience) this.kill(`was blocked for ${Math.round(silence)} ms`);
  }

  /** One that is not ready yet has a limit of its own. */
  #silence(): number {
    const since = this.#unanswered[0];
    return since === undefined || !this.#wasReady ? 0 : performance.now() - since;
  }

  #stopWhenEmpty(): void {
    if (this.state !== 'retired' || this.#tenants.size > 0) return;
    this.state = 'stopping';
    this.#stopTimer.start(this.#limits.stopTimeout);
    this.post(['stop']);
  }

  #flush(): void {
    this.#scheduled = false;
    const batch = this.#batch;
    if (batch.length === 0 || this.state === 'dead') return;
    this.#batch = [];
    this.#send(batch);
  }

  #send(batch: readonly ToWorker[], socket?: Socket): void {
    this.#unanswered.push(performance.now());
    this.#link.send(batch, socket);
  }

  #received(batch: readonly FromWorker[], answer: boolean): void {
    if (answer) this.#unanswered.shift();
    for (const message of batch) this.#handle(message);
  }

  #handle(message: FromWorker): void {
    switch (message[0]) {
      case 'ready':
        this.#startTimer.stop();
        this.#wasReady = true;
        if (this.state === 'starting') this.state = 'ready';
        debug('%s is ready', this.name);
        this.#settleReady();
        break;
      case 'failed':
      case 'dying':
        this.#lastWords = message[1];
        break;
      case 'unclean':
        this.#owner.failure(unpackError(message[1]) as MilterError);
        break;
      case 'log':
        this.#owner.message(message);
        break;
      default:
        this.#tenants.get(message[1])?.receive(message);
    }
  }

  #ended(how: string, thrown: unknown): void {
    const expected = this.state === 'stopping' && this.#sentence === undefined;
    const cause = this.#lastWords === undefined ? thrown : unpackError(this.#lastWords);
    const early = !this.#wasReady;
    this.state = 'dead';
    this.#startTimer.stop();
    this.#stopTimer.stop();
    debug('%s %s', this.name, how);
    const error = this.#obituary(this.#sentence ?? how, cause, early);
    const tenants = [...this.#tenants.values()];
    this.#tenants.clear();
    this.#owner.ended(this, error, expected);
    for (const tenant of tenants) tenant.workerDied(error);
    this.#settleGone(error);
  }

  #obituary(how: string, cause: unknown, early: boolean): MilterError {
    if (early && cause instanceof MilterError) return cause; // says more than that it did not start
    const why = cause === undefined ? '' : `: ${cause instanceof Error ? cause.message : show(cause)}`;
    const what = early ? 'did not start' : 'died';
    return new MilterError('ERR_MILTER_WORKER', `Worker ${this.name} ${what}: it ${how}${why}`, { cause });
  }
}
