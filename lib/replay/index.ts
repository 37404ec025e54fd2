/**
 * `milter-stream/replay`: plays what a mail server said in a capture to a milter, and tells what has become different.
 *
 *   for await (const session of replayCapture(readCapture('mail.jsonl'), 'inet:8891@127.0.0.1')) …
 */
import type { Duplex } from 'node:stream';
import { parseAddress } from '../address.js';
import type { CaptureEvent, Source } from '../capture/types.js';
import { dial } from '../sockets/dial.js';
import { checkReplayOptions, type CheckedReplayOptions } from './options.js';
import { Play } from './play.js';
import { scriptsOf, type Script } from './script.js';
import type { ReplayedSession, ReplayOptions } from './types.js';
import { Wire } from './wire.js';

export type * from './types.js';
export { MilterError, type MilterErrorCode } from '../errors.js';

/** Where the milter is: a socket string, or a function that gives a stream to it for each session. */
export type ReplayTarget = string | (() => Duplex | Promise<Duplex>);

/**
 * Replays the sessions of a capture, and gives each when it is over. Memory: the sessions that are open in the capture,
 * and as many as are played at once.
 * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_OPTION; what the events throw (the file is cut, or broken), when what
 *   was before it has been replayed. What goes wrong with the milter is in the results.
 */
export async function* replayCapture(
  events: Source<CaptureEvent>,
  target: ReplayTarget,
  options: ReplayOptions = {},
): AsyncGenerator<ReplayedSession, void, undefined> {
  const over = new AbortController();
  const signals = options.signal === undefined ? [over.signal] : [options.signal, over.signal];
  const checked = { ...checkReplayOptions(options), signal: AbortSignal.any(signals) };
  const connect = connector(target, checked);
  const start = performance.now();
  const playing = new Set<Promise<void>>();
  const done: ReplayedSession[] = [];
  let epoch: number | undefined;
  let failure: { readonly error: unknown } | undefined;
  const play = (script: Script): void => {
    epoch ??= script.lines[0]?.time;
    const played = new Play(script, checked, start).run(connect, epoch ?? 0).then((session) => {
      playing.delete(played);
      done.push(session);
    });
    playing.add(played);
  };
  try {
    const scripts = scriptsOf(events, checked.sessions);
    while (!checked.signal.aborted) {
      const next = await scripts.next().catch((error: unknown) => (failure = { error }));
      if ('error' in next || next.done === true) break;
      play(next.value);
      if (playing.size >= checked.connections) await Promise.race(playing);
      yield* done.splice(0);
    }
    while (playing.size > 0) {
      await Promise.race(playing);
      yield* done.splice(0);
    }
    yield* done.splice(0); // it may have ended while the one before was being looked at
  } finally {
    over.abort(); // whoever asked may have lost interest
  }
  if (failure !== undefined) throw failure.error;
}

function connector(target: ReplayTarget, options: CheckedReplayOptions): () => Promise<Wire> {
  const { timeout, signal } = options;
  const address = typeof target === 'string' ? parseAddress(target, 'connect') : undefined;
  return async () => {
    const stream =
      address === undefined
        ? await (target as () => Duplex | Promise<Duplex>)()
        : await dial(address, { connectTimeout: timeout, signal });
    return new Wire(stream, signal);
  };
}
