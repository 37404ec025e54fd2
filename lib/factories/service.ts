/** Runs a factory as a service: signals and systemd on one side, run(), close() and reload() on the other. */
import { formatAddress, type SocketAddress } from '../address.js';
import type { MilterError } from '../errors.js';
import { optionError } from '../option-rules.js';
import { careful, checkOptions, type Logger } from '../session/options.js';
import { SystemdNotify } from './systemd-notify.js';
import { isMilterWorker } from './worker-context.js';

/** What runFilter() uses of a factory: all three have it. */
export interface RunnableFactory {
  readonly address: SocketAddress | undefined;
  run(): Promise<void>;
  close(): Promise<void>;
  reload(): Promise<void>;
  once(event: 'close', listener: () => void): unknown;
  off(event: 'close', listener: () => void): unknown;
  emit(event: 'sessionError', error: MilterError): boolean;
}

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

type ServiceSignal = (typeof SIGNALS)[number];

export interface RunFilterOptions {
  /** Which of SIGTERM, SIGINT and SIGHUP are acted on. Default: all three; false: none. */
  signals?: boolean | readonly ServiceSignal[] | undefined;
  /** Where it says what it does. Default: nowhere (the debug namespace milter:log has it). */
  log?: Logger | undefined;
}

/**
 * Runs a factory until it is closed, and resolves when its last session is over.
 *
 * SIGTERM and SIGINT call close(): messages in progress are finished; a second one ends them at once. SIGHUP calls
 * reload(), whose failure is a 'sessionError' event and changes nothing. Under a systemd unit of Type=notify or
 * notify-reload with NotifyAccess=all, systemd learns when the milter is ready, reloads and stops.
 *
 *   await runFilter(new ForkFactory('systemd', MyMilter, SMFIF_ADDHDRS));
 *
 * In a factory's worker it resolves at once and does nothing: code behind it runs there too.
 * @throws what run() rejects with; ERR_MILTER_OPTION
 */
export async function runFilter(factory: RunnableFactory, options: RunFilterOptions = {}): Promise<void> {
  if (isMilterWorker()) return;
  const log = careful(checkOptions({ log: options.log }).log);
  await new Service(factory, log).run(signalsOf(options.signals));
}

function signalsOf(wanted: unknown = true): readonly ServiceSignal[] {
  if (typeof wanted === 'boolean') return wanted ? SIGNALS : [];
  if (Array.isArray(wanted) && wanted.every((name) => SIGNALS.includes(name as ServiceSignal))) return wanted;
  throw optionError('signals', `must be true, false or a list of ${SIGNALS.join(', ')}`, wanted);
}

class Service {
  readonly #factory: RunnableFactory;
  readonly #log: Logger;
  readonly #systemd: SystemdNotify;
  #state: 'starting' | 'listening' | 'closing' = 'starting';
  /** The start, then one reload after the other; never rejects. */
  #work: Promise<void> = Promise.resolve();
  #reloadDue = false;
  #listened = false;
  #where = '';
  #closed!: (result: void | PromiseLike<void>) => void;

  constructor(factory: RunnableFactory, log: Logger) {
    this.#factory = factory;
    this.#log = log;
    let warned = false;
    this.#systemd = new SystemdNotify((error) => {
      if (!warned) log.warn({ error }, `systemd could not be told how the milter is: ${error.message}`);
      warned = true;
    });
  }

  async run(signals: readonly ServiceSignal[]): Promise<void> {
    const onClose = (): void => this.#closed();
    const closed = new Promise<void>((resolve) => (this.#closed = resolve));
    for (const name of signals) process.on(name, this.#onSignal);
    this.#factory.once('close', onClose);
    try {
      const started = this.#start();
      this.#work = started.catch(() => {});
      await Promise.all([started, closed]);
      this.#stopping();
    } finally {
      this.#factory.off('close', onClose);
      for (const name of signals) process.off(name, this.#onSignal);
      await this.#systemd.told;
    }
  }

  async #start(): Promise<void> {
    await this.#factory.run();
    this.#listened = true;
    if (this.#state === 'closing' || this.#factory.address === undefined) return;
    this.#state = 'listening';
    this.#where = `listening on ${formatAddress(this.#factory.address)}`;
    this.#log.info({}, this.#where);
    this.#systemd.tell('READY=1', `STATUS=${this.#where}`);
  }

  readonly #onSignal = (name: NodeJS.Signals): void => {
    if (name === 'SIGHUP') this.#reload();
    else this.#close(name);
  };

  #close(signal: NodeJS.Signals): void {
    const again = this.#state === 'closing';
    this.#log.info({ signal }, again ? 'closing at once' : 'closing: the messages in progress are finished');
    // A start that hangs, in setup() for example, has nothing that could be ended: the process is.
    if (again && !this.#listened) {
      process.off(signal, this.#onSignal);
      process.kill(process.pid, signal);
    }
    this.#stopping();
    this.#closed(this.#factory.close());
  }

  /** Those that come while one is at work are one more after it. */
  #reload(): void {
    if (this.#reloadDue) return;
    this.#reloadDue = true;
    this.#work = this.#work.then(async () => {
      this.#reloadDue = false;
      if (!this.#listens) return;
      // Type=notify-reload wants the time as well; it is the clock that Node tells, too.
      const now = process.hrtime.bigint() / 1000n;
      this.#systemd.tell('RELOADING=1', `MONOTONIC_USEC=${now}`, 'STATUS=reloading');
      const result = await this.#reloaded();
      if (this.#listens) this.#systemd.tell('READY=1', `STATUS=${this.#where}; ${result}`);
    });
  }

  async #reloaded(): Promise<string> {
    try {
      await this.#factory.reload();
      this.#log.info({}, 'reloaded');
      return 'reloaded';
    } catch (error) {
      const { message } = error as MilterError;
      this.#log.error({ error }, `reload failed: ${message}`);
      // Not here: a listener that throws is the process's affair, and must not end this row of reloads.
      process.nextTick(() => this.#factory.emit('sessionError', error as MilterError));
      return `reload failed: ${message}`;
    }
  }

  #stopping(): void {
    if (this.#state === 'closing') return;
    this.#state = 'closing';
    this.#systemd.tell('STOPPING=1', 'STATUS=finishing the messages in progress');
  }

  /** Not any more when somebody has called close() behind our back, too. */
  get #listens(): boolean {
    return this.#state === 'listening' && this.#factory.address !== undefined;
  }
}
