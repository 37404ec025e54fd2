/**
 * MilterClient: the mail server's side of the protocol. Connects to a milter, negotiates as Postfix does, plays messages
 * and gives what would have become of them.
 */
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { formatAddress, parseAddress, type SocketAddress } from '../address.js';
import { MILTER_MDS_1M, MILTER_MDS_256K, MILTER_MDS_64K, SMFIP_MDS_1M, SMFIP_MDS_256K } from '../constants.js';
import type { NegotiateReply } from '../codec/replies.js';
import { bareAddress } from '../envelope.js';
import { MilterError } from '../errors.js';
import type { Stage, StageCommand } from '../stages.js';
import { Conversation } from './conversation.js';
import { Exchange, type Answer } from './exchange.js';
import { Message } from './message.js';
import { negotiate } from './negotiate.js';
import { checkClientOptions, type CheckedClientOptions } from './options.js';
import { Transaction, type Decision } from './transaction.js';
import type { ClientMacros, ClientMessage, ClientOptions, ClientPeer, MessageResult, Outcome, Step } from './types.js';

/** What Postfix sends and takes at most, whatever was agreed. */
const POSTFIX_MAX_PAYLOAD = 0x3fff_ffff;

let queueIds = 0;

/** What there is between connect() and quit(). */
interface Connection {
  readonly conversation: Conversation;
  readonly exchange: Exchange;
}

export class MilterClient {
  /** What the milter answered to the offer; undefined before connect(). */
  agreed: NegotiateReply | undefined;
  /** What was said outside of messages. */
  readonly steps: Step[] = [];

  readonly #target: SocketAddress | Duplex;
  readonly #options: CheckedClientOptions;
  readonly #macros: ClientMacros;
  #connection: Connection | undefined;
  /** A verdict on the whole SMTP session. */
  #sessionAnswer: { stage: Stage; answer: Answer } | undefined;
  #busy = false;

  /**
   * @param target where the milter listens (a socket string), or a stream connected to it: a socket, a session in this
   *   process
   * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_OPTION
   */
  constructor(target: string | Duplex, options: ClientOptions = {}) {
    this.#target = typeof target === 'string' ? parseAddress(target, 'connect') : target;
    this.#options = checkClientOptions(options);
    const connect = { j: 'localhost', '{daemon_name}': 'milter-stream', v: 'milter-stream' };
    this.#macros = merged({ connect }, this.#options.macros);
  }

  /**
   * Connects, negotiates, and tells of an SMTP client: CONNECT and HELO.
   * @returns what the milter made of that; with `reject`, `tempFail` and `accept` messages are not asked about any more
   * @throws MilterError ERR_MILTER_CONNECTION, ERR_MILTER_NEGOTIATION, and the errors of send(): then it is not connected
   */
  connect(peer: ClientPeer = {}): Promise<Outcome> {
    return this.#alone(async () => {
      if (this.#connection !== undefined)
        throw new MilterError('ERR_MILTER_SEQUENCE', 'Connected already: quit() first');
      const conversation = new Conversation(await this.#open());
      try {
        this.agreed = await negotiate(conversation, this.#options);
        conversation.maxPayload = this.#options.like === 'postfix' ? POSTFIX_MAX_PAYLOAD : maxPayload(this.agreed);
        this.#connection = { conversation, exchange: new Exchange(conversation, this.agreed, this.#options) };
        return await this.#greet(this.#connection.exchange, peer);
      } catch (error) {
        this.#connection = undefined;
        conversation.destroy();
        throw error;
      }
    });
  }

  /**
   * Ends the SMTP session and tells of another one on the same connection, without negotiating again (QUIT_NC, version
   * 6). Milters have to know it, though no mail server is known to send it.
   * @returns as connect()
   */
  nextSession(peer: ClientPeer = {}): Promise<Outcome> {
    return this.#alone(async () => {
      const { conversation, exchange } = this.#connected();
      if (exchange.agreed.version < 6) {
        const what = `QUIT_NC came with protocol version 6; ${exchange.agreed.version} was agreed`;
        throw new MilterError('ERR_MILTER_NEGOTIATION', what, { stage: 'quitNewConnection' });
      }
      await conversation.send({ type: 'quitNewConnection' }, 'quitNewConnection', this.#options.commandTimeout);
      return this.#greet(exchange, peer);
    });
  }

  /**
   * Tells of an SMTP command that the mail server does not know (version 3).
   * @returns what the milter made of the command; that concerns nothing else, unless it was a 421
   * @throws MilterError as send()
   */
  unknown(line: string): Promise<Outcome> {
    return this.#alone(async () => {
      const { exchange } = this.#connected();
      if (this.#sessionAnswer !== undefined) return this.#sessionAnswer.answer.outcome as Outcome;
      const answer = await exchange.ask({ type: 'unknown', line }, this.#macros, this.steps);
      if (answer.hangUp) this.#sessionAnswer = { stage: 'unknown', answer };
      return answer.outcome as Outcome;
    });
  }

