/** How often some work in this process can be done in a second: for codec and streams. */
import type { Line } from './measure.js';

/** What one piece of work was. */
export interface Amount {
  readonly packets: number;
  readonly bytes: number;
}

/** A line that repeats its work until the time is over. */
export function throughput(traffic: string, what: string, work: () => Promise<Amount> | Amount): Line {
  return {
    traffic,
    what,
    warm: work,
    async measure(seconds) {
      const start = performance.now();
      let packets = 0;
      let bytes = 0;
      do {
        const amount = await work();
        packets += amount.packets;
        bytes += amount.bytes;
      } while (performance.now() - start < seconds * 1000);
      const took = (performance.now() - start) / 1000;
      return { packetsPerSecond: packets / took, mbPerSecond: bytes / took / 1e6 };
    },
  };
}
