/** What ends a command that serves: SIGINT and SIGTERM, or the signal of a test. */
import type { Io } from './command.js';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/**
 * @param stop is called at each of them
 * @param source of the signals
 * @returns what takes it back
 */
export function onStop(io: Io, stop: () => void, source: Pick<NodeJS.Process, 'on' | 'off'> = process): () => void {
  const { signal } = io;
  if (signal !== undefined) {
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop);
    return () => signal.removeEventListener('abort', stop);
  }
  for (const name of SIGNALS) source.on(name, stop);
  return () => {
    for (const name of SIGNALS) source.off(name, stop);
  };
}
