/**
 * A message as a mail server holds it between two milters: a list of headers with their exact bytes, and a body. What no
 * milter changes comes out byte for byte as it went in.
 */
import { isUint8Array } from 'node:util/types';
import { toBytes, toText } from '../codec/text.js';
import { MilterError, show } from '../errors.js';

/** One header. */
export interface MessageHeader {
  readonly name: string;
  /** Everything behind the colon, lines separated by LF, without the last line end. */
  readonly value: string;
  /** Its bytes in the message, line end included. */
  readonly bytes: Buffer;
}

const CRLF = Buffer.from('\r\n');
const NOTHING = Buffer.alloc(0);

export class Message {
  headers: MessageHeader[];
  body: Buffer;
  /** The empty line behind the headers; nothing where the message ends without one. */
  readonly #separator: Buffer;

  private constructor(headers: MessageHeader[], separator: Buffer, body: Buffer) {
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
    const bytes = withCrlf(bytesOf(source));
    const headers: MessageHeader[] = [];
    let line = 1;
    for (let at = 0; at < bytes.length;) {
      const end = headerEnd(bytes, at);
      const raw = bytes.subarray(at, end);
      if (raw[0] === 0x0a || (raw[0] === 0x0d && raw[1] === 0x0a))
        return new Message(headers, raw, bytes.subarray(end));
      headers.push(header(raw, line));
      line += raw.filter((byte) => byte === 0x0a).length;
      at = end;
    }
    return new Message(headers, NOTHING, NOTHING);
  }

  /** The message's bytes. A line end that is missing is put in only where something follows. */
  toBuffer(): Buffer {
    const separator = this.#separator.length === 0 && this.body.length > 0 ? CRLF : this.#separator;
    const parts = [...this.headers.map(({ bytes }) => bytes), separator, this.body].filter(({ length }) => length > 0);
    const lines = parts.flatMap((part, i) => (i < parts.length - 1 && part.at(-1) !== 0x0a ? [part, CRLF] : [part]));
    return Buffer.concat(lines);
  }

  /** The place of the index-th header of a name, counted from 1 (0 means 1); -1 where there is none. */
  find(name: string, index: number): number {
    let left = Math.max(1, index);
    return this.headers.findIndex((each) => each.name.toLowerCase() === name.toLowerCase() && --left === 0);
  }
}

/** A header made of a name and of everything behind the colon. */
export function makeHeader(name: string, value: string): MessageHeader {
  const bytes = toBytes(`${name}:${value.replaceAll('\n', '\r\n')}\r\n`);
  return { name, value, bytes };
}

function bytesOf(source: string | Uint8Array): Buffer {
  if (typeof source === 'string') return toBytes(source);
  if (isUint8Array(source)) return Buffer.from(source.buffer, source.byteOffset, source.byteLength);
  throw new MilterError('ERR_MILTER_ARGUMENT', `The message must be a Buffer or a string, got ${show(source)}`);
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

function withCrlf(bytes: Buffer): Buffer {
  const first = bytes.indexOf(0x0a);
  if (first < 0 || bytes[first - 1] === 0x0d) return bytes;
  return Buffer.from(bytes.toString('latin1').replace(/(?<!\r)\n/g, '\r\n'), 'latin1');
}
