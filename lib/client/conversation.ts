/**
 * A conversation with a milter: commands out, replies in, one at a time, each with its deadline. The first failure ends
 * it: a reply that comes too late would be taken for the answer to something else.
 */
import createDebug from 'debug';
import type { Duplex } from 'node:stream';
import { encodeCommand, replyParser, type Command, type Reply } from '../codec/index.js';
import { MILTER_MDS_64K } from '../constants.js';
import { MilterError, type MilterErrorCode, type MilterErrorDetails } from '../errors.js';
import { FINAL_REPLIES } from '../final-replies.js';

const debug = createDebug('milter:client');

/** How many bytes of commands that are not answered wait for more. */
const MOST_HELD = 65_536;

/** What went wrong; it becomes an error when it keeps a command from its answer, and names that. */
interface Failure {
  readonly code: MilterErrorCode;
  readonly message: string;
  readonly details: MilterErrorDetails;
}

export class Conversation {
  /** Largest payload that is sent, in bytes. */
  maxPayload = MILTER_MDS_64K;

  readonly #stream: Duplex;
  readonly #parser = replyParser();
  readonly #replies: Reply[] = [];
  #failure: Failure | undefined;
  #error: MilterError | undefined;
  /** Since the caller gave up on the command at work, and until the next one. */
  #givenUp: Failure | undefined;
  /** A command has been sent whose answer has not been taken. */
  #asked = false;
  /** How many answers are still to come that nobody waits for any more. */
  #passedOver = 0;
  #wake: (() => void) | undefined;
  #holding = false;

