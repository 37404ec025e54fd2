/** Shows what was said: a line for each packet, as text or JSON, of those sessions and messages that are asked for. */
import { isTime } from '../capture/checks.js';
import type { PacketRecord, NoteRecord } from '../capture/types.js';
import { toText } from '../codec/text.js';
import { actionNames, protocolNames } from '../names.js';
import { STAGE_NAMES } from '../stages.js';
import type { OptionRow } from './command.js';
import { usageError } from './exit.js';
import { plain } from './plain.js';
import type { Seen, SeenMessage } from './reading.js';
import { cut } from './report.js';
import { jsonLine, milliseconds, printable, type Paint } from './terminal.js';
import type { Values } from './values.js';
import { bytesInWords, detailsOf } from './words.js';

/** The options of every command that shows packets. */
export const VIEW_OPTIONS: readonly OptionRow[] = [
  { name: 'only', value: 'STAGE,...', text: 'Show these alone: names like negotiate,rcpt,eob, with their answers.' },
  { name: 'session', value: 'NAME', multiple: true, text: 'Show this session alone. May be given several times.' },
  { name: 'sender', value: 'TEXT', text: 'Show messages whose sender has this in it.' },
  { name: 'queue-id', value: 'ID', text: 'Show the message with this queue id, the macro i.' },
  {
    name: 'verdict',
    value: 'WHAT',
    text: 'Show messages that end so: accept, reject, tempfail, discard, quarantine or aborted.',
  },
  { name: 'body', text: 'Show bodies, too, not only how long they are.' },
  { name: 'json', text: 'One line of JSON for each packet; bytes that are no UTF-8 are lone surrogates.' },
];

const VERDICT_CHOICES = ['accept', 'reject', 'tempfail', 'discard', 'quarantine', 'aborted'] as const;
const KINDS = ['negotiate', ...STAGE_NAMES, 'macro', 'abort', 'quit', 'quitNewConnection'];

export interface ViewOptions {
  readonly json: boolean;
  readonly body: boolean;
  readonly only: ReadonlySet<string> | undefined;
  readonly sessions: ReadonlySet<string> | undefined;
  readonly sender: string | undefined;
  readonly queueId: string | undefined;
  readonly verdict: (typeof VERDICT_CHOICES)[number] | undefined;
}

export function viewOptions(values: Values): ViewOptions {
  const sessions = values.list('session');
  const only = values
    .text('only')
    ?.split(',')
    .map((word) => {
      const kind = KINDS.find((each) => each.toLowerCase() === word.trim().toLowerCase());
      if (kind === undefined)
        throw usageError(`--only must be some of ${KINDS.join(',')}, got ${JSON.stringify(word)}`);
      return kind;
    });
  return {
    json: values.flag('json'),
    body: values.flag('body'),
    only: only && new Set(only),
    sessions: sessions.length === 0 ? undefined : new Set(sessions),
    sender: values.text('sender')?.toLowerCase(),
    queueId: values.text('queue-id'),
    verdict: values.choice('verdict', VERDICT_CHOICES),
  };
}

/** Most characters that are kept of a message until it is known whether it is shown. */
const MOST_HELD = 1_048_576;

/** Lines that wait. */
interface Held {
  lines: string[];
  size: number;
  left: number;
}

/** What is not known yet of a session. */
interface Gate {
  /** The beginning of the session, until a message of it is shown. */
  preamble: Held | undefined;
  message: SeenMessage | undefined;
  held: Held;
}

const empty = (): Held => ({ lines: [], size: 0, left: 0 });

export class View {
  readonly #options: ViewOptions;
  readonly #paint: Paint;
  readonly #print: (text: string) => void;
  readonly #gates = new Map<string, Gate>();

  /** @param print takes whole lines */
  constructor(options: ViewOptions, paint: Paint, print: (text: string) => void) {
    this.#options = options;
    this.#paint = paint;
    this.#print = print;
  }

  show(seen: Seen): void {
    const { session, type } = seen.record;
    const { sessions, sender, queueId, verdict } = this.#options;
    if (sessions?.has(session) === false && session !== '') return;
    const text = this.#isWanted(seen) ? this.#textOf(seen) : '';
    if ((sender ?? queueId ?? verdict) === undefined || session === '') {
      this.#print(text);
      return;
    }
    let gate = this.#gates.get(session);
    if (gate === undefined) this.#gates.set(session, (gate = { preamble: empty(), message: undefined, held: empty() }));
    this.#pass(gate, seen.message, text);
    if (type === 'close') this.#gates.delete(session);
  }

  /** A message is over: what is not known now will never be. */
  over(message: SeenMessage): void {
    for (const gate of this.#gates.values()) {
      if (gate.message !== message) continue;
      if (this.#matches(message) === true) this.#open(gate);
      gate.held = empty();
      gate.message = undefined;
    }
  }

  #pass(gate: Gate, message: SeenMessage | undefined, text: string): void {
    if (message === undefined || message.verdict === 'aborted') {
      // It belongs to the whole session, or is the ABORT of what was just over.
      const isShown = message === undefined ? gate.preamble === undefined : this.#matches(message) === true;
      if (isShown) this.#print(text);
      else if (message === undefined && gate.preamble !== undefined) hold(gate.preamble, text);
      return;
    }
    if (gate.message !== message) {
      gate.message = message;
      gate.held = empty();
    }
    hold(gate.held, text);
    const matches = this.#matches(message);
    if (matches === true) this.#open(gate);
    else if (matches === false) gate.held = empty();
  }

