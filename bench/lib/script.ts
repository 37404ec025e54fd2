/**
 * What a mail server writes, and the only right answers. Commands that the milter does not answer go out in one write
 * with the next one that it does.
 */
import * as smfi from 'milter-stream';
import { encodeCommand, encodeReply, type Command, type Reply } from 'milter-stream/codec';
import { commands, OPENING, type Message } from './message.js';

/** What goes out in one write, and what comes back. */
export interface Step {
  readonly bytes: Buffer;
  /** The command that is answered. */
  readonly what: string;
  readonly answer: Buffer;
}

/** The header that the milters add where one is to be added: those in peers/ have it written out. */
export const ADDED: Reply = { type: 'addHeader', name: 'X-Bench', value: 'seen' };

const UNANSWERED: Partial<Record<Command['type'], number>> = {
  connect: smfi.SMFIP_NR_CONN,
  helo: smfi.SMFIP_NR_HELO,
  mailFrom: smfi.SMFIP_NR_MAIL,
  rcpt: smfi.SMFIP_NR_RCPT,
  data: smfi.SMFIP_NR_DATA,
  header: smfi.SMFIP_NR_HDR,
  eoh: smfi.SMFIP_NR_EOH,
  body: smfi.SMFIP_NR_BODY,
};

/** A milter that does not want all of a message does less than the others. */
const UNWANTED = (smfi.SMFIP_ALLPROTOS_V2 & ~smfi.SMFIP_NR_HDR & ~smfi.SMFIP_NOUNKNOWN) | smfi.SMFIP_NODATA;

const CONTINUE = encodeReply({ type: 'continue' });

export class Script {
  static readonly offer = encodeCommand({
    type: 'negotiate',
    version: 6,
    actions: smfi.SMFIF_ALLOPTS,
    protocol: smfi.SMFIP_ALLPROTOS,
  });
  static readonly quit = encodeCommand({ type: 'quit' });

  readonly #message: readonly Command[];
  readonly #edits: Buffer;
  readonly #known = new Map<number, { first: readonly Step[]; later: readonly Step[] }>();

  constructor(message: Message, addsHeader = false) {
    this.#message = commands(message);
    this.#edits = addsHeader ? encodeReply(ADDED) : Buffer.alloc(0);
  }

  /**
   * The steps of a connection's first message, with how the connection begins, and of the others.
   * @param protocol what the milter has said that it does not want or answer: SMFIP_ bits
   */
  steps(protocol: number): { first: readonly Step[]; later: readonly Step[] } {
    let known = this.#known.get(protocol);
    if (known === undefined) {
      if ((protocol & UNWANTED) !== 0) throw new Error(`the milter does not want it all: 0x${protocol.toString(16)}`);
      known = {
        first: this.#plan([...OPENING, ...this.#message], protocol),
        later: this.#plan(this.#message, protocol),
      };
      this.#known.set(protocol, known);
    }
    return known;
  }

  #plan(list: readonly Command[], protocol: number): Step[] {
    const steps: Step[] = [];
    let held: Buffer[] = [];
    for (const command of list) {
      held.push(encodeCommand(command));
      if (command.type === 'macro' || (protocol & (UNANSWERED[command.type] ?? 0)) !== 0) continue;
      const answer = command.type === 'eob' ? Buffer.concat([this.#edits, CONTINUE]) : CONTINUE;
      steps.push({ bytes: Buffer.concat(held), what: command.type, answer });
      held = [];
    }
    return steps;
  }
}
