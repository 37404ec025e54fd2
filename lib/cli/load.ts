/** Sends many messages at once, and measures. */
import type { ClientMessage } from '../client/index.js';
import type { MilterError } from '../errors.js';
import { milterError } from './exit.js';
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

/** What a milter has failed at, and how often. */
export interface Failure {
  /** The first of them. */
  readonly error: MilterError;
  times: number;
}

export interface LoadResult {
  /** Those that came to an end. */
  readonly messages: number;
  /** How many there were to be. */
  readonly total: number;
  /** Those that were never begun, because the signal was aborted, or there is nothing to connect to. */
  readonly notBegun: number;
  /** The signal was aborted before all were done. */
  readonly interrupted: boolean;
  readonly connections: number;
  readonly seconds: number;
  readonly messagesPerSecond: number;
  readonly verdicts: Readonly<Record<string, number>>;
  /** By code and stage. */
  readonly failures: readonly Failure[];
  /** In milliseconds. */
  readonly latency: { readonly message: LatencySummary; readonly stages: Readonly<Record<string, LatencySummary>> };
}

/** @throws what is no failure of a milter's */
export async function load(plan: LoadPlan): Promise<LoadResult> {
  const { mails, total, connections, signal, progress } = plan;
  const verdicts: Record<string, number> = {};
  const failures = new Map<string, Failure>();
  const whole = new Latency();
  const stages = new Latencies();
  let begun = 0;
  let done = 0;
  let interrupted = false;

  const more = (): boolean => {
    if (begun < total && signal.aborted) interrupted = true;
    return begun < total && !interrupted;
  };
  const one = async (player: Player): Promise<boolean> => {
    const mail = mails[begun++ % mails.length] as ClientMessage;
    try {
      const { result, steps, ms } = await player.play(mail);
      whole.record(ms);
      for (const step of steps) stages.record(step.stage, step.ms);
      verdicts[result.verdict] = (verdicts[result.verdict] ?? 0) + 1;
      return true;
    } catch (thrown) {
      const error = milterError(thrown);
      const { code, stage } = error;
      if (code === 'ERR_MILTER_ABORTED') {
        interrupted = true;
        return false;
      }
      const key = `${code} ${stage}`;
      const failure = failures.get(key);
      if (failure === undefined) failures.set(key, { error, times: 1 });
      else failure.times++;
      // Where there is nothing to connect to, there will be nothing for the next one.
      return code !== 'ERR_MILTER_CONNECTION' || stage !== 'negotiate';
    }
  };
  const connection = async (): Promise<void> => {
    const player = new Player(plan.scene);
    try {
      for (let good = true; good && more();) {
        good = await one(player);
        progress(++done);
      }
    } finally {
      await player.end();
    }
  };

  const start = performance.now();
  await Promise.all(Array.from({ length: Math.min(connections, total) }, connection));
  const seconds = (performance.now() - start) / 1_000;
  const message = whole.summary();
  return {
    messages: message.count,
    total,
    notBegun: total - begun,
    interrupted,
    connections: Math.min(connections, total),
    seconds,
    messagesPerSecond: message.count / seconds,
    verdicts,
    failures: [...failures.values()],
    latency: { message, stages: stages.summaries() },
  };
}