  /** @param stream connected to the milter: a socket, or a session in this process */
  constructor(stream: Duplex) {
    this.#stream = stream;
    const sink = { packet: (reply: unknown) => this.#arrived(reply as Reply) };
    stream.on('data', (bytes: Buffer) => this.#read(() => this.#parser.parse(bytes, sink)));
    stream.on('end', () => {
      this.#read(() => this.#parser.end());
      this.#lost('the milter closed it');
    });
    stream.on('close', () => this.#lost('it was closed'));
    stream.on('error', (error) => this.#lost(error.message, error));
    stream.on('drain', () => this.#wake?.());
    if (stream.destroyed) this.#lost('it was closed before');
  }

  /** It has failed: nothing more can be asked. */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /**
   * Sends commands in one write; resolves when more is welcome.
   * @param stage for the error
   * @param timeout how long to wait, in ms
   * @param mayWait nobody waits for it, and it goes out with what follows
   * @throws MilterError ERR_MILTER_TIMEOUT, ERR_MILTER_CONNECTION, ERR_MILTER_FILTER for a reply that nothing asked for;
   *   ERR_MILTER_VALUE, ERR_MILTER_PACKET_TOO_LARGE for a command that cannot be sent: then nothing was
   */
  send(stage: string, timeout: number, commands: readonly Command[], mayWait = false): Promise<void> | undefined {
    this.tell(stage, commands, mayWait);
    return this.#stream.writableNeedDrain ? this.#drained(stage, timeout) : undefined;
  }

  /** As send(), for what has to go out even if the milter takes nothing. */
  tell(stage: string, commands: readonly Command[], mayWait = false): void {
    this.#givenUp = undefined;
    const surplus = this.#replies[0];
    if (surplus !== undefined) throw this.fail(stage, 'ERR_MILTER_FILTER', `It sent ${surplus.type}, unasked`);
    if (this.#failure !== undefined) throw this.#errorAt(stage);
    const packets = commands.map((command) => encodeCommand(command, this.maxPayload));
    for (const { type } of commands) debug('send %s', type);
    if (mayWait || packets.length > 1) this.#hold();
    for (const packet of packets) this.#stream.write(packet);
    if (!mayWait || this.#stream.writableLength >= MOST_HELD) this.#release();
  }

  /** What has been sent is answered. */
  expect(): void {
    this.#asked = true;
  }

  /**
   * Nobody waits for the command at work any more: whoever does gets ERR_MILTER_ABORTED, and the answer, which comes
   * before any other, is passed over.
   */
  giveUp(reason: unknown): void {
    this.#givenUp = { code: 'ERR_MILTER_ABORTED', message: 'The caller has given up', details: { cause: reason } };
    if (this.#asked) this.#passedOver++;
    this.#asked = false;
    for (const reply of this.#replies.splice(0)) this.#arrived(reply);
    this.#wake?.();
  }

  #arrived(reply: Reply): void {
    if (this.#passedOver === 0) this.#replies.push(reply);
    else if (FINAL_REPLIES.has(reply.type)) this.#passedOver--;
  }

  #next(): Reply | undefined {
    const reply = this.#replies.shift();
    if (FINAL_REPLIES.has(reply?.type)) this.#asked = false;
    return reply;
  }

  /** What is not answered may wait for what comes behind it, but not for long. */
  #hold(): void {
    if (this.#holding) return;
    this.#holding = true;
    this.#stream.cork();
    setImmediate(() => this.#release());
  }

  #release(): void {
    if (!this.#holding) return;
    this.#holding = false;
    this.#stream.uncork();
  }

  async #drained(stage: string, timeout: number): Promise<void> {
    await this.#until(() => !this.#stream.writableNeedDrain || undefined, stage, timeout, 'It takes nothing');
  }

  /**
   * The next reply.
   * @param stage for the error
   * @param timeout how long to wait, in ms
   * @param what it does, for the error
   * @throws MilterError ERR_MILTER_TIMEOUT, ERR_MILTER_CONNECTION, or what is wrong with the bytes that came
   */
  async reply(stage: string, timeout: number, what = 'It does not answer'): Promise<Reply> {
    const reply = this.#next() ?? (await this.#until(() => this.#next(), stage, timeout, what));
    debug('received %s', reply.type);
    return reply;
  }

  /** The milter has failed: closes the connection, and gives the error that everything gets from now on. */
  fail(stage: string, code: MilterErrorCode, message: string, details: MilterErrorDetails = {}): MilterError {
    this.#fail({ code, message, details });
    return this.#errorAt(stage);
  }

  /** Says goodbye; resolves when the connection is closed, by the milter (true) or, after the timeout, by us (false). */
  async end(timeout: number): Promise<boolean> {
    if (this.#failure !== undefined) return true;
    return new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => {
        this.#stream.destroy();
        resolve(false);
      }, timeout);
      this.#stream.once('close', () => {
        clearTimeout(timer);
        resolve(true);
      });
      this.#stream.end(encodeCommand({ type: 'quit' }));
    });
  }

  /** Ends without a word. */
  destroy(): void {
    this.#stream.destroy();
  }

  /** Ends because the caller wants no more: what waits is an error with that reason. */
  interrupt(reason: unknown): void {
    this.#fail({ code: 'ERR_MILTER_ABORTED', message: 'The caller has given up', details: { cause: reason } });
  }

  #read(go: () => void): void {
    try {
      go();
      this.#wake?.();
    } catch (error) {
      const { code, message, packet } = error as MilterError;
      this.#fail({ code, message, details: packet === undefined ? {} : { packet } });
    }
  }

  #lost(why: string, cause?: Error): void {
    this.#fail({ code: 'ERR_MILTER_CONNECTION', message: `The connection was lost: ${why}`, details: { cause } });
  }

  #fail(failure: Failure): void {
    if (this.#failure !== undefined) return;
    debug('failed: %s', failure.message);
    this.#failure = failure;
    this.#stream.destroy();
    this.#wake?.();
  }

  /** The failure, with the command that it kept from its answer. */
  #errorAt(stage: string): MilterError {
    return (this.#error ??= errorAt(stage, this.#failure as Failure));
  }

  /** Waits until a probe finds something, no longer than the timeout, and not beyond the failure. */
  async #until<T>(probe: () => T | undefined, stage: string, timeout: number, what: string): Promise<T> {
    const late = (): void =>
      this.#fail({ code: 'ERR_MILTER_TIMEOUT', message: `${what}, and ${timeout} ms are over`, details: {} });
    const timer = setTimeout(late, timeout);
    try {
      for (;;) {
        const found = probe();
        if (found !== undefined) return found;
        if (this.#failure !== undefined) throw this.#errorAt(stage);
        if (this.#givenUp !== undefined) throw errorAt(stage, this.#givenUp);
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      clearTimeout(timer);
      this.#wake = undefined;
    }
  }
}

function errorAt(stage: string, { code, message, details }: Failure): MilterError {
  const text = code === 'ERR_MILTER_ABORTED' ? `${message} at ${stage}` : `The milter failed at ${stage}: ${message}`;
  return new MilterError(code, text, { packet: stage, ...details, stage });
}
