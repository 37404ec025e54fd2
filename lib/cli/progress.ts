/** A bar that shows how far something has come, on one line of a terminal; nothing anywhere else. */
import type { Output } from './command.js';

const WIDTH = 24;

/** How often it is drawn anew at most, in ms. */
const EVERY = 100;

export class Progress {
  readonly #stream: Output;
  readonly #total: number;
  readonly #now: () => number;
  readonly #start: number;
  #last = -Infinity;
  #shown = 0;

  constructor(stream: Output, total: number, now = () => performance.now()) {
    this.#stream = stream;
    this.#total = total;
    this.#now = now;
    this.#start = now();
  }

  show(done: number): void {
    const now = this.#now();
    if (this.#stream.isTTY !== true || (now - this.#last < EVERY && done < this.#total)) return;
    this.#last = now;
    const part = done / this.#total;
    const bar = '#'.repeat(Math.round(part * WIDTH)).padEnd(WIDTH, '.');
    const rate = Math.round((done * 1_000) / Math.max(1, now - this.#start));
    const line = `[${bar}] ${Math.floor(part * 100)}% ${done}/${this.#total} ${rate}/s`;
    this.#stream.write(`\r${line.padEnd(this.#shown)}`);
    this.#shown = line.length;
  }

  /** Takes it away. */
  end(): void {
    if (this.#shown > 0) this.#stream.write(`\r${' '.repeat(this.#shown)}\r`);
  }
}

/** Something that changes, on one line of a terminal; nothing anywhere else. */
export class StatusLine {
  readonly #stream: Output;
  readonly #now: () => number;
  #last = -Infinity;
  #shown = 0;

  constructor(stream: Output, now = () => performance.now()) {
    this.#stream = stream;
    this.#now = now;
  }

  show(text: () => string): void {
    const now = this.#now();
    if (this.#stream.isTTY !== true || now - this.#last < EVERY) return;
    this.#last = now;
    const line = text();
    this.#stream.write(`\r${line.padEnd(this.#shown)}`);
    this.#shown = line.length;
  }

  /** Takes it away. */
  end(): void {
    if (this.#shown > 0) this.#stream.write(`\r${' '.repeat(this.#shown)}\r`);
  }
}
