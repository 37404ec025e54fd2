/**
 * What the factory knows of a conversation that a worker has: which commands wait for a reply, whether a message is in
 * progress, and what a worker that takes over must be told first. From this follows what the mail server hears when the
 * worker dies:
 *
 *   it was waiting on                             it gets
 *   the negotiation                               the answer of another worker
 *   CONNECT HELO MAIL DATA header EOH body EOB    a temporary failure
 *   RCPT, an unknown command                      a temporary failure, and so does the rest of the message
 *   nothing                                       nothing now, and a temporary failure for the rest of the message
 *
 * It neither reads nor writes anything. See "When a worker dies" in BEHAVIOUR.md.
 */
import type { Command, NegotiateCommand } from '../codec/commands.js';
import type { NegotiateReply, Reply } from '../codec/replies.js';
import { ACCEPT, CONN_FAIL, REJECT, TEMPFAIL, type Verdict } from '../constants.js';
import { Conversation, GO_ON } from '../session/conversation.js';
import { outOfOrder } from '../session/failures.js';
import { agreementOf, negotiate, NOTHING_WANTED, type Agreement } from '../session/negotiate.js';
import { replyOf, scopeOf, scopeOfAnswer, type Scope } from '../session/verdicts.js';
import { isStage, STAGES, type Stage } from '../stages.js';

/** A command, as far as the ledger knows it: macros travel with the others. */
export type Sent = Exclude<Command['type'], 'macro'>;

/** A command that waits for its reply. */
export interface Waiting {
  readonly stage: Stage | 'negotiate';
  /** The mail server has had this reply from an earlier worker. */
  readonly repeated: boolean;
  /** The number of the message that it belongs to, if it belongs to one. */
  readonly message: number;
}

/** What becomes of a command: a worker gets it, it gets this reply, or it needs none. */
export type Fate = 'worker' | Reply | undefined;

/** What a reply of a worker's is. */
export type ReplyKind = 'repeated' | 'progress' | 'edit' | 'final' | 'refusal';

const EDITS = new Set<Reply['type']>([
  'addHeader',
  'insHeader',
  'chgHeader',
  'addRcpt',
  'addRcptPar',
  'delRcpt',
  'chgFrom',
  'replBody',
  'quarantine',
]);

/** What a mail server is told that is to come back later. */
const LATER = replyOf(CONN_FAIL, 'connect', false);

export class Ledger {
  /** Turn away new messages. */
  draining = false;
  /** Commands without their reply, oldest first. */
  readonly waiting: Waiting[] = [];
  /** QUIT has come. */
  quit = false;

  readonly #talk = new Conversation();
  /** What came before the answer to the offer: only then it is known whether it waits for a reply. */
  readonly #early: Stage[] = [];
  readonly #refusal: Reply;
  /** The worker that knew the beginning of this message is dead. */
  #poisoned = false;
  #message = 0;

  /** @param dryRun nothing is ever refused */
  constructor(dryRun: boolean) {
    this.#refusal = dryRun ? GO_ON : { type: TEMPFAIL };
  }

  get agreement(): Agreement | undefined {
    return this.#talk.agreement;
  }

  get inMessage(): boolean {
    return this.#talk.inMessage;
  }

  /** What the worker is at work on, or will be next. */
  get head(): Waiting | undefined {
    return this.waiting[0];
  }

