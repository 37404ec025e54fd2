/**
 * One connection of a mail server: takes its commands in order, calls the callbacks, and writes exactly one reply to
 * each command that expects one. Nobody else writes. It knows no socket: a port takes what it says.
 *
 * The synchronous path makes no promise and no closure. A callback that returns a promise makes the session busy: what
 * comes meanwhile waits in the inbox, of which only the kinds are looked at, so that an ABORT or the end of the
 * connection aborts `signal` at once.
 */
import createDebug from 'debug';
import type { Command, MacroCommand, NegotiateCommand } from '../codec/commands.js';
import { commandParser, type OddPacket, type Parser } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import { ACCEPT, CONN_FAIL, CONTINUE, SKIP, SMFIP_SKIP, TEMPFAIL, type Verdict } from '../constants.js';
import { MilterError } from '../errors.js';
import { Conversation, GO_ON } from './conversation.js';
import { aborted, outOfOrder, thrownBy, timeout } from './failures.js';
import type { EditCounts } from './edits.js';
import type { Answer } from './host.js';
import { Inbox } from './inbox.js';
import { MacroStore } from './macros.js';
import { MessageLog } from './message-log.js';
import type { MilterClass } from './milter-class.js';
import { negotiate, NOTHING_WANTED, type Agreement } from './negotiate.js';
import type { CheckedOptions, ErrorPolicy } from './options.js';
import { verdictFor } from './policy.js';
import type { SessionExtras, SessionPort } from './port.js';
import { Runner, type RunnerOwner } from './runner.js';
import { LazySignal, type Reason } from './signals.js';
import { STAGES, stageOfLetter, type Stage, type StageCommand, type StageRow } from '../stages.js';
import { Timer } from './timer.js';
import { plainly, replyOf, scopeOf, type Scope } from './verdicts.js';

const debug = createDebug('milter:session');

export class Session implements RunnerOwner {
  readonly options: CheckedOptions;
  readonly shared: unknown;
  readonly macros = new MacroStore();

  readonly #runner: Runner;
  readonly #port: SessionPort;
  readonly #policy: ErrorPolicy;
  readonly #overloaded: boolean;
  /** What was agreed before this session took over. */
  readonly #agreed: Agreement | undefined;
  readonly #parser: Parser<Command>;
  readonly #inbox = new Inbox();
  readonly #talk = new Conversation();
  readonly #log: MessageLog;
  readonly #connectionSignal = new LazySignal();
  readonly #messageSignal = new LazySignal();
  readonly #idle = new Timer(() => this.#silent());

  /** The body that came inside an EOB: handled like any other, but the one reply is EOB's. */
  #tail: Command | undefined;
  #draining = false;

  /** The last command that came, for errors about what follows it. */
  #at: Command['type'] | 'start' = 'start';

  /** What was written must be taken before more is read. */
  #outputFull = false;
  #paused = false;

  // How it ends: no more input comes; it must end when the callback at work has ended; it has ended.
  #inputEnded = false;
  #ending = false;
  #over = false;
  #error: MilterError | undefined;

  constructor(milterClass: MilterClass, port: SessionPort, extras: SessionExtras = {}) {
    this.#runner = new Runner(this, milterClass, extras.elsewhere);
    this.options = milterClass.options;
    this.#policy = milterClass.errorPolicy;
    this.shared = extras.shared;
    this.#overloaded = extras.overloaded === true;
    this.#agreed = extras.agreement;
    this.#port = port;
    const { maxPayload } = this.options;
    this.#parser = commandParser({ maxPayload, reusedChunks: extras.reusedChunks });
    this.#log = new MessageLog(this.options, this.macros);
    this.#idle.start(this.options.negotiationTimeout);
    this.#open();
  }

  // ---- what the host needs ------------------------------------------------------------------------------------------

  get agreement(): Agreement | undefined {
    return this.#talk.agreement;
  }

  get bodySkipped(): boolean {
    return this.#talk.bodySkipped;
  }

  get signal(): AbortSignal {
    return this.#talk.inMessage ? this.#messageSignal.signal : this.#connectionSignal.signal;
  }

