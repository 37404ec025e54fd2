/** What a mail server said in a captured session, and what was answered to each of it. */
import { decodeConversation } from '../capture/conversation.js';
import { Dialogue } from '../capture/dialogue.js';
import type { CaptureEvent, NoteRecord, PacketRecord, Source } from '../capture/types.js';
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';

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

/** The sessions of a capture, each when it is over. @throws what the events throw, when all before has been given */
export async function* scriptsOf(
  events: Source<CaptureEvent>,
  wanted?: ReadonlySet<string>,
): AsyncGenerator<Script, void, undefined> {
  const open = new Map<string, Writing>();
  const chosen = async function* (): AsyncGenerator<CaptureEvent> {
    for await (const event of events) if (wanted?.has(event.session) !== false) yield event;
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
  readonly notes: string[] = [];
  isTwoSided = false;
  readonly #dialogue = new Dialogue();

  constructor(session: string) {
    this.session = session;
  }

  packet({ from, number, time, packet, raw }: PacketRecord): void {
    if (from === 'mta') {
      const before = this.#dialogue.unanswered.length;
      this.#dialogue.command(packet as Command | OddPacket, number, time);
      const answer = this.#dialogue.unanswered.length > before ? 'missing' : 'none';
      this.lines.push({ number, time, command: packet as Command | OddPacket, raw, replies: [], answer });
      return;
    }
    this.isTwoSided = true;
    const asked = this.#dialogue.unanswered[0]?.number;
    const { answers } = this.#dialogue.reply(packet as Reply | OddPacket, time);
    const line = this.lines.findLast((each) => each.number === asked);
    if (line === undefined) {
      this.notes.push(`Packet ${number}, ${packet.type}, was said unasked, and is not compared`);
      return;
    }
    line.replies.push(packet as Reply | OddPacket);
    if (answers !== undefined) line.answer = 'given';
  }

  note({ type, text }: NoteRecord): void {
    if (type === 'garbage') this.notes.push(`Not replayed: ${text}`);
    else if (type === 'problem') this.notes.push(`The capture says: ${text}`);
  }
}
