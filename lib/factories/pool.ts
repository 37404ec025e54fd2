/**
 * A factory's workers: kept warm, replaced when they die, exchanged on reload. Sessions go to the least busy.
 *
 * A replacement comes at once, unless workers die one after the other and none has served anybody in between: then each
 * comes later than the one before, up to half a minute, and while there is none new connections are refused for now.
 * Workers that die of what they are sent are replaced at once, too, but ten times in ten seconds for each place at most.
 */
import { MilterError } from '../errors.js';
import type { Logger } from '../session/options.js';
import type { StartLink } from './links.js';
import type { FromWorker, WorkerStart } from './messages.js';
import { unpackDetails } from './portable.js';
import { PoolWorker, type WorkerLimits, type WorkerOwner } from './pool-worker.js';

export interface PoolOptions extends WorkerLimits {
  /** How many workers. */
  readonly size: number;
  /** A worker serves one tenant only; one is always kept in reserve. */
  readonly perSession: boolean;
}

export interface PoolOwner {
  /** A worker has died, or failed otherwise. */
  failure(error: MilterError): void;
  /** A log line of a worker's. */
  message(message: FromWorker): void;
}

/** How often workers give a sign of life, in ms. */
const PULSE = 5_000;
/** An owner that has workers log where the factory does. */
export function poolOwner(log: Logger, failure: (error: MilterError) => void): PoolOwner {
  return {
    failure,
    message(message) {
      if (message[0] === 'log') log[message[1]](unpackDetails(message[2]), message[3]);
    },
  };
}

const FIRST_DELAY = 100;
const LONGEST_DELAY = 30_000;
/** So many deaths in as many ms, for each place, are made up for at once. */
const DEATHS = 10;
const DEATHS_WITHIN = 10_000;

export class Pool implements WorkerOwner {
  readonly #startLink: StartLink;
  readonly #start: Omit<WorkerStart, 'worker'>;
  readonly #options: PoolOptions;
  readonly #owner: PoolOwner;
  /** The workers that take tenants. */
  #workers: PoolWorker[] = [];
  /** Every one that runs. */
  readonly #alive = new Set<PoolWorker>();
  /** Those that are tried out: what they die of is told to whoever wants them. */
  readonly #trial = new Set<PoolWorker>();
  readonly #timers = new Set<NodeJS.Timeout>();
  /** How many have died since one has served anybody. */
  #failures = 0;
  #deaths: number[] = [];
  #running = false;
  #pulse: NodeJS.Timeout | undefined;
  #reloading: Promise<void> = Promise.resolve();

  constructor(startLink: StartLink, start: Omit<WorkerStart, 'worker'>, options: PoolOptions, owner: PoolOwner) {
    this.#startLink = startLink;
    this.#start = start;
    this.#options = options;
    this.#owner = owner;
  }

