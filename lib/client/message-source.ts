/** Where a message comes from: a string, bytes, or a stream of either; with the line ends that SMTP wants. */
import { isUint8Array } from 'node:util/types';
import { toBytes } from '../codec/text.js';
import { MilterError, show } from '../errors.js';

/** A stream of text or bytes: Node's, a web stream, an async generator. */
export type ByteSource = AsyncIterable<string | Uint8Array>;

export function isByteSource(source: unknown): source is ByteSource {
  return typeof source === 'object' && source !== null && Symbol.asyncIterator in source;
}

/** @throws MilterError ERR_MILTER_ARGUMENT */
export function bytesOf(source: unknown, what = 'The message must be a Buffer, a string or a stream of them'): Buffer {
  if (typeof source === 'string') return toBytes(source);
  if (isUint8Array(source)) return Buffer.from(source.buffer, source.byteOffset, source.byteLength);
  throw new MilterError('ERR_MILTER_ARGUMENT', `${what}, got ${show(source)}`);
}

/** Whether the first line ends in LF alone, as in a file. */
export function hasLfOnly(bytes: Buffer): boolean {
  const first = bytes.indexOf(0x0a);
  return first >= 0 && bytes[first - 1] !== 0x0d;
}

/** CRLF for every bare LF. @param after the byte before these */
export function crlf(bytes: Buffer, after = 0): Buffer {
  const text = bytes.toString('latin1').replace(/(?<!\r)\n/g, '\r\n');
  const joined = after === 0x0d && text.startsWith('\r\n') && bytes[0] === 0x0a ? text.slice(1) : text;
  return Buffer.from(joined, 'latin1');
}

/** The headers of a stream with the empty line behind them, and the pieces that follow. */
export async function readHead(source: ByteSource): Promise<{ head: Buffer; rest: AsyncIterator<Buffer> }> {
  const pieces = withCrlf(source);
  let head: Buffer = Buffer.alloc(0);
  let end = -1;
  for (let scanned = 0; end < 0; scanned = Math.max(0, head.length - 2)) {
    const { done, value } = await pieces.next();
    if (done === true) return { head, rest: pieces };
    head = head.length === 0 ? value : Buffer.concat([head, value]);
    end = headEnd(head, scanned);
  }
  return { head: head.subarray(0, end), rest: startingWith(head.subarray(end), pieces) };
}

/** Where the empty line ends; -1 where there is none yet. */
function headEnd(bytes: Buffer, from: number): number {
  const first = emptyLine(bytes, 0);
  if (first > 0) return first;
  for (let at = bytes.indexOf(0x0a, from); at >= 0; at = bytes.indexOf(0x0a, at + 1)) {
    const end = emptyLine(bytes, at + 1);
    if (end > 0) return end;
  }
  return -1;
}

function emptyLine(bytes: Buffer, at: number): number {
  if (bytes[at] === 0x0a) return at + 1;
  return bytes[at] === 0x0d && bytes[at + 1] === 0x0a ? at + 2 : -1;
}

/** No generator: one that has not begun yet would not pass its return() on. */
function startingWith(first: Buffer, rest: AsyncGenerator<Buffer>): AsyncIterator<Buffer> {
  let begun = false;
  return {
    next() {
      if (begun) return rest.next();
      begun = true;
      return Promise.resolve({ done: false, value: first });
    },
    return: () => rest.return(undefined),
  };
}

/** What Message.parse() does to bytes: a stream whose first line ends in LF alone gets CRLF for every bare LF. */
async function* withCrlf(source: ByteSource): AsyncGenerator<Buffer> {
  let lfOnly: boolean | undefined;
  let last = 0;
  for await (const piece of source) {
    const bytes = bytesOf(piece, 'The stream of the message must give Buffers or strings');
    if (bytes.length === 0) continue;
    lfOnly ??= bytes.includes(0x0a) ? hasLfOnly(bytes) && !(bytes[0] === 0x0a && last === 0x0d) : undefined;
    yield lfOnly === true ? crlf(bytes, last) : bytes;
    last = bytes.at(-1) as number;
  }
}
