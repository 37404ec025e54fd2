/**
 * How code knows that it runs in a worker of a factory. A worker imports the module that defines the milter, and that is
 * often the program which runs the factory, too: there run() and close() do nothing.
 *
 * The mark is on globalThis, so that all copies of this package see it. Whether this is the main thread, or whether there
 * is an IPC channel, says nothing: tests and programs run in threads and processes of their own.
 */
import type { ProtocolClass } from '../session/protocol.js';

const KEY = Symbol.for('milter-stream.worker');

export interface WorkerContext {
  /** The classes that factories were made with while the module was loading. */
  readonly classes: ProtocolClass[];
}

/** What a worker remembers; undefined outside of workers. */
export function workerContext(): WorkerContext | undefined {
  return (globalThis as { [KEY]?: WorkerContext })[KEY];
}

/** Says that this thread or process is a worker. */
export function enterWorker(): WorkerContext {
  return ((globalThis as { [KEY]?: WorkerContext })[KEY] ??= { classes: [] });
}

/**
 * Whether this code runs in a worker of ThreadFactory, ForkFactory or callInThread. The module that defines the milter
 * is imported there again, with whatever its top level does: code behind `await factory.run()` runs in workers as well.
 */
export function isMilterWorker(): boolean {
  return workerContext() !== undefined;
}
