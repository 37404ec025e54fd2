/** What a server and its processes have used of the processor and of memory, from Linux's /proc. */
import { readdirSync, readFileSync } from 'node:fs';

/** Clock ticks a second, which Linux has fixed for programs. */
const TICKS = 100;

interface Entry {
  readonly parent: number;
  readonly ticks: number;
  readonly peakKiB: number;
}

export interface Usage {
  readonly seconds: number;
  readonly peakMiB: number;
}

function entry(pid: number): Entry | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name may hold anything; behind it come state, parent, …, user and system time.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const peak = /^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return {
      parent: Number(fields[1]),
      ticks: Number(fields[11]) + Number(fields[12]),
      peakKiB: Number(peak?.[1] ?? 0),
    };
  } catch {
    return undefined; // it has ended
  }
}

/**
 * A process and all below it: seconds of processor time, and the sum of the peaks of their memory in MiB. Undefined where
 * there is no /proc to read it from.
 */
export function usage(pid: number): Usage | undefined {
  if (process.platform !== 'linux') return undefined;
  const entries = new Map<number, Entry>();
  for (const name of readdirSync('/proc')) {
    const found = /^\d+$/.test(name) ? entry(Number(name)) : undefined;
    if (found !== undefined) entries.set(Number(name), found);
  }
  let ticks = 0;
  let kib = 0;
  const add = (id: number): void => {
    const one = entries.get(id);
    if (one === undefined) return;
    ticks += one.ticks;
    kib += one.peakKiB;
    for (const [child, { parent }] of entries) if (parent === id) add(child);
  };
  add(pid);
  return { seconds: ticks / TICKS, peakMiB: kib / 1024 };
}
