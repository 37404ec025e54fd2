// An SMTP client that does what the test says and nothing else: one command, one reply, bytes as they are.

import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

const REPLY_TIMEOUT = 60_000;

export interface SmtpReply {
  code: number;
  /** The text of each line, without the code. */
  lines: string[];
  /** The lines joined by '\n'. */
  text: string;
}

interface Waiter {
  /** What the reply is to, for messages. */
  what: string;
  timer: NodeJS.Timeout;
  resolve: (reply: SmtpReply) => void;
  reject: (error: Error) => void;
}

/** Resolves with a client that has read the server's greeting, whatever its code. */
export async function connectSmtp(port: number, host = '127.0.0.1'): Promise<SmtpClient> {
  const socket = connect({ port, host });
  await once(socket, 'connect');
  const client = new SmtpClient(socket);
  client.greeting = await client.reply('the greeting');
  return client;
}

export class SmtpClient {
  greeting: SmtpReply = { code: 0, lines: [], text: '' };
  /** Resolves when the connection is closed, by either side, in good order or not. */
  readonly closed: Promise<void>;

  #socket: Socket;
  #received = '';
  #lines: string[] = [];
  #replies: SmtpReply[] = [];
  #waiters: Waiter[] = [];
  #ended: string | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#end('the connection was closed');
        resolve();
      });
    });
    this.#listen(socket);
  }

  /** The port of its own end. */
  get localPort(): number {
    return this.#socket.localPort as number;
  }

  /** Sends one line (a string as latin1: UTF-8 must come as a Buffer) and reads the reply. */
  command(line: string | Buffer): Promise<SmtpReply> {
    const bytes = typeof line === 'string' ? Buffer.from(line, 'latin1') : line;
    this.write(Buffer.concat([bytes, Buffer.from('\r\n')]));
    return this.reply(JSON.stringify(bytes.toString('latin1')));
  }

  /** What follows a 354: the message with its dots stuffed, and the final dot. */
  message(data: Buffer): Promise<SmtpReply> {
    // Only CRLF begins a line in SMTP: a dot after a bare CR or LF stays as it is.
    let text = data.toString('latin1').replaceAll(/(^|\r\n)\./g, '$1..');
    if (text !== '' && !text.endsWith('\r\n')) text += '\r\n';
    this.write(Buffer.from(`${text}.\r\n`, 'latin1'));
    return this.reply('the final dot');
  }

  /** Sends STARTTLS and, when the answer is 220, goes on in TLS, whoever signed the certificate. */
  async startTls(): Promise<SmtpReply> {
    const reply = await this.command('STARTTLS');
    if (reply.code !== 220) return reply;
    const plain = this.#socket;
    plain.removeAllListeners('data');
    const secure = connectTls({ socket: plain, rejectUnauthorized: false });
    this.#socket = secure;
    await once(secure, 'secureConnect');
    this.#listen(secure);
    return reply;
  }

  /** Bytes with no reply expected of them: half a message, several commands at once. */
  write(bytes: string | Buffer): void {
    this.#socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes);
  }

  /** The next reply that nobody has waited for yet. */
  reply(what = 'what was written'): Promise<SmtpReply> {
    const reply = this.#replies.shift();
    if (reply) return Promise.resolve(reply);
    if (this.#ended !== undefined) return Promise.reject(new Error(`no reply to ${what}: ${this.#ended}`));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#end(`nothing came for ${REPLY_TIMEOUT / 1000} s`);
        this.#socket.destroy();
      }, REPLY_TIMEOUT);
      this.#waiters.push({ what, timer, resolve, reject });
    });
  }

  /** Says QUIT and waits until the connection is closed. */
  async end(): Promise<void> {
    if (this.#ended === undefined) {
      // A server that hangs up instead of answering has ended the connection just as well.
      await this.command('QUIT').catch(() => {});
      this.#socket.end();
    }
    await this.closed;
  }

  /** Drops the connection in the middle of whatever was going on. */
  async destroy(): Promise<void> {
    this.#socket.destroy();
    await this.closed;
  }

  #listen(socket: Socket): void {
    socket.on('data', (chunk: Buffer) => this.#read(chunk.toString('latin1')));
    socket.on('end', () => this.#end('the server ended the connection'));
    socket.on('error', (error) => this.#end(error.message));
  }

  #read(text: string): void {
    const lines = (this.#received + text).split('\r\n');
    this.#received = lines.pop() ?? '';
    for (const line of lines) {
      const [, code, separator, rest = ''] = /^(\d{3})([ -]?)(.*)$/s.exec(line) ?? [];
      if (code === undefined) {
        this.#end(`not an SMTP reply: ${JSON.stringify(line)}`);
        return;
      }
      this.#lines.push(rest);
      if (separator !== '-') this.#deliver({ code: Number(code), lines: this.#lines, text: this.#lines.join('\n') });
    }
  }

  #deliver(reply: SmtpReply): void {
    this.#lines = [];
    const waiter = this.#waiters.shift();
    if (!waiter) {
      this.#replies.push(reply);
      return;
    }
    clearTimeout(waiter.timer);
    waiter.resolve(reply);
  }

  #end(why: string): void {
    this.#ended ??= why;
    for (const { what, timer, reject } of this.#waiters.splice(0)) {
      clearTimeout(timer);
      reject(new Error(`no reply to ${what}: ${this.#ended}`));
    }
  }
}
