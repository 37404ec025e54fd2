// The senders of the soak: real SMTP clients who come back with new messages, whatever they are told.
import { setTimeout as delay } from 'node:timers/promises';
import { connectSmtp, type SmtpClient, type SmtpReply } from '../helpers/smtp.js';

export interface Tally {
  /** Messages that the server took over, by their ids. */
  readonly accepted: Set<string>;
  /** Temporary refusals, by the command that got them. */
  readonly refused: Map<string, number>;
  /** What nobody may answer here. */
  readonly wrong: string[];
}

const HEADERS = Array.from({ length: 6 }, (_, i) => `X-Header-${i}: of no interest\r\n`).join('');

/** What the body must be, unless it is replaced whole. */
export const BODY = 'as it was written\r\n'.repeat(200);

/** One client: SMTP sessions of two messages each, one after the other, until `over()`. */
export async function sendUntil(
  over: () => boolean,
  port: number,
  name: string,
  pause: number,
  tally: Tally,
): Promise<void> {
  for (let session = 0; !over(); session++) {
    const client = await connectSmtp(port);
    try {
      await new Sender(client, pause, tally).session(`${name}-${session}`);
    } catch (error) {
      tally.wrong.push(String(error));
    } finally {
      await client.end();
    }
  }
}

class Sender {
  readonly #client: SmtpClient;
  readonly #pause: number;
  readonly #tally: Tally;

  /** @param pause how long it thinks before DATA, in ms, like a client that is far away */
  constructor(client: SmtpClient, pause: number, tally: Tally) {
    this.#client = client;
    this.#pause = pause;
    this.#tally = tally;
  }

  async session(id: string): Promise<void> {
    if (!this.#good('the greeting', this.#client.greeting)) return;
    if (!(await this.#say('EHLO soak.example.org'))) return;
    const unknown = await this.#client.command('FROBNICATE');
    if (unknown.code < 500) this.#good('FROBNICATE', unknown);
    for (let i = 0; i < 2; i++) if (!(await this.#message(`${id}-${i}`))) return;
  }

  /** False when the SMTP session is over. */
  async #message(id: string): Promise<boolean> {
    if (!(await this.#say('MAIL FROM:<soak@example.org>'))) return this.#reset();
    const first = await this.#say('RCPT TO:<one@example.com>');
    const second = await this.#say('RCPT TO:<two@example.com>');
    if (!first && !second) return this.#reset();
    if (this.#pause > 0) await delay(this.#pause);
    if (!(await this.#say('DATA'))) return this.#reset();
    const text = `X-Id: ${id}\r\n${HEADERS}Subject: soak\r\n\r\n${BODY}`;
    if (this.#good('the message', await this.#client.message(Buffer.from(text)))) this.#tally.accepted.add(id);
    return this.#reset();
  }

  async #reset(): Promise<boolean> {
    try {
      return (await this.#client.command('RSET')).code === 250;
    } catch {
      return false; // it has hung up, after a 421
    }
  }

  async #say(line: string): Promise<boolean> {
    try {
      return this.#good(line.split(/[ :]/)[0] as string, await this.#client.command(line));
    } catch (error) {
      if (/ended the connection|was closed/.test(String(error))) return false;
      throw error;
    }
  }

  #good(command: string, { code, text }: SmtpReply): boolean {
    if (code < 400) return true;
    if (code < 500) this.#tally.refused.set(command, (this.#tally.refused.get(command) ?? 0) + 1);
    else this.#tally.wrong.push(`${command}: ${code} ${text}`);
    return false;
  }
}
