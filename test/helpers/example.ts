// Programs that tests talk to from outside: the examples, which import the package that `npm run build` made, and
// servers that stay in the foreground.
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { root } from './built.js';

export interface Running {
  /** What it has printed so far. */
  readonly out: () => string;
  readonly err: () => string;
  /** Resolves when its standard output includes `what`. */
  printed(what: string): Promise<void>;
  kill(signal: NodeJS.Signals): void;
  /** Its exit status, or the signal that ended it. */
  readonly ended: Promise<number | string>;
}

/** Linux ends a program that is started so when the test process ends, however that comes about. */
const GUARD = existsSync('/usr/bin/setpriv') ? ['/usr/bin/setpriv', '--pdeathsig', 'KILL', '--'] : [];

/** Starts a program of examples/. */
export function runExample(script: string, ...args: string[]): Running {
  return runProgram(process.execPath, ['--import', 'tsx', `examples/${script}`, ...args]);
}

/**
 * Starts a program in the package's folder. It gets nothing of tap's environment: its loader would come with that.
 * @param fds what it finds open as descriptors 3, 4 and so on
 */
export function runProgram(
  file: string,
  args: readonly string[],
  env: Record<string, string> = {},
  fds: readonly number[] = [],
): Running {
  const [command, ...line] = [...GUARD, file, ...args] as [string, ...string[]];
  const child = spawn(command, line, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe', ...fds],
    env: { PATH: process.env['PATH'], ...env },
  });
  const { stdout, stderr } = child as ChildProcessByStdio<null, Readable, Readable>;
  const text = { out: '', err: '' };
  for (const [name, stream] of [
    ['out', stdout],
    ['err', stderr],
  ] as const) {
    stream.setEncoding('utf8').on('data', (chunk: string) => (text[name] += chunk));
  }
  const ended = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string);
  return {
    out: () => text.out,
    err: () => text.err,
    async printed(what) {
      while (!text.out.includes(what)) {
        const over = await Promise.race([ended.then(() => true), once(stdout, 'data').then(() => false)]);
        if (over && !text.out.includes(what))
          throw new Error(`It ended before it printed ${what}:\n${text.err}${text.out}`);
      }
    },
    kill: (signal) => void child.kill(signal),
    ended,
  };
}
