/**
 * An SMTP session as a mail server plays it to its milters: command by command in the order of the milters, and then,
 * milter by milter, the whole message, each seeing what the one before has left. So do both Postfix (milter_conn_event()
 * and its like, milter_message()) and Sendmail (milter_data()).
 */
import { setMaxListeners, type EventEmitter } from 'node:events';
import { SMFIP_RCPT_REJ } from '../constants.js';
import type { SmtpReply } from '../codec/smtp-reply.js';
import { MilterError, show } from '../errors.js';
import type { StageCommand } from '../stages.js';
import { playContent, type Server } from './content.js';
import { smtpReply } from './default-action.js';
import type { Answer } from './exchange.js';
import type { Filter } from './filter.js';
import {
  connectMacros,
  fullPeer,
  merged,
  messageMacros,
  peerMacros,
  recipientMacros,
  refusalMacros,
  type FullPeer,
} from './macros.js';
import { isByteSource, untilAborted } from './message-source.js';
import { Message } from './message.js';
import { Transaction, type Decision } from './transaction.js';
import {
  ENDS,
  type ClientMacros,
  type ClientMessage,
  type ClientPeer,
  type MessageResult,
  type MessageExtras,
  type MessageSource,
  type Outcome,
  type StageExtras,
  type StageResult,
  type Step,
} from './types.js';

const GOES_ON: StageResult = { outcome: 'continue', hangUp: false };

export abstract class MailSession {
  /** What was said outside of messages. */
  readonly steps: Step[] = [];

  readonly #filters: readonly Filter[];
  readonly #server: Server;
  readonly #macros: ClientMacros;
  #sessionMacros: ClientMacros;
  #transaction: Transaction | undefined;
  /** Connections are made, and an SMTP client has been told of. */
  #opened = false;
  #greeted = false;
  /** Ends the reading of a message's stream. */
  #reading: AbortController | undefined;
  /** The call at work, and abort() beside it. */
  #atWork: Promise<unknown> | undefined;
  #aborting: Promise<void> | undefined;

  /** @param macros for every command */
  protected constructor(filters: readonly Filter[], server: Server, macros: ClientMacros) {
    this.#filters = filters;
    this.#server = server;
    this.#macros = macros;
    this.#sessionMacros = macros;
  }

