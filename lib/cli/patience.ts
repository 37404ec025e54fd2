/**
 * An end to what has none: a milter may say progress again and again, and a mail server then waits for ever. A command must
 * not.
 */
import { setMaxListeners } from 'node:events';
import { MilterError } from '../errors.js';

export class Patience {
  readonly #ms: number;
  readonly #outer: AbortSignal | undefined;
  readonly #controller = new AbortController();

  /**
   * @param ms how long each call may take
   * @param outer aborted: the caller wants no more
   */
  constructor(ms: number, outer?: AbortSignal) {
    this.#ms = ms;
    this.#outer = outer;
    // There may be as many clients with one signal as there are connections, and that is no leak.
    setMaxListeners(0, this.signal);
    if (outer !== undefined) setMaxListeners(0, outer);
  }

  /** For the client whose calls are watched. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** @throws MilterError ERR_MILTER_TIMEOUT after that time: the client is then of no use any more; whatever `go` throws */
  watch<T>(go: () => Promise<T>): Promise<T> {
    const outer = this.#outer;
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#controller.abort();
    }, this.#ms);
    const stop = (): void => this.#controller.abort((outer as AbortSignal).reason);
    if (outer?.aborted === true) stop();
    outer?.addEventListener('abort', stop, { once: true });
    const told = (error: unknown): never => {
      const { code, stage } = error as MilterError;
      if (!late || code !== 'ERR_MILTER_ABORTED') throw error;
      const why = 'it says progress again and again, or takes its time for each answer';
      const what = `The milter failed at ${stage}: It has not come to an end within ${this.#ms} ms altogether: ${why}`;
      throw new MilterError('ERR_MILTER_TIMEOUT', what, { stage: stage as string, cause: error });
    };
    return go()
      .catch(told)
      .finally(() => {
        clearTimeout(timer);
        outer?.removeEventListener('abort', stop);
      });
  }
}
