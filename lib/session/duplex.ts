/**
 * A session as a stream: bytes in, bytes out, and with `.commands` and `.replies` the same session for objects.
 *
 *   pipeline(socket, createSession(MyMilter), socket, (error) => …)
 *
 *   const session = createSession(MyMilter);
 *   pipeline(socket, createDecoder(), session.commands, (error) => …);
 *   pipeline(session.replies, createEncoder(), socket, (error) => …);
 */
import { Duplex, Readable, Writable } from 'readable-stream';
import type { Duplex as NodeDuplex } from 'node:stream';
import type { Command } from '../codec/commands.js';
import type { Reply } from '../codec/replies.js';
import type { MilterError } from '../errors.js';
import type { ObjectReadable, ObjectWritable } from '../streams/types.js';
import { MilterClass } from './milter-class.js';
import { checkOptions, type SessionOptions } from './options.js';
import { Output } from './output.js';
import type { ProtocolClass } from './protocol.js';
import type { SessionPort } from './port.js';
import { Session } from './session.js';

/** A session as a Duplex. It emits 'sessionError' (a MilterError) for each failure it has survived. */
export interface SessionStream extends NodeDuplex {
  /** Takes Command objects instead of bytes. */
  readonly commands: ObjectWritable<Command>;
  /** Gives Reply objects; once it has been asked for, the replies go there and not to the bytes. */
  readonly replies: ObjectReadable<Reply>;
}

type Done = (error?: Error | null) => void;

class SessionDuplex extends Duplex {
  readonly #session: Session;
  readonly #output = new Output();
  #commands: Writable | undefined;
  #replies: Readable | undefined;
  #made = false;
  /** The callback of a chunk that the session has taken while it had enough: calling it asks for the next one. */
  #held: Done | undefined;

  constructor(milterClass: MilterClass, shared: unknown) {
    super({ allowHalfOpen: true });
    this.#session = new Session(milterClass, this.#port(), { shared });
    this.#made = true;
  }

  get commands(): Writable {
    return (this.#commands ??= new Writable({
      objectMode: true,
      write: (command: Command, _encoding: string, done: Done) => this.#taken(this.#session.receive(command), done),
      final: (done: Done) => this._final(done),
      // It is also destroyed when it has ended, and then the session may still be at work.
      destroy: (error: Error | null, done: (error: Error | null) => void) =>
        this.#commands?.writableFinished === true ? done(error) : this._destroy(error, done),
    }));
  }

  get replies(): Readable {
    return (this.#replies ??= new Readable({
      objectMode: true,
      read: () => this.#session.drained(),
      destroy: (error: Error | null, done: (error: Error | null) => void) => this._destroy(error, done),
    }));
  }

  override _write(chunk: Buffer, _encoding: string, done: Done): void {
    this.#taken(this.#session.feed(chunk), done);
  }

  override _final(done: Done): void {
    this.#session.end();
    done();
  }

  override _read(): void {
    this.#session.drained();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#session.lost(error ?? new Error('the stream was destroyed'));
    done(error);
  }

  #taken(goOn: boolean, done: Done): void {
    if (goOn) done();
    else this.#held = done;
  }

  #port(): SessionPort {
    return {
      reply: (reply) => {
        if (this.#replies === undefined) this.#output.reply(reply);
        else this.#replies.push(reply);
      },
      flush: () => {
        const replies = this.#replies;
        if (replies !== undefined) return replies.readableLength < replies.readableHighWaterMark;
        return this.#output.flush((bytes) => this.push(bytes));
      },
      agreed: (maxPayload) => {
        this.#output.maxPayload = maxPayload;
      },
      resume: () => {
        const done = this.#held;
        this.#held = undefined;
        done?.();
      },
      report: (error) => this.#report(error),
      close: (error) => this.#close(error),
    };
  }

  /** A milter's constructor fails before anybody can listen here: that is told a little later. */
  #report(error: MilterError): void {
    if (this.#made) this.emit('sessionError', error);
    else process.nextTick(() => this.emit('sessionError', error));
  }

  /**
   * Without an error the replies end, and with them the connection that they are piped to. An error is told on the
   * streams in use: nobody listens for one on a Duplex whose two halves have both been replaced.
   */
  #close(error: MilterError | undefined): void {
    const replaced = this.#commands !== undefined && this.#replies !== undefined;
    if (error === undefined) {
      this.#replies?.push(null);
      this.push(null);
    } else {
      this.#replies?.destroy(error);
      this.#commands?.destroy(error);
    }
    if (replaced) this.destroy();
    else if (error !== undefined) this.destroy(error);
  }
}

/**
 * One session of a milter as a Duplex: what a mail server sends goes in, what the milter answers comes out. It ends after
 * QUIT; it is destroyed with a MilterError when the mail server breaks the protocol. Failing callbacks are answered by
 * the error policy and told with the event 'sessionError'.
 * @param MyMilter a class that extends MilterProtocol
 * @param options as of the factories; `shared` takes the place of `static setup()`, which is not called
 * @throws MilterError ERR_MILTER_OPTION
 */
export function createSession<Context, Shared>(
  MyMilter: ProtocolClass<Context, Shared>,
  options: SessionOptions<Context> & { shared?: Shared } = {},
): SessionStream {
  const { shared, ...rest } = options;
  const checked = checkOptions(rest);
  return new SessionDuplex(new MilterClass(MyMilter, checked), shared);
}