  /**
   * Connects, negotiates, and tells of an SMTP client: CONNECT, and HELO unless `helo` is false.
   * @returns what the milters made of that; after `reject` and `tempFail` they hear no more of this session, after
   *   `accept` neither, and every message passes
   * @throws MilterError ERR_MILTER_CONNECTION, ERR_MILTER_NEGOTIATION, and the errors of send() where there is no default
   *   action: then it is not connected
   */
  connect(peer: ClientPeer = {}, { macros }: StageExtras = {}): Promise<StageResult> {
    return this.#alone(async () => {
      if (this.#greeted) throw new MilterError('ERR_MILTER_SEQUENCE', 'Connected already: quit() first');
      try {
        await this.#open();
        this.#greeted = true;
        return await this.#greet(fullPeer(peer), macros);
      } catch (error) {
        this.#drop();
        throw error;
      }
    });
  }

  /**
   * Connects and negotiates, and tells of no SMTP client yet: connect() does.
   * @throws MilterError as connect()
   */
  open(): Promise<void> {
    return this.#alone(async () => {
      try {
        await this.#open();
      } catch (error) {
        this.#drop();
        throw error;
      }
    });
  }

  /**
   * Ends the SMTP session and tells of another one, on the same connection and without negotiating again (QUIT_NC,
   * version 6) where that is possible, else on a new one. Milters have to know QUIT_NC, though no mail server is known to
   * send it.
   * @returns as connect()
   * @throws MilterError as connect(); ERR_MILTER_NEGOTIATION where there is no QUIT_NC and no address to connect to
   */
  nextSession(peer: ClientPeer = {}, { macros }: StageExtras = {}): Promise<StageResult> {
    return this.#alone(async () => {
      this.#connected();
      this.#endTransaction();
      for (const filter of this.#filters) {
        this.#connected(); // destroy() and quit() may come between
        await filter.renew();
      }
      return this.#greet(fullPeer(peer), macros);
    });
  }

  /** HELO or EHLO, also a second one: that ends a message in progress. @throws MilterError as send() */
  helo(name: string, { macros }: StageExtras = {}): Promise<StageResult> {
    return this.#alone(async () => {
      this.#connected();
      this.#sessionMacros = merged(this.#sessionMacros, macros);
      const result = await this.#event({ type: 'helo', name }, this.#sessionMacros, this.steps);
      this.#endTransaction();
      return result;
    });
  }

  /**
   * Tells of an SMTP command that the mail server does not know (version 3).
   * @returns what the milters made of the command; that concerns nothing else, unless it was a 421
   * @throws MilterError as send()
   */
  unknown(line: string, { macros }: StageExtras = {}): Promise<StageResult> {
    return this.#alone(async () => {
      this.#connected();
      return this.#event({ type: 'unknown', line }, merged(this.#sessionMacros, macros), this.steps);
    });
  }

  /**
   * MAIL begins a message; one that is in progress is aborted first.
   * @param address with or without brackets, as the SMTP client gave it
   * @param args ESMTP arguments
   * @throws MilterError as send()
   */
  mailFrom(address: string, args: readonly string[] = [], { macros }: StageExtras = {}): Promise<StageResult> {
    return this.#alone(() => this.#mailFrom(address, args, macros));
  }

  /** RCPT: what becomes of it concerns this recipient; `discard` ends the message. @throws MilterError as send() */
  rcpt(address: string, args: readonly string[] = [], { macros }: StageExtras = {}): Promise<StageResult> {
    return this.#alone(() => this.#rcpt(this.#begun(), address, args, macros));
  }

  /**
   * Tells those milters that asked for it (SMFIP_RCPT_REJ) of a recipient that the mail server itself has refused.
   * @throws MilterError as send()
   */
  refusedRcpt(address: string, reply: Pick<SmtpReply, 'enhanced' | 'lines'>): Promise<void> {
    return this.#alone(async () => {
      const transaction = this.#begun();
      for (const filter of this.#filters) await this.#tellRefused(transaction, filter, address, [], reply);
    });
  }

  /** DATA (version 4). message() says it where it has not been said. @throws MilterError as send() */
  data({ macros }: StageExtras = {}): Promise<StageResult> {
    return this.#alone(() => this.#data(this.#begun(macros)));
  }

  /**
   * The message itself: its headers, its body and its end, and what comes of it all. The message is then over for the
   * milters.
   * @param source a file with LF line ends gets CRLF; a stream is read as fast as the first milter takes it
   * @throws MilterError as send(); and what the stream fails with
   */
  message(source: MessageSource | Message, { macros, ownHeaders }: MessageExtras = {}): Promise<MessageResult> {
    return this.#alone(async () => {
      const transaction = this.#begun(macros);
      transaction.ownHeaders = ownHeaders;
      if (this.#refusal !== undefined) {
        const result = this.#decided(transaction);
        this.#endTransaction();
        return result;
      }
      if (transaction.envelope.to.length === 0)
        throw new MilterError('ERR_MILTER_SEQUENCE', 'A message needs a recipient that was not refused: rcpt() first');
      return this.#interruptible(undefined, source, async () =>
        this.#finish(transaction, await this.#messageOf(source)),
      );
    });
  }

  /**
   * RSET, or whatever else ends a message before its end. While message() or send() is at work that rejects with
   * ERR_MILTER_ABORTED; the connections stay, and the answers that the milters still owe are passed over.
   */
  abort(): Promise<void> {
    return (this.#aborting ??= this.#abort().finally(() => (this.#aborting = undefined)));
  }

  async #abort(): Promise<void> {
    if (this.#reading !== undefined) {
      const cause = new Error('abort() was called');
      const error = new MilterError('ERR_MILTER_ABORTED', 'The caller has given up', { cause });
      this.#reading.abort(cause);
      for (const filter of this.#filters) filter.giveUp(error);
      await this.#atWork?.catch(ignore);
    }
    await this.#alone(async () => this.#endTransaction());
  }

  /**
   * Plays a message: MAIL, RCPT, DATA, the headers, the body, and its end.
   * @throws MilterError ERR_MILTER_ARGUMENT, ERR_MILTER_VALUE, ERR_MILTER_PACKET_TOO_LARGE for a message that cannot be
   *   played. Where there is no default action, ERR_MILTER_FILTER, ERR_MILTER_MALFORMED and other codes of the codec,
   *   ERR_MILTER_TIMEOUT, ERR_MILTER_CONNECTION for a milter that fails; `stage` says at what. The message is then as it
   *   was, and the connection closed. ERR_MILTER_ABORTED after the signal
   */
  send(mail: ClientMessage): Promise<MessageResult> {
    return this.#alone(async () => {
      this.#connected();
      checkMail(mail);
      return this.#interruptible(mail.signal, mail.message, () => this.#send(mail));
    });
  }

  /**
   * Says goodbye; resolves when the connections are closed, by us where a milter has not done so within commandTimeout.
   * @returns whether all have closed theirs themselves
   */
  async quit(): Promise<boolean> {
    this.#opened = false;
    this.#greeted = false;
    this.#transaction = undefined;
    this.#reading?.abort(new Error('quit() was called'));
    const closed = await Promise.all(this.#filters.map((filter) => filter.quit()));
    return closed.every(Boolean);
  }

  /** Ends the connections without a word; whatever is at work comes to its end as if the milters had gone. */
  destroy(): void {
    this.#transaction = undefined;
    this.#reading?.abort(new Error('destroy() was called'));
    this.#drop();
  }

  /** One thing at a time: a reply belongs to the one command before it. */
  async #alone<T>(go: () => Promise<T>): Promise<T> {
    if (this.#atWork !== undefined)
      throw new MilterError('ERR_MILTER_SEQUENCE', 'Another call is at work: await it first');
    const work = go();
    this.#atWork = work;
    try {
      return await work;
    } finally {
      this.#atWork = undefined;
    }
  }

  /** In the order of the milters, and all at the same time. */
  async #open(): Promise<void> {
    if (this.#opened) return;
    const opened = await Promise.allSettled(this.#filters.map((filter) => filter.open()));
    const failed = opened.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined;
    if (failed !== undefined) throw failed.reason;
    this.#opened = true;
  }

  #drop(): void {
    this.#opened = false;
    this.#greeted = false;
    for (const filter of this.#filters) filter.drop();
  }

  /**
   * Does what a signal may end, the client's or one of its own: then the milters hear no more, and the stream of the message
   * is not waited for.
   */
  async #interruptible<T>(own: AbortSignal | undefined, source: unknown, go: () => Promise<T>): Promise<T> {
    const reading = (this.#reading = new AbortController());
    const signals = [own, this.#server.signal].filter((signal) => signal !== undefined);
    const stops = signals.map((signal) => (): void => {
      reading.abort(signal.reason);
      for (const filter of this.#filters) filter.interrupt(signal.reason);
    });
    // A stream that fails before anybody reads it says so again when it is read.
    const failing = isByteSource(source) && 'on' in source ? (source as unknown as EventEmitter) : undefined;
    failing?.on('error', ignore);
    try {
      for (const [i, signal] of signals.entries()) {
        setMaxListeners(0, signal);
        signal.addEventListener('abort', stops[i] as () => void, { once: true });
        if (signal.aborted) {
          stops[i]?.();
          throw new MilterError('ERR_MILTER_ABORTED', 'The caller has given up', { cause: signal.reason });
        }
      }
      return await go();
    } finally {
      for (const [i, signal] of signals.entries()) signal.removeEventListener('abort', stops[i] as () => void);
      failing?.off('error', ignore);
      this.#reading = undefined;
    }
  }

  #messageOf(source: MessageSource | Message): Message | Promise<Message> {
    if (source instanceof Message) return source;
    if (!isByteSource(source)) return Message.parse(source);
    return Message.read(untilAborted(source, (this.#reading as AbortController).signal));
  }

  #connected(): void {
    if (!this.#greeted) throw new MilterError('ERR_MILTER_SEQUENCE', 'Not connected: connect() first');
  }

  #begun(macros?: ClientMacros): Transaction {
    this.#connected();
    const transaction = this.#transaction;
    if (transaction === undefined)
      throw new MilterError('ERR_MILTER_SEQUENCE', 'No message is in progress: mailFrom() first');
    if (macros !== undefined) transaction.macros = merged(transaction.macros, macros);
    return transaction;
  }

  async #greet(peer: FullPeer, macros?: ClientMacros): Promise<StageResult> {
    this.#sessionMacros = merged(this.#own(connectMacros(peer)), this.#macros, macros);
    for (const filter of this.#filters) filter.peer = peerMacros(peer);
    const { hostname, family, port, address, helo } = peer;
    const connected = await this.#event(
      { type: 'connect', hostname, family, port, address },
      this.#sessionMacros,
      this.steps,
    );
    if (helo === false || connected.outcome !== 'continue') return connected;
    return this.#event({ type: 'helo', name: helo as string }, this.#sessionMacros, this.steps);
  }

  /** Asks the milters in their order, until one refuses. */
  async #event(command: StageCommand, macros: ClientMacros, steps: Step[]): Promise<StageResult> {
    let accepts = false;
    let failure: Pick<StageResult, 'milter' | 'error'> = {};
    for (const filter of this.#filters) {
      const answer = await filter.ask(command, macros, steps);
      if (answer.error !== undefined) {
        this.#transaction?.fault(answer.error);
        failure = { milter: filter.name, error: answer.error };
      }
      if (ENDS.has(answer.outcome)) return resultOf(answer, filter.name);
      accepts ||= answer.outcome === 'accept';
    }
    const outcome = accepts && (command.type === 'unknown' || this.#allDone) ? 'accept' : 'continue';
    return { ...GOES_ON, outcome, ...failure };
  }

  /** The macros that the client makes up itself. */
  #own(macros: ClientMacros): ClientMacros {
    return this.#server.ownMacros ? macros : {};
  }

  get #allDone(): boolean {
    return this.#filters.every(({ done }) => done);
  }

  async #mailFrom(address: string, args: readonly string[], macros?: ClientMacros): Promise<StageResult> {
    this.#connected();
    this.#endTransaction();
    const all = merged(this.#own(messageMacros(address)), this.#sessionMacros, macros);
    const transaction = new Transaction(address, all);
    this.#transaction = transaction;
    return this.#event({ type: 'mailFrom', address, args }, all, transaction.steps);
  }

  async #rcpt(
    transaction: Transaction,
    address: string,
    args: readonly string[],
    own?: ClientMacros,
  ): Promise<StageResult> {
    const { macros, steps, recipients, envelope } = transaction;
    // The SMTP client must not know that its message is dropped.
    if (this.#refusal?.answer.outcome === 'discard') return GOES_ON;
    const all = merged(this.#own({ rcpt: recipientMacros(address) }), macros, own);
    const asked = !this.#allDone;
    const over = this.#refusal;
    let result: StageResult = over === undefined ? GOES_ON : resultOf(over.answer, over.milter as string);
    if (over !== undefined) transaction.lastRecipient = over;
    for (const filter of over === undefined ? this.#filters : []) {
      if (result.outcome === 'discard') break;
      if (result.outcome !== 'continue') {
        await this.#tellRefused(transaction, filter, address, args, smtpReply(result) as SmtpReply);
        continue;
      }
      const answer = await filter.ask({ type: 'rcpt', address, args }, all, steps);
      if (answer.error !== undefined) transaction.fault(answer.error);
      if (!ENDS.has(answer.outcome)) continue;
      result = resultOf(answer, filter.name);
      transaction.lastRecipient = { stage: filter.standing?.stage ?? 'rcpt', answer, milter: filter.name };
    }
    const outcome = result.outcome === 'continue' && asked && this.#allDone ? 'accept' : result.outcome;
    if (asked) recipients.push({ address, outcome, ...(result.reply && { reply: result.reply }) });
    if (!ENDS.has(outcome)) envelope.to.push(address);
    return { ...result, outcome };
  }

  async #tellRefused(
    { macros, steps }: Transaction,
    filter: Filter,
    address: string,
    args: readonly string[],
    { enhanced, lines }: Pick<SmtpReply, 'enhanced' | 'lines'>,
  ): Promise<void> {
    if (!filter.agrees(SMFIP_RCPT_REJ)) return;
    const why = refusalMacros(enhanced, lines.join(' '));
    const rcpt = { ...macros.rcpt, ...why };
    await filter.ask({ type: 'rcpt', address, args }, { ...macros, rcpt }, steps, true);
  }

  async #data(transaction: Transaction): Promise<StageResult> {
    transaction.data = true;
    if (this.#refusal?.answer.outcome === 'discard') return GOES_ON;
    return this.#event({ type: 'data' }, transaction.macros, transaction.steps);
  }

  async #send(mail: ClientMessage): Promise<MessageResult> {
    const { from, fromArgs = [], to, toArgs = [], refused = [] } = mail;
    // What can be looked at is: a message that is none must not be begun.
    const message = isByteSource(mail.message) ? undefined : Message.parse(mail.message);
    try {
      const begun = await this.#mailFrom(from, fromArgs, mail.macros);
      const transaction = this.#begun();
      if (ENDS.has(begun.outcome)) return this.#decided(transaction, message);
      for (const address of to) {
        const result = await this.#rcpt(transaction, address, toArgs);
        if (result.outcome === 'discard' || result.hangUp) return this.#decided(transaction, message);
      }
      for (const address of refused) {
        const reply = { enhanced: '5.1.1', lines: ['User unknown'] };
        for (const filter of this.#filters) await this.#tellRefused(transaction, filter, address, toArgs, reply);
      }
      if (transaction.envelope.to.length === 0) return this.#decided(transaction, message);
      return await this.#finish(transaction, message ?? (await this.#messageOf(mail.message)));
    } finally {
      this.#endTransaction();
    }
  }

  /** What a milter has said about the whole of this message, or of the SMTP session. */
  get #refusal(): Decision | undefined {
    for (const { name, standing, finished } of this.#filters) {
      const decision = standing ?? finished;
      if (decision !== undefined && ENDS.has(decision.answer.outcome)) return { ...decision, milter: name };
    }
    return undefined;
  }

  /** A message that ends before its content: a milter has refused it, or every recipient was refused. */
  #decided(transaction: Transaction, message?: Message): MessageResult {
    return transaction.result(this.#refusal ?? (transaction.lastRecipient as Decision), message);
  }

  async #finish(transaction: Transaction, message: Message): Promise<MessageResult> {
    try {
      if (!transaction.data) {
        const data = await this.#data(transaction);
        if (ENDS.has(data.outcome)) return this.#decided(transaction, message);
      }
      const { ownHeaders = this.#server.ownHeaders } = transaction;
      return await playContent(transaction, this.#filters, message, { ...this.#server, ownHeaders });
    } finally {
      await message.body.leave();
      this.#endTransaction();
    }
  }

  /** The message is over, for the milters as well. */
  #endTransaction(): void {
    this.#transaction = undefined;
    for (const filter of this.#filters) filter.abort();
  }
}

function ignore(): void {}

/** @throws MilterError ERR_MILTER_ARGUMENT */
function checkMail({ from, to }: ClientMessage): void {
  if (typeof from !== 'string')
    throw new MilterError('ERR_MILTER_ARGUMENT', `from must be a string, got ${show(from)}`);
  if (!Array.isArray(to)) throw new MilterError('ERR_MILTER_ARGUMENT', `to must be a list, got ${show(to)}`);
  if (to.length === 0) throw new MilterError('ERR_MILTER_ARGUMENT', 'A message needs a recipient: to is empty');
  const odd = (to as unknown[]).find((address) => typeof address !== 'string');
  if (odd !== undefined || (to as unknown[]).includes(undefined))
    throw new MilterError('ERR_MILTER_ARGUMENT', `to must be a list of strings, and has ${show(odd)}`);
}

function resultOf({ outcome, reply, hangUp, error }: Answer, milter: string): StageResult {
  return { outcome: outcome as Outcome, hangUp, milter, ...(reply && { reply }), ...(error && { error }) };
}
