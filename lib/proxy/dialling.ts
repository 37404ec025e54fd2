/** Reaches the milter for a connection, whatever the function that is to do it makes of it. */
import type { Duplex } from 'node:stream';
import { MilterError, show } from '../errors.js';

/**
 * Gives a stream to a milter; one that is not connected yet counts as one that is. The signal is aborted when nobody waits
 * for it any more.
 */
export type Dial = (signal: AbortSignal) => Duplex | PromiseLike<Duplex>;

/**
 * @param ms how long it may take; a stream that comes later is destroyed
 * @param signal ends the waiting
 * @returns the stream, or the error ERR_MILTER_CONNECTION or ERR_MILTER_ABORTED
 */
export function reach(dial: Dial, ms: number, signal: AbortSignal): Promise<Duplex | MilterError> {
  return new Promise((resolve) => {
    let over = false;
    let timer: NodeJS.Timeout | undefined;
    const settle = (result: Duplex | MilterError): void => {
      over = true;
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
      resolve(result);
    };
    const fail = (why: string, cause?: unknown): void =>
      settle(new MilterError('ERR_MILTER_CONNECTION', `Cannot connect to the milter: ${why}`, { cause }));
    const failed = (error: unknown): void => {
      if (error instanceof MilterError) settle(error);
      else fail(error instanceof Error ? error.message : String(error), error);
    };
    const abort = (): void => settle(new MilterError('ERR_MILTER_ABORTED', 'Nobody waits for the milter any more'));
    signal.addEventListener('abort', abort);
    const arrived = (stream: unknown): void => {
      if (!isDuplex(stream)) {
        fail(`${show(stream)} is no stream to be read and written`);
        return;
      }
      stream.on('error', ignore);
      if (over) stream.destroy();
      else settle(stream);
    };
    // Whoever dials may have a limit of the same length, and better words: its timer is to be the first.
    void new Promise<Duplex>((take) => {
      const given = dial(signal);
      if (isDuplex(given)) given.on('error', ignore); // it may fail before the promise is seen
      take(given);
    }).then(arrived, failed);
    if (signal.aborted) abort();
    else timer = setTimeout(() => fail(`nothing within ${ms} ms`), ms);
  });
}

/** Whoever looks at the stream next sees that it is destroyed. */
function ignore(): void {}

function isDuplex(value: unknown): value is Duplex {
  return (
    typeof value === 'object' &&
    value !== null &&
    ['on', 'write', 'end', 'resume', 'pause', 'destroy'].every((name) => typeof (value as never)[name] === 'function')
  );
}