  /** Resolves when all workers are ready. @throws MilterError what the first one that is not says */
  async start(): Promise<void> {
    this.#workers = await this.#startAll();
    this.#running = true;
    this.#pulse = setInterval(() => {
      for (const worker of this.#alive) worker.pulse();
    }, PULSE).unref();
  }

  /** The least busy worker, for a tenant to be added; undefined when there is none and none on its way. */
  acquire(): PoolWorker | undefined {
    const open = this.#workers.filter((worker) => worker.open);
    if (this.#options.perSession) {
      const worker = open[0];
      if (worker !== undefined) this.#exchange(worker);
      return worker;
    }
    return open.reduce<PoolWorker | undefined>((best, worker) => (lessBusy(worker, best) ? worker : best), undefined);
  }

  /**
   * Replaces all workers with new ones, which load the module anew. The old ones end with their last tenant.
   * @throws MilterError when a new one does not start: then everything stays as it was
   */
  reload(): Promise<void> {
    const next = this.#reloading.then(() => this.#reload());
    this.#reloading = next.catch(() => {});
    return next;
  }

  /** Ends all workers: teardown() is run, whoever does not end in time is killed. */
  async stop(): Promise<void> {
    this.#running = false;
    clearInterval(this.#pulse);
    this.#clearTimers();
    const alive = [...this.#alive];
    for (const worker of alive) worker.retire();
    const timeout = setTimeout(() => {
      for (const worker of alive) worker.kill(`did not stop within ${this.#options.stopTimeout} ms`);
    }, this.#options.stopTimeout);
    await Promise.all(alive.map((worker) => worker.gone));
    clearTimeout(timeout);
  }

  async #reload(): Promise<void> {
    this.#checkRunning();
    let workers: PoolWorker[];
    try {
      workers = await this.#startAll();
    } catch (error) {
      this.#checkRunning();
      throw error;
    }
    this.#checkRunning(); // if it was closed meanwhile, stop() has seen to them
    const old = this.#workers;
    this.#workers = workers;
    this.#failures = 0;
    this.#clearTimers(); // there is no place left to be filled
    for (const worker of old) worker.retire();
  }

  #checkRunning(): void {
    if (!this.#running) throw new MilterError('ERR_MILTER_CLOSING', 'The factory is closed');
  }

  #clearTimers(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  async #startAll(): Promise<PoolWorker[]> {
    const count = this.#options.perSession ? 1 : this.#options.size;
    const workers = Array.from({ length: count }, () => this.#startOne());
    for (const worker of workers) this.#trial.add(worker);
    const ready = Promise.all(workers.map((worker) => worker.ready)).then(() => undefined);
    const error = await Promise.race([ready, ...workers.map((worker) => worker.gone)]);
    if (error !== undefined) {
      for (const worker of workers) worker.kill('is not needed');
      await Promise.all(workers.map((worker) => worker.gone));
    }
    for (const worker of workers) this.#trial.delete(worker);
    if (error !== undefined) throw error;
    return workers;
  }

  #startOne(): PoolWorker {
    const worker = new PoolWorker(this.#startLink, this.#start, this.#options, this);
    this.#alive.add(worker);
    return worker;
  }

  /** A worker of its own for a tenant: another takes its place, and it ends with the tenant. */
  #exchange(worker: PoolWorker): void {
    this.#workers = [this.#startOne()];
    // It must not be retired before the tenant has moved in.
    queueMicrotask(() => worker.retire());
  }

  // ---- what workers tell --------------------------------------------------------------------------------------------

  served(): void {
    this.#failures = 0;
  }

  message(message: FromWorker): void {
    this.#owner.message(message);
  }

  failure(error: MilterError): void {
    this.#owner.failure(error);
  }

  ended(worker: PoolWorker, error: MilterError, expected: boolean): void {
    this.#alive.delete(worker);
    if (expected || this.#trial.has(worker)) return;
    this.#owner.failure(error);
    const place = this.#workers.indexOf(worker);
    if (place < 0 || !this.#running) return;
    this.#workers.splice(place, 1);
    const delay = this.#delay();
    if (delay === 0) this.#replace();
    else this.#replaceIn(delay);
  }

  /** All that were there may die of one thing. */
  #delay(): number {
    const excess = ++this.#failures - this.#options.size;
    if (excess > 0) return Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** (excess - 1));
    const now = performance.now();
    this.#deaths = this.#deaths.filter((time) => now - time < DEATHS_WITHIN);
    this.#deaths.push(now);
    return this.#deaths.length > DEATHS * this.#options.size ? DEATHS_WITHIN / DEATHS : 0;
  }

  #replaceIn(delay: number): void {
    const text = `Workers keep dying: the next one is started in ${Math.round(delay)} ms`;
    this.#owner.failure(new MilterError('ERR_MILTER_WORKER', text));
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.#replace();
    }, delay);
    this.#timers.add(timer);
  }

  #replace(): void {
    if (this.#running) this.#workers.push(this.#startOne());
  }
}

function lessBusy(worker: PoolWorker, than: PoolWorker | undefined): boolean {
  if (than === undefined) return true;
  if (worker.slow !== than.slow) return than.slow;
  if (worker.state !== than.state) return worker.state === 'ready';
  return worker.tenants - than.tenants < 0 || (worker.tenants === than.tenants && worker.waiting < than.waiting);
}
