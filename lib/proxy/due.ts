/**
 * The answers that a mail server waits for, in order. Most come from the milter; some are the proxy's own, and wait until
 * it is their turn.
 */
import type { Stage } from '../stages.js';

export interface Due {
  readonly stage: Stage | 'negotiate';
  /** The milter gives the answer. Where the mail server does not wait for one, it is swallowed. */
  readonly milters: boolean;
  readonly awaited: boolean;
  /** The proxy's own answer, as bytes. */
  readonly own: Buffer | undefined;
  /** Edits of this message have been forwarded. */
  edited: boolean;
}

export class DueAnswers {
  readonly #list: Due[] = [];
  readonly #write: (bytes: Buffer) => void;

  constructor(write: (bytes: Buffer) => void) {
    this.#write = write;
  }

  get first(): Due | undefined {
    return this.#list[0];
  }

  /** The milter will answer. */
  expect(stage: Due['stage'], awaited: boolean): void {
    this.#list.push({ stage, awaited, milters: true, own: undefined, edited: false });
  }

  /** The proxy answers itself, when it is its turn. */
  give(stage: Due['stage'], own: Buffer): void {
    this.#list.push({ stage, awaited: true, milters: false, own, edited: false });
    this.settle();
  }

  /** The first one has been given. What is the proxy's own behind it waits for settle(). */
  done(): void {
    this.#list.shift();
  }

  /** The milter gives no more: each answer that was its to give becomes another. */
  replace(answer: (due: Due) => Buffer): void {
    for (const [i, due] of this.#list.entries()) {
      if (due.milters) this.#list[i] = { ...due, milters: false, own: due.awaited ? answer(due) : Buffer.alloc(0) };
    }
    this.settle();
  }

  /** Gives what is the proxy's own and has its turn. */
  settle(): void {
    for (let due = this.#list[0]; due?.own !== undefined; due = this.#list[0]) {
      this.#list.shift();
      if (due.own.length > 0) this.#write(due.own);
    }
  }
}
