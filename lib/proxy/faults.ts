/**
 * Faults on request, to see what the two sides make of them: hooks for createProxy().
 *
 *   STAGE[#N]:WHAT[=VALUE]
 *
 *   mailFrom:delay=2s             the command waits before it goes on; delay-reply: the milter's answer does
 *   eob:stall                     the command never goes on; stall-reply: the answer never does
 *   data:close                    both connections are closed, and the command does not go on; close-reply: it does, the
 *                                 answer does not
 *   rcpt#2:reply=tempfail         another answer in the place of the milter's, here to the second RCPT of each session
 *   eob=550 5.7.1 Go away         the same in short
 *   any#10:kill                   at the tenth command, whatever it is; kill is another word for close
 *   any:trickle=1                 everything is written in pieces of so many bytes
 */
import { Dialogue } from '../capture/dialogue.js';
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import { formatSmtpReply } from '../codec/smtp-reply.js';
import { MilterError, show } from '../errors.js';
import { MAX_MS, optionError } from '../option-rules.js';
import { isStage, STAGE_NAMES } from '../stages.js';
import type { ProxyContext, ProxyHooks, ProxyOptions } from './types.js';

export interface FaultOptions {
  /** Every so many sessions alone: 3 is the third, the sixth … Default 1. */
  readonly every?: number | undefined;
  /** The share of sessions, from 0 to 1. Default 1. */
  readonly chance?: number | undefined;
  /** The same sessions for the same number. Default 1. */
  readonly seed?: number | undefined;
  /** Aborted: what stalls is closed, and nothing stalls any more. */
  readonly signal?: AbortSignal | undefined;
  /** Told of each fault, in words, and of the session. */
  readonly onFault?: ((text: string, id: string) => void) | undefined;
}

/** For createProxy(). Without hooks where none are needed. */
export interface Faults {
  readonly hooks: ProxyHooks | undefined;
  readonly options: Pick<ProxyOptions, 'trickle'>;
}

const ACTS = ['delay', 'delay-reply', 'stall', 'stall-reply', 'close', 'close-reply', 'kill', 'reply'] as const;
type Act = (typeof ACTS)[number];

/** Where a fault can be: `any` is each of them. */
const PLACES = ['negotiate', ...STAGE_NAMES, 'abort', 'quit', 'quitNewConnection', 'macro'] as const;

interface Fault {
  /** As it was written. */
  readonly text: string;
  /** A command's type, or `any`. */
  readonly place: string;
  /** The how-manieth of its place in a session; each where it is missing. */
  readonly nth: number | undefined;
  readonly act: Act;
  readonly ms: number;
  readonly reply: Reply | undefined;
}

/** A mail server has given up long before: nothing is held for ever. */
const LONGEST_STALL = 600_000;

const REPLIES: Readonly<Record<string, Reply>> = {
  continue: { type: 'continue' },
  accept: { type: 'accept' },
  reject: { type: 'reject' },
  tempfail: { type: 'tempFail' },
  discard: { type: 'discard' },
  skip: { type: 'skip' },
  shutdown: { type: 'shutdown' },
  connfail: { type: 'connFail' },
};

/**
 * @param specs see above
 * @throws MilterError ERR_MILTER_OPTION that names the bad one
 */
export function faults(specs: readonly string[], options: FaultOptions = {}): Faults {
  check(options);
  const list: Fault[] = [];
  let trickle: number | undefined;
  for (const spec of specs) {
    const parsed = parse(spec);
    if (typeof parsed === 'number') trickle = parsed;
    else list.push(parsed);
  }
  return {
    hooks: list.length === 0 ? undefined : hooksOf(list, options),
    options: trickle === undefined ? {} : { trickle },
  };
}

function check({ every = 1, chance = 1, seed = 1 }: FaultOptions): void {
  if (!Number.isInteger(every) || every < 1) throw optionError('every', 'must be a whole number from 1', every);
  if (typeof chance !== 'number' || !(chance >= 0 && chance <= 1))
    throw optionError('chance', 'must be from 0 to 1', chance);
  if (!Number.isInteger(seed)) throw optionError('seed', 'must be a whole number', seed);
}

