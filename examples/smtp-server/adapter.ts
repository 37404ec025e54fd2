/**
 * Milters for nodemailer's smtp-server:
 *
 *   new SMTPServer({ authOptional: true, ...milterHooks(['inet:8891@127.0.0.1'], { deliver }) })
 *
 * Each SMTP session has a chain of its own. smtp-server does not tell of everything, so milters hear some things later
 * than from Postfix or Sendmail, and some not at all:
 *
 * - HELO comes with the MAIL behind it, its name in lower case. RSET is the ABORT before the next MAIL.
 * - DATA is asked about after the 354: a refusal is the reply to the final dot.
 * - Commands that smtp-server does not know, and recipients that it refuses itself, are not told.
 * - Addresses come without source route, their domains in Unicode.
 */
import { finished } from 'node:stream/promises';
import {
  MilterChain,
  MilterError,
  smtpReply,
  type ChainedMilter,
  type ClientMacros,
  type ClientOptions,
  type ClientPeer,
  type MessageResult,
  type SmtpReply,
  type StageResult,
} from 'milter-stream/client';
import type { SMTPServerAddress, SMTPServerDataStream, SMTPServerOptions, SMTPServerSession } from 'smtp-server';

/** Options of the chain, and what the adapter needs besides. */
export interface MilterHooksOptions extends ClientOptions {
  /**
   * Gets each message that no milter has refused, as they want it. When it fails, the SMTP client is told to come back
   * later.
   */
  readonly deliver: (mail: MessageResult, session: SMTPServerSession) => void | PromiseLike<void>;
  /** Hears what came to nothing without a milter's wish: the SMTP client left, deliver() failed. */
  readonly onError?: (error: unknown, session: SMTPServerSession) => void;
}

/** What goes into the options of an SMTPServer. */
export type MilterHooks = Required<
  Pick<SMTPServerOptions, 'onConnect' | 'onMailFrom' | 'onRcptTo' | 'onData' | 'onClose' | 'hideENHANCEDSTATUSCODES'>
>;

const LATER: SmtpReply = { code: 451, enhanced: '4.3.0', lines: ['Try again later'], barePercent: false };
const MALFORMED: SmtpReply = { ...LATER, code: 554, enhanced: '5.6.0', lines: ['Malformed message'] };
const TOO_BIG: SmtpReply = { ...LATER, code: 552, enhanced: '5.3.4', lines: ['Message too big'] };

/** @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_OPTION */
export function milterHooks(
  milters: ReadonlyArray<string | ChainedMilter>,
  { deliver, onError, ...options }: MilterHooksOptions,
): MilterHooks {
  const talks = new WeakMap<SMTPServerSession, Talk>();
  void new MilterChain(milters, options); // throws for what cannot be used, and not when the first client comes

  /** Calls back when something was done in its turn. */
  function answer(
    session: SMTPServerSession,
    callback: (error?: Error) => void,
    act: (talk: Talk) => Promise<unknown>,
  ): void {
    const talk = talks.get(session) as Talk;
    talk
      .inTurn(() => act(talk))
      .then(
        () => callback(),
        (error: unknown) => {
          if (error instanceof Refusal) return callback(error);
          const malformed = error instanceof MilterError && error.code === 'ERR_MILTER_ARGUMENT';
          if (!malformed) onError?.(error, session);
          callback(new Refusal(malformed ? MALFORMED : LATER));
        },
      );
  }

  return {
    // Replies carry the milters' own codes; otherwise smtp-server would put one more before them.
    hideENHANCEDSTATUSCODES: true,
    onConnect(session, callback) {
      talks.set(session, new Talk(milters, options, session));
      answer(session, callback, (talk) => talk.connect());
    },
    onMailFrom(address, session, callback) {
      answer(session, callback, (talk) => talk.mailFrom(address));
    },
    onRcptTo(address, session, callback) {
      answer(session, callback, (talk) => talk.rcpt(address));
    },
    onData(stream, session, callback) {
      answer(session, callback, async (talk) => {
        const mail = await talk.message(stream);
        if (mail?.verdict === 'accept') await deliver(mail, session);
      });
    },
    onClose(session) {
      const talk = talks.get(session);
      void talk?.inTurn(() => talk.close()).catch((error: unknown) => onError?.(error, session));
    },
  };
}

/** smtp-server makes a reply of an error; its message, where that is a list, becomes the lines of it. */
class Refusal extends Error {
  readonly responseCode: number;

  constructor({ code, enhanced, lines }: SmtpReply) {
    super(lines[0]);
    this.responseCode = code;
    Object.assign(this, { message: lines.map((line) => (enhanced === '' ? line : `${enhanced} ${line}`)) });
  }

