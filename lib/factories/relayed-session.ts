/**
 * The worker's half of a session whose socket the factory owns: packets come and go in messages. Both directions have a
 * limit to what is under way, so that neither a slow milter nor a slow mail server fills anybody's memory.
 */
import type { MilterClass } from '../session/milter-class.js';
import { Output } from '../session/output.js';
import { Session } from '../session/session.js';
import type { FromTenant, SessionStart } from './messages.js';
import { packError, unpackError, type PackedError } from './portable.js';

/** The factory hears of bytes that were handled in such portions; its window is several of them. */
export const ACKNOWLEDGED_AT = 32 * 1024;
/** The factory reads no more from a mail server while so many bytes are not handled. */
export const WINDOW = 4 * ACKNOWLEDGED_AT;
/** A session writes no more while so many bytes of replies are not passed on. */
const REPLY_WINDOW = 256 * 1024;

export class RelayedSession {
  readonly #session: Session;
  readonly #tenant: number;
  readonly #post: (message: FromTenant) => void;
  /** Bytes of commands that the factory has not been told of as handled. */
  #handled = 0;
  #resting = false;
  /** Bytes of replies that the factory has not passed on yet. */
  #underWay = 0;

  constructor(
    tenant: number,
    milterClass: MilterClass,
    start: SessionStart & { readonly shared: unknown },
    post: (message: FromTenant) => void,
  ) {
    this.#tenant = tenant;
    this.#post = post;
    const output = new Output();
    const write = (bytes: Buffer): boolean => this.#write(bytes);
    this.#session = new Session(
      milterClass,
      {
        reply: (reply) => output.reply(reply),
        flush: () => output.flush(write),
        agreed(maxPayload) {
          output.maxPayload = maxPayload;
        },
        resume: () => {
          this.#resting = false;
          this.#acknowledge();
        },
        report: (error) => post(['report', tenant, packError(error)]),
        close: (error) => post(['closed', tenant, error === undefined ? undefined : packError(error)]),
      },
      // What comes lies in one piece of memory with what is other sessions'.
      { ...start, reusedChunks: true },
    );
  }

  bytes(chunk: Buffer): void {
    this.#handled += chunk.length;
    this.#resting = !this.#session.feed(chunk);
    this.#acknowledge();
  }

  taken(bytes: number): void {
    const full = this.#underWay >= REPLY_WINDOW;
    this.#underWay -= bytes;
    if (full && this.#underWay < REPLY_WINDOW) this.#session.drained();
  }

  end(): void {
    this.#session.end();
  }

  lost(why: PackedError): void {
    this.#session.lost(unpackError(why) as Error);
  }

  drain(): void {
    this.#session.drain();
  }

  destroy(): void {
    this.#session.destroy();
  }

  #acknowledge(): void {
    if (this.#resting || this.#handled < ACKNOWLEDGED_AT) return;
    this.#post(['taken', this.#tenant, this.#handled]);
    this.#handled = 0;
  }

  #write(bytes: Buffer): boolean {
    this.#underWay += bytes.length;
    this.#post(['bytes', this.#tenant, bytes]);
    return this.#underWay < REPLY_WINDOW;
  }
}
