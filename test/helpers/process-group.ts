// A mail server is a family of processes. Each private one is a process group, and must leave nobody behind.

import { readdir, readFile } from 'node:fs/promises';

import { until } from './until.js';

/**
 * A function that ends the group and then does `afterwards`. Should the test process end without having called it, the
 * group is told to end all the same.
 */
export function endingGroup(leader: number, afterwards: () => Promise<void>): () => Promise<void> {
  const atExit = (): void => signal(leader, 'SIGTERM');
  process.once('exit', atExit);
  return async () => {
    process.off('exit', atExit);
    await endGroup(leader);
    await afterwards();
  };
}

/** Ends the whole group, kindly first, and resolves when none of it runs any more. */
async function endGroup(leader: number): Promise<void> {
  const gone = async (): Promise<boolean> => (await members(leader)) === 0;
  signal(leader, 'SIGTERM');
  try {
    await until(`the processes of group ${leader} to end`, gone, 10);
  } catch {
    signal(leader, 'SIGKILL');
    await until(`the processes of group ${leader} to be gone after SIGKILL`, gone, 10);
  }
}

function signal(leader: number, name: NodeJS.Signals): void {
  try {
    process.kill(-leader, name);
  } catch {
    // Nobody left to tell.
  }
}

/** Zombies don't count: whoever should reap them is not ours, and they hold neither ports nor files. */
async function members(leader: number): Promise<number> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const stats = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')));
  return stats.filter((stat) => {
    // pid (name) state ppid pgrp ...; the name may hold anything.
    const [state, , group] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return group === String(leader) && state !== 'Z' && state !== 'X';
  }).length;
}
