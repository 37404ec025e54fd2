/**
 * A connection to a milter that is told the bytes of commands, and asked for replies. Nothing waits for ever, and nothing
 * is read while there are replies that nobody has taken.
 */
import type { Duplex } from 'node:stream';
import { replyParser } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import { MilterError } from '../errors.js';

export class Wire {
  readonly #stream: Duplex;
  readonly #signal: AbortSignal;
  readonly #replies: Reply[] = [];
  readonly #read: (bytes: Buffer) => void;
  #failure: MilterError | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: Duplex, signal: AbortSignal) {
    this.#stream = stream;
    this.#signal = signal;
    const parser = replyParser();
    const sink = { packet: (reply: unknown) => this.#replies.push(reply as Reply) };
    const guarded = (go: () => void): void => {
      try {
        go();
      } catch (error) {
        this.#fail(error as MilterError);
      }
      this.#wake?.();
    };
    this.#read = (bytes) => {
      guarded(() => parser.parse(bytes, sink));
      if (this.#replies.length > 0) stream.pause();
    };
    stream.on('data', this.#read);
    stream.on('end', () => {
      guarded(() => parser.end());
      this.#lost('the milter closed it');
    });
    stream.on('error', (error) => this.#lost(error.message, error));
    stream.on('close', () => this.#lost('it was closed'));
    stream.on('drain', () => this.#wake?.());
    if (signal.aborted) this.#interrupt();
    signal.addEventListener('abort', this.#interrupt);
  }

  /** What nobody has asked for. */
  surplus(): Reply[] {
    return this.#replies.splice(0);
  }

  /** @throws MilterError ERR_MILTER_TIMEOUT where the milter takes nothing, and what ended the connection */
  async send(bytes: Buffer, timeout: number): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#stream.write(bytes)) return;
    await this.#until(() => !this.#stream.writableNeedDrain || undefined, timeout, 'It takes nothing');
  }

  /** @throws MilterError ERR_MILTER_TIMEOUT, and what ended the connection */
  reply(timeout: number, what = 'It does not answer'): Promise<Reply> {
    return this.#until(() => this.#replies.shift(), timeout, what);
  }

  /** Says no more, and waits until the other side does the same. @param timeout 0: not at all */
  async end(timeout: number): Promise<void> {
    this.#signal.removeEventListener('abort', this.#interrupt);
    if (this.#failure === undefined && timeout > 0) {
      this.#stream.off('data', this.#read).resume().end();
      await this.#until(() => this.#failure, timeout, '').catch(() => {});
    }
    this.#stream.destroy();
  }

  readonly #interrupt = (): void => {
    const cause: unknown = this.#signal.reason;
    this.#fail(new MilterError('ERR_MILTER_ABORTED', 'The caller has given up', { cause }));
    this.#stream.destroy();
    this.#wake?.();
  };

  #lost(why: string, cause?: Error): void {
    this.#fail(new MilterError('ERR_MILTER_CONNECTION', `The connection was lost: ${why}`, { cause }));
    this.#wake?.();
  }

  #fail(error: MilterError): void {
    this.#failure ??= error;
  }

  async #until<T>(probe: () => T | undefined, timeout: number, what: string): Promise<T> {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#wake?.();
    }, timeout);
    try {
      for (;;) {
        const found = probe();
        if (found !== undefined) return found;
        if (this.#failure !== undefined) throw this.#failure;
        if (late) throw new MilterError('ERR_MILTER_TIMEOUT', `${what}, and ${timeout} ms are over`);
        if (this.#replies.length === 0) this.#stream.resume();
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      clearTimeout(timer);
      this.#wake = undefined;
    }
  }
}