/** @returns the size of the pieces for a trickle, or another fault */
function parse(text: string): Fault | number {
  const bad = (what: string): Error => new MilterError('ERR_MILTER_OPTION', `Bad fault ${show(text)}: ${what}`);
  const [, word, number, shortReply, what, value] =
    /^([a-z]+)(?:#(\d+))?(?:=(.*)|:([a-z-]+)(?:=(.*))?)$/is.exec(text) ?? [];
  if (word === undefined) throw bad('must be STAGE:WHAT[=VALUE], like eob:delay=2s or rcpt:reply=tempfail');
  const place = [...PLACES, 'any'].find((each) => each.toLowerCase() === word.toLowerCase());
  if (place === undefined) throw bad(`the stage must be any or one of ${PLACES.join(', ')}`);
  const nth = number === undefined ? undefined : Number(number);
  if (nth === 0) throw bad('they are counted from 1');
  if (what === 'trickle') return pieces(place, nth, value, bad);
  const act = what === undefined ? 'reply' : ACTS.find((each) => each === what);
  if (act === undefined) throw bad(`it must be one of ${ACTS.join(', ')}, trickle`);
  const given = shortReply ?? value;
  const fault = { text, place, nth, act, ms: LONGEST_STALL, reply: undefined };
  if (act === 'reply') {
    if (place !== 'any' && !isStage(place)) throw bad(`${place} has no answer to be changed`);
    return { ...fault, reply: replyOf(given, bad) };
  }
  const takesTime = act.startsWith('delay') || (act.startsWith('stall') && given !== undefined);
  if (takesTime) return { ...fault, ms: timeOf(given, bad) };
  if (given !== undefined) throw bad(`${act} takes no value`);
  return fault;
}

type Bad = (what: string) => Error;

function pieces(place: string, nth: number | undefined, value = '1', bad: Bad): number {
  if (place !== 'any' || nth !== undefined) throw bad('a trickle is for all that is written: any:trickle');
  if (!/^[1-9]\d{0,8}$/.test(value)) throw bad('the pieces must have a whole number of bytes, 1 or more');
  return Number(value);
}

function timeOf(text: string | undefined, bad: Bad): number {
  const [, number, unit = 's'] = /^(\d+(?:\.\d+)?)(ms|s|m)?$/.exec(text ?? '') ?? [];
  const ms = Math.round(Number(number) * { ms: 1, s: 1_000, m: 60_000 }[unit as 'ms']);
  if (ms >= 0 && ms <= MAX_MS) return ms;
  throw bad('it needs a time like 500ms, 2s or 1m');
}

function replyOf(text: string | undefined, bad: Bad): Reply {
  const word = (text ?? '').toLowerCase();
  if (Object.hasOwn(REPLIES, word)) return REPLIES[word] as Reply;
  const [, code, enhanced = '', words = ''] = /^(\d{3})(?: (\d\.\d+\.\d+))?(?: (.*))?$/s.exec(text ?? '') ?? [];
  if (code === undefined)
    throw bad(`the answer must be one of ${Object.keys(REPLIES).join(', ')}, or like 550 5.7.1 No`);
  try {
    return { type: 'replyCode', text: formatSmtpReply(code, enhanced, words) };
  } catch (error) {
    throw bad((error as MilterError).message);
  }
}

/** What is known of a session. */
interface Session {
  readonly chosen: boolean;
  readonly dialogue: Dialogue;
  /** How many commands of each kind there were. */
  readonly counts: Map<string, number>;
  /** The faults of the commands that are not answered yet, by the command's number. */
  readonly due: Map<number, readonly Fault[]>;
  number: number;
}

function hooksOf(list: readonly Fault[], options: FaultOptions): ProxyHooks {
  const { signal, onFault } = options;
  const sessions = new WeakMap<ProxyContext, Session>();
  const sessionOf = (context: ProxyContext): Session => {
    let session = sessions.get(context);
    if (session === undefined) {
      const chosen = isChosen(Number(context.id), options);
      session = { chosen, dialogue: new Dialogue(), counts: new Map(), due: new Map(), number: 0 };
      sessions.set(context, session);
    }
    return session;
  };
  /** What a fault does before its packet goes on. @returns a promise where that takes time */
  const strike = (fault: Fault, context: ProxyContext): Promise<void> | void => {
    onFault?.(`Fault: ${fault.text}`, context.id);
    if (fault.act.startsWith('delay')) return wait(fault.ms, signal, context.signal);
    if (fault.act.startsWith('stall')) return wait(fault.ms, signal, context.signal).then(() => context.destroy());
    if (fault.act !== 'reply') context.destroy();
  };
  const strikeAll = (due: readonly Fault[], context: ProxyContext): Promise<void> | void => {
    for (const [i, fault] of due.entries()) {
      const later = strike(fault, context);
      if (later !== undefined) return later.then(() => strikeAll(due.slice(i + 1), context));
    }
  };
  return {
    command(packet, context) {
      const session = sessionOf(context);
      if (!session.chosen) return undefined;
      const due = counted(session, packet, list);
      const now = due.filter(({ act }) => !onReply(act));
      return strikeAll(now, context);
    },
    reply(packet, context) {
      const session = sessionOf(context);
      if (!session.chosen) return undefined;
      const due = answering(session, packet);
      const reply = due.findLast(({ act }) => act === 'reply')?.reply;
      const later = strikeAll(due, context);
      return later === undefined ? reply : later.then(() => reply);
    },
  };
}

function onReply(act: Act): boolean {
  return act.endsWith('reply');
}

/** The faults that a command brings about. Those of its answer are kept until it comes. */
function counted(session: Session, packet: Command | OddPacket, list: readonly Fault[]): readonly Fault[] {
  const { dialogue, counts, due } = session;
  const count = (place: string): number => {
    const times = (counts.get(place) ?? 0) + 1;
    counts.set(place, times);
    return times;
  };
  const times: Readonly<Record<string, number>> = { [packet.type]: count(packet.type), any: count('any') };
  const mine = list.filter(({ place, nth }) => place in times && (nth === undefined || nth === times[place]));
  const number = ++session.number;
  const before = dialogue.unanswered.length;
  dialogue.command(packet, number, 0);
  const answers = mine.filter(({ act }) => onReply(act));
  // Too many wait, as nobody is there who answers: none of them will be known by its answer.
  if (dialogue.unanswered.length === 0) due.clear();
  if (answers.length > 0 && dialogue.unanswered.length > before) due.set(number, answers);
  return mine;
}

/** The faults of the command that a final reply answers. */
function answering(session: Session, packet: Reply | OddPacket): readonly Fault[] {
  const { answers } = session.dialogue.reply(packet, 0);
  if (answers === undefined) return [];
  const mine = session.due.get(answers.number) ?? [];
  session.due.delete(answers.number);
  // The exchange of offers cannot be answered with anything else: nothing would be known of what follows.
  return packet.type === 'negotiate' ? mine.filter(({ act }) => act !== 'reply') : mine;
}

function isChosen(id: number, { every = 1, chance = 1, seed = 1 }: FaultOptions): boolean {
  return id % every === 0 && share(seed, id) < chance;
}

/** A number from 0 to 1 that looks like chance, the same for the same arguments (the mixer of MurmurHash3). */
function share(seed: number, id: number): number {
  let bits = Math.imul(seed ^ Math.imul(id, 0x9e37_79b9), 0x85eb_ca6b);
  bits = Math.imul(bits ^ (bits >>> 16), 0x85eb_ca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2_ae35);
  return ((bits ^ (bits >>> 16)) >>> 0) / 2 ** 32;
}

/**
 * The connection keeps the process alive, not its delays.
 * @param signals each of them ends it
 */
function wait(ms: number, ...signals: ReadonlyArray<AbortSignal | undefined>): Promise<void> {
  if (signals.some((signal) => signal?.aborted === true)) return Promise.resolve();
  return new Promise((resolve) => {
    const over = (): void => {
      clearTimeout(timer);
      for (const signal of signals) signal?.removeEventListener('abort', over);
      resolve();
    };
    const timer = setTimeout(over, ms);
    timer.unref();
    for (const signal of signals) signal?.addEventListener('abort', over);
  });
}
