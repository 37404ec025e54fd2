/** Sends many messages at once, and measures. */
import type { ClientMessage } from '../client/index.js';
import type { MilterError } from '../errors.js';
import { Latencies, Latency, type LatencySummary } from './latency.js';
import { Player, type Scene } from './player.js';

export interface LoadPlan {
  readonly scene: Scene;
  /** Sent in turn. */
  readonly mails: readonly ClientMessage[];
  /** How many messages in all. */
  readonly total: number;
  /** How many at once. */
  readonly connections: number;
  /** Aborted: no more are begun, and what is at work fails. */
  readonly signal: AbortSignal;
  /** Told of each message. */
  readonly progress: (done: number) => void;
}

export interface LoadResult {
  readonly messages: number;
  readonly connections: number;
  readonly seconds: number;
  readonly messagesPerSecond: number;
  readonly verdicts: Readonly<Record<string, number>>;
  /** Those that a milter has failed at, by what it was. */
  readonly failures: Readonly<Record<string, number>>;
  /** In milliseconds. */
  readonly latency: { readonly message: LatencySummary; readonly stages: Readonly<Record<string, LatencySummary>> };
  /** The first failure. */
  readonly error: MilterError | undefined;
}

export async function load(plan: LoadPlan): Promise<LoadResult> {
  const { mails, total, connections, signal, progress } = plan;
  const verdicts: Record<string, number> = {};
  const failures: Record<string, number> = {};
  const whole = new Latency();
  const stages = new Latencies();
  let begun = 0;
  let done = 0;
  let first: MilterError | undefined;

  const more = (): boolean => begun < total;
  const one = async (player: Player): Promise<boolean> => {
    const mail = mails[begun++ % mails.length] as ClientMessage;
    try {
      const { result, steps, ms } = await player.play(mail);
      whole.record(ms);
      for (const step of steps) stages.record(step.stage, step.ms);
      verdicts[result.verdict] = (verdicts[result.verdict] ?? 0) + 1;
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      const { code, message, stage } = error as MilterError;
      first ??= error as MilterError;
      failures[message] = (failures[message] ?? 0) + 1;
      // Where there is nothing to connect to, there will be nothing for the next one.
      return code !== 'ERR_MILTER_CONNECTION' || stage !== 'negotiate';
    }
  };
  const connection = async (): Promise<void> => {
    const player = new Player(plan.scene);
    for (let good = true; good && more();) {
      good = await one(player);
      progress(++done);
    }
    await player.end();
  };

  const start = performance.now();
  await Promise.all(Array.from({ length: Math.min(connections, total) }, connection));
  const seconds = (performance.now() - start) / 1_000;
  const message = whole.summary();
  return {
    messages: message.count,
    connections: Math.min(connections, total),
    seconds,
    messagesPerSecond: message.count / seconds,
    verdicts,
    failures,
    latency: { message, stages: stages.summaries() },
    error: first,
  };
}
