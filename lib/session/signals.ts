/** The abort signals of a session: one for the message, one for the connection, made only when somebody asks. */
import type { MilterError } from '../errors.js';

/** A signal that may have been aborted before it was asked for. */
export class LazySignal {
  #controller: AbortController | undefined;
  #reason: MilterError | undefined;

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason !== undefined) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  /** The first reason counts. */
  abort(reason: MilterError): void {
    this.#reason ??= reason;
    this.#controller?.abort(this.#reason);
  }

  /** What follows has a signal of its own. */
  renew(): void {
    this.#controller = undefined;
    this.#reason = undefined;
  }
}
