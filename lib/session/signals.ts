/** The abort signals of a session: one for the message, one for the connection, made only when somebody asks. */
import type { MilterError } from '../errors.js';

/** Why something was aborted; a function makes the error when it is needed, which it rarely is. */
export type Reason = MilterError | (() => MilterError);

/** A signal that may have been aborted before it was asked for. */
export class LazySignal {
  #controller: AbortController | undefined;
  #reason: Reason | undefined;

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason !== undefined) this.#controller.abort(errorOf(this.#reason));
    }
    return this.#controller.signal;
  }

  /** The first reason counts. */
  abort(reason: Reason): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#controller?.abort(errorOf(reason));
  }

  /** What follows has a signal of its own. */
  renew(): void {
    this.#controller = undefined;
    this.#reason = undefined;
  }
}

function errorOf(reason: Reason): MilterError {
  return typeof reason === 'function' ? reason() : reason;
}
