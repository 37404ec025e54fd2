/**
 * Where a conversation is: what was agreed, whether a message is in progress, which verdict still stands. It decides what
 * a command is answered with when its callback is not asked; it neither calls nor writes anything.
 */
import type { Reply } from '../codec/replies.js';
import { CONTINUE, TEMPFAIL } from '../constants.js';
import { outOfOrder } from './failures.js';
import type { Answer } from './host.js';
import type { Agreement } from './negotiate.js';
import { STAGES, type Stage, type StageRow } from '../stages.js';
import type { Scope } from './verdicts.js';

/** A verdict that later commands get again. */
interface Standing {
  readonly scope: Exclude<Scope, 'go' | 'own'>;
  readonly reply: Reply;
  /** It answered the end of a message. */
  readonly complete: boolean;
}

/** A verdict from a callback that is not answered: it is given with the next answer. */
export interface Kept {
  readonly stage: Stage;
  readonly answer: Answer;
  readonly scope: Standing['scope'];
}

export class Conversation {
  agreement: Agreement | undefined;
  /** The callbacks that are to be called. */
  callbacks: ReadonlySet<Stage> = new Set();
  inMessage = false;
  /** body() wants no more of this message. */
  bodySkipped = false;

  #connected = false;
  #standing: Standing | undefined;
  #kept: Kept | undefined;

  /** Whether the mail server sends a command. */
  sends({ no }: StageRow): boolean {
    return ((this.agreement as Agreement).protocol & no) === 0;
  }

  /** Whether the mail server waits for the answer to a command. */
  awaits({ nr }: StageRow): boolean {
    return ((this.agreement as Agreement).protocol & nr) === 0;
  }

  // ---- borders ------------------------------------------------------------------------------------------------------

  /** @throws MilterError ERR_MILTER_SEQUENCE for a second CONNECT */
  connect(): void {
    if (this.#connected) throw outOfOrder('connect', 'a second CONNECT');
    this.#connected = true;
  }

  /** HELO: only what holds for the whole SMTP session still stands. */
  helo(): void {
    if (this.#standing?.scope !== 'all') this.#standing = undefined;
    if (this.#kept?.scope !== 'all') this.#kept = undefined;
  }

  /** A message begins, unless the milter wants to hear of no more. */
  begin(): void {
    this.forgetMessage();
    this.inMessage = this.#standing === undefined;
  }

  /**
   * Whether a command of a message that came outside of one begins one. It does where MAIL is not sent: no server goes
   * on with a message that has got its verdict, so this is the next one. Else it is a stray.
   * @throws MilterError ERR_MILTER_SEQUENCE for an end of message where there is nothing to end
   */
  beginsMessage(stage: Stage): boolean {
    if (!this.sends(STAGES.mailFrom)) return true;
    if (stage === 'eob' && this.#standing?.complete !== false) throw outOfOrder(stage, 'no message to end');
    return false;
  }

  /** ABORT or MAIL: what was said about the last message is past. */
  forgetMessage(): void {
    if (this.#standing?.scope === 'msg') this.#standing = undefined;
  }

  /** The message is over. */
  endMessage(): void {
    this.inMessage = false;
    this.bodySkipped = false;
    if (this.#kept?.scope === 'msg') this.#kept = undefined;
  }

  /** QUIT_NC: another SMTP session follows; what was agreed stays. */
  reset(): void {
    this.#connected = false;
    this.#standing = undefined;
    this.#kept = undefined;
  }

  // ---- verdicts -----------------------------------------------------------------------------------------------------

  /** Everything gets this reply until the SMTP session is over. */
  refuse(reply: Reply): void {
    this.#standing = { scope: 'all', reply, complete: false };
  }

  /** After a verdict with consequences: the reply that later commands get. */
  stand(scope: Standing['scope'], at: Stage, reply: Reply): void {
    this.#standing = { scope, reply, complete: scope === 'msg' && at === 'eob' };
  }

  /** Keeps a verdict that could not be given. A recipient that was not answered cannot be refused alone any more. */
  keep(stage: Stage, answer: Answer, scope: Scope): void {
    this.#kept = { stage, answer, scope: scope === 'all' || scope === 'helo' ? scope : 'msg' };
  }

  /** The kept verdict that a command gets, if it is answered: an unknown one is no part of a message. */
  keptFor(stage: Stage): Kept | undefined {
    return stage !== 'unknown' || this.#kept?.scope === 'all' ? this.#kept : undefined;
  }

  /**
   * The reply to a command that no callback, and no kept verdict, is asked about: the verdict that stands; a refusal for
   * now where a command of a message comes outside of one.
   */
  standingReply({ rank }: StageRow): Reply | undefined {
    if (this.#standing !== undefined && (rank > 0 || this.#standing.scope === 'all')) return this.#standing.reply;
    return rank > 0 && !this.inMessage ? STRAY : undefined;
  }

  /** Whether the callback of a command is to be called. */
  wants(stage: Stage): boolean {
    return this.callbacks.has(stage) && (stage !== 'body' || !this.bodySkipped);
  }
}

const STRAY: Reply = { type: TEMPFAIL };

/** The answer to what nobody is asked about. */
export const GO_ON: Reply = { type: CONTINUE };
