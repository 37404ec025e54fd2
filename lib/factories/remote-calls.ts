/**
 * callInThread, in the main thread: sends marked callbacks to a pool of threads and waits for what comes back. Each
 * protocol object has its double in one thread. When that thread dies, the callbacks that wait fail, and so do all later
 * ones of the object, whose state is gone: the error policy answers them.
 */
import { MilterError } from '../errors.js';
import type { MacroPair } from '../codec/fields.js';
import type { Elsewhere, RemoteAnswer, RemoteMilter } from '../session/elsewhere.js';
import type { HostSession } from '../session/host.js';
import type { MacroDict } from '../session/macro-dict.js';
import type { CheckedOptions } from '../session/options.js';
import type { StageCommand } from '../stages.js';
import { alone, arrived, type FromTenant, type RemoteCall, type RemoteResult } from './messages.js';
import type { Pool } from './pool.js';
import type { PoolWorker, Tenant } from './pool-worker.js';
import { unpackError } from './portable.js';

export class RemoteCalls implements Elsewhere {
  readonly #pool: Pool;
  readonly #options: CheckedOptions;

  constructor(pool: Pool, options: CheckedOptions) {
    this.#pool = pool;
    this.#options = options;
  }

  open(session: HostSession): RemoteMilter {
    return new Double(this.#pool, this.#options, session);
  }
}

/** A call that has not come back. */
interface Pending {
  readonly type: RemoteCall['command']['type'];
  readonly resolve: (result: RemoteResult) => void;
  readonly reject: (error: unknown) => void;
}

class Double implements RemoteMilter, Tenant {
  readonly #pool: Pool;
  readonly #options: CheckedOptions;
  readonly #session: HostSession;
  #worker: PoolWorker | undefined;
  #tenant = 0;
  /** What it died of. */
  #dead: MilterError | undefined;
  #calls = 0;
  readonly #pending = new Map<number, Pending>();

  constructor(pool: Pool, options: CheckedOptions, session: HostSession) {
    this.#pool = pool;
    this.#options = options;
    this.#session = session;
  }

  async call(command: StageCommand, macros: MacroDict, live: readonly MacroPair[]): Promise<RemoteAnswer> {
    const { answer, edits } = await this.#send(portable(command), Object.entries(macros) as MacroPair[], live);
    if (edits === undefined) return { answer };
    return { answer, edits: { replies: edits.replies, body: edits.body?.map(arrived) } };
  }

  async abort(interrupted: boolean): Promise<void> {
    if (this.#worker !== undefined) await this.#send({ type: 'abort', interrupted }, [], []);
  }

  async close(): Promise<void> {
    if (this.#worker !== undefined) await this.#send({ type: 'close' }, [], []);
  }

  giveUp(): void {
    this.#worker?.post(['detach', this.#tenant]);
    this.#worker?.killIfBlocked();
  }

  end(): void {
    if (this.#pending.size > 0) this.#worker?.killIfBlocked();
    this.#worker?.post(['forget', this.#tenant]);
    this.#worker?.remove(this.#tenant);
    this.#worker = undefined;
  }

  // ---- what the pool asks and tells ---------------------------------------------------------------------------------

  get waiting(): boolean {
    return this.#pending.size > 0;
  }

  get patience(): number {
    const { eobDeadline, callbackDeadline } = this.#options;
    return [...this.#pending.values()].some(({ type }) => type === 'eob') ? eobDeadline : callbackDeadline;
  }

  receive(message: FromTenant): void {
    switch (message[0]) {
      case 'returned':
        this.#take(message[2])?.resolve(message[3]);
        break;
      case 'threw':
        this.#take(message[2])?.reject(unpackError(message[3]));
        break;
      default: // 'progress': the others are about sessions
        this.#session.sendProgress();
    }
  }

  workerDied(error: MilterError): void {
    this.#worker = undefined;
    this.#dead = error;
    for (const { type, reject } of this.#pending.values()) reject(lost(type, error));
    this.#pending.clear();
  }

  #take(number: number): Pending | undefined {
    const pending = this.#pending.get(number);
    this.#pending.delete(number);
    this.#worker?.served();
    return pending;
  }

  #send(
    command: RemoteCall['command'],
    macros: readonly MacroPair[],
    live: readonly MacroPair[],
  ): Promise<RemoteResult> {
    return new Promise((resolve, reject) => {
      const worker = this.#liveWorker(command.type);
      const number = ++this.#calls;
      const { agreement, bodySkipped } = this.#session;
      this.#pending.set(number, { type: command.type, resolve, reject });
      worker.post(['call', this.#tenant, { number, command, macros, live, agreement, bodySkipped }]);
    });
  }

  /** @throws MilterError ERR_MILTER_WORKER when its thread has died, or there is none */
  #liveWorker(type: Pending['type']): PoolWorker {
    if (this.#dead !== undefined) throw lost(type, this.#dead);
    if (this.#worker === undefined) {
      const worker = this.#pool.acquire();
      if (worker === undefined)
        throw new MilterError('ERR_MILTER_WORKER', `There is no thread to call ${type}() in`, { stage: type });
      this.#worker = worker;
      this.#tenant = worker.add(this);
      worker.post(['object', this.#tenant]);
    }
    return this.#worker;
  }
}

/** The callback was at work there, or its object was. */
function lost(type: string, cause: MilterError): MilterError {
  return new MilterError('ERR_MILTER_WORKER', `${type}() is lost: ${cause.message}`, { stage: type, cause });
}

/** The plain fields of a command: its bytes stay here, and a chunk travels without what it was cut from. */
function portable(command: StageCommand): StageCommand {
  return command.type === 'body' ? { type: 'body', chunk: alone(command.chunk) as Buffer } : { ...command };
}
