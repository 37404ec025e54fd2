/**
 * Messages on a connection as Postfix and Sendmail send them: which macros come with what, which commands are left out,
 * which replies are waited for, what follows a verdict. From the two servers' sources, not from this library.
 *
 * Postfix sends macros (if only an empty list) before every command it considers, those that the milter does not want
 * among them as far as they belong to the envelope; and an ABORT after every message, whatever became of it.
 * Sendmail sends macros where it has some, and ABORT only for a message that the milter has not finished itself, of
 * which it has seen MAIL or some of the content. The third sends neither macros nor needless ABORTs.
 */
import type { Command, Reply } from '../../lib/codec/index.js';
import type { Mta } from './mta.js';
import { say } from './mta.js';

export type Server = 'Postfix' | 'Sendmail' | 'a server without macros';
export const SERVERS: readonly Server[] = ['Postfix', 'Sendmail', 'a server without macros'];

export type MessageStage = 'mailFrom' | 'rcpt' | 'data' | 'header' | 'eoh' | 'body' | 'eob';
export const MESSAGE_STAGES: readonly MessageStage[] = ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob'];

/** The NO and NR bits of the commands of a message, and the letter of their macros. */
const BITS: Readonly<Record<MessageStage, readonly [no: number, nr: number, letter: string]>> = {
  mailFrom: [0x4, 0x4000, 'M'],
  rcpt: [0x8, 0x8000, 'R'],
  data: [0x200, 0x10000, 'T'],
  header: [0x20, 0x80, 'L'],
  eoh: [0x40, 0x40000, 'N'],
  body: [0x10, 0x80000, 'B'],
  eob: [0, 0, 'E'],
};

/** The commands whose macros come even where they themselves are not sent. */
const ENVELOPE: ReadonlySet<MessageStage> = new Set(['mailFrom', 'rcpt', 'data']);
/** The commands for which Sendmail has macros. */
const SENDMAIL_MACROS: ReadonlySet<MessageStage> = new Set(['mailFrom', 'rcpt', 'eob']);

/** What may be different about a message. */
export interface Shape {
  /** Found in the macro `i`. */
  readonly id: string;
  readonly recipients?: number;
  readonly headers?: number;
  readonly chunks?: number;
  /** The client gives up (RSET) behind this command. */
  readonly reset?: MessageStage;
}

export class Dialogue {
  readonly #mta: Mta;
  readonly #server: Server;
  readonly #protocol: number;

  constructor(mta: Mta, server: Server, protocol: number) {
    this.#mta = mta;
    this.#server = server;
    this.#protocol = protocol;
  }

  /** Negotiates, offering everything. */
  static async start(mta: Mta, server: Server): Promise<Dialogue> {
    const agreed = (await mta.negotiate()) as Extract<Reply, { type: 'negotiate' }>;
    return new Dialogue(mta, server, agreed.protocol);
  }

  /** Sends a message as far as the milter wants it; gives the types of the replies that ended something. */
  async message({ id, recipients = 1, headers = 1, chunks = 1, reset }: Shape): Promise<string[]> {
    const verdicts: string[] = [];
    const counts: Partial<Record<MessageStage, number>> = { rcpt: recipients, header: headers, body: chunks };
    let seen = false;
    let finished = false;
    let accepted = 0;
    for (const stage of MESSAGE_STAGES) {
      for (let i = 0; i < (counts[stage] ?? 1) && !finished; i++) {
        const reply = await this.#step(stage, id, i);
        if (this.#sends(stage) && stage !== 'rcpt') seen = true;
        const type = reply?.type ?? 'continue';
        if (stage === 'rcpt' && ['reject', 'tempFail', 'replyCode'].includes(type)) {
          verdicts.push(type);
          continue;
        }
        if (stage === 'rcpt') accepted++;
        if (stage === 'eob' || (type !== 'continue' && type !== 'skip')) {
          verdicts.push(type);
          finished = true;
        }
        if (type === 'skip') break;
      }
      if (finished) break;
      if (stage === reset || (stage === 'rcpt' && accepted === 0)) {
        if (seen || this.#server === 'Postfix') this.#mta.send(say.abort());
        return verdicts;
      }
    }
    if (this.#server === 'Postfix') this.#mta.send(say.abort());
    return verdicts;
  }

  async #step(stage: MessageStage, id: string, nth: number): Promise<Reply | undefined> {
    const [, nr, letter] = BITS[stage];
    const sent = this.#sends(stage);
    const macros = { i: id, [`{at_${stage}}`]: String(nth) };
    if (this.#server === 'Postfix' && (sent || ENVELOPE.has(stage))) this.#mta.send(say.macros(letter, macros));
    if (this.#server === 'Sendmail' && SENDMAIL_MACROS.has(stage)) this.#mta.send(say.macros(letter, macros));
    if (!sent) return undefined;
    this.#mta.send(commandOf(stage, id, nth));
    return (this.#protocol & nr) === 0 ? this.#mta.reply() : undefined;
  }

  #sends(stage: MessageStage): boolean {
    return (this.#protocol & BITS[stage][0]) === 0;
  }
}

function commandOf(stage: MessageStage, id: string, nth: number): Command {
  switch (stage) {
    case 'mailFrom':
      return say.mail(`<${id}@example.org>`);
    case 'rcpt':
      return say.rcpt(`<${nth}@example.com>`);
    case 'header':
      return say.header('Subject', id);
    case 'body':
      return say.body(id);
    default:
      return say[stage]();
  }
}
