// Mail servers out there: several at a time, each with message after message, and each of those again and again until
// it is accepted. What they were told is kept.

import { setTimeout as delay } from 'node:timers/promises';

import { connectSmtp, type SmtpClient, type SmtpReply } from './smtp.js';

/** One after the other on one connection; then a new one. */
const PER_CONNECTION = 3;
/** Between two messages of one sender, in ms: a test should not have the machine for itself. */
const PAUSE = 100;
/** Somebody has forgotten to stop them. */
const MOST = 5_000;

/** What has become of the messages. */
export class Ledger {
  /** By name: those that a server has accepted. */
  readonly accepted: string[] = [];
  /** The temporary failures that senders saw. */
  readonly refused: SmtpReply[] = [];
  #waiting: { count: number; resolve: () => void }[] = [];

  accept(name: string): void {
    this.accepted.push(name);
    const due = this.#waiting.filter(({ count }) => this.accepted.length >= count);
    this.#waiting = this.#waiting.filter((each) => !due.includes(each));
    for (const { resolve } of due) resolve();
  }

  /** Resolves when so many more have been accepted. */
  more(count: number): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ count: this.accepted.length + count, resolve }));
  }

  /** How often senders were told what, since `from` refusals ago. */
  summary(from = 0): string {
    const refused = this.refused.slice(from).map(({ code, text }) => `${code} ${text}`);
    const times = [...new Set(refused)].map((each) => `${refused.filter((other) => other === each).length} x ${each}`);
    return times.join('; ') || 'none';
  }
}

/**
 * One SMTP connection on which messages are handed in, step by step or whole. The names of the messages are in their
 * Message-ID; they claim to have passed a milter already.
 */
export class Sender {
  readonly #client: SmtpClient;
  readonly #ledger: Ledger;

  constructor(client: SmtpClient, ledger: Ledger) {
    this.#client = client;
    this.#ledger = ledger;
  }

  /** @returns undefined where the greeting or EHLO was refused for now */
  static async connect(port: number, ledger: Ledger): Promise<Sender | undefined> {
    const client = await connectSmtp(port);
    const sender = new Sender(client, ledger);
    if (sender.#counts(client.greeting) && (await sender.command('EHLO client.example.org'))) return sender;
    await client.end();
    return undefined;
  }

  /** @returns whether it was accepted; a refusal for now is counted, and one for good is an error */
  async command(line: string): Promise<boolean> {
    return this.#counts(await this.#client.command(line));
  }

  /** The envelope of a message. */
  async begin(name: string): Promise<boolean> {
    return (
      (await this.command(`MAIL FROM:<${name}@example.org>`)) && (await this.command('RCPT TO:<somebody@example.com>'))
    );
  }

  /** The rest of a message that has begun. */
  async finish(name: string): Promise<boolean> {
    if (!(await this.command('DATA'))) return false;
    const lines = [`Message-ID: <${name}@example.org>`, 'X-Milter-Instance: forged', '', 'Hello.', ''];
    const accepted = this.#counts(await this.#client.message(Buffer.from(lines.join('\r\n'))));
    if (accepted) this.#ledger.accept(name);
    return accepted;
  }

  async send(name: string): Promise<boolean> {
    return (await this.begin(name)) && (await this.finish(name));
  }

  /** Says QUIT, unless the server has gone. */
  end(): Promise<void> {
    return this.#client.end();
  }

  #counts(reply: SmtpReply): boolean {
    if (reply.code < 400) return true;
    if (reply.code >= 500) throw new Error(`refused for good: ${reply.code} ${reply.text}`);
    this.#ledger.refused.push(reply);
    return false;
  }
}

/** How far one of them is. */
interface Progress {
  readonly sender: string;
  /** The number of its message. */
  next: number;
  /** That message has been refused for now. */
  pending: boolean;
}

/** So many senders, until they are stopped. */
export class Senders {
  readonly #port: number;
  readonly #ledger: Ledger;
  readonly #connections = new Set<Promise<void>>();
  readonly #all: Promise<unknown>;
  #stopped = false;

  constructor(port: number, count: number, ledger: Ledger) {
    this.#port = port;
    this.#ledger = ledger;
    this.#all = Promise.all(Array.from({ length: count }, (_, i) => this.#run(`s${i}`)));
    // Whoever waits for something hears of it.
    this.#all.catch(() => {});
  }

  /** Resolves when so many more messages have been accepted. Rejects when a sender fails. */
  async more(count: number): Promise<void> {
    await Promise.race([this.#ledger.more(count), this.#all]);
  }

  /** Resolves when the connections that there are now have ended. Rejects when a sender fails. */
  async turnover(): Promise<void> {
    await Promise.race([Promise.all(this.#connections), this.#all]);
  }

  /** Resolves when what the senders were at has been accepted. Rejects when one has failed. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#all;
  }

  async #run(sender: string): Promise<void> {
    const progress = { sender, next: 0, pending: false };
    while (progress.pending || !this.#stopped) {
      const connection = this.#connection(progress);
      this.#connections.add(connection);
      await connection;
      this.#connections.delete(connection);
    }
  }

  async #connection(progress: Progress): Promise<void> {
    const smtp = await Sender.connect(this.#port, this.#ledger);
    if (smtp === undefined) return;
    for (let i = 0; i < PER_CONNECTION && (progress.pending || !this.#stopped); i++) {
      if (this.#ledger.accepted.length + this.#ledger.refused.length > MOST) throw new Error('nobody has stopped them');
      progress.pending = !(await smtp.send(`${progress.sender}-${progress.next}`));
      if (progress.pending) break;
      progress.next++;
      await delay(PAUSE);
    }
    await smtp.end();
  }
}
