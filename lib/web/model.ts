/** Records as what the page shows: small objects for JSON, all of their text made visible. */
import type { Command, ConnectCommand } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import { toText } from '../codec/text.js';
import { isTime } from '../capture/checks.js';
import { showLetter } from '../capture/show.js';
import type { ConversationRecord, PacketRecord, Side } from '../capture/types.js';
import { MilterError } from '../errors.js';
import { optionError } from '../option-rules.js';
import { actionNames, protocolNames } from '../names.js';
import { STAGE_NAMES, STAGES, stageOfLetter } from '../stages.js';
import { Messages, type MessageNews } from './messages.js';
import { beginning, visible } from './visible.js';

/** A field's name and its value; what is left out of a long one, counted in characters, or bytes of a body. */
export type FieldItem = readonly [name: string, value: string] | readonly [name: string, value: string, more: string];

/** One record, for the page. */
export interface Item {
  readonly kind: ConversationRecord['type'];
  /** Which conversation: a session's name may come twice in a capture. */
  readonly id: number;
  /** The session's name. */
  readonly session: string;
  /** Place in its conversation, from 0. */
  readonly at: number;
  /** ms since 1970, with fractions. */
  readonly time: number;
  readonly from?: Side;
  /** Of a packet: counted from 1. */
  readonly number?: number;
  readonly offset?: number;
  readonly name?: string;
  /** The code byte. */
  readonly code?: string;
  /** A line; of a note all of it. */
  readonly text: string;
  readonly fields?: readonly FieldItem[];
  /** How many fields there are besides. */
  readonly moreFields?: number;
  readonly answers?: { readonly number: number; readonly ms: number };
  readonly problem?: string;
  /** How many bytes it has. */
  readonly size?: number;
  /** The first of them, in base64. */
  readonly bytes?: string;
  readonly news?: MessageNews;
}

export interface ItemOptions {
  /** Most bytes and characters of a packet and of each of its fields that are shown. Default 4,096. */
  readonly limit?: number | undefined;
}

const LIMIT = 4096;
/** Most fields of a packet, and most characters of all of them together, as many times those of one. */
const MOST_FIELDS = 200;
const ALL_FIELDS = 16;
/** Most characters of a line. */
const LINE = 300;
/** Most words that are put together for a line. */
const WORDS = LINE;

interface Conversation {
  readonly id: number;
  at: number;
  readonly messages: Messages;
}

export class Itemizer {
  readonly #limit: number;
  readonly #open = new Map<string, Conversation>();
  #count = 0;

  /** @throws MilterError ERR_MILTER_OPTION */
  constructor({ limit = LIMIT }: ItemOptions = {}) {
    if (!Number.isSafeInteger(limit) || limit < 1) {
      throw optionError('limit', 'must be a positive integer', limit);
    }
    this.#limit = limit;
  }

  item(record: ConversationRecord): Item {
    const { type: kind, session, time, from } = record;
    let conversation = this.#open.get(session);
    if (conversation === undefined) {
      conversation = { id: ++this.#count, at: 0, messages: new Messages() };
      this.#open.set(session, conversation);
    }
    if (kind === 'close') this.#open.delete(session);
    const { id, messages } = conversation;
    const news = messages.take(record);
    return {
      kind,
      id,
      session: shortLine(session),
      at: conversation.at++,
      time: isTime(time) ? time : 0,
      ...(from !== undefined && { from }),
      ...(kind === 'packet' ? this.#packet(record) : { text: shortLine(record.text) }),
      ...('bytes' in record && this.#bytes(record.bytes)),
      ...(news !== undefined && { news: shownNews(news) }),
    };
  }

  #packet({ number, offset, packet, raw, answers, problem }: PacketRecord): Pick<Item, 'text'> & Partial<Item> {
    return {
      number,
      offset,
      name: packet.type,
      code: showLetter(raw[4] as number),
      text: shortLine(summaryOf(packet)),
      ...this.#fields(packet),
      ...(answers !== undefined && { answers: { number: answers.number, ms: finite(answers.ms) } }),
      ...(problem !== undefined && { problem: shortLine(problem) }),
      ...this.#bytes(raw),
    };
  }

  #bytes(bytes: Buffer): Pick<Item, 'size' | 'bytes'> {
    return { size: bytes.length, bytes: bytes.toString('base64', 0, this.#limit) };
  }

  #fields(packet: Command | Reply | OddPacket): Pick<Item, 'fields' | 'moreFields'> {
    const fields: FieldItem[] = [];
    let room = ALL_FIELDS * this.#limit;
    let moreFields = 0;
    for (const [name, value] of valuesOf(packet)) {
      if (fields.length >= MOST_FIELDS || room <= 0) {
        moreFields++;
        continue;
      }
      const field = this.#field(packet.type, name, value);
      fields.push(field);
      room -= field[0].length + field[1].length;
    }
    return { fields, ...(moreFields > 0 && { moreFields }) };
  }

  #field(type: string, name: string, value: unknown): FieldItem {
    if (Buffer.isBuffer(value)) return this.#chunk(name, value);
    if (value instanceof MilterError) return this.#text('error', value.message);
    if (typeof value === 'object') return this.#element(name, value as Element);
    return this.#text(name, valueOf(type, name, value as string | number));
  }

  /** One of several: a macro, a list of macros that are asked for. */
  #element(name: string, value: Element): FieldItem {
    if (name === 'macros' && 'names' in value) return this.#text(`macros for ${stageOf(value.stage)}`, value.names);
    const [macro, text] = value as readonly [string, string];
    return this.#text(macro, text);
  }

