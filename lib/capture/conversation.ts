/**
 * What was said in a session: the bytes of both sides as packets, each with its place in the conversation. It takes and
 * gives whatever comes; nothing that a capture may hold makes it fail.
 *
 * A packet can only be told where the one before it ends. So a session that does not begin with the exchange of offers
 * is not read at all, a side is read no further behind bytes that are missing or no packet, and after that nobody is
 * said to answer anybody. Such bytes are shown as what they are: none is left out.
 */
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import { Dialogue } from './dialogue.js';
import { Direction, type AnyPacket, type Finder } from './direction.js';
import { nameOf, showEndpoint } from './show.js';
import type {
  CaptureEvent,
  CloseEvent,
  ConversationRecord,
  DataEvent,
  GapEvent,
  NoteRecord,
  OpenEvent,
  PacketRecord,
  Side,
  Source,
} from './types.js';

export interface ConversationOptions {
  /** Largest payload that is taken for one, in bytes; default 1,048,575, the largest that can be negotiated. */
  readonly maxPayload?: number | undefined;
}

/** Most commands without an answer that the end of a session names. */
const MOST_NAMED = 10;

export class Conversation implements Finder {
  readonly session: string;
  readonly #options: ConversationOptions;
  readonly #dialogue = new Dialogue();
  #directions: Readonly<Record<Side, Direction>>;
  /** Only one side is there: the order of the other's packets isn't known. */
  #only: Side | undefined;
  /** The mail server's offer has been seen: what follows can be told apart. */
  #begun = false;
  #packets = 0;
  /** What the event in hand has led to. */
  #records: ConversationRecord[] = [];
  #from: Side = 'mta';
  #time = 0;

  /** @throws MilterError ERR_MILTER_OPTION */
  constructor(session: string, options: ConversationOptions = {}) {
    this.session = session;
    this.#options = options;
    this.#directions = this.#begin(true);
  }

  /** What an event of this session means. */
  take(event: CaptureEvent): ConversationRecord[] {
    this.#time = event.time;
    switch (event.type) {
      case 'open':
        this.#open(event);
        break;
      case 'data':
        this.#data(event);
        break;
      case 'gap':
        this.#gap(event);
        break;
      case 'close':
        this.#close(event);
        break;
      case 'problem':
        this.#note('problem', event.text);
    }
    return this.#given();
  }

  /** The capture ends, and the session was not over. */
  end(): ConversationRecord[] {
    this.#leftOvers();
    this.#note('close', `The capture ends here, and the connection was still open${this.#unanswered}`);
    return this.#given();
  }

  /** The records are not kept: with them the memory of the last packets would be. */
  #given(): ConversationRecord[] {
    const records = this.#records;
    this.#records = [];
    return records;
  }

  found(packet: AnyPacket, raw: Buffer, offset: number): void {
    const from = this.#from;
    const number = ++this.#packets;
    this.#begun ||= from === 'mta';
    const place =
      from === 'mta'
        ? this.#dialogue.command(packet as Command | OddPacket, number, this.#time)
        : this.#dialogue.reply(packet as Reply | OddPacket, this.#time);
    const { session } = this;
    const record: PacketRecord = { type: 'packet', session, time: this.#time, from, number, offset, packet, raw };
    this.#records.push({ ...record, ...place });
  }

  #begin(expectsOffer: boolean): Record<Side, Direction> {
    const { maxPayload } = this.#options;
    return {
      mta: new Direction('mta', expectsOffer, maxPayload),
      milter: new Direction('milter', false, maxPayload),
    };
  }

  #open({ mta, milter, late, only }: OpenEvent): void {
    if (only !== undefined) {
      this.#only = only;
      this.#directions = this.#begin(false);
      this.#dialogue.lose();
      this.#note('open', `What ${nameOf(only)} said`);
      return;
    }
    const when = late === true ? ', seen from the middle on' : '';
    this.#note('open', `${showEndpoint(mta)} to ${showEndpoint(milter)}${when}`);
  }

  #data({ from, bytes }: DataEvent): void {
    if (bytes.length === 0) return;
    const direction = this.#directions[from];
    this.#from = from;
    // A milter speaks when it is spoken to: else what it was asked is missing.
    if (from === 'milter' && !this.#begun && this.#only === undefined) direction.lose();
    const garbage = direction.take(bytes, this);
    if (garbage === undefined) return;
    this.#dialogue.lose();
    this.#note('garbage', `${garbage.text} (${nameOf(from)})`, from, garbage.bytes);
  }

  #gap({ from, missing }: GapEvent): void {
    this.#torn(from);
    this.#dialogue.lose();
    const bytes = missing === 0 ? 'Bytes are' : `${missing} bytes are`;
    this.#note('garbage', `${bytes} missing here: not synchronised from here on (${nameOf(from)})`, from);
  }

  #close({ from, error }: CloseEvent): void {
    this.#leftOvers();
    const who = from === undefined ? 'Closed' : `Closed by ${nameOf(from)}`;
    this.#note('close', `${who}${error === undefined ? '' : `: ${error}`}${this.#unanswered}`, from);
  }

  #leftOvers(): void {
    this.#torn('mta');
    this.#torn('milter');
  }

  /** What came of a packet whose end does not come. */
  #torn(from: Side): void {
    const bytes = this.#directions[from].lose();
    if (bytes.length > 0) this.#note('garbage', `The bytes end inside a packet (${nameOf(from)})`, from, bytes);
  }

  get #unanswered(): string {
    const open = this.#dialogue.unanswered;
    const some = open.slice(0, MOST_NAMED).map(({ number, stage }) => `${number} (${stage})`);
    const more = open.length > MOST_NAMED ? ` and ${open.length - MOST_NAMED} more` : '';
    return open.length === 0 ? '' : `; not answered: ${some.join(', ')}${more}`;
  }

  #note(type: NoteRecord['type'], text: string, from?: Side, bytes?: Buffer): void {
    const { session } = this;
    this.#records.push({
      type,
      session,
      time: this.#time,
      text,
      ...(from !== undefined && { from }),
      ...(bytes !== undefined && { bytes }),
    });
  }
}

/**
 * The conversations in a capture, as they went. Sessions may run side by side; each record says of which it is.
 * What the events throw (the file is broken or cut) is thrown after everything before has been given.
 */
export async function* decodeConversation(
  events: Source<CaptureEvent>,
  options: ConversationOptions = {},
): AsyncGenerator<ConversationRecord, void, undefined> {
  const open = new Map<string, Conversation>();
  let failure: { readonly error: unknown } | undefined;
  try {
    for await (const event of events) {
      const { type, session } = event;
      if (type === 'problem' && !open.has(session)) {
        yield { type, session, time: event.time, text: event.text };
        continue;
      }
      let conversation = open.get(session);
      if (conversation === undefined) open.set(session, (conversation = new Conversation(session, options)));
      yield* conversation.take(event);
      if (type === 'close') open.delete(session);
    }
  } catch (error) {
    failure = { error };
  }
  for (const conversation of open.values()) yield* conversation.end();
  if (failure !== undefined) throw failure.error;
}
