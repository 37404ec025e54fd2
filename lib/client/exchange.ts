/** Asks a milter one question: the macros of the stage, the command, and what it answers. */
import type { MacroPair } from '../codec/fields.js';
import type { NegotiateReply, Reply } from '../codec/replies.js';
import { parseSmtpReply, type SmtpReply } from '../codec/smtp-reply.js';
import type { MilterError } from '../errors.js';
import { actionNames } from '../names.js';
import { STAGE_NAMES, STAGES, type Stage, type StageCommand } from '../stages.js';
import type { Conversation } from './conversation.js';
import { ACTION_OF, isModification, type Modification } from './modify.js';
import type { CheckedClientOptions } from './options.js';
import type { ClientMacros, Outcome, Step } from './types.js';

/** An answer. */
export interface Answer {
  readonly outcome: Outcome | 'skip';
  /** The SMTP reply that came with it. */
  readonly reply?: SmtpReply;
  /** The mail server is to end the SMTP session. */
  readonly hangUp: boolean;
  readonly modifications: readonly Modification[];
}

const GO_ON: Answer = { outcome: 'continue', hangUp: false, modifications: [] };

export class Exchange {
  readonly agreed: NegotiateReply;
  readonly #conversation: Conversation;
  readonly #options: CheckedClientOptions;
  /** Names of the macros the milter asked for, by stage. */
  readonly #asked: ReadonlyMap<number, readonly string[]>;

  constructor(conversation: Conversation, agreed: NegotiateReply, options: CheckedClientOptions) {
    this.agreed = agreed;
    this.#conversation = conversation;
    this.#options = options;
    this.#asked = new Map(agreed.macros?.map(({ stage, names }) => [stage, names.split(/[ ,]+/).filter(Boolean)]));
  }

  /**
   * Sends what the milter wants of a command, and waits for the answer if there is one.
   * @param steps gets what was said
   * @throws MilterError ERR_MILTER_FILTER for an answer that is none, ERR_MILTER_MALFORMED, ERR_MILTER_TIMEOUT,
   *   ERR_MILTER_CONNECTION
   */
  async ask(command: StageCommand, macros: ClientMacros, steps: Step[]): Promise<Answer> {
    const stage = command.type;
    const { letter, no, nr } = STAGES[stage];
    if (!this.#knows(stage)) return GO_ON;
    const pairs = this.#macrosOf(stage, macros);
    const timeout = this.#timeout(stage);
    if (pairs.length > 0) {
      await this.#conversation.send({ type: 'macro', stage: letter, macros: pairs }, stage, timeout);
    }
    if ((this.agreed.protocol & no) !== 0) return GO_ON;
    await this.#conversation.send(command, stage, timeout);
    if ((this.agreed.protocol & nr) !== 0) {
      steps.push({ stage, command });
      return GO_ON;
    }
    const modifications: Modification[] = [];
    let bodyOver = false;
    for (;;) {
      const reply = await this.#conversation.reply(stage, timeout);
      bodyOver ||= modifications.at(-1)?.type === 'replBody' && reply.type !== 'replBody';
      if (reply.type === 'progress' && (stage === 'eob' || this.#isPostfix)) continue;
      if (stage === 'eob' && isModification(reply)) {
        this.#check(reply, bodyOver);
        modifications.push(reply);
        continue;
      }
      steps.push({ stage, command, reply });
      return { ...this.#answer(stage, reply), modifications };
    }
  }

  /** Cancels the message, or says that it is over; nobody answers that. */
  abort(): Promise<void> {
    return this.#conversation.send({ type: 'abort' }, 'abort', this.#options.commandTimeout);
  }

  get #isPostfix(): boolean {
    return this.#options.like === 'postfix';
  }

  #timeout(stage: Stage): number {
    return STAGES[stage].rank < STAGES.header.rank ? this.#options.commandTimeout : this.#options.contentTimeout;
  }

  /** DATA came with version 4, unknown commands with version 3. */
  #knows(stage: Stage): boolean {
    return this.agreed.version >= (stage === 'data' ? 4 : stage === 'unknown' ? 3 : 2);
  }

  /** The macros to send before a command. An empty list means the default to Postfix, and nothing to Sendmail. */
  #macrosOf(stage: Stage, macros: ClientMacros): readonly MacroPair[] {
    const number = STAGES[stage].macros;
    const asked = number === undefined ? undefined : this.#asked.get(number);
    if (asked === undefined || (asked.length === 0 && this.#isPostfix)) return pairsOf(macros, [stage]);
    const known = new Map(
      pairsOf(macros, STAGE_NAMES.slice(0, STAGE_NAMES.indexOf(stage) + 1)).map(([name, value]) => [bare(name), value]),
    );
    return asked.flatMap((name): MacroPair[] => {
      const value = known.get(bare(name));
      return value === undefined ? [] : [[name, value]];
    });
  }

  #check(change: Modification, bodyOver: boolean): void {
    const flag = ACTION_OF[change.type];
    if ((this.agreed.actions & flag) === 0) {
      throw this.#wrong('eob', change, `It sent ${change.type} without having asked for ${actionNames(flag)[0]}`);
    }
    if (change.type === 'replBody' && bodyOver && this.#isPostfix) {
      throw this.#wrong('eob', change, 'It sent more of the body after something else, which ends the body in Postfix');
    }
  }

  #answer(stage: Stage, reply: Reply): Answer {
    switch (reply.type) {
      case 'continue':
      case 'accept':
      case 'reject':
      case 'tempFail':
        return { outcome: reply.type, hangUp: false, modifications: [] };
      case 'discard':
        if (stage === 'connect' || stage === 'helo') break;
        return { outcome: 'discard', hangUp: false, modifications: [] };
      case 'skip':
        if (stage !== 'body') break;
        return { outcome: 'skip', hangUp: false, modifications: [] };
      case 'shutdown':
        if (!this.#isPostfix) break;
        return { outcome: 'tempFail', hangUp: true, modifications: [] };
      case 'replyCode':
        return this.#refusal(stage, reply.text);
      default:
    }
    throw this.#wrong(stage, reply, `It answered ${reply.type}, which is no answer to that`);
  }

  #refusal(stage: Stage, text: string): Answer {
    try {
      const reply = parseSmtpReply(text);
      const outcome = reply.code < 500 ? 'tempFail' : 'reject';
      const words = stage === 'connect' && !this.#isPostfix ? {} : { reply }; // Sendmail greets with its own
      return { outcome, ...words, hangUp: reply.code === 421, modifications: [] };
    } catch (error) {
      const { code, message } = error as MilterError;
      throw this.#conversation.fail(stage, code, message, { packet: 'replyCode' });
    }
  }

  #wrong(stage: Stage, { type }: Reply, message: string): MilterError {
    return this.#conversation.fail(stage, 'ERR_MILTER_FILTER', message, { packet: type });
  }
}

/** `{i}` and `i` are the same macro. */
function bare(name: string): string {
  return name.replace(/^\{(.*)\}$/, '$1');
}

/** The macros of some stages, in their order. */
function pairsOf(macros: ClientMacros, stages: readonly Stage[]): MacroPair[] {
  return stages
    .flatMap((stage) => Object.entries(macros[stage] ?? {}))
    .filter((pair): pair is [string, string] => pair[1] !== undefined);
}