  #text(name: string, value: string): FieldItem {
    const shown = beginning(value, this.#limit);
    return field(name, shown, value.length - shown.length, 'characters');
  }

  #chunk(name: string, bytes: Buffer): FieldItem {
    const shown = bytes.subarray(0, this.#limit);
    return field(name, toText(shown), bytes.length - shown.length, 'bytes');
  }
}

type Element = readonly [string, string] | { readonly stage: number; readonly names: string };

/** JSON has no other numbers. */
function finite(number: number): number {
  return Number.isFinite(number) ? number : 0;
}

/** What is in a packet; several of a kind one by one. */
function* valuesOf(packet: Command | Reply | OddPacket): Generator<readonly [name: string, value: unknown]> {
  for (const [name, value] of Object.entries(packet) as Array<[string, unknown]>) {
    // The text says of which stage macros are.
    if (name === 'type' || name === 'code' || (name === 'stage' && packet.type === 'macro')) continue;
    if (Array.isArray(value)) for (const each of value) yield [typeof each === 'string' ? 'argument' : name, each];
    else yield [name, value];
  }
}

function field(name: string, value: string, left: number, unit: string): FieldItem {
  const both = [visible(beginning(name, LINE)), visible(value)] as const;
  return left === 0 ? both : [...both, `${left.toLocaleString('en')} more ${unit}`];
}

/** A text on one line, cut where it is long. */
function shortLine(text: string): string {
  const short = beginning(text, LINE);
  return visible(short) + (short.length < text.length ? '…' : '');
}

function shownNews(news: MessageNews): MessageNews {
  return Object.fromEntries(
    Object.entries(news).map(([name, value]: [string, unknown]) => [
      name,
      typeof value === 'string' ? shortLine(value) : value,
    ]),
  ) as unknown as MessageNews;
}

/** Masks by their names. */
function valueOf(type: string, name: string, value: string | number): string {
  if (type !== 'negotiate' || typeof value === 'string' || name === 'version') return String(value);
  const names = name === 'actions' ? actionNames(value) : protocolNames(value);
  return `0x${value.toString(16)}${names.length > 0 ? `: ${names.join(' ')}` : ''}`;
}

function stageOf(number: number): string {
  return STAGE_NAMES.find((name) => STAGES[name].macros === number) ?? `stage ${number}`;
}

/** What a packet says, in a line. */
function summaryOf(packet: Command | Reply | OddPacket): string {
  switch (packet.type) {
    case 'negotiate':
      return `version ${packet.version}`;
    case 'macro':
      return macrosOf(packet.stage, packet.macros);
    case 'connect':
      return peerOf(packet);
    case 'helo':
      return packet.name;
    case 'mailFrom':
    case 'rcpt':
      return [packet.address, ...packet.args.slice(0, WORDS)].join(' ');
    case 'header':
    case 'addHeader':
    case 'insHeader':
    case 'chgHeader':
      return headerOf(packet);
    case 'body':
    case 'replBody':
      return bytesOf(packet.chunk);
    case 'eob':
      return packet.chunk === undefined ? '' : bytesOf(packet.chunk);
    case 'unknown':
      return packet.line;
    case 'replyCode':
      return packet.text;
    case 'addRcpt':
    case 'delRcpt':
      return packet.address;
    case 'addRcptPar':
    case 'chgFrom':
      return packet.args === undefined ? packet.address : `${packet.address} ${packet.args}`;
    case 'quarantine':
      return packet.reason;
    case 'setSymList':
      return `for ${stageOf(packet.stage)}: ${packet.names}`;
    case 'unrecognized':
      return `${showLetter(packet.code)}, ${bytesOf(packet.payload)}`;
    case 'malformed':
      return packet.error.message;
    default:
      return '';
  }
}

function macrosOf(stage: string, macros: ReadonlyArray<readonly [string, string]>): string {
  const which = `for ${stageOfLetter(stage) ?? showLetter(stage.charCodeAt(0))}`;
  return macros.length === 0
    ? which
    : `${which}: ${macros
        .slice(0, WORDS)
        .map(([name]) => name)
        .join(' ')}`;
}

function peerOf({ hostname, family, address, port }: ConnectCommand): string {
  if (address === '') return hostname;
  return family === 'L' ? `${hostname} ${address}` : `${hostname} [${address}]:${port}`;
}

function headerOf(packet: { name: string; value: string; type: string; index?: number }): string {
  const { name, value, type, index } = packet;
  if (type === 'insHeader') return `before ${index}, ${name}: ${beginning(value, LINE)}`;
  if (type !== 'chgHeader') return `${name}: ${beginning(value, LINE)}`;
  return value === '' ? `${name}, number ${index}, removed` : `${name}, number ${index}: ${beginning(value, LINE)}`;
}

function bytesOf(chunk: Buffer): string {
  return `${chunk.length.toLocaleString('en')} ${chunk.length === 1 ? 'byte' : 'bytes'}`;
}
