/** Starts a server, puts it under load, and looks at what it has used meanwhile. */
import { usage } from './cpu.js';
import { load, type Load, type Traffic } from './load.js';
import type { Figures } from './row.js';
import { startServer } from './server-process.js';

/** The share of the time that goes to the compiler before anything counts. */
const WARM = 1 / 3;

/** The value below which a share of all others lies; they are in ascending order. */
export function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.floor((sorted.length - 1) * share)] ?? NaN;
}

export async function underLoad(command: readonly string[], traffic: Traffic, seconds: number): Promise<Figures> {
  const server = await startServer(command);
  try {
    await load(server.address, traffic, { seconds: seconds * WARM });
    const before = usage(server.pid);
    const result = await load(server.address, traffic, { seconds });
    const after = usage(server.pid);
    return {
      ...fromOutside(result),
      ...(before !== undefined &&
        after !== undefined && {
          cpuMicrosPerMessage: ((after.seconds - before.seconds) * 1e6) / result.messages,
          peakMiB: after.peakMiB,
        }),
    };
  } finally {
    await server.stop();
  }
}

export function fromOutside({ messages, seconds, latencies }: Load): Figures {
  return {
    messagesPerSecond: messages / seconds,
    p50ms: percentile(latencies, 0.5),
    p99ms: percentile(latencies, 0.99),
  };
}