  /** What the death of the worker would cost: the stage it is at, or the message. */
  get atStake(): Stage | 'negotiate' | 'message' | undefined {
    const waiting = this.waiting.find(({ repeated }) => !repeated);
    return waiting?.stage ?? (this.inMessage && !this.#poisoned ? 'message' : undefined);
  }

  // ---- commands -----------------------------------------------------------------------------------------------------

  /**
   * A command has come.
   * @param type undefined for one that nobody knows: a session says so best
   * @param attached there is a worker that knows the conversation
   * @throws MilterError ERR_MILTER_SEQUENCE for a second offer, where there is no worker to say so
   */
  command(type: Sent | undefined, attached: boolean): Fate {
    switch (type) {
      case undefined:
        return 'worker';
      case 'negotiate':
        if (this.agreement !== undefined && !attached) throw outOfOrder(type, 'a second offer');
        return 'worker';
      case 'abort':
        this.#endMessage();
        this.#talk.forgetMessage();
        return attached ? 'worker' : undefined;
      case 'quit':
        this.quit = true;
        return attached ? 'worker' : undefined;
      case 'quitNewConnection':
        this.#endMessage();
        this.#talk.reset();
        return attached ? 'worker' : undefined;
      default:
        return this.agreement === undefined ? 'worker' : this.#event(type, attached);
    }
  }

  #event(stage: Stage, attached: boolean): Fate {
    if (this.inMessage && (stage === 'helo' || stage === 'mailFrom')) this.#endMessage();
    if (stage === 'helo') this.#talk.helo();
    else if (stage === 'mailFrom' || this.#beginsMessage(stage)) this.#begin(attached);
    if (!attached) {
      if (this.#poisoned) return this.#refuse(stage);
      const standing = this.#talk.standingReply(STAGES[stage]);
      if (standing !== undefined) return this.#talk.awaits(STAGES[stage]) ? standing : undefined;
    }
    return 'worker';
  }

  /** A worker is given the command. */
  given(type: Sent | undefined): void {
    if (type === 'negotiate') this.#wait(type, false);
    else if (!isStage(type)) return;
    else if (this.agreement === undefined) this.#early.push(type);
    else if (this.#talk.awaits(STAGES[type])) this.#wait(type, false);
  }

  #wait(stage: Waiting['stage'], repeated: boolean): void {
    this.waiting.push({ stage, repeated, message: this.#message });
  }

  /** Without a worker, where MAIL is sent, what comes outside of a message belongs to none. */
  #beginsMessage(stage: Stage): boolean {
    return STAGES[stage].rank > 0 && !this.inMessage && !this.#talk.sends(STAGES.mailFrom);
  }

  #begin(attached: boolean): void {
    if (this.draining && !attached) this.#talk.refuse(LATER);
    this.#talk.begin();
  }

  #endMessage(): void {
    this.#talk.endMessage();
    this.#poisoned = false;
    this.#message++;
  }

  // ---- replies ------------------------------------------------------------------------------------------------------

  /** A worker takes over and is told what the one before knew: these stages, whose replies the mail server has had. */
  repeat(stages: ReadonlyArray<Stage | 'negotiate'>): void {
    for (const stage of stages) {
      if (stage === 'negotiate' || this.#talk.awaits(STAGES[stage])) this.#wait(stage, true);
    }
  }

  /**
   * A reply has come from the worker.
   * @param read gives the whole of it
   */
  reply(type: Reply['type'], read: () => Reply): ReplyKind {
    const head = this.head;
    if (type === 'progress') return 'progress';
    if (EDITS.has(type)) return 'edit';
    this.waiting.shift();
    if (head === undefined || head.repeated) return 'repeated';
    if (head.stage === 'negotiate') {
      this.#talk.agreement = agreementOf(read() as NegotiateReply);
      for (const stage of this.#early.splice(0)) {
        this.#event(stage, true);
        this.given(stage);
      }
      return 'final';
    }
    const [verdict, text] = verdictOf(type, read);
    const scope = text === undefined ? scopeOf(verdict, head.stage) : scopeOfAnswer({ verdict, text }, head.stage);
    this.#over(scope, head, verdict === ACCEPT ? GO_ON : this.#refusal);
    return verdict === ACCEPT || verdict === 'continue' ? 'final' : 'refusal';
  }

  #over(scope: Scope, { stage, message }: Pick<Waiting, 'stage' | 'message'>, standing: Reply): void {
    if (scope === 'go' || scope === 'own') return;
    if (scope === 'msg' && message !== this.#message) return; // the mail server has gone on without the reply
    this.#endMessage();
    this.#talk.stand(scope, stage as Stage, standing);
  }

  // ---- death --------------------------------------------------------------------------------------------------------

  /**
   * The worker is dead.
   * @returns the replies that the mail server gets now; or that the negotiation must be given to another worker
   */
  died(): 'negotiate' | Reply[] {
    const waiting = this.waiting.splice(0).filter(({ repeated }) => !repeated);
    if (waiting[0]?.stage === 'negotiate') return 'negotiate';
    const replies: Reply[] = [];
    for (const command of waiting) replies.push(this.#refuseNow(command));
    if (this.inMessage) this.#poisoned = true;
    return replies;
  }

  /** No worker takes the command. */
  unserved(stage: Stage): Fate {
    if (this.inMessage) this.#poisoned = true;
    return this.#refuse(stage);
  }

  /**
   * No worker takes the offer: whatever comes is refused for now, as where there are too many connections.
   * @returns the replies that the mail server gets now
   * @throws MilterError ERR_MILTER_NEGOTIATION
   */
  turnAway(offer: NegotiateCommand): Reply[] {
    const { agreement, reply } = negotiate(offer, NOTHING_WANTED);
    this.#talk.agreement = agreement;
    this.#talk.refuse(LATER);
    return [reply, ...this.#early.splice(0).map(() => LATER)];
  }

  #refuse(stage: Stage): Fate {
    return this.#talk.awaits(STAGES[stage]) ? this.#refuseNow({ stage, message: this.#message }) : undefined;
  }

  #refuseNow(command: Pick<Waiting, 'stage' | 'message'>): Reply {
    this.#over(scopeOf(TEMPFAIL, command.stage as Stage), command, this.#refusal);
    return this.#refusal;
  }
}

/** The verdict that a reply says; with the text of a reply code. */
function verdictOf(type: Reply['type'], read: () => Reply): [Verdict, string?] {
  if (type !== 'replyCode') return [type as Verdict];
  const { text } = read() as Extract<Reply, { type: 'replyCode' }>;
  return [text.startsWith('5') ? REJECT : TEMPFAIL, text];
}