  sendProgress(): void {
    if (this.#over || this.#ending) return;
    this.#port.reply({ type: 'progress' });
    this.flush();
  }

  // ---- input --------------------------------------------------------------------------------------------------------

  /**
   * Takes bytes. False: take a rest until the port's `resume()`.
   * @param length how many of the chunk's bytes count
   */
  feed(chunk: Buffer, length = chunk.length): boolean {
    if (this.#over || this.#ending) return true;
    this.#idle.touch();
    const ahead = this.#runner.busy;
    try {
      this.#parser.parse(chunk, this, length);
    } catch (error) {
      if (!this.#over) this.#fail(error); // what follows a QUIT is nobody's
    }
    return this.#goOn(ahead, length);
  }

  /** Takes a command. False: take a rest until the port's `resume()`. */
  receive(command: Command): boolean {
    if (this.#over || this.#ending) return true;
    this.#idle.touch();
    const ahead = this.#runner.busy;
    try {
      this.packet(command);
    } catch (error) {
      this.#fail(error);
    }
    return this.#goOn(ahead, ahead ? sizeOf(command) : 0);
  }

  /** Called by the parser for each command; a strict one gives no others. */
  packet(packet: Command | OddPacket): void {
    if (this.#over || this.#ending) return;
    const command = packet as Command;
    this.#at = command.type;
    if (!this.#runner.busy && this.#inbox.empty) {
      this.#handle(command);
      if (!this.#inbox.empty) this.#pump(); // an EOB came apart
      return;
    }
    this.#inbox.add(command);
    if (command.type === 'abort') this.#messageSignal.abort(aborted);
    else if (command.type === 'quit' || command.type === 'quitNewConnection') this.#abortSignals(aborted);
  }

  /** No more input will come: what has come is still handled. */
  end(): void {
    if (this.#over || this.#ending || this.#inputEnded) return;
    this.#inputEnded = true;
    try {
      this.#parser.end();
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#abortSignals(new MilterError('ERR_MILTER_CONNECTION', 'The mail server has closed the connection'));
    if (!this.#runner.busy && this.#inbox.empty) this.#finish();
  }

  /** The connection is broken: nothing that waits is handled any more. */
  lost(cause: Error): void {
    if (this.#over || this.#ending) return;
    debug('connection lost: %s', cause.message);
    this.#endWith(new MilterError('ERR_MILTER_CONNECTION', `The connection was lost: ${cause.message}`, { cause }));
  }

  /** What was written has been taken. */
  drained(): void {
    this.#outputFull = false;
    this.#runner.drained();
    this.#resume();
  }

  /** @param ahead a callback was busy when the bytes came: those of its own command do not count */
  #goOn(ahead: boolean, bytes: number): boolean {
    if (ahead || !this.#inbox.empty) this.#inbox.count(bytes);
    this.flush();
    this.#paused = this.#outputFull || this.#inbox.full;
    return !this.#paused;
  }

  #resume(): void {
    if (!this.#paused || this.#outputFull || this.#inbox.full) return;
    this.#paused = false;
    this.#port.resume();
  }

  /** Goes on with what has come meanwhile. */
  #pump(): void {
    this.#guard(() => {
      while (!this.#runner.busy && !this.#over && !this.#inbox.empty) this.#handle(this.#inbox.take());
      if (!this.#runner.busy) this.#inbox.clear();
    });
    this.flush();
    if (this.#inputEnded && !this.#runner.busy && this.#inbox.empty) this.#finish();
    this.#resume();
  }

  #guard(go: () => void): void {
    try {
      go();
    } catch (error) {
      this.#fail(error);
    }
  }

  // ---- the end ------------------------------------------------------------------------------------------------------

  /** New messages are refused for now, so that the mail server comes back later; the one in progress is finished. */
  drain(): void {
    this.#draining = true;
  }

  /** Ends the session now: a command that waits is refused for now, abort() and close() are called. */
  destroy(): void {
    if (this.#over) return;
    this.#abortSignals(new MilterError('ERR_MILTER_CLOSING', 'The milter is closing'));
    const command = this.#runner.waiting;
    if (this.#runner.busy && command === undefined) {
      this.#ending = true; // abort() or close() is at work
      return;
    }
    if (command !== undefined) {
      this.#runner.giveUp();
      const heard = !this.#ending && this.#expectsReply(command);
      if (heard) this.#port.reply(this.options.dryRun ? GO_ON : { type: TEMPFAIL });
    }
    this.#finish();
  }

  /** The mail server has broken the protocol, or we have a bug: nothing that it sends can be understood any more. */
  #fail(cause: unknown): void {
    const error = thrownBy('session', cause, 'The session failed');
    if (error.stage === undefined) Object.assign(error, { stage: this.#at });
    this.report(error);
    this.#endWith(error);
  }

  #endWith(error: MilterError): void {
    this.#error ??= error;
    this.#inbox.clear();
    this.#abortSignals(error);
    if (this.#runner.busy) {
      this.#ending = true;
      this.#runner.cancelDelivery();
    } else {
      this.#finish();
    }
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#port.flush();
    this.#inbox.clear();
    this.#idle.stop();
    const close = (): void => this.#runner.close(() => this.#port.close(this.#error));
    if (this.#talk.inMessage) this.#abort(true, close);
    else close();
  }

  /** Nothing came for too long; while a callback is busy, it is the mail server that waits. */
  #silent(): void {
    const { negotiationTimeout, idleTimeout } = this.options;
    if (this.agreement === undefined) this.#fail(timeout('No negotiation came', negotiationTimeout));
    else if (this.#runner.busy) this.#idle.start(idleTimeout);
    else this.#fail(timeout('Nothing came from the mail server', idleTimeout));
  }

  report(error: MilterError): void {
    this.options.log.error({ err: error, code: error.code, queueId: this.macros.get('i') }, error.message);
    try {
      this.#port.report(error);
    } catch (failure) {
      debug('a listener failed: %s', failure); // it must not harm the session, let alone the process
    }
  }

  #abortSignals(reason: Reason): void {
    this.#messageSignal.abort(reason);
    this.#connectionSignal.abort(reason);
  }

  // ---- commands -----------------------------------------------------------------------------------------------------

  #handle(command: Command): void {
    const { type } = command;
    if (this.agreement === undefined && type !== 'negotiate' && type !== 'macro' && type !== 'quit') {
      throw outOfOrder(type, 'a command before the negotiation');
    }
    switch (type) {
      case 'macro':
        this.#macro(command);
        break;
      case 'negotiate':
        this.#negotiate(command);
        break;
      case 'abort':
        this.macros.begin('A');
        this.#abort(this.#talk.inMessage, nothing);
        break;
      case 'quit':
        this.#abortSignals(aborted);
        this.#finish();
        break;
      case 'quitNewConnection':
        this.#abortSignals(aborted);
        if (this.#talk.inMessage) this.#abort(true, () => this.#nextConnection());
        else this.#nextConnection();
        break;
      default:
        this.#event(command);
    }
  }

  #negotiate(offer: NegotiateCommand): void {
    if (this.agreement !== undefined) throw outOfOrder('negotiate', 'a second offer');
    const wanted = this.#runner.wants();
    const { agreement: made, reply } = negotiate(offer, wanted?.wants ?? NOTHING_WANTED);
    const agreement = this.#agreed ?? made;
    this.#talk.agreement = agreement;
    if (wanted !== undefined) this.#talk.callbacks = wanted.callbacks;
    this.#idle.start(this.options.idleTimeout);
    this.#port.agreed(agreement.maxPayload);
    this.#port.reply(reply);
    debug('agreed on version %d, actions 0x%s', agreement.version, agreement.actions.toString(16));
  }

  /** Macros of a command that is not sent stand for the command: they begin and end what it would. */
  #macro(command: MacroCommand): void {
    const stage = stageOfLetter(command.stage);
    if (stage === undefined || this.agreement === undefined || this.#talk.sends(STAGES[stage])) {
      this.macros.define(command);
      return;
    }
    if (this.#interrupts(stage)) {
      this.#abort(true, () => this.#macro(command));
      return;
    }
    this.macros.define(command);
    this.#arrive(stage, STAGES[stage]);
    this.macros.begin(command.stage);
  }

  /** A command that has a callback. */
  #event(command: StageCommand): void {
    const stage = command.type;
    const row = STAGES[stage];
    if (this.#interrupts(stage)) {
      this.#abort(true, () => this.#event(command));
      return;
    }
    if (stage === 'connect') this.#talk.connect();
    this.#arrive(stage, row);
    if (stage === 'eob' && command.chunk !== undefined && this.#talk.inMessage) {
      this.#splitEob(command.chunk);
      return;
    }
    const macros = this.macros.begin(row.letter);
    const standing = this.#talk.standingReply(row);
    const kept = this.#talk.keptFor(stage);
    if (standing !== undefined) {
      if (this.#expectsReply(command)) this.#port.reply(standing);
    } else if (kept !== undefined) {
      if (this.#expectsReply(command)) this.#answer(kept.stage, stage, kept.answer, kept.scope);
    } else if (this.#talk.wants(stage)) {
      this.#runner.run(command, macros);
    } else if (this.#expectsReply(command)) {
      this.#port.reply(GO_ON);
    }
  }

  /** HELO and MAIL end a message that is in progress. */
  #interrupts(stage: Stage): boolean {
    return this.#talk.inMessage && (stage === 'helo' || stage === 'mailFrom');
  }

  #arrive(stage: Stage, row: StageRow): void {
    if (stage === 'helo') this.#talk.helo();
    else if (stage === 'mailFrom') this.#beginMessage();
    else if (row.rank > 0 && !this.#talk.inMessage && this.#talk.beginsMessage(stage)) this.#beginMessage();
  }

  #beginMessage(): void {
    if (this.#draining) this.#turnAway();
    this.#talk.begin();
    this.#messageSignal.renew();
    this.#log.begin();
  }

  /** An EOB may bring the last piece of the body: body() gets that first. */
  #splitEob(chunk: Buffer): void {
    this.#tail = { type: 'body', chunk };
    this.#inbox.addFirst(this.#tail, { type: 'eob' });
  }

  #expectsReply(command: StageCommand): boolean {
    return command !== this.#tail && this.#talk.awaits(STAGES[command.type]);
  }

  #nextConnection(): void {
    this.#runner.close(() => {
      if (this.#ending) return;
      this.macros.clear();
      this.#talk.reset();
      this.#connectionSignal.renew();
      this.#open();
      const wanted = this.#runner.wants();
      if (wanted !== undefined) this.#talk.callbacks = wanted.callbacks;
    });
  }

  // ---- callbacks ----------------------------------------------------------------------------------------------------

  #open(): void {
    if (this.#overloaded) {
      this.#turnAway();
      return;
    }
    try {
      this.#runner.open();
    } catch (cause) {
      const error = thrownBy('connect', cause, 'The constructor failed');
      this.report(error);
      this.#refuse(this.#policyVerdict(error, 'connect'));
    }
  }

  /** No object, or none that works any more: every command gets this until the SMTP session is over. */
  #refuse(verdict: Verdict): void {
    const { bareReplies, dryRun } = this.options;
    this.#talk.refuse(dryRun ? GO_ON : replyOf(verdict, 'connect', bareReplies));
  }

  /** No new mail is taken now: both servers understand this in any case, and come back later. */
  #turnAway(): void {
    this.#talk.refuse(replyOf(CONN_FAIL, 'connect', false));
  }

  failed(command: StageCommand, error: MilterError): void {
    const stage = command.type;
    this.report(error);
    const verdict = this.#policyVerdict(error, stage);
    this.concluded(command, { verdict }, scopeOf(verdict, stage));
  }

  /** The command of a callback that was given up is answered without it, and so is the rest of the SMTP session. */
  expired(command: StageCommand, error: MilterError, begun: boolean): void {
    const stage = command.type;
    this.report(error);
    this.#abortSignals(error);
    if (this.#ending) {
      this.#finish();
      return;
    }
    const verdict = begun ? TEMPFAIL : this.#policyVerdict(error, stage);
    if (this.#expectsReply(command)) this.#answer(stage, stage, { verdict }, scopeOf(verdict, stage));
    if (this.#talk.inMessage) this.#endMessage('deadline', verdict);
    this.#refuse(TEMPFAIL);
    this.#pump();
  }

  resumed(go: () => void): void {
    if (this.#ending) this.#runner.discardEdits();
    else this.#guard(go);
    this.#goOnOrFinish();
  }

  notified(next: () => void): void {
    this.#guard(next);
    this.#goOnOrFinish();
  }

  abandoned(error: MilterError): void {
    this.#abortSignals(error);
    this.#refuse(TEMPFAIL);
  }

  #goOnOrFinish(): void {
    if (this.#ending && !this.#runner.busy) this.#finish();
    else this.#pump();
  }

  #policyVerdict(error: MilterError, stage: Stage): Verdict {
    return verdictFor(this.#policy, error, stage, (failure) => this.report(failure));
  }

  // ---- answers ------------------------------------------------------------------------------------------------------

  /** A callback has come to a verdict. */
  concluded(command: StageCommand, answer: Answer, scope: Scope): void {
    const stage = command.type;
    const { verdict } = answer;
    if (verdict === SKIP) this.#talk.bodySkipped = true;
    if (!this.#expectsReply(command)) {
      if (verdict === CONTINUE || verdict === SKIP) return;
      if (stage !== 'unknown' || scope === 'all') this.#talk.keep(stage, answer, scope);
      else this.options.log.warn({ verdict }, 'a verdict from unknown() is lost where it is not answered');
      return;
    }
    const edits = stage === 'eob' ? this.#runner.takeEdits() : undefined;
    if (edits === undefined || edits.empty) {
      this.#answer(stage, stage, answer, scope);
      return;
    }
    if (verdict === CONTINUE || verdict === ACCEPT) {
      if (!this.options.dryRun) {
        this.#runner.deliver(command, edits, (this.agreement as Agreement).maxPayload, answer, scope);
        return;
      }
      this.#log.edits = edits.counts();
    }
    edits.discard();
    this.#answer(stage, stage, answer, scope);
  }

  /**
   * Replies, and draws the consequences.
   * @param stage whose verdict it is
   * @param at the command that is answered, maybe a later one
   */
  #answer(stage: Stage, at: Stage, answer: Answer, scope: Scope): void {
    const { verdict, text } = answer;
    const { bareReplies, dryRun } = this.options;
    if (dryRun) {
      if (verdict !== CONTINUE) this.#log.dryRun(stage, answer);
      this.#port.reply(GO_ON);
    } else if (text !== undefined) {
      this.#port.reply({ type: 'replyCode', text });
    } else if (verdict === SKIP && ((this.agreement as Agreement).protocol & SMFIP_SKIP) === 0) {
      this.#port.reply(GO_ON);
    } else {
      this.#port.reply(replyOf(verdict, stage, bareReplies));
    }
    if (scope === 'go' || scope === 'own') return;
    if (this.#talk.inMessage) this.#endMessage(stage, verdict);
    this.#talk.stand(scope, at, dryRun ? GO_ON : replyOf(plainly(verdict), stage, bareReplies));
  }

  #endMessage(stage: Stage | 'abort' | 'deadline', verdict: string): void {
    this.#log.end(stage, verdict);
    this.#talk.endMessage();
    this.#tail = undefined;
    this.macros.endMessage();
  }

  delivered(answer: Answer, scope: Scope, counts: EditCounts): void {
    this.#log.edits = counts;
    this.#answer('eob', 'eob', answer, scope);
  }

  /** Where a part of the body is out, only a refusal makes the mail server forget it: the error policy is not asked. */
  deliveryFailed(error: MilterError): void {
    this.report(error);
    this.#answer('eob', 'eob', { verdict: TEMPFAIL }, 'msg');
  }

  reply(reply: Reply): void {
    this.#port.reply(reply);
  }

  flush(): boolean {
    if (!this.#over && !this.#port.flush()) this.#outputFull = true;
    return !this.#outputFull;
  }

  // ---- abort() and close() ------------------------------------------------------------------------------------------

  /** Calls abort(), ends the message if there is one, and goes on. */
  #abort(interrupted: boolean, next: () => void): void {
    if (interrupted) this.#messageSignal.abort(aborted);
    this.#runner.abort(interrupted, () => {
      if (interrupted) this.#endMessage('abort', 'aborted');
      this.#talk.forgetMessage();
      this.macros.endMessage();
      if (this.#over || !this.#ending) next();
    });
  }
}

function nothing(): void {}

/** About how many bytes a command holds; exactly, where a decoder has made it. */
function sizeOf(command: Command): number {
  if (command.raw !== undefined) return command.raw.length;
  return 'chunk' in command && command.chunk !== undefined ? command.chunk.length : 64;
}
