/** The processes that this one has started and that still run, where the system tells: Linux does. */
import { readdirSync, readFileSync } from 'node:fs';

/** Their numbers; zombies don't count. */
export function childPids(parent = process.pid): number[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    const stat = statOf(name);
    // pid (name) state ppid ...; the name may hold anything.
    const [state, ppid] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return ppid === String(parent) && state !== 'Z' && state !== 'X' ? [Number(name)] : [];
  });
}

/** Whether a process is there, and no zombie. */
export function alive(pid: number): boolean {
  return /^[^ZX]/.test(statOf(String(pid)).replace(/^.*\) /, ''));
}

function statOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return ''; // it has ended
  }
}
