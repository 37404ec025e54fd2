/**
 * The milter's side of a session: makes the protocol object, calls its callbacks one at a time, waits for those that
 * return a promise, no longer than their deadline, and writes the edits of an accepted message. What comes of it is told
 * to the session, which alone decides what the mail server hears.
 */
import type { Verdict } from '../constants.js';
import type { MilterError } from '../errors.js';
import { isThenable } from '../thenable.js';
import { call } from './call.js';
import type { Elsewhere, RemoteAnswer, RemoteMilter } from './elsewhere.js';
import { Delivery, type DeliveryPort } from './delivery.js';
import type { EditCounts, Edits } from './edits.js';
import { thrownBy, tooLong } from './failures.js';
import { ProtocolHost, type Answer, type HostSession } from './host.js';
import type { MacroDict } from './macro-dict.js';
import type { MacroStore } from './macros.js';
import type { Callback } from './marks.js';
import type { MilterClass } from './milter-class.js';
import type { Wants } from './negotiate.js';
import { notify } from './notify.js';
import type { MilterProtocol, Result } from './protocol.js';
import type { Stage, StageCommand } from '../stages.js';
import { Timer } from './timer.js';
import { scopeOfAnswer, type Scope } from './verdicts.js';

/** What a runner tells its session. */
export interface RunnerOwner extends HostSession, DeliveryPort {
  readonly macros: MacroStore;
  /** A callback has come to a verdict. */
  concluded(command: StageCommand, answer: Answer, scope: Scope): void;
  /** A callback failed; it has no verdict. */
  failed(command: StageCommand, error: MilterError): void;
  /** The edits are written, but for the final reply. */
  delivered(answer: Answer, scope: Scope, counts: EditCounts): void;
  /** The edits failed after a part of the body was written. */
  deliveryFailed(error: MilterError): void;
  /** A callback, or the edits, took too long and were given up; `begun`: a part of the body was written. */
  expired(command: StageCommand, error: MilterError, begun: boolean): void;
  /** What was waited for has come: `go` does what follows from it, unless the session is to end. */
  resumed(go: () => void): void;
  /** abort() or close() has ended: `next` does what comes after it. */
  notified(next: () => void): void;
  /** abort() or close() took too long, and the object was given up. */
  abandoned(error: MilterError): void;
  report(error: MilterError): void;
}

export class Runner {
  /** A callback that returned a promise is at work, abort() and close() included, or edits are being written. */
  busy = false;
  /** The command whose callback, or whose edits, are waited for. */
  waiting: StageCommand | undefined;

  readonly #owner: RunnerOwner;
  readonly #class: MilterClass;
  readonly #deadline = new Timer(() => this.#expired());
  readonly #progress = new Timer(() => this.#stillAtWork());
  readonly #elsewhere: Elsewhere | undefined;
  #milter: MilterProtocol | undefined;
  /** The object's double, whose callbacks run in another thread. */
  #remote: RemoteMilter | undefined;
  #host: ProtocolHost | undefined;
  #delivery: Delivery | undefined;
  /** Counts what was waited for: a result that comes too late belongs to an earlier turn. */
  #turn = 0;
  /** When eob() was called: its deadline holds for the writing of the edits too. */
  #eobSince = 0;

  constructor(owner: RunnerOwner, milterClass: MilterClass, elsewhere?: Elsewhere) {
    this.#owner = owner;
    this.#class = milterClass;
    this.#elsewhere = elsewhere;
  }

  /** Makes a protocol object. @throws what its constructor throws */
  open(): void {
    const host = new ProtocolHost(this.#owner);
    this.#milter = this.#class.open(host);
    this.#host = host;
    this.#remote = this.#elsewhere?.open(this.#owner);
  }

  #isRemote(callback: Callback): boolean {
    return this.#remote !== undefined && this.#class.inThread.has(callback);
  }

  /** What the object wants of the mail server; undefined where there is none. */
  wants(): { wants: Wants; callbacks: ReadonlySet<Stage> } | undefined {
    return this.#milter === undefined ? undefined : this.#class.wants(this.#milter);
  }

  /** Calls the callback of a command. */
  run(command: StageCommand, macros: MacroDict): void {
    const host = this.#host as ProtocolHost;
    let result: Result;
    let pending: boolean;
    host.enter(command.type);
    if (command.type === 'eob') this.#eobSince = performance.now();
    if (this.#isRemote(command.type)) {
      this.#waitRemote(command, macros);
      return;
    }
    try {
      result = call(this.#milter as MilterProtocol, command, macros);
      pending = isThenable(result);
    } catch (error) {
      this.#failed(command, error);
      return;
    }
    if (pending) this.#wait(command, result as PromiseLike<Verdict | void>);
    else this.#settle(command, result as Verdict | void);
  }

  #wait(command: StageCommand, result: PromiseLike<Verdict | void>): void {
    const turn = this.#startTurn(command);
    Promise.resolve(result).then(
      (returned) => this.#late(turn, () => this.#settle(command, returned)),
      (error: unknown) => this.#late(turn, () => this.#failed(command, error)),
    );
  }

