/**
 * A message as a mail server holds it between two milters: a list of headers with their exact bytes, and a body. What no
 * milter changes comes out byte for byte as it went in.
 */
import { Readable } from 'node:stream';
import { toBytes, toText } from '../codec/text.js';
import { MilterError, show } from '../errors.js';
import { Body } from './body.js';
import { bytesOf, crlf, hasLfOnly, readHead, type ByteSource } from './message-source.js';

/** One header. */
export interface MessageHeader {
  readonly name: string;
  /** Everything behind the colon, lines separated by LF, without the last line end. */
  readonly value: string;
  /** Its bytes in the message, line end included; none for one that holds a place but is not there (see models.ts). */
  readonly bytes: Buffer;
  /** Milters do not hear of it: the mail server has put it in itself, or it was removed. */
  readonly hidden?: boolean;
}

const CRLF = Buffer.from('\r\n');
const NOTHING = Buffer.alloc(0);

export class Message {
  headers: MessageHeader[];
  body: Body;
  /** The empty line behind the headers; nothing where the message ends without one. */
  readonly #separator: Buffer;

  private constructor(headers: MessageHeader[], separator: Buffer, body: Body) {
    this.headers = headers;
    this.body = body;
    this.#separator = separator;
  }

  /**
   * Reads a message (RFC 5322). One whose first line ends in LF alone, as in a file, gets CRLF for every bare LF; in any
   * other nothing is changed.
   * @throws MilterError ERR_MILTER_ARGUMENT for what is no header, naming its line
   */
  static parse(source: string | Uint8Array): Message {
    const bytes = bytesOf(source);
    return Message.#parse(hasLfOnly(bytes) ? crlf(bytes) : bytes);
  }

  /**
   * Reads the headers of a message out of a stream; the body is read when somebody wants it, and kept in memory once.
   * @throws MilterError as parse(); and whatever the stream fails with
   */
  static async read(source: ByteSource): Promise<Message> {
    const { head, rest } = await readHead(source);
    const body = Body.reading(rest);
    try {
      const message = Message.#parse(head);
      message.body = body;
      return message;
    } catch (error) {
      await body.leave();
      throw error;
    }
  }

  /** A message of headers, with everything behind the colon as their values, and the pieces of a body. */
  static of(headers: ReadonlyArray<readonly [name: string, value: string]>, body: readonly Buffer[]): Message {
    return new Message(
      headers.map(([name, value]) => makeHeader(name, value)),
      CRLF,
      Body.holding(body),
    );
  }

  static #parse(bytes: Buffer): Message {
    const headers: MessageHeader[] = [];
    let line = 1;
    for (let at = 0; at < bytes.length;) {
      const end = headerEnd(bytes, at);
      const raw = bytes.subarray(at, end);
      if (raw[0] === 0x0a || (raw[0] === 0x0d && raw[1] === 0x0a))
        return new Message(headers, raw, Body.of(bytes.subarray(end)));
      headers.push(header(raw, line));
      line += raw.filter((byte) => byte === 0x0a).length;
      at = end;
    }
    return new Message(headers, NOTHING, Body.of(NOTHING));
  }

  /** The same message, whose headers and body can be exchanged without touching this one. */
  copy(): Message {
    return new Message([...this.headers], this.#separator, this.body);
  }

  /**
   * The message's bytes, in pieces that are not copied. A line end that is missing is put in only where something
   * follows. A body that comes from a stream is there as far as it was read.
   */
  *pieces(): Generator<Buffer> {
    const separator = this.#separator.length === 0 && this.body.length > 0 ? CRLF : this.#separator;
    let last = 0x0a;
    const parts = [...this.headers.map(({ bytes }) => bytes), separator];
    for (const part of parts) {
      if (part.length === 0) continue;
      if (last !== 0x0a) yield CRLF;
      yield part;
      last = part.at(-1) as number;
    }
    yield* this.body.pieces;
  }

  /** The message's bytes in one piece. */
  toBuffer(): Buffer {
    return Buffer.concat([...this.pieces()]);
  }

  /** The message's bytes as a stream. */
  toStream(): Readable {
    return Readable.from(this.pieces(), { objectMode: false });
  }

  /** The place of the index-th header of a name among those that milters hear of, from 1 (0 means 1); -1 for none. */
  find(name: string, index: number): number {
    let left = Math.max(1, index);
    const wanted = name.toLowerCase();
    return this.headers.findIndex((each) => !each.hidden && each.name.toLowerCase() === wanted && --left === 0);
  }
}

/** A header made of a name and of everything behind the colon. */
export function makeHeader(name: string, value: string): MessageHeader {
  const bytes = toBytes(`${name}:${value.replaceAll('\n', '\r\n')}\r\n`);
  return { name, value, bytes };
}

function header(raw: Buffer, line: number): MessageHeader {
  const text = toText(raw);
  const [, name, rest] = /^([^ \t:\r\n][^:\r\n]*):(.*)$/s.exec(text) ?? [];
  const wrong = name === undefined ? 'it has no name and colon' : text.includes('\0') ? 'it holds a NUL' : undefined;
  if (wrong !== undefined) {
    throw new MilterError('ERR_MILTER_ARGUMENT', `Line ${line} of the message is no header, ${wrong}: ${show(text)}`);
  }
  const value = (rest as string).replace(/\r?\n$/, '').replaceAll('\r\n', '\n');
  return { name: (name as string).trimEnd(), value, bytes: raw };
}

/** Where a header that begins at an offset ends: before the first line that is no continuation. */
function headerEnd(bytes: Buffer, start: number): number {
  let end = bytes.indexOf(0x0a, start);
  while (end >= 0 && (bytes[end + 1] === 0x20 || bytes[end + 1] === 0x09)) end = bytes.indexOf(0x0a, end + 1);
  return end < 0 ? bytes.length : end + 1;
}
