/** How long things took: percentiles of any number of times, in little memory. */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';

/** In milliseconds. */
export interface LatencySummary {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

const NANOSECONDS = 1_000_000;

export class Latency {
  readonly #histogram: RecordableHistogram = createHistogram();

  /** @param ms of a clock that may have been set, or of a capture that may say anything: what is no number is left out */
  record(ms: number): void {
    if (Number.isNaN(ms)) return;
    // It takes whole numbers from 1 on, up to 104 days.
    const nanoseconds = Math.min(Math.round(ms * NANOSECONDS), Number.MAX_SAFE_INTEGER);
    this.#histogram.record(Math.max(1, nanoseconds));
  }

  summary(): LatencySummary {
    const histogram = this.#histogram;
    // Its percentiles are rounded to three digits, and may be above the largest.
    const at = (percent: number): number => Math.min(histogram.percentile(percent), histogram.max) / NANOSECONDS;
    return { count: histogram.count, p50: at(50), p90: at(90), p99: at(99), max: histogram.max / NANOSECONDS };
  }
}

/** One for each name, in the order they came. */
export class Latencies {
  readonly #all = new Map<string, Latency>();

  record(name: string, ms: number): void {
    let latency = this.#all.get(name);
    if (latency === undefined) this.#all.set(name, (latency = new Latency()));
    latency.record(ms);
  }

  summaries(): Record<string, LatencySummary> {
    return Object.fromEntries([...this.#all].map(([name, latency]) => [name, latency.summary()]));
  }
}
