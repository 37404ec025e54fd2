/** Asks a milter one question: the macros of the stage, the command, and what it answers. */
import createDebug from 'debug';
import type { Command } from '../codec/commands.js';
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

const debug = createDebug('milter:client');

/** Whose macros Postfix sends before commands that have none of their own. */
const POSTFIX_BORROWS: Partial<Record<Stage, Stage>> = { header: 'eoh', body: 'eob' };

/** An answer. */
export interface Answer {
  readonly outcome: Outcome | 'skip';
  /** The SMTP reply that came with it. */
  readonly reply?: SmtpReply;
  /** The mail server is to end the SMTP session. */
  readonly hangUp: boolean;
  readonly modifications: readonly Modification[];
  /** Why each message is held while the milter does not answer. */
  readonly held?: string;
  /** It is the default action, because of this. */
  readonly error?: MilterError;
}

export const GO_ON: Answer = { outcome: 'continue', hangUp: false, modifications: [] };

export class Exchange {
  readonly agreed: NegotiateReply;
  /** What is known of the SMTP client and told only where it is asked for; names without braces. */
  peer: Readonly<Record<string, string>> = {};
  readonly #name: string;
  readonly #conversation: Conversation;
  readonly #options: CheckedClientOptions;
  /** Names of the macros the milter asked for, by stage. */
  readonly #asked: ReadonlyMap<number, readonly string[]>;

  /** @param name of the milter, for the steps */
  constructor(name: string, conversation: Conversation, agreed: NegotiateReply, options: CheckedClientOptions) {
    this.#name = name;
    this.agreed = agreed;
    this.#conversation = conversation;
    this.#options = options;
    this.#asked = new Map(agreed.macros?.map(({ stage, names }) => [stage, names.split(/[ ,]+/).filter(Boolean)]));
  }

  /** Whether a command is sent at all. */
  hears(stage: Stage): boolean {
    return this.#knows(stage) && (this.agreed.protocol & STAGES[stage].no) === 0;
  }

  /** Whether the milter has asked for a capability or a mode: SMFIP_. */
  agrees(bit: number): boolean {
    return (this.agreed.protocol & bit) !== 0;
  }

  /**
   * Sends what the milter wants of a command, and waits for the answer if there is one.
   * @param steps gets what was said
   * @throws MilterError ERR_MILTER_FILTER for an answer that is none, ERR_MILTER_MALFORMED, ERR_MILTER_TIMEOUT,
   *   ERR_MILTER_CONNECTION
   */
  async ask(command: StageCommand, macros: ClientMacros, steps: Step[]): Promise<Answer> {
    const stage = command.type;
    const { letter, nr } = STAGES[stage];
    if (!this.#knows(stage)) return GO_ON;
    const heard = this.hears(stage);
    const pairs = this.#macrosOf(stage, macros, heard);
    const timeout = this.#timeout(stage);
    const begun = performance.now();
    const commands: Command[] = pairs === undefined ? [] : [{ type: 'macro', stage: letter, macros: pairs }];
    if (heard) commands.push(command);
    if (commands.length > 0) {
      const mayWait = STAGES[stage].rank >= STAGES.header.rank && this.agrees(nr);
      const drained = this.#conversation.send(stage, timeout, commands, mayWait);
      if (heard && !this.agrees(nr)) this.#conversation.expect();
      if (drained !== undefined) await drained;
    }
    if (!heard) return GO_ON;
    if (this.agrees(nr)) {
      steps.push({ stage, command, milter: this.#name, ms: performance.now() - begun });
      return GO_ON;
    }
    const modifications: Modification[] = [];
    let bodyOver = false;
    for (;;) {
      const reply = await this.#reply(stage, timeout, begun);
      bodyOver ||= modifications.at(-1)?.type === 'replBody' && reply.type !== 'replBody';
      if (reply.type === 'progress' && (stage === 'eob' || this.#isPostfix)) continue;
      if (stage === 'eob' && isModification(reply)) {
        this.#check(reply, bodyOver);
        modifications.push(reply);
        continue;
      }
      steps.push({ stage, command, reply, milter: this.#name, ms: performance.now() - begun });
      const answer = this.#answer(stage, reply);
      return modifications.length > 0 ? { ...answer, modifications } : answer;
    }
  }

  /** Cancels the message, or says that it is over; nobody answers that. */
  abort(): void {
    this.#conversation.tell('abort', [{ type: 'abort' }]);
  }

  /** The end of a message may take no longer than eobTimeout altogether. */
  #reply(stage: Stage, timeout: number, begun: number): Promise<Reply> {
    if (stage !== 'eob') return this.#conversation.reply(stage, timeout);
    const { eobTimeout } = this.#options;
    const left = Math.max(1, Math.ceil(eobTimeout - (performance.now() - begun)));
    if (left >= timeout) return this.#conversation.reply(stage, timeout);
    return this.#conversation.reply(stage, left, `It has not come to an end within ${eobTimeout} ms`);
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

  /**
   * The macros to send before a command; undefined for no packet at all. Postfix sends one before each command, also
   * when it is empty; those of EOH before each header, those of EOB before each piece of the body. Sendmail sends one
   * only where there are macros, but then also for a command that the milter does not want.
   */
  #macrosOf(stage: Stage, macros: ClientMacros, heard: boolean): readonly MacroPair[] | undefined {
    const content = STAGES[stage].rank >= STAGES.header.rank;
    if (this.#isPostfix && content && !heard) return undefined;
    const pairs = this.#pairsOf(stage, macros);
    return pairs.length > 0 || this.#isPostfix ? pairs : undefined;
  }

  /** An empty list means the default to Postfix, and nothing to Sendmail. */
  #pairsOf(stage: Stage, macros: ClientMacros): readonly MacroPair[] {
    const like = this.#isPostfix && macros[stage] === undefined ? (POSTFIX_BORROWS[stage] ?? stage) : stage;
    const number = STAGES[like].macros;
    const asked = number === undefined ? undefined : this.#asked.get(number);
    if (asked === undefined || (asked.length === 0 && this.#isPostfix)) return pairsOf(macros, [like]);
    const known = new Map(
      pairsOf(macros, STAGE_NAMES.slice(0, STAGE_NAMES.indexOf(like) + 1)).map(([name, value]) => [bare(name), value]),
    );
    return asked.flatMap((name): MacroPair[] => {
      const value = known.get(bare(name)) ?? this.peer[bare(name)];
      return value === undefined ? [] : [[name, value]];
    });
  }

  #check(change: Modification, bodyOver: boolean): void {
    const flag = ACTION_OF[change.type];
    if ((this.agreed.actions & flag) === 0) {
      debug('%s comes without %s', change.type, actionNames(flag)[0]);
    }
    if ((this.agreed.actions & flag) === 0 && this.#options.unagreedEdits === 'refuse') {
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
    throw this.#wrong(stage, reply, `It answered ${reply.type}, expected was ${this.#expected(stage)}`);
  }

  /** What would have been an answer. */
  #expected(stage: Stage): string {
    const early = stage === 'connect' || stage === 'helo';
    return [
      'continue, accept, reject, tempFail',
      ...(early ? [] : ['discard']),
      ...(stage === 'body' ? ['skip'] : []),
      ...(stage === 'eob' ? ['progress, edits'] : []),
      ...(this.#isPostfix ? ['shutdown'] : []),
      'replyCode',
    ].join(', ');
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