  /** Does what #wait() does with a callback of another thread: there its answer was checked already. */
  #waitRemote(command: StageCommand, macros: MacroDict): void {
    const turn = this.#startTurn(command);
    (this.#remote as RemoteMilter).call(command, macros, this.#owner.macros.all()).then(
      (result) => this.#late(turn, () => this.#settleRemote(command, result)),
      (error: unknown) => this.#late(turn, () => this.#failed(command, error)),
    );
  }

  #settleRemote(command: StageCommand, { answer, edits }: RemoteAnswer): void {
    const host = this.#host as ProtocolHost;
    if (edits !== undefined) host.edits('callInThread').adopt(edits.replies, edits.body);
    host.stage = undefined;
    this.#owner.concluded(command, answer, scopeOfAnswer(answer, command.type));
  }

  #settle(command: StageCommand, returned: Verdict | void): void {
    const host = this.#host as ProtocolHost;
    let answer: Answer;
    let scope: Scope;
    try {
      answer = host.answer(returned);
      scope = scopeOfAnswer(answer, command.type);
    } catch (error) {
      this.#failed(command, error);
      return;
    }
    host.stage = undefined;
    this.#owner.concluded(command, answer, scope);
  }

  #failed(command: StageCommand, cause: unknown): void {
    const host = this.#host as ProtocolHost;
    host.stage = undefined;
    host.takeEdits()?.discard();
    this.#owner.failed(command, thrownBy(command.type, cause));
  }

  // ---- time ---------------------------------------------------------------------------------------------------------

  #startTurn(command: StageCommand): number {
    const { eobDeadline, callbackDeadline, progressAfter } = this.#class.options;
    this.busy = true;
    this.waiting = command;
    if (command.type === 'eob') {
      this.#progress.start(progressAfter);
      this.#deadline.start(Math.max(0, eobDeadline - (performance.now() - this.#eobSince)));
    } else {
      this.#deadline.start(callbackDeadline);
    }
    return ++this.#turn;
  }

  #endTurn(): void {
    this.#turn++;
    this.busy = false;
    this.waiting = undefined;
    this.#deadline.stop();
    this.#progress.stop();
  }

  /** If what has come is still waited for, the session goes on with it. */
  #late(turn: number, go: () => void): void {
    if (turn !== this.#turn) return;
    this.#endTurn();
    this.#owner.resumed(go);
  }

  #stillAtWork(): void {
    this.#owner.sendProgress();
    this.#progress.start(this.#class.options.progressEvery);
  }

  #expired(): void {
    const command = this.waiting as StageCommand;
    const { eobDeadline, callbackDeadline } = this.#class.options;
    const error = tooLong(command.type, command.type === 'eob' ? eobDeadline : callbackDeadline);
    const begun = this.#delivery?.started === true;
    this.giveUp();
    this.#owner.expired(command, error, begun);
  }

  /** Nothing that the callback at work still does counts, and its object is of no more use. */
  giveUp(): void {
    this.#endTurn();
    this.cancelDelivery();
    this.discardEdits();
    (this.#host as ProtocolHost).detached = true;
    this.#remote?.giveUp();
  }

  // ---- edits --------------------------------------------------------------------------------------------------------

  /** The edits that eob() has gathered; from now on there are none. */
  takeEdits(): Edits | undefined {
    return this.#host?.takeEdits();
  }

  discardEdits(): void {
    this.takeEdits()?.discard();
  }

  /** Writes the edits of an accepted message. */
  deliver(command: StageCommand, edits: Edits, maxPayload: number, answer: Answer, scope: Scope): void {
    const delivery = new Delivery(this.#owner, edits, maxPayload);
    const counts = edits.counts();
    if (delivery.runNow()) {
      this.#owner.delivered(answer, scope, counts);
      return;
    }
    this.#delivery = delivery;
    const turn = this.#startTurn(command);
    const work = delivery.prepare().then(() => {
      this.#progress.stop(); // Postfix takes it for the end of the body when it comes between two pieces
      return delivery.run();
    });
    work.then(
      () => this.#late(turn, () => this.#delivered(answer, scope, counts)),
      (error: unknown) => this.#late(turn, () => this.#deliveryFailed(command, delivery, error)),
    );
  }

  #delivered(answer: Answer, scope: Scope, counts: EditCounts): void {
    this.#delivery = undefined;
    this.#owner.delivered(answer, scope, counts);
  }

  #deliveryFailed(command: StageCommand, delivery: Delivery, cause: unknown): void {
    this.cancelDelivery();
    if (delivery.started) this.#owner.deliveryFailed(thrownBy('eob', cause, 'The new body failed half-way'));
    else this.#failed(command, cause);
  }

  /** What was written has been taken. */
  drained(): void {
    this.#delivery?.drained();
  }

  cancelDelivery(): void {
    this.#delivery?.cancel();
    this.#delivery = undefined;
  }

  // ---- abort() and close() ------------------------------------------------------------------------------------------

  /** Calls abort(), and goes on when it has ended. An object that was given up hears of an interruption only. */
  abort(interrupted: boolean, next: () => void): void {
    if (this.#host?.detached === true && !interrupted) next();
    else this.#notify('abort', interrupted, next);
  }

  /** Calls close(), also on an object that was given up, and goes on when it has ended. It is the last that it hears. */
  close(next: () => void): void {
    this.#notify('close', false, next);
  }

  #notify(callback: 'abort' | 'close', interrupted: boolean, next: () => void): void {
    const host = this.#host;
    const remote = this.#remote;
    const milter = this.#isRemote(callback) ? (remote as RemoteMilter) : (this.#milter as MilterProtocol);
    if (host === undefined) {
      next();
      return;
    }
    if (callback === 'close') this.#host = this.#milter = this.#remote = undefined;
    const done = (late?: MilterError): void => {
      this.busy = false;
      if (callback === 'close') remote?.end();
      if (late !== undefined) {
        host.detached = true;
        this.#owner.abandoned(late);
      }
      this.#owner.notified(next);
    };
    const deadline = this.#class.options.callbackDeadline;
    const report = (error: MilterError): void => this.#owner.report(error);
    const pending = notify(milter, host, callback, interrupted, deadline, report, done);
    if (pending !== undefined) {
      this.busy = true;
      return;
    }
    if (callback === 'close') remote?.end();
    next();
  }
}
