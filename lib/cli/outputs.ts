/** Two ways to print much: one that leaves lines out when nobody takes them, and one that waits. Neither fails. */
import type { Output } from './command.js';

/** Most bytes that wait for a slow reader. */
const MOST_WAITING = 8_388_608;

/** For what goes on whether it is seen or not: mail does not wait for a terminal. */
export class LiveOutput {
  readonly #stream: Output;
  readonly #most: number;
  #waiting = 0;
  #left = 0;

  constructor(stream: Output, most: number = MOST_WAITING) {
    this.#stream = stream;
    this.#most = most;
  }

  /** @param text whole lines */
  print(text: string): void {
    if (text === '') return;
    if (this.#waiting > this.#most) {
      this.#left++;
      return;
    }
    if (this.#left > 0) this.#write(`… ${this.#left.toLocaleString('en')} lines left out: nobody takes them so fast\n`);
    this.#left = 0;
    this.#write(text);
  }

  #write(text: string): void {
    const size = Buffer.byteLength(text);
    this.#waiting += size;
    this.#stream.write(text, () => (this.#waiting -= size));
  }
}

/** For what comes out of a file. */
export class PatientOutput {
  readonly #stream: Output;
  /** Whoever read it has gone: nothing more needs to be said. */
  gone = false;
  #wake: (() => void) | undefined;

  constructor(stream: Output) {
    this.#stream = stream;
    const over = (): void => this.#over();
    stream.on('error', over);
    stream.on('close', over);
  }

  /** Resolves when more is welcome. */
  async print(text: string | Buffer): Promise<void> {
    if (text.length === 0 || this.gone) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      const goesOn = this.#stream.write(text, (error) => {
        // Of a stream that was closed before, this is all that is told.
        if (error) this.#over();
        else resolve();
      });
      if (goesOn) resolve();
    });
  }

  #over(): void {
    this.gone = true;
    this.#wake?.();
  }
}
