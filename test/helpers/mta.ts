/**
 * The mail server of the session's tests: it writes commands and reads replies on any stream, in memory or a socket.
 * What it sends is made by the codec, which has tests of its own with bytes of another hand.
 */
import type { Duplex } from 'node:stream';
import { encodeCommand, replyParser, type Command, type Reply } from '../../lib/codec/index.js';
import {
  createSession,
  type ProtocolClass,
  type SessionOptions,
  type SessionStream,
  type Stage,
} from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';

export const ALL_ACTIONS = 0x1ff;
export const ALL_STEPS = 0x1fffff;

export class Mta {
  /** Replies that nobody has asked for yet. */
  readonly replies: Reply[] = [];
  /** Settles when the milter has ended the connection; with the error where it was destroyed with one. */
  readonly closed: Promise<Error | undefined>;

  readonly #stream: Duplex;
  readonly #parser: ReturnType<typeof replyParser>;
  #waiting: Array<() => void> = [];
  #ended = false;

  /** @param lenient what cannot be read comes as such a reply, instead of failing */
  constructor(stream: Duplex, lenient = false) {
    this.#stream = stream;
    this.#parser = replyParser({ lenient });
    let failure: Error | undefined;
    this.closed = new Promise((resolve) => {
      const end = (): void => {
        this.#ended = true;
        this.#wake();
        resolve(failure);
      };
      stream.on('end', end);
      stream.on('close', end);
    });
    stream.on('error', (error: Error) => (failure = error));
    stream.on('data', (bytes: Buffer) => {
      this.#parser.parse(bytes, { packet: (reply) => this.replies.push(reply as Reply) });
      this.#wake();
    });
  }

  /** Sends commands in one write. */
  send(...commands: Command[]): void {
    this.#stream.write(Buffer.concat(commands.map((command) => encodeCommand(command, 0xffffff))));
  }

  /** Sends bytes. */
  bytes(bytes: Buffer): void {
    this.#stream.write(bytes);
  }

  /** Closes its half of the connection. */
  end(): void {
    this.#stream.end();
  }

  /** The next reply; rejects when the connection ends without one. */
  async reply(): Promise<Reply> {
    while (this.replies.length === 0) {
      if (this.#ended) throw new Error('The milter has ended the connection instead of replying');
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    return this.replies.shift() as Reply;
  }

  /** Sends commands and gives the next reply. */
  async ask(...commands: Command[]): Promise<Reply> {
    this.send(...commands);
    return this.reply();
  }

  /** Sends commands one by one, each answered before the next; gives the types of the answers. */
  async play(...commands: Command[]): Promise<string[]> {
    const types: string[] = [];
    for (const command of commands) types.push((await this.ask(command)).type);
    return types;
  }

  /** Offers everything, or what is said, and gives the answer. */
  async negotiate(offer: { version?: number; actions?: number; protocol?: number } = {}): Promise<Reply> {
    return this.ask({ type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS, ...offer });
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

/** The commands of a conversation, short. */
export const say = {
  connect: (hostname = 'mx.example.org', address = '192.0.2.1'): Command => ({
    type: 'connect',
    hostname,
    family: '4',
    port: 25000,
    address,
  }),
  helo: (name = 'mx.example.org'): Command => ({ type: 'helo', name }),
  mail: (address = '<a@example.org>', ...args: string[]): Command => ({ type: 'mailFrom', address, args }),
  rcpt: (address = '<b@example.com>', ...args: string[]): Command => ({ type: 'rcpt', address, args }),
  data: (): Command => ({ type: 'data' }),
  header: (name = 'Subject', value = 'hi'): Command => ({ type: 'header', name, value }),
  eoh: (): Command => ({ type: 'eoh' }),
  body: (text = 'Hi\r\n'): Command => ({ type: 'body', chunk: Buffer.from(text) }),
  eob: (): Command => ({ type: 'eob' }),
  unknown: (line = 'FOO bar'): Command => ({ type: 'unknown', line }),
  abort: (): Command => ({ type: 'abort' }),
  quit: (): Command => ({ type: 'quit' }),
  quitNewConnection: (): Command => ({ type: 'quitNewConnection' }),
  macros: (stage: string, macros: Record<string, string>): Command => ({
    type: 'macro',
    stage,
    macros: Object.entries(macros),
  }),
};

/** One command for each callback. */
export const COMMANDS: Readonly<Record<Stage, Command>> = {
  connect: say.connect(),
  helo: say.helo(),
  mailFrom: say.mail(),
  rcpt: say.rcpt(),
  data: say.data(),
  header: say.header(),
  eoh: say.eoh(),
  body: say.body(),
  eob: say.eob(),
  unknown: say.unknown(),
};

/** A whole message, as a mail server without any NO bits sends it. */
export const message = (): Command[] => [
  say.mail(),
  say.rcpt(),
  say.data(),
  say.header(),
  say.eoh(),
  say.body(),
  say.eob(),
];

/** A mail server in front of a session in memory, and the failures that the session told of. */
export function inMemory(
  MyMilter: ProtocolClass,
  options: SessionOptions & { shared?: unknown } = {},
): { mta: Mta; session: SessionStream; errors: MilterError[] } {
  const session = createSession(MyMilter, options);
  const errors: MilterError[] = [];
  session.on('sessionError', (error: MilterError) => errors.push(error));
  return { mta: new Mta(session), session, errors };
}
