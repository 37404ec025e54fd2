/**
 * One milter in the eyes of a mail server: its connection, what it has said about the SMTP session and the message, and
 * what stands in for its answers once it has failed.
 */
import { setMaxListeners } from 'node:events';
import type { Duplex } from 'node:stream';
import { parseAddress, type SocketAddress } from '../address.js';
import {
  MILTER_MDS_1M,
  MILTER_MDS_256K,
  MILTER_MDS_64K,
  SMFIP_HDR_LEADSPC,
  SMFIP_MDS_1M,
  SMFIP_MDS_256K,
} from '../constants.js';
import type { NegotiateReply } from '../codec/replies.js';
import { MilterError, show } from '../errors.js';
import { dial } from '../sockets/dial.js';
import type { Stage, StageCommand } from '../stages.js';
import { Conversation } from './conversation.js';
import { DEFAULT_ACTIONS } from './default-action.js';
import { Exchange, GO_ON, type Answer } from './exchange.js';
import { negotiate } from './negotiate.js';
import type { CheckedClientOptions } from './options.js';
import type { ClientMacros, Step } from './types.js';

/** What Postfix sends and takes at most, whatever was agreed. */
const POSTFIX_MAX_PAYLOAD = 0x3fff_ffff;

const DONE: Answer = { outcome: 'accept', hangUp: false, modifications: [] };

/** An answer that holds for longer than one command, and where it was given. */
export interface Standing {
  readonly stage: Stage;
  readonly answer: Answer;
}

export class Filter {
  readonly name: string;
  readonly options: CheckedClientOptions;
  /** What the milter answered to the offer; undefined before. */
  agreed: NegotiateReply | undefined;
  /** Holds until the SMTP session is over: a verdict on all of it, or the default action. */
  standing: Standing | undefined;
  /** Holds until the message is over: the milter has said what it has to say about it. */
  finished: Standing | undefined;
  /** What it failed with last, in this SMTP session. */
  failure: MilterError | undefined;

  readonly #target: SocketAddress | Duplex;
  #conversation: Conversation | undefined;
  #exchange: Exchange | undefined;
  /** What open() is at work for: aborted, and another one, once nobody waits for it any more. */
  #opening: AbortController | undefined;
  /** A message has been begun that the milter has not been told the end of. */
  #inMessage = false;
  /** Nothing more is asked about this message. */
  #givenUp: MilterError | undefined;

  /** @throws MilterError ERR_MILTER_ADDRESS */
  constructor(target: string | Duplex, options: CheckedClientOptions, name?: string) {
    if (typeof target !== 'string' && typeof target?.write !== 'function')
      throw new MilterError('ERR_MILTER_OPTION', `target must be a socket string or a stream, got ${show(target)}`);
    this.#target = typeof target === 'string' ? parseAddress(target, 'connect') : target;
    this.name = name ?? (typeof target === 'string' ? target : 'stream');
    this.options = options;
  }

  /** It has nothing more to say about this message. */
  get done(): boolean {
    return this.standing !== undefined || this.finished !== undefined;
  }

  /** The largest piece of a body it takes. */
  get chunkSize(): number {
    const { protocol } = this.agreed as NegotiateReply;
    if ((protocol & SMFIP_MDS_1M) !== 0) return MILTER_MDS_1M;
    return (protocol & SMFIP_MDS_256K) !== 0 ? MILTER_MDS_256K : MILTER_MDS_64K;
  }

  get leadingSpace(): boolean {
    return this.#exchange?.agrees(SMFIP_HDR_LEADSPC) === true;
  }

