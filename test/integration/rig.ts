// A private mail server with a sink behind it, and a place where each test puts the milter that it needs: the server
// connects there once for each SMTP session, so many milters can take turns without a restart.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { FactoryOptions, ProtocolClass } from '../../lib/index.js';
import type { MailServer } from '../helpers/mail-server.js';
import { milterWarnings, startPostfix, type PostfixOptions } from '../helpers/postfix.js';
import { needs, type Part } from '../helpers/real.js';
import { milterComplaints, startSendmail, type SendmailOptions } from '../helpers/sendmail.js';
import { startSink, type Sink, type SinkMessage } from '../helpers/sink.js';
import { connectSmtp, type SmtpClient } from '../helpers/smtp.js';
import { until } from '../helpers/until.js';
import type { FactoryUnderTest, RunningMilter } from './factories.js';
import { Idle, type Call } from './milters.js';

export type ServerName = 'postfix' | 'sendmail';

export interface RigOptions {
  readonly factory: FactoryUnderTest;
  readonly server: ServerName;
  /** What the server and the milter speak over; the server knows of no milter with 'none'. */
  readonly socket: 'inet' | 'unix' | 'none';
  readonly postfix?: Partial<PostfixOptions>;
  readonly sendmail?: Partial<SendmailOptions>;
}

export interface MilterRun extends Omit<FactoryOptions, 'context'> {
  /** What the milter gets besides the name of its report. */
  context?: object;
  /** The codes of the errors that its sessions must fail with; none unless given. */
  errors?: readonly string[];
}

export class Rig {
  readonly server: ServerName;
  /** Options for each test that uses it. */
  readonly needs: { skip?: string };

  readonly #options: RigOptions;
  readonly #provoked: RegExp[] = [];
  /** Where the milters take turns, as a factory wants it. */
  #place = '';
  #sink: Sink | undefined;
  #mta: MailServer | undefined;
  #runs = 0;
  #taken = 0;
  #clients: SmtpClient[] = [];

