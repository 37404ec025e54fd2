/** Calls abort() and close(), which nobody waits to hear an answer of, but which what follows waits for. */
import type { MilterError } from '../errors.js';
import { isThenable } from '../thenable.js';
import { thrownBy, tooLong } from './failures.js';
import type { ProtocolHost } from './host.js';
import type { MilterProtocol } from './protocol.js';
import { Timer } from './timer.js';

/**
 * Calls one of the two. Its failures are reported and change nothing.
 * @param deadline how long it may take, in ms
 * @returns undefined when it is done; else it is at work, and `done` is called when it has ended, or with an error when
 *   it has had its time
 */
export function notify(
  milter: Pick<MilterProtocol, 'abort' | 'close'>,
  host: ProtocolHost,
  callback: 'abort' | 'close',
  interrupted: boolean,
  deadline: number,
  report: (error: MilterError) => void,
  done: (late?: MilterError) => void,
): 'pending' | undefined {
  host.enter(callback);
  let result: void | PromiseLike<void> = undefined;
  let pending = false;
  try {
    result = callback === 'abort' ? milter.abort(interrupted) : milter.close();
    pending = isThenable(result);
  } catch (error) {
    report(thrownBy(callback, error));
  }
  if (!pending) {
    host.stage = undefined;
    return undefined;
  }
  let over = false;
  const end = (error?: MilterError, late = false): void => {
    if (over) return;
    over = true;
    timer.stop();
    host.stage = undefined;
    if (error !== undefined) report(error);
    done(late ? error : undefined);
  };
  const timer = new Timer(() => end(tooLong(callback, deadline), true));
  timer.start(deadline);
  Promise.resolve(result).then(
    () => end(),
    (error: unknown) => end(thrownBy(callback, error)),
  );
  return 'pending';
}