  /** What is known of the SMTP client and told only where it is asked for; names without braces. */
  set peer(macros: Readonly<Record<string, string>>) {
    if (this.#exchange !== undefined) this.#exchange.peer = macros;
  }

  hears(stage: Stage): boolean {
    return this.#exchange?.hears(stage) === true;
  }

  agrees(bit: number): boolean {
    return this.#exchange?.agrees(bit) === true;
  }

  /** Connects and negotiates. @throws MilterError where there is no default action */
  async open(): Promise<void> {
    this.standing = undefined;
    this.finished = undefined;
    this.failure = undefined;
    this.#inMessage = false;
    this.agreed = undefined;
    const { signal } = this.options;
    const opening = (this.#opening = new AbortController());
    // There may be many clients with one signal, and that is no leak.
    if (signal !== undefined) setMaxListeners(0, signal);
    signal?.addEventListener('abort', this.#interrupted, { once: true });
    try {
      if (signal?.aborted === true) this.#interrupted();
      const stream = await this.#dial(opening.signal);
      if (this.#opening !== opening) stream.destroy();
      this.#conversation = new Conversation(stream);
      if (signal?.aborted === true) this.#interrupted();
      this.agreed = await negotiate(this.#conversation, this.options);
    } catch (error) {
      const wanted = this.#opening === opening;
      this.drop();
      const cause = wanted
        ? error
        : new MilterError('ERR_MILTER_CONNECTION', 'quit() was called', { stage: 'negotiate' });
      this.#failed(cause, 'connect');
      return;
    }
    this.#conversation.maxPayload = this.options.like === 'postfix' ? POSTFIX_MAX_PAYLOAD : this.chunkSize;
    this.#exchange = new Exchange(this.name, this.#conversation, this.agreed, this.options);
  }

  /**
   * Tells of another SMTP session: on this connection (QUIT_NC) where it is good, else on a new one.
   * @throws MilterError ERR_MILTER_NEGOTIATION where the version has no QUIT_NC and there is no address to connect to
   */
  async renew(): Promise<void> {
    const conversation = this.#conversation;
    const canDial = 'kind' in this.#target;
    const agreed = this.agreed;
    if (
      conversation === undefined ||
      agreed === undefined ||
      (canDial && (conversation.failed || agreed.version < 6))
    ) {
      await this.quit();
      return this.open();
    }
    if (agreed.version < 6) {
      const what = `QUIT_NC came with protocol version 6; ${agreed.version} was agreed`;
      throw new MilterError('ERR_MILTER_NEGOTIATION', what, { stage: 'quitNewConnection' });
    }
    this.standing = undefined;
    try {
      await conversation.send('quitNewConnection', this.options.commandTimeout, [{ type: 'quitNewConnection' }]);
    } catch (error) {
      this.#failed(error, 'connect');
    }
    this.finished = undefined;
    this.#inMessage = false;
  }

  /**
   * Asks about a command; a milter that has nothing more to say is not asked.
   * @param macros what the milter may be told
   * @param steps gets what was said
   * @param aside the answer does not count: the mail server has refused this itself
   * @throws MilterError what cannot be sent; any failure where there is no default action; ERR_MILTER_ABORTED after
   *   giveUp()
   */
  async ask(command: StageCommand, macros: ClientMacros, steps: Step[], aside = false): Promise<Answer> {
    const stage = command.type;
    if (stage === 'mailFrom') this.finished = undefined;
    if (this.#givenUp !== undefined) throw this.#givenUp;
    if (this.standing !== undefined) return this.standing.answer;
    if (this.finished !== undefined && stage !== 'unknown') return DONE;
    const exchange = this.#exchange;
    if (exchange === undefined)
      throw new MilterError('ERR_MILTER_CONNECTION', `quit() was called before ${stage}`, { stage });
    if (stage === 'mailFrom') this.#inMessage = true;
    let answer: Answer;
    try {
      answer = await exchange.ask(command, macros, steps);
    } catch (error) {
      return this.#failed(error, stage);
    }
    if (stage === 'eob' || (!aside && answer.outcome !== 'continue')) this.#note(stage, answer);
    return answer;
  }

  /** Where the message ends for the mail server. Postfix says ABORT after every message, Sendmail only to cut one short. */
  abort(): void {
    const due = this.#inMessage && (this.options.like === 'postfix' || this.finished === undefined);
    this.finished = undefined;
    this.#inMessage = false;
    this.#givenUp = undefined;
    if (!due || this.#conversation?.failed !== false) return;
    try {
      this.#exchange?.abort();
    } catch {
      // The next command will find out.
    }
  }

  /** The message is over before its end: whatever is asked about it rejects, and abort() is to follow. */
  giveUp(error: MilterError): void {
    this.#givenUp = error;
    this.#conversation?.giveUp(error.cause);
  }

  /** Ends without a word. */
  drop(): void {
    this.#release()?.destroy();
  }

  /** Says goodbye; resolves when the connection is closed. @returns whether the milter has closed it, not we */
  async quit(): Promise<boolean> {
    return (await this.#release()?.end(this.options.commandTimeout)) ?? true;
  }

  #release(): Conversation | undefined {
    const conversation = this.#conversation;
    this.#opening?.abort();
    this.#opening = undefined;
    this.#conversation = undefined;
    this.#exchange = undefined;
    this.standing = undefined;
    this.finished = undefined;
    this.#givenUp = undefined;
    this.options.signal?.removeEventListener('abort', this.#interrupted);
    return conversation;
  }

  /** The caller wants no more: what is at work rejects with ERR_MILTER_ABORTED. */
  interrupt(reason: unknown): void {
    this.#opening?.abort(reason);
    this.#conversation?.interrupt(reason);
  }

  readonly #interrupted = (): void => this.interrupt(this.options.signal?.reason);

  #note(stage: Stage, answer: Answer): void {
    const { outcome } = answer;
    const forAll = stage === 'connect' || stage === 'helo';
    if (answer.hangUp || forAll) this.standing = { stage, answer };
    else if (stage === 'unknown' || outcome === 'skip') return;
    else if (stage !== 'rcpt' || outcome === 'accept' || outcome === 'discard') this.finished = { stage, answer };
  }

  /** The default action, from now on. */
  #failed(error: unknown, stage: Stage): Answer {
    const action = this.options.defaultAction;
    // What cannot be sent is the caller's to mend; so is what it has aborted itself.
    const callers = !(error instanceof MilterError) || this.#conversation?.failed === false;
    if (callers || error.code === 'ERR_MILTER_ABORTED') throw error;
    this.failure = error;
    if (action === 'throw') throw error;
    const answer: Answer = { ...GO_ON, ...DEFAULT_ACTIONS[action], error };
    this.standing = { stage, answer };
    return answer;
  }

  #dial(signal: AbortSignal): Duplex | Promise<Duplex> {
    const { connectTimeout } = this.options;
    return 'kind' in this.#target ? dial(this.#target, { connectTimeout, signal }) : this.#target;
  }
}