  /** @throws a Refusal where milters refuse */
  static check(result: StageResult | MessageResult): void {
    const reply = smtpReply(result);
    if (reply !== undefined) throw new Refusal(reply);
  }
}

/** One SMTP session. Everything here throws a Refusal for what milters refuse. */
class Talk {
  readonly #chain: MilterChain;
  readonly #session: SMTPServerSession;
  #last: Promise<unknown> = Promise.resolve();
  /** What the last HELO told of. */
  #greeting = '';
  /** The message is to vanish: no milter hears more of it, and the SMTP client is not to know. */
  #discards = false;

  constructor(milters: ReadonlyArray<string | ChainedMilter>, options: ClientOptions, session: SMTPServerSession) {
    const { remoteAddress, localAddress } = session;
    const connect = { '{client_addr}': remoteAddress, '{daemon_addr}': localAddress, '{daemon_name}': 'smtp-server' };
    const macros = { ...options.macros, connect: { ...connect, v: 'smtp-server', ...options.macros?.connect } };
    this.#chain = new MilterChain(milters, { ...options, macros });
    this.#session = session;
  }

  /** One thing after the other: an SMTP client may leave in the middle of any. */
  inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(act);
    this.#last = turn.catch(() => {});
    return turn;
  }

  async connect(): Promise<void> {
    const { clientHostname: hostname, remoteAddress: address, remotePort: port } = this.#session;
    // A client on a Unix socket has no address.
    const peer: ClientPeer = address === '' ? { hostname, family: 'U' } : { hostname, address, port };
    Refusal.check(await this.#chain.connect({ ...peer, helo: false }));
  }

  async mailFrom({ address, args }: SMTPServerAddress): Promise<void> {
    const { hostNameAppearsAs: name, secure } = this.#session;
    // Behind STARTTLS the client introduces itself anew.
    const greeting = `${name} ${secure}`;
    await this.#chain.abort();
    if (greeting !== this.#greeting) Refusal.check(await this.#chain.helo(name));
    this.#greeting = greeting;
    const result = await this.#chain.mailFrom(`<${address}>`, esmtpArgs(args), { macros: this.#macros() });
    this.#discards = result.outcome === 'discard';
    Refusal.check(result);
  }

  async rcpt({ address, args }: SMTPServerAddress): Promise<void> {
    if (this.#discards) return;
    const result = await this.#chain.rcpt(`<${address}>`, esmtpArgs(args));
    this.#discards = result.outcome === 'discard';
    Refusal.check(result);
  }

  /** @returns undefined for a message that vanishes */
  async message(stream: SMTPServerDataStream): Promise<MessageResult | undefined> {
    const pieces = withinLimit(stream);
    try {
      if (this.#discards) return undefined;
      const result = await this.#chain.message(pieces);
      Refusal.check(result);
      return result;
    } finally {
      await this.#chain.abort();
      await toTheEnd(stream, pieces);
    }
  }

  async close(): Promise<void> {
    await this.#chain.abort();
    await this.#chain.quit();
  }

  #macros(): ClientMacros {
    const { id, transaction, user, tlsOptions } = this.#session;
    const i = `${id}.${transaction}`;
    const tls = tlsOptions && { '{tls_version}': tlsOptions.version, '{cipher}': tlsOptions.name };
    const login = typeof user === 'string' ? user : (user?.username as string | undefined);
    const mailFrom = { i, '{auth_authen}': login, ...tls };
    return { mailFrom, rcpt: { i }, data: { i }, eoh: { i }, eob: { i } };
  }
}

/** Parameters of MAIL and RCPT as they were: smtp-server has taken them apart, and decoded their xtext (RFC 3461). */
function esmtpArgs(args: SMTPServerAddress['args']): string[] {
  const xtext = (value: string): string =>
    value.replace(/[\x80-\xff +=]/g, (char) => `+${char.charCodeAt(0).toString(16).toUpperCase()}`);
  return Object.entries(args || {}).map(([name, value]) => (value === true ? name : `${name}=${xtext(value)}`));
}

/** @throws a Refusal as soon as the message is over the server's limit */
async function* withinLimit(stream: SMTPServerDataStream): AsyncGenerator<Buffer, void> {
  for await (const piece of stream.iterator({ destroyOnReturn: false })) {
    if (stream.sizeExceeded) throw new Refusal(TOO_BIG);
    yield piece as Buffer;
  }
}

/** Wherever it was decided: the SMTP client waits for the reply only behind the final dot. */
async function toTheEnd(stream: SMTPServerDataStream, pieces: AsyncGenerator<Buffer, void>): Promise<void> {
  await pieces.return();
  await finished(stream.resume()).catch(() => {}); // an SMTP client that has left waits for nothing
}