  #open(gate: Gate): void {
    for (const held of [gate.preamble ?? empty(), gate.held]) {
      const { lines, left } = held;
      this.#print(lines.join(''));
      if (left > 0) this.#print(`${this.#paint.yellow(`… ${left.toLocaleString('en')} lines more were not kept`)}\n`);
    }
    gate.preamble = undefined;
    gate.held = empty();
  }

  /** @returns undefined where it is not known yet */
  #matches({ sender, queueId, verdict, quarantined }: SeenMessage): boolean | undefined {
    const wanted = this.#options;
    const known = (value: string | undefined, test: (value: string) => boolean): boolean | undefined =>
      value === undefined ? undefined : test(value);
    const is: Array<boolean | undefined> = [];
    if (wanted.sender !== undefined)
      is.push(known(sender, (text) => text.toLowerCase().includes(wanted.sender as string)));
    if (wanted.queueId !== undefined) is.push(known(queueId, (id) => id === wanted.queueId));
    if (wanted.verdict === 'quarantine') is.push(known(verdict, (what) => what === 'accept' && quarantined));
    else if (wanted.verdict !== undefined) is.push(known(verdict, (what) => what === wanted.verdict));
    if (is.includes(false)) return false;
    return is.includes(undefined) ? undefined : true;
  }

  #isWanted({ record, stage }: Seen): boolean {
    const { only } = this.#options;
    if (only === undefined) return true;
    if (record.type !== 'packet') return record.type === 'garbage' || record.type === 'problem';
    const { type } = record.packet;
    return (
      type === 'malformed' || type === 'unrecognized' || only.has(type) || (stage !== undefined && only.has(stage))
    );
  }

  #textOf({ record, stage }: Seen): string {
    if (record.type === 'packet') return this.#options.json ? this.#packetJson(record, stage) : this.#packet(record);
    return this.#options.json ? noteJson(record) : this.#note(record);
  }

  #packet({ session, time, from, packet, answers, problem }: PacketRecord): string {
    const { dim, yellow } = this.#paint;
    const arrow = from === 'mta' ? '→' : '←';
    const name = this.#named(packet.type, from);
    const details = cut(printable(detailsOf(packet)));
    const words = [
      ...(details === '' ? [] : [details]),
      ...(answers === undefined ? [] : [dim(`(${milliseconds(answers.ms)})`)]),
      ...(problem === undefined ? [] : [yellow(`! ${cut(printable(problem))}`)]),
    ];
    const line = [dim(clock(time)), printable(session), arrow, name, ...words].filter(Boolean).join(' ');
    return `${[line, ...this.#bodyOf(packet)].join('\n')}\n`;
  }

  #named(type: string, from: PacketRecord['from']): string {
    const { bold, green, red, yellow } = this.#paint;
    if (type === 'malformed' || type === 'unrecognized') return red(type);
    if (from === 'mta') return bold(type);
    if (REFUSALS.has(type)) return red(type);
    return EASY.has(type) ? green(type) : yellow(type);
  }

  #bodyOf(packet: PacketRecord['packet']): string[] {
    if (!this.#options.body || !('chunk' in packet) || packet.chunk === undefined) return [];
    const lines = toText(packet.chunk).split('\n');
    if (lines.at(-1) === '') lines.pop();
    return lines.map((line) => `    ${this.#paint.dim('|')} ${printable(line.replace(/\r$/, ''))}`);
  }

  #note({ type, session, time, text, bytes }: NoteRecord): string {
    const { dim, red, yellow } = this.#paint;
    const paint = type === 'garbage' ? red : type === 'problem' ? yellow : dim;
    const what = `${type === 'garbage' || type === 'problem' ? '! ' : ''}${cut(printable(text))}`;
    const shown = bytes === undefined ? '' : ` ${bytes.length} bytes: ${printable(bytesInWords(bytes))}`;
    return `${[dim(type === 'open' ? dayAndClock(time) : clock(time)), printable(session), paint(what)].filter(Boolean).join(' ')}${shown}\n`;
  }

  #packetJson(record: PacketRecord, stage: string | undefined): string {
    const { type, session, time, from, number, offset, packet, answers, problem } = record;
    const negotiated =
      packet.type === 'negotiate'
        ? { names: { actions: actionNames(packet.actions), protocol: protocolNames(packet.protocol) } }
        : {};
    const short = !this.#options.body && 'chunk' in packet ? { ...packet, chunk: packet.chunk?.length } : packet;
    const error = packet.type === 'malformed' ? { error: packet.error.message, bytes: packet.raw } : {};
    const said = { ...short, ...error, ...negotiated };
    return jsonLine(plain({ type, session, time, from, number, offset, stage, packet: said, answers, problem }));
  }
}

const REFUSALS = new Set(['reject', 'tempFail', 'replyCode', 'shutdown', 'connFail', 'discard']);
const EASY = new Set(['continue', 'accept', 'progress', 'negotiate', 'skip']);

function hold(held: Held, text: string): void {
  if (held.size + text.length > MOST_HELD) {
    held.left++;
    return;
  }
  held.lines.push(text);
  held.size += text.length;
}

function noteJson({ type, session, time, from, text, bytes }: NoteRecord): string {
  return jsonLine(plain({ type, session, time, from, text, bytes }));
}

/** Bare bytes have no time, and who asks for words may say anything. */
function hasTime(time: number): boolean {
  return time !== 0 && isTime(time);
}

function clock(time: number): string {
  return hasTime(time) ? new Date(time).toISOString().slice(-13, -1) : '';
}

function dayAndClock(time: number): string {
  return hasTime(time) ? new Date(time).toISOString().slice(0, -1).replace('T', ' ') : '';
}
