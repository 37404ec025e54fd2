/** One message on its way past a milter: its stages in order, and what comes of the answers. */
import { MILTER_CHUNK_SIZE, SMFIP_HDR_LEADSPC, SMFIP_RCPT_REJ } from '../constants.js';
import { bareAddress } from '../envelope.js';
import type { Stage, StageCommand } from '../stages.js';
import type { Answer, Exchange } from './exchange.js';
import type { Message } from './message.js';
import { applyModifications, type Envelope, type ModifyOptions } from './modify.js';
import type { ClientMacros, ClientMessage, MessageResult, Outcome, Step } from './types.js';

/** The answer that decided about a message, and who it would go to. */
export interface Decision {
  readonly stage: Stage;
  readonly answer: Answer;
  readonly envelope: Envelope;
}

export class Transaction {
  readonly #exchange: Exchange;
  readonly #message: Message;
  readonly #macros: ClientMacros;
  readonly #chunkSize: number;
  readonly #leadingSpace: boolean;
  readonly #steps: Step[] = [];
  readonly #recipients: Array<MessageResult['recipients'][number]> = [];
  /** The milter wants no more of the body. */
  #skip = false;

  /** @param chunkSize largest piece of a body, in bytes */
  constructor(exchange: Exchange, message: Message, macros: ClientMacros, chunkSize = MILTER_CHUNK_SIZE) {
    this.#exchange = exchange;
    this.#message = message;
    this.#macros = macros;
    this.#chunkSize = chunkSize;
    this.#leadingSpace = (exchange.agreed.protocol & SMFIP_HDR_LEADSPC) !== 0;
  }

  /** Plays the message up to the answer that decides. */
  async play(mail: ClientMessage): Promise<Decision> {
    const envelope: Envelope = { from: mail.from, to: [] };
    const from = await this.#ask({ type: 'mailFrom', address: mail.from, args: mail.fromArgs ?? [] });
    if (from.outcome === 'accept') envelope.to = [...mail.to];
    if (from.outcome !== 'continue') return { stage: 'mailFrom', answer: from, envelope };
    const last = await this.#recipientsOf(mail, envelope);
    if (last !== undefined) return { stage: 'rcpt', answer: last, envelope };
    const content = this.#content();
    for (;;) {
      const command = content.next().value;
      const answer = await this.#ask(command);
      if (answer.outcome === 'skip') this.#skip = true;
      else if (command.type === 'eob' || answer.outcome !== 'continue')
        return { stage: command.type, answer, envelope };
    }
  }

  /** @returns the answer that decides about the whole message, if there is one */
  async #recipientsOf(mail: ClientMessage, envelope: Envelope): Promise<Answer | undefined> {
    let last: Answer | undefined;
    for (const [i, address] of mail.to.entries()) {
      last = await this.#askRecipient(address, mail, { '{rcpt_addr}': bareAddress(address) });
      this.#recipients.push({ address, outcome: last.outcome as Outcome, ...(last.reply && { reply: last.reply }) });
      if (last.outcome === 'accept') envelope.to.push(...mail.to.slice(i)); // it asks for no more of them
      if (last.outcome === 'accept' || last.outcome === 'discard' || last.hangUp) return last;
      if (last.outcome === 'continue') envelope.to.push(address);
    }
    if ((this.#exchange.agreed.protocol & SMFIP_RCPT_REJ) !== 0) {
      const why = { '{rcpt_mailer}': 'error', '{rcpt_host}': '5.1.1', '{rcpt_addr}': 'User unknown' };
      for (const address of mail.refused ?? []) await this.#askRecipient(address, mail, why);
    }
    return envelope.to.length === 0 ? last : undefined;
  }

  #askRecipient(address: string, mail: ClientMessage, macros: Readonly<Record<string, string>>): Promise<Answer> {
    const rcpt = { ...macros, ...this.#macros.rcpt };
    return this.#ask({ type: 'rcpt', address, args: mail.toArgs ?? [] }, { ...this.#macros, rcpt });
  }

  *#content(): Generator<StageCommand, never> {
    yield { type: 'data' };
    for (const { name, value } of this.#message.headers) {
      yield { type: 'header', name, value: this.#leadingSpace ? value : value.replace(/^ /, '') };
    }
    yield { type: 'eoh' };
    const { body } = this.#message;
    for (let at = 0; at < body.length && !this.#skip; at += this.#chunkSize) {
      yield { type: 'body', chunk: body.subarray(at, at + this.#chunkSize) };
    }
    for (;;) yield { type: 'eob' };
  }

  #ask(command: StageCommand, macros: ClientMacros = this.#macros): Promise<Answer> {
    return this.#exchange.ask(command, macros, this.#steps);
  }

  /** What became of the message: only where it is accepted is it changed. */
  result({ stage, answer, envelope }: Decision, removedCount: ModifyOptions['removedCount']): MessageResult {
    const outcome = answer.outcome as Outcome;
    const verdict = outcome === 'continue' ? 'accept' : outcome;
    const modifications = verdict === 'accept' ? answer.modifications : [];
    const how = { leadingSpace: this.#leadingSpace, removedCount };
    const quarantined = applyModifications(this.#message, envelope, modifications, how);
    return {
      verdict,
      stage,
      ...(answer.reply && { reply: answer.reply }),
      ...(quarantined !== undefined && { quarantined }),
      recipients: this.#recipients,
      modifications,
      envelope,
      message: this.#message.toBuffer(),
      steps: this.#steps,
    };
  }
}