  /**
   * Plays a message: MAIL, RCPT, DATA, the headers, the body, and its end.
   * @throws MilterError ERR_MILTER_ARGUMENT, ERR_MILTER_VALUE, ERR_MILTER_PACKET_TOO_LARGE for a message that cannot be
   *   played. ERR_MILTER_FILTER, ERR_MILTER_MALFORMED and other codes of the codec, ERR_MILTER_TIMEOUT,
   *   ERR_MILTER_CONNECTION where the milter fails; `stage` says at what. The message is then as it was, and the
   *   connection closed: what becomes of the mail is for the caller to say, as with Postfix's milter_default_action
   */
  send(mail: ClientMessage): Promise<MessageResult> {
    return this.#alone(async () => {
      const { exchange } = this.#connected();
      const message = Message.parse(mail.message);
      if (mail.to.length === 0)
        throw new MilterError('ERR_MILTER_ARGUMENT', 'A message needs a recipient: to is empty');
      const removedCount = this.#options.like === 'sendmail';
      const transaction = new Transaction(exchange, message, this.#macrosFor(mail), maxPayload(exchange.agreed));
      if (this.#sessionAnswer !== undefined) {
        const envelope = { from: mail.from, to: [...mail.to] };
        return transaction.result({ ...this.#sessionAnswer, envelope }, removedCount);
      }
      const decision = await this.#play(transaction, exchange, mail);
      if (decision.answer.hangUp) this.#sessionAnswer = { stage: decision.stage, answer: decision.answer };
      return transaction.result(decision, removedCount);
    });
  }

  /** Says goodbye; resolves when the connection is closed, by us if the milter has not done so within commandTimeout. */
  async quit(): Promise<void> {
    const connection = this.#connection;
    this.#connection = undefined;
    await connection?.conversation.end(this.#options.commandTimeout);
  }

  /** One thing at a time: a reply belongs to the one command before it. */
  async #alone<T>(go: () => Promise<T>): Promise<T> {
    if (this.#busy) throw new MilterError('ERR_MILTER_SEQUENCE', 'Another call is at work: await it first');
    this.#busy = true;
    try {
      return await go();
    } finally {
      this.#busy = false;
    }
  }

  #connected(): Connection {
    if (this.#connection === undefined) throw new MilterError('ERR_MILTER_SEQUENCE', 'Not connected: connect() first');
    return this.#connection;
  }

  async #greet(exchange: Exchange, peer: ClientPeer): Promise<Outcome> {
    this.#sessionAnswer = undefined;
    const { hostname = 'localhost', address = '127.0.0.1', port = 25_000, helo = hostname } = peer;
    const family = peer.family ?? (address.startsWith('/') ? 'L' : address.includes(':') ? '6' : '4');
    const commands: StageCommand[] = [
      { type: 'connect', hostname, family, port: family === 'L' ? 0 : port, address },
      { type: 'helo', name: helo },
    ];
    for (const command of commands) {
      const answer = await exchange.ask(command, this.#macros, this.steps);
      if (answer.outcome === 'continue') continue;
      this.#sessionAnswer = { stage: command.type, answer };
      return answer.outcome as Outcome;
    }
    return 'continue';
  }

  /** ABORT is not answered; if it gets lost, the next command will find out. */
  async #play(transaction: Transaction, exchange: Exchange, mail: ClientMessage): Promise<Decision> {
    let cutShort = true;
    try {
      const decision = await transaction.play(mail);
      const { stage, answer } = decision;
      cutShort = stage === 'rcpt' && (answer.outcome === 'reject' || answer.outcome === 'tempFail');
      return decision;
    } finally {
      if (cutShort || this.#options.like === 'postfix') await exchange.abort().catch(() => {});
    }
  }

  async #open(): Promise<Duplex> {
    const address = this.#target;
    if (!('kind' in address)) return address;
    const socket = address.kind === 'unix' ? connect(address.path) : connect(address.port, address.host);
    const { connectTimeout } = this.#options;
    return new Promise((resolve, reject) => {
      const fail = (cause: Error): void => {
        clearTimeout(timer);
        socket.destroy();
        const what = `Cannot connect to ${formatAddress(address)}: ${cause.message}`;
        reject(new MilterError('ERR_MILTER_CONNECTION', what, { cause }));
      };
      const timer = setTimeout(() => fail(new Error(`nothing within ${connectTimeout} ms`)), connectTimeout);
      socket.once('error', fail);
      socket.once('connect', () => {
        clearTimeout(timer);
        socket.off('error', fail);
        socket.setNoDelay(true);
        resolve(socket);
      });
    });
  }

  #macrosFor(mail: ClientMessage): ClientMacros {
    const i = `MS${(++queueIds).toString(16).toUpperCase().padStart(6, '0')}`;
    const mailFrom = { i, '{mail_addr}': bareAddress(mail.from) };
    const own = { mailFrom, rcpt: { i }, data: { i }, eoh: { i }, eob: { i } };
    return merged(own, this.#macros, mail.macros);
  }
}

/** The largest packet that was agreed on: by a bit for a larger one. */
function maxPayload({ protocol }: NegotiateReply): number {
  if ((protocol & SMFIP_MDS_1M) !== 0) return MILTER_MDS_1M;
  return (protocol & SMFIP_MDS_256K) !== 0 ? MILTER_MDS_256K : MILTER_MDS_64K;
}

/** Macros of several origins, name by name; the last one counts. */
function merged(...origins: ReadonlyArray<ClientMacros | undefined>): ClientMacros {
  const all: Partial<Record<Stage, Record<string, string | undefined>>> = {};
  for (const origin of origins) {
    for (const [stage, macros] of Object.entries(origin ?? {})) {
      all[stage as Stage] = { ...all[stage as Stage], ...macros };
    }
  }
  return all;
}
