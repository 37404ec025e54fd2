/**
 * Plays the mail server's half of a captured session to a milter: its bytes, in their order. What is awaited follows from
 * what this milter agrees to (P36, P41), not from what the other one did.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { spaced } from '../proxy/agreement.js';
import { encodeCommand } from '../codec/index.js';
import type { OddPacket } from '../codec/parser.js';
import type { NegotiateReply, Reply } from '../codec/replies.js';
import { commandCodec } from '../codec/commands.js';
import { SMFIP_HDR_LEADSPC } from '../constants.js';
import { MilterError } from '../errors.js';
import { actionNames, protocolNames } from '../names.js';
import { MAX_MS } from '../option-rules.js';
import { FINAL_REPLIES } from '../final-replies.js';
import { isStage, STAGES, STAGE_NAMES, type Stage } from '../stages.js';
import { sameReplies } from './compare.js';
import type { CheckedReplayOptions } from './options.js';
import { Passages, replayedMessage } from './outcome.js';
import type { Line, Script } from './script.js';
import { Standing } from './standing.js';
import type { ReplayedSession, ReplayStep } from './types.js';
import type { Wire } from './wire.js';

const ANY_SIZE = 0x3fff_ffff;

/** Most that a milter may say to one command, or unasked, in bytes; each packet costs some more than it is long. */
const MOST_SAID = 256 * 1024 * 1024;
const PACKET_COST = 256;

/** How long a milter may take to close its connection, in ms. */
const GOODBYE = 1_000;

export class Play {
  readonly #script: Script;
  readonly #options: CheckedReplayOptions;
  readonly #start: number;
  readonly #standing = new Standing();
  readonly #steps: ReplayStep[] = [];
  readonly #notes: string[];
  readonly #passages = new Passages();
  #isDifferent = false;
  #unaskedFor = 0;
  /** The next line that is no macros, from some line on. */
  #next = 0;
  #was: NegotiateReply | undefined;
  #now: NegotiateReply | undefined;

  /** @param start the moment that stands for the beginning of the capture, of performance.now() */
  constructor(script: Script, options: CheckedReplayOptions, start: number) {
    this.#script = script;
    this.#options = options;
    this.#start = start;
    this.#notes = [...script.notes];
  }

