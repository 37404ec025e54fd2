/** Milters for tests, made of the callbacks that a test cares for; and a session without a stream around it. */
import type { Test } from 'tap';
import type { Reply } from '../../lib/codec/index.js';
import type { MilterError } from '../../lib/errors.js';
import {
  MilterProtocol,
  type Logger,
  type ProtocolClass,
  type Result,
  type SessionOptions,
  type Stage,
} from '../../lib/index.js';
import { MilterClass } from '../../lib/session/milter-class.js';
import { checkOptions } from '../../lib/session/options.js';
import type { SessionExtras } from '../../lib/session/port.js';
import { Session } from '../../lib/session/session.js';

export const STAGES = [
  'connect',
  'helo',
  'mailFrom',
  'rcpt',
  'data',
  'header',
  'eoh',
  'body',
  'eob',
  'unknown',
] as const satisfies readonly Stage[];

type Callback = (this: MilterProtocol, ...args: never[]) => unknown;

/** The callbacks that a milter overrides. */
export type Script = Partial<Record<Stage | 'abort' | 'close', Callback>>;

/** What a class says on itself; nonsense is welcome. */
export type Statics = Partial<Record<keyof ProtocolClass, unknown>>;

/** The same callback for some stages. */
export function each(stages: readonly Stage[], callback: Callback = () => {}): Script {
  return Object.fromEntries(stages.map((stage) => [stage, callback]));
}

/**
 * A class with the callbacks of a script and no others, but for abort() and close(); and the names of those that were
 * called, in order: `abort` with what it was told.
 */
export function milter(script: Script = {}, statics: Statics = {}): { MyMilter: ProtocolClass; calls: string[] } {
  const calls: string[] = [];
  class Recorder extends MilterProtocol {
    override abort(interrupted: boolean): void | PromiseLike<void> {
      calls.push(`abort ${interrupted}`);
      return script.abort?.call(this, interrupted as never) as void;
    }

    override close(): void | PromiseLike<void> {
      calls.push('close');
      return script.close?.call(this) as void;
    }
  }
  for (const stage of STAGES) {
    const callback = script[stage];
    if (callback === undefined) continue;
    Object.defineProperty(Recorder.prototype, stage, {
      value(this: MilterProtocol, ...args: never[]): Result {
        calls.push(stage);
        return callback.apply(this, args) as Result;
      },
    });
  }
  return { MyMilter: Object.assign(Recorder, statics) as ProtocolClass, calls };
}

/** What a session without a stream wrote, told and asked for. */
export interface BareSession {
  readonly session: Session;
  readonly replies: Reply[];
  readonly errors: MilterError[];
  /** How often input was asked for again. */
  resumed: number;
  /** What flush() says: whether more may be written. */
  roomy: boolean;
  /** Settles when the session has closed; with its error if there is one. */
  readonly closed: Promise<MilterError | undefined>;
}

/** A session whose every word is seen at once, also that `feed()` asks for a rest. */
export function bareSession(
  MyMilter: ProtocolClass,
  options: SessionOptions = {},
  extras: SessionExtras = {},
): BareSession {
  const { promise: closed, open: close } = gate<MilterError | undefined>();
  const bare = { replies: [] as Reply[], errors: [] as MilterError[], resumed: 0, roomy: true, closed };
  const port = {
    reply: (reply: Reply) => void bare.replies.push(reply),
    flush: () => bare.roomy,
    agreed: () => {},
    resume: () => void bare.resumed++,
    report: (error: MilterError) => void bare.errors.push(error),
    close,
  };
  return Object.assign(bare, { session: new Session(new MilterClass(MyMilter, checkOptions(options)), port, extras) });
}

/** A promise, and what settles it. */
export interface Gate<T> {
  readonly promise: Promise<T>;
  readonly open: (value: T) => void;
  readonly fail: (error: unknown) => void;
}

export function gate<T = void>(): Gate<T> {
  let open!: Gate<T>['open'];
  let fail!: Gate<T>['fail'];
  const promise = new Promise<T>((resolve, reject) => {
    open = resolve;
    fail = reject;
  });
  return { promise, open, fail };
}

/** A log that remembers what it was told at each level. */
export function memoryLog(): Logger & { readonly lines: Array<{ level: string; details: object; message: string }> } {
  const lines: Array<{ level: string; details: object; message: string }> = [];
  const at =
    (level: string) =>
    (details: object, message: string): void =>
      void lines.push({ level, details, message });
  return { lines, info: at('info'), warn: at('warn'), error: at('error') };
}

/** Waits for what a timer brings: a session's timers do not keep the process alive, sockets do. */
export async function awaken<T>(promise: Promise<T>): Promise<T> {
  const awake = setInterval(() => {}, 1000);
  try {
    return await promise;
  } finally {
    clearInterval(awake);
  }
}

/** What is like a promise, and of another make. */
export function thenable(then: (resolve: (value: unknown) => void, reject: (error: unknown) => void) => void): unknown {
  // oxlint-disable-next-line unicorn/no-thenable -- that is what this is about
  return { then };
}

/** Like a promise too, only that looking at it fails. */
export function unlookable(): unknown {
  const get = (): never => {
    throw new Error('boom');
  };
  // oxlint-disable-next-line unicorn/no-thenable -- that is what this is about
  return Object.defineProperty({}, 'then', { get });
}

/** A value, so many times. */
export function times<T>(count: number, value: T): T[] {
  return Array.from({ length: count }, () => value);
}

/** As many as there are patterns, each as its pattern says: t.match() alone lets there be more. */
export function matchAll(t: Test, found: readonly unknown[], patterns: readonly unknown[]): void {
  t.match(found, patterns);
  t.equal(found.length, patterns.length, 'and no others');
}
