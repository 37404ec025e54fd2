/** What this process has open, where the system tells: Linux does. */
import { readdirSync, readlinkSync } from 'node:fs';
import type { Test } from 'tap';
import { settled } from './streams.js';
import { until } from './until.js';

/** For tests that cannot do without. */
export const skip = process.platform === 'linux' ? false : 'only Linux tells a process what it has open';

export interface OpenFile {
  /** Its name; ` (deleted)` follows where it has none any more. */
  readonly name: string;
  /** Another name for it, that works. */
  readonly path: string;
}

/** The open files, sockets and so on whose name holds a word. */
export function openFiles(word: string): OpenFile[] {
  if (skip !== false) return [];
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    const path = `/proc/self/fd/${fd}`;
    try {
      const name = readlinkSync(path);
      return name.includes(word) ? [{ name, path }] : [];
    } catch {
      return []; // the descriptor that read the list
    }
  });
}

const warnings: string[] = [];
process.on('warning', (warning) => warnings.push(warning.message));

/** Resolves when none of them is open any more. */
export async function allClosed(t: Test, word: string): Promise<void> {
  await until(`${word} to be closed`, () => openFiles(word).length === 0);
  await settled();
  t.strictSame(warnings, [], 'nothing was left to the garbage collector');
}