  /** @param connect to the milter @param epoch the time of the capture's beginning */
  async run(connect: () => Promise<Wire>, epoch: number): Promise<ReplayedSession> {
    const { lines, session } = this.#script;
    const begun = performance.now();
    let error: MilterError | undefined;
    let wire: Wire | undefined;
    try {
      if (lines.length === 0) this.#notes.push('There is nothing in it that could be replayed');
      else await this.#due((lines[0] as Line).time - epoch);
      wire = lines.length === 0 ? undefined : await connect();
      for (let at = 0; at < lines.length; at++) await this.#line(wire as Wire, at, epoch);
    } catch (cause) {
      error = cause as MilterError;
    }
    await wire?.end(error === undefined ? Math.min(GOODBYE, this.#options.timeout) : 0);
    const { like, leniency } = this.#options;
    const space = (reply: NegotiateReply | undefined): boolean => ((reply?.protocol ?? 0) & SMFIP_HDR_LEADSPC) !== 0;
    const spaces = { was: space(this.#was), now: space(this.#now) };
    const messages = this.#script.isTwoSided
      ? this.#passages.all.map((passage) => replayedMessage(passage, spaces, like, leniency))
      : [];
    const differing = this.#steps.filter(({ differs }) => differs).length;
    return {
      session,
      steps: this.#steps,
      messages,
      notes: this.#notes,
      differences:
        differing + messages.filter(({ differences }) => differences.length > 0).length + (error === undefined ? 0 : 1),
      ...(error !== undefined && { error }),
      ms: performance.now() - begun,
    };
  }

  /** Waits until it is time. @param ms since the beginning of the capture */
  async #due(ms: number): Promise<void> {
    const { speed, signal } = this.#options;
    if (speed === undefined) return;
    const left = (): number => this.#start + ms / speed - performance.now();
    try {
      while (left() >= 1) await sleep(Math.min(left(), MAX_MS), undefined, { signal });
    } catch {
      throw new MilterError('ERR_MILTER_ABORTED', 'The caller has given up', { cause: signal.reason });
    }
  }

  async #line(wire: Wire, at: number, epoch: number): Promise<void> {
    const line = this.#script.lines[at] as Line;
    const { command, time } = line;
    await this.#due(time - epoch);
    this.#unasked(wire);
    if (command.type === 'macro') {
      this.#passages.macros(command);
      // Macros of a command that is left out are left out with it.
      if (this.#isNextSent(at)) await this.#send(wire, line);
      return;
    }
    const skipped = this.#standing.against(command);
    this.#standing.reached(command);
    if (skipped !== undefined) {
      this.#step(line, [], { skipped });
      return;
    }
    await this.#send(wire, line);
    const awaited = this.#awaited(command);
    if (awaited === undefined) {
      this.#step(line, []);
      return;
    }
    const begun = performance.now();
    const replies: Reply[] = [];
    try {
      await this.#answer(wire, awaited, replies, begun);
    } catch (error) {
      this.#step(line, replies, { ms: performance.now() - begun });
      throw placed(error as MilterError, awaited, line);
    }
    this.#step(line, replies, { ms: performance.now() - begun });
  }

  /** Whether the command behind the macros goes to the milter, as far as that is known before. */
  #isNextSent(at: number): boolean {
    const { lines } = this.#script;
    this.#next = Math.max(this.#next, at + 1);
    while (lines[this.#next]?.command.type === 'macro') this.#next++;
    const next = lines[this.#next];
    return next === undefined || this.#standing.against(next.command) === undefined;
  }

  async #send(wire: Wire, { command, raw }: Line): Promise<void> {
    const bit = (reply: NegotiateReply | undefined): number => ((reply?.protocol ?? 0) & SMFIP_HDR_LEADSPC ? 1 : 0);
    const more = command.type === 'header' ? bit(this.#now) - bit(this.#was) : 0;
    const bytes =
      command.type === 'header' && more !== 0
        ? encodeCommand({ type: 'header', name: command.name, value: spaced(command.value, more) }, ANY_SIZE)
        : raw;
    await wire.send(bytes, this.#options.timeout);
  }

  /** The stage whose answer is waited for. */
  #awaited(command: Line['command']): Stage | 'negotiate' | undefined {
    const type = command.type === 'malformed' ? commandCodec.typeOf(command.code) : command.type;
    if (type === 'negotiate') return type;
    return type !== undefined && isStage(type) && this.#standing.isAnswered(type) ? type : undefined;
  }

  async #answer(wire: Wire, stage: Stage | 'negotiate', replies: Reply[], begun: number): Promise<void> {
    const { timeout, eobTimeout } = this.#options;
    let cost = 0;
    for (;;) {
      const left = Math.ceil(eobTimeout - (performance.now() - begun));
      const what = `It has not come to an end within ${eobTimeout} ms`;
      // There may always be something more to take: progress without an end.
      if (left < 1) throw new MilterError('ERR_MILTER_TIMEOUT', what);
      const reply = left < timeout ? await wire.reply(left, what) : await wire.reply(timeout);
      cost += costOf(reply);
      if (cost > MOST_SAID) throw new MilterError('ERR_MILTER_FILTER', 'Its answer has no end');
      replies.push(reply);
      if (!FINAL_REPLIES.has(reply.type) && reply.type !== 'negotiate') continue;
      if (stage !== 'negotiate') this.#standing.note(stage, reply);
      else if (reply.type === 'negotiate') this.#agree(reply);
      else throw new MilterError('ERR_MILTER_NEGOTIATION', `It answered the offer with ${reply.type}`);
      return;
    }
  }

  #agree(now: NegotiateReply): void {
    const line = this.#script.lines.find(({ command }) => command.type === 'negotiate');
    const was = line?.replies.find((reply): reply is NegotiateReply => reply.type === 'negotiate');
    this.#now = now;
    this.#was = was ?? now;
    this.#standing.agree(now);
    if (was === undefined) return;
    const notes: string[] = [];
    if (was.version !== now.version) notes.push(`version ${was.version} then, ${now.version} now`);
    for (const [what, namesOf] of [
      ['actions', actionNames],
      ['protocol', protocolNames],
    ] as const) {
      const gone = namesOf(was[what] & ~now[what]);
      const come = namesOf(now[what] & ~was[what]);
      if (gone.length > 0) notes.push(`not any more: ${gone.join(', ')}`);
      if (come.length > 0) notes.push(`new: ${come.join(', ')}`);
    }
    if (listsOf(was) !== listsOf(now)) {
      notes.push(`macros: ${listsOf(was) || 'none'} then, ${listsOf(now) || 'none'} now`);
    }
    if (notes.length > 0) this.#notes.push(`The milter agrees to something else: ${notes.join('; ')}`);
    const lacking = STAGE_NAMES.filter((stage) => (was.protocol & ~now.protocol & STAGES[stage].no) !== 0);
    if (lacking.length > 0) {
      this.#notes.push(`The capture does not have what the milter now wants to hear: ${lacking.join(', ')}`);
    }
  }

  #unasked(wire: Wire): void {
    const surplus = wire.surplus();
    const last = this.#steps.at(-1);
    if (surplus.length === 0 || last === undefined) return;
    this.#unaskedFor = surplus.reduce((cost, reply) => cost + costOf(reply), this.#unaskedFor);
    if (this.#unaskedFor > MOST_SAID) throw new MilterError('ERR_MILTER_FILTER', 'It does not stop talking unasked');
    this.#notes.push(`The milter said unasked: ${[...new Set(surplus.map(({ type }) => type))].join(', ')}`);
    this.#steps[this.#steps.length - 1] = { ...last, now: [...last.now, ...surplus], differs: true };
    this.#isDifferent = true;
  }

  #step(line: Line, now: readonly Reply[], more: Pick<ReplayStep, 'skipped' | 'ms'> = {}): void {
    const { number, command, replies: was, answer } = line;
    const stage = (command.type === 'malformed' ? 'unrecognized' : command.type) as ReplayStep['stage'];
    const isStageOf = isStage(command.type) || command.type === 'negotiate';
    const step: ReplayStep = {
      number,
      stage,
      command,
      was,
      now,
      ...more,
      differs: isStageOf && this.#script.isTwoSided && answer !== 'missing' && this.#differs(was, now, more.skipped),
    };
    this.#isDifferent ||= step.differs;
    this.#steps.push(step);
    this.#passages.step(step);
  }

  /** What is not answered any more, or not asked, is as good as `continue`. */
  #differs(was: ReadonlyArray<Reply | OddPacket>, now: readonly Reply[], skipped: string | undefined): boolean {
    const { leniency } = this.#options;
    const goesOn: readonly Reply[] = [{ type: 'continue' }];
    if (skipped !== undefined && this.#isDifferent) return false;
    return !sameReplies(was.length === 0 ? goesOn : was, now.length === 0 ? goesOn : now, leniency);
  }
}

function costOf({ raw }: Reply): number {
  return (raw as Buffer).length + PACKET_COST;
}

function listsOf({ macros = [] }: NegotiateReply): string {
  return macros.map(({ stage, names }) => `${stage}: ${names}`).join('; ');
}

/** The error, with the place. */
function placed(error: MilterError, stage: string, { number }: Line): MilterError {
  const { code, message, cause } = error;
  return new MilterError(code, `The milter failed at ${stage} (packet ${number}): ${message}`, { stage, cause });
}
