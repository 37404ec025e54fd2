/**
 * A core for the generator and another one for the server, so that neither takes from the other what is measured. Linux
 * with taskset, at least two cores.
 */
import { spawnSync } from 'node:child_process';

export interface Pin {
  /** What goes before the command of a server. */
  readonly prefix: readonly string[];
  /** How it is told. */
  readonly text: string;
  /** Lets this process run anywhere again. */
  release(): void;
}

/** '0-2,5' means 0, 1, 2, 5. */
export function cores(list: string): number[] {
  return list.split(',').flatMap((part) => {
    const [from = NaN, to = from] = part.split('-').map(Number);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

function taskset(...args: string[]): string | undefined {
  const { status, stdout } = spawnSync('taskset', args, { encoding: 'utf8' });
  return status === 0 ? stdout : undefined;
}

/** Pins this process with all its threads; undefined where that cannot be done. */
export function pin(): Pin | undefined {
  const own = String(process.pid);
  const said = process.platform === 'linux' ? taskset('-cp', own) : undefined;
  if (said === undefined) return undefined;
  const allowed = said.slice(said.lastIndexOf(':') + 1).trim();
  const [first, second] = cores(allowed);
  if (second === undefined || taskset('-acp', String(first), own) === undefined) return undefined;
  return {
    prefix: ['taskset', '-c', String(second)],
    text: `generator on core ${first}, server on core ${second}`,
    release: () => void taskset('-acp', allowed, own),
  };
}
