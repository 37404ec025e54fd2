/** Ctrl-C, for commands that have something to say when they are stopped. */
import type { Io } from './command.js';

export interface Interruption {
  readonly signal: AbortSignal;
  /** Ctrl-C ends the process again. */
  readonly over: () => void;
}

/**
 * The first Ctrl-C aborts the signal; the second one ends the process.
 * @param source of the signals
 */
export function interruption(io: Io, source: Pick<NodeJS.Process, 'once' | 'off'> = process): Interruption {
  if (io.signal !== undefined) return { signal: io.signal, over: () => {} };
  const controller = new AbortController();
  const stop = (): void => controller.abort();
  source.once('SIGINT', stop);
  return { signal: controller.signal, over: () => source.off('SIGINT', stop) };
}