  constructor(t: Test, options: RigOptions) {
    this.#options = options;
    this.server = options.server;
    const parts: Part[] = options.postfix?.tls === true ? [options.server, 'openssl'] : [options.server];
    this.needs = needs(...parts);
    t.test(`${this.server} starts`, this.needs, () => this.#start());
    t.teardown(() => this.#stop());
  }

  get mta(): MailServer {
    if (this.#mta === undefined) throw new Error(`${this.server} has not started`);
    return this.#mta;
  }

  get sink(): Sink {
    if (this.#sink === undefined) throw new Error('the sink has not started');
    return this.#sink;
  }

  /** The version of the milter protocol that the server speaks. */
  get version(): number {
    return Number(this.#options.postfix?.mainCf?.['milter_protocol'] ?? 6);
  }

  /** One of two values, by the server. */
  on<T>(values: Record<ServerName, T>): T {
    return values[this.server];
  }

  /**
   * Has a milter serve while `use` runs, and until the last of its sessions is over.
   * @returns the calls that it has reported
   */
  async milter<C, S>(
    Milter: ProtocolClass<C, S>,
    run: MilterRun,
    use: (running: RunningMilter) => Promise<void>,
  ): Promise<Call[]> {
    const { context, errors = [], ...options } = run;
    const report = join(this.mta.dir, `report-${++this.#runs}`);
    await writeFile(report, '');
    const running = await this.#options.factory.start(this.#place, Milter, {
      ...options,
      context: { ...context, report },
    });
    try {
      await use(running);
      for (const client of this.#clients.splice(0)) await client.end();
      await running.close();
    } catch (error) {
      for (const client of this.#clients.splice(0)) await client.destroy();
      await Promise.all([running.close(), running.close()]);
      throw new Error([error, ...running.errors].map(String).join('\n'), { cause: error });
    }
    const codes = running.errors.map(({ code }) => code);
    if (codes.join() !== errors.join()) throw new Error(`the sessions' errors: ${running.errors.join('; ') || 'none'}`);
    const lines = (await readFile(report, 'utf8')).split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line) as Call);
  }

  /** A client that has said EHLO. When the milter's turn ends it says QUIT, unless it has gone before. */
  async client(): Promise<SmtpClient> {
    const client = await this.stranger();
    await client.command('EHLO client.example.org');
    return client;
  }

  /** A client that has said nothing yet. */
  async stranger(): Promise<SmtpClient> {
    const client = await connectSmtp(this.mta.port);
    this.#clients.push(client);
    return client;
  }

  /** The next message that arrives. */
  async arrived(): Promise<SinkMessage> {
    const message = await this.sink.next();
    this.#taken++;
    return message;
  }

  /** The next messages that arrive, in any order. */
  async arrivals(count: number): Promise<SinkMessage[]> {
    const messages: SinkMessage[] = [];
    while (messages.length < count) messages.push(await this.arrived());
    return messages;
  }

  /** Says that a test makes the server complain about the milter. */
  provokes(complaint: RegExp): void {
    this.#provoked.push(complaint);
  }

  /** The last test: what the others have left behind. */
  leavesNothing(t: Test): void {
    const title = `${this.server} has complained about no milter without cause, and handed on nothing else`;
    t.test(title, this.needs, async (t) => {
      await until('the queue to be empty', async () => this.#idle(await this.mta.postqueue()));
      await this.sink.idle();
      t.strictSame(this.sink.messages.slice(this.#taken), [], 'every message was expected by a test');
      const log = await this.mta.log();
      const lines = this.server === 'postfix' ? milterWarnings(log) : milterComplaints(log);
      const provoked = (line: string): boolean => this.#provoked.some((complaint) => complaint.test(line));
      t.strictSame(
        lines.filter((line) => !provoked(line)),
        [],
        'every complaint was provoked by a test',
      );
      const idle = this.#provoked.filter((complaint) => !lines.some((line) => complaint.test(line)));
      t.strictSame(idle, [], 'every provocation was complained about');
    });
  }

  /** Held messages are not on their way. */
  #idle(queue: string): boolean {
    return this.on({ postfix: !/^[0-9A-Za-z]{6,}[ *]/m.test(queue), sendmail: /Total requests: 0/.test(queue) });
  }

  async #start(): Promise<void> {
    const { factory, socket, postfix, sendmail } = this.#options;
    this.#sink = await startSink();
    const sinkPort = this.#sink.port;
    const { host, port } = await ownAddress(factory);
    const place = (dir: string): string => {
      this.#place = socket === 'inet' ? `inet:${port}@${host}` : `unix:${join(dir, 'm.sock')}`;
      return this.#place;
    };
    if (this.server === 'sendmail') {
      const milter = socket === 'none' ? {} : { milter: place };
      this.#mta = await startSendmail({ ...milter, sinkPort, mc: SENDMAIL_SETTINGS, ...sendmail });
    } else {
      const list = (dir: string): string[] => [place(dir).replace(/^inet:(\d+)@(.*)/, 'inet:$2:$1')];
      const milters = socket === 'none' ? [] : list;
      const mainCf = { ...POSTFIX_SETTINGS, ...postfix?.mainCf };
      this.#mta = await startPostfix({ milters, nonSmtpdMilters: milters, sinkPort, ...postfix, mainCf });
    }
  }

  async #stop(): Promise<void> {
    await this.#mta?.stop();
    await this.#sink?.close();
  }
}

/** Addresses that the servers refuse by themselves. */
export const REFUSED: Readonly<Record<ServerName, string>> = {
  postfix: '<anybody@refused.example.net>',
  sendmail: '<no-such-user@sendmail.example.test>',
};

const POSTFIX_SETTINGS = {
  smtpd_recipient_restrictions: 'check_recipient_access inline:{ { refused.example.net = 550 5.1.1 unknown } }',
  // A connection that is kept for later mail would have to be waited for at the end.
  smtp_connection_cache_on_demand: 'no',
};

/** Users of the machine are known, without aliases. */
const SENDMAIL_SETTINGS = ["MODIFY_MAILER_FLAGS(`LOCAL', `-A')dnl", "MAILER(`local')dnl"];

/**
 * A port that nobody else takes while one milter is gone and the next not there yet: it is on an address of 127/8 that
 * belongs to this process. A milter on port 0 finds it.
 */
async function ownAddress(factory: FactoryUnderTest): Promise<{ host: string; port: number }> {
  const host = `127.${64 + ((process.pid >> 16) & 63)}.${(process.pid >> 8) & 255}.${process.pid & 255}`;
  const milter = await factory.start(`inet:0@${host}`, Idle, {});
  const { address } = milter;
  await milter.close();
  if (address.kind !== 'inet') throw new Error('it listens on no port');
  return { host, port: address.port };
}
