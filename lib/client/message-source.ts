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

/**
 * What a stream gives, until the signal is aborted: then whatever is waited for rejects, though the stream may never say
 * another word.
 */
export function untilAborted(source: ByteSource, signal: AbortSignal): ByteSource {
  const iterator = source[Symbol.asyncIterator]();
  let giveUp!: (error: MilterError) => void;
  const aborted = new Promise<never>((_resolve, reject) => (giveUp = reject));
  const stop = (): void => {
    aborted.catch(() => {}); // perhaps nobody is waiting
    giveUp(new MilterError('ERR_MILTER_ABORTED', 'The caller has given up', { cause: signal.reason }));
    // A generator that waits for something itself ends only after that, if ever; a stream can be told.
    (source as { destroy?: () => void }).destroy?.();
  };
  signal.addEventListener('abort', stop, { once: true });
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => Promise.race([iterator.next(), aborted]),
      async return() {
        signal.removeEventListener('abort', stop);
        if (!signal.aborted) await iterator.return?.();
        return { done: true, value: undefined };
      },
    }),
  };
}

/** The headers of a stream with the empty line behind them, and the pieces that follow. */
export async function readHead(source: ByteSource): Promise<{ head: Buffer; rest: AsyncIterator<Buffer> }> {
  const pieces = withCrlf(source);
  const parts: Buffer[] = [];
  // The last bytes of what came before, where an empty line may have begun.
  let tail: Buffer = Buffer.from('\n');
  for (let length = 0; ;) {
    const { done, value } = await pieces.next();
    if (done === true) break;
    const seen = Buffer.concat([tail, value]);
    const end = emptyLineEnd(seen);
    parts.push(value);
    if (end >= 0) {
      const all = Buffer.concat(parts);
      const at = length + end - tail.length;
      return { head: all.subarray(0, at), rest: startingWith(all.subarray(at), pieces) };
    }
    length += value.length;
    tail = seen.subarray(-2);
  }
  return { head: Buffer.concat(parts), rest: pieces };
}

/** Where the first empty line ends; -1 where there is none. */
function emptyLineEnd(bytes: Buffer): number {
  for (let at = bytes.indexOf(0x0a); at >= 0; at = bytes.indexOf(0x0a, at + 1)) {
    if (bytes[at + 1] === 0x0a) return at + 2;
    if (bytes[at + 1] === 0x0d && bytes[at + 2] === 0x0a) return at + 3;
  }
  return -1;
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
