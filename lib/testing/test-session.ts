/** A milter and a mail server's side in one process, without a socket between them: MilterClient, connected. */
import { MilterClient } from '../client/client.js';
import type { NegotiateReply } from '../codec/replies.js';
import type {
  ClientMessage,
  ClientOptions,
  ClientPeer,
  MessageExtras,
  MessageResult,
  MessageSource,
  StageExtras,
  StageResult,
} from '../client/types.js';
import type { Message } from '../client/message.js';
import { bracketAddress } from '../envelope.js';
import type { MilterError } from '../errors.js';
import type { SessionStream } from '../session/duplex.js';
import type { LogLine, Witness } from './witness.js';

/** What a test session is made of. */
export interface Parts {
  readonly stream: SessionStream;
  readonly client: ClientOptions;
  readonly witness: Witness;
  /** What the milter fails with is thrown. */
  readonly throwErrors: boolean;
  /** Cleans up after the session. */
  release(): Promise<void>;
}

/**
 * Everything that MilterClient has. Each call rejects with what a callback has failed with, unless `throwErrors` says
 * otherwise. Addresses get the brackets in which mail servers hand them on.
 */
export class TestSession extends MilterClient {
  readonly #parts: Parts;
  #greeting: StageResult = { outcome: 'continue', hangUp: false };
  #closing: Promise<void> | undefined;

  constructor(parts: Parts) {
    super(parts.stream, parts.client);
    this.#parts = parts;
  }

  /** What the milter has made of CONNECT and HELO, the last time. */
  get greeting(): StageResult {
    return this.#greeting;
  }

  /** What the milter has asked for: it was connected before anybody could see this object. */
  override get agreed(): NegotiateReply {
    return super.agreed as NegotiateReply;
  }

  /** What the milter has failed with so far: what a factory's 'sessionError' tells. */
  get sessionErrors(): readonly MilterError[] {
    return this.#parts.witness.sessionErrors;
  }

  /** What the milter's session has logged so far, warnings for one. */
  get logs(): readonly LogLine[] {
    return this.#parts.witness.logs;
  }

  override open(): Promise<void> {
    return this.#seen(super.open());
  }

  override async connect(peer?: ClientPeer, extras?: StageExtras): Promise<StageResult> {
    return (this.#greeting = await this.#seen(super.connect(peer, extras)));
  }

  override async nextSession(peer?: ClientPeer, extras?: StageExtras): Promise<StageResult> {
    return (this.#greeting = await this.#seen(super.nextSession(peer, extras)));
  }

  override helo(name: string, extras?: StageExtras): Promise<StageResult> {
    return this.#seen(super.helo(name, extras));
  }

  override unknown(line: string, extras?: StageExtras): Promise<StageResult> {
    return this.#seen(super.unknown(line, extras));
  }

  override mailFrom(address: string, args?: readonly string[], extras?: StageExtras): Promise<StageResult> {
    return this.#seen(super.mailFrom(bracketAddress(address), args, extras));
  }

  override rcpt(address: string, args?: readonly string[], extras?: StageExtras): Promise<StageResult> {
    return this.#seen(super.rcpt(bracketAddress(address), args, extras));
  }

  override refusedRcpt(...[address, reply]: Parameters<MilterClient['refusedRcpt']>): Promise<void> {
    return this.#seen(super.refusedRcpt(bracketAddress(address), reply));
  }

  override data(extras?: StageExtras): Promise<StageResult> {
    return this.#seen(super.data(extras));
  }

  override message(source: MessageSource | Message, extras?: MessageExtras): Promise<MessageResult> {
    return this.#seen(super.message(source, extras));
  }

  override abort(): Promise<void> {
    return this.#seen(super.abort());
  }

  override send(mail: ClientMessage): Promise<MessageResult> {
    const { from, to, refused = [] } = mail;
    if (typeof from !== 'string' || !Array.isArray(to)) return super.send(mail); // which says what is wrong
    const all = { from: bracketAddress(from), to: to.map(bracketAddress), refused: refused.map(bracketAddress) };
    return this.#seen(super.send({ ...mail, ...all }));
  }

  /** The same as close(). */
  override async quit(): Promise<boolean> {
    await this.close();
    return true;
  }

  /**
   * Says QUIT; resolves when the milter's close() and `static teardown()` have ended.
   * @throws what they fail with, or an earlier callback that nobody was waiting for
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#seen(super.quit().then(() => this.#parts.release())));
  }

  /** `await using session = …` closes it. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A milter's failure comes first: it is why the call has failed, or should not pass for one that has not. */
  async #seen<T>(call: Promise<T>): Promise<T> {
    const [outcome] = await Promise.allSettled([call]);
    const { witness, throwErrors } = this.#parts;
    const error = witness.news();
    if (error !== undefined && throwErrors) throw error;
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  }
}
