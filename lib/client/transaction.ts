/** What is known about one message on its way past the milters. */
import { Readable } from 'node:stream';
import type { MilterError } from '../errors.js';
import type { Stage } from '../stages.js';
import type { Answer } from './exchange.js';
import type { Message } from './message.js';
import type { Envelope, Modification } from './modify.js';
import type { ClientMacros, MessageResult, Outcome, Step } from './types.js';

/** The answer that decided, and whose it is. */
export interface Decision {
  readonly stage: Stage;
  readonly answer: Answer;
  /** Which milter it was, where it refused. */
  readonly milter?: string;
}

export class Transaction {
  readonly envelope: Envelope;
  macros: ClientMacros;
  readonly steps: Step[] = [];
  readonly recipients: Array<MessageResult['recipients'][number]> = [];
  readonly modifications: Modification[] = [];
  readonly changes: Array<MessageResult['changes'][number]> = [];
  readonly errors: MilterError[] = [];
  quarantined: string | undefined;
  /** Header lines of the mail server's own, where this message has others. */
  ownHeaders: string | Uint8Array | undefined;
  /** The last answer to a recipient. */
  lastRecipient: Decision | undefined;
  /** DATA has been said. */
  data = false;

  constructor(from: string, macros: ClientMacros) {
    this.envelope = { from, to: [] };
    this.macros = macros;
  }

  /** A milter has failed, and its default action stands in for it. */
  fault(error: MilterError): void {
    if (!this.errors.includes(error)) this.errors.push(error);
  }

  /** What became of the message. @param message as it is now; undefined where it has not been looked at */
  result(decision: Decision, message: Message | undefined): MessageResult {
    const { stage, answer, milter } = decision;
    const outcome = answer.outcome as Outcome;
    const verdict = outcome === 'continue' ? 'accept' : outcome;
    const accepted = verdict === 'accept';
    let bytes: Buffer | undefined;
    return {
      verdict,
      stage,
      ...(answer.reply && { reply: answer.reply }),
      hangUp: answer.hangUp,
      ...(milter !== undefined && !accepted && { milter }),
      ...(accepted && this.quarantined !== undefined && { quarantined: this.quarantined }),
      recipients: this.recipients,
      modifications: accepted ? this.modifications : [],
      changes: accepted ? this.changes : [],
      envelope: this.envelope,
      get message() {
        return (bytes ??= message?.toBuffer() ?? Buffer.alloc(0));
      },
      stream: () => message?.toStream() ?? Readable.from([]),
      steps: this.steps,
      errors: this.errors,
    };
  }
}
