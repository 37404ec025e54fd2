/** What a mail server said in a captured session, and what was answered to each of it. */
import { decodeConversation } from '../capture/conversation.js';
import { Dialogue } from '../capture/dialogue.js';
import { owned } from '../capture/portions.js';
import type { CaptureEvent, NoteRecord, PacketRecord, Source } from '../capture/types.js';
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import type { CheckedReplayOptions } from './options.js';

/** A command, and its replies in their order. */
export interface Line {
  readonly number: number;
  /** ms since 1970. */
  readonly time: number;
  readonly command: Command | OddPacket;
  readonly raw: Buffer;
  readonly replies: Array<Reply | OddPacket>;
  /** Whether an answer was owed, and whether it came. */
  readonly answer: 'none' | 'missing' | 'given';
}

/** The mail server's part in a session. */
export interface Script {
  readonly session: string;
  readonly lines: readonly Line[];
  /** What the milter said is in the capture. */
  readonly isTwoSided: boolean;
  /** What of it cannot be replayed, and why. */
  readonly notes: readonly string[];
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

/** Most notes of a session: of a capture that is broken there may be one for each packet. */
const MOST_NOTES = 100;

/**
 * The sessions of a capture, each when it is over; when the signal is aborted no further event is read.
 * @throws what the events throw, when all before has been given
 */
export async function* scriptsOf(
  events: Source<CaptureEvent>,
  { sessions: wanted, signal }: Pick<CheckedReplayOptions, 'sessions' | 'signal'>,
): AsyncGenerator<Script, void, undefined> {
  const open = new Map<string, Writing>();
  const chosen = async function* (): AsyncGenerator<CaptureEvent> {
    for await (const event of events) {
      if (signal.aborted) return;
      if (wanted?.has(event.session) === false) continue;
      // All of a session is kept until it has been played, but not what the file has besides.
      yield event.type === 'data' ? { ...event, bytes: owned(event.bytes) } : event;
    }
  };
  for await (const record of decodeConversation(chosen())) {
    const { session } = record;
    let writing = open.get(session);
    if (writing === undefined) open.set(session, (writing = new Writing(session)));
    if (record.type === 'packet') writing.packet(record);
    else if (record.type !== 'close') writing.note(record);
    if (record.type !== 'close') continue;
    open.delete(session);
    yield writing;
  }
}

class Writing implements Script {
  readonly session: string;
  readonly lines: Array<Writable<Line>> = [];
  isTwoSided = false;
  readonly #dialogue = new Dialogue();
  /** Those that are owed an answer, by their numbers. */
  readonly #waiting = new Map<number | undefined, Writable<Line>>();
  readonly #notes: string[] = [];
  #moreNotes = 0;

  constructor(session: string) {
    this.session = session;
  }

  get notes(): readonly string[] {
    return this.#moreNotes === 0 ? this.#notes : [...this.#notes, `And so on: ${this.#moreNotes} notes more`];
  }

  packet({ from, number, time, packet, raw }: PacketRecord): void {
    if (from === 'mta') {
      const before = this.#dialogue.unanswered.length;
      this.#dialogue.command(packet as Command | OddPacket, number, time);
      const answer = this.#dialogue.unanswered.length > before ? 'missing' : 'none';
      const line: Writable<Line> = { number, time, command: packet as Command | OddPacket, raw, replies: [], answer };
      this.lines.push(line);
      if (answer === 'missing') this.#waiting.set(number, line);
      return;
    }
    this.isTwoSided = true;
    const asked = this.#dialogue.unanswered[0]?.number;
    const { answers } = this.#dialogue.reply(packet as Reply | OddPacket, time);
    const line = this.#waiting.get(asked);
    if (line === undefined) {
      this.#note(`Packet ${number}, ${packet.type}, was said unasked, and is not compared`);
      return;
    }
    line.replies.push(packet as Reply | OddPacket);
    if (answers === undefined) return;
    line.answer = 'given';
    this.#waiting.delete(asked);
  }

  note({ type, text }: NoteRecord): void {
    if (type === 'garbage') this.#note(`Not replayed: ${text}`);
    else if (type === 'problem') this.#note(`The capture says: ${text}`);
  }

  #note(text: string): void {
    if (this.#notes.length < MOST_NOTES) this.#notes.push(text);
    else this.#moreNotes++;
  }
}
