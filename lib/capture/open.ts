/** Opens a capture of any kind: its first bytes say of which. */
import { createReadStream } from 'node:fs';
import { ByteSource } from './byte-source.js';
import { broken } from './failure.js';
import { readJsonLines } from './jsonl.js';
import { isPcap, pcapFrames } from './pcap.js';
import { isPcapng, pcapngFrames } from './pcapng.js';
import { portionsOf } from './portions.js';
import { tcpEvents, type TcpOptions } from './tcp.js';
import type { CaptureEvent, Side, Source } from './types.js';

export interface ReadCaptureOptions extends TcpOptions {
  /**
   * A file of another kind holds what this side said, and nothing else, from the first byte of a packet on. Default: it is
   * an error.
   */
  readonly from?: Side | undefined;
}

/**
 * The events in a capture: JSON Lines, pcapng or pcap (of tcpdump, Wireshark, or written here), or with `from` the bare
 * bytes of one side.
 *
 * What can be left out is left out and told as a `problem` that names the frame or line. What ends the reading is thrown,
 * when all that was before it has been given.
 * @param source a path, or what the file holds
 * @throws MilterError ERR_MILTER_CAPTURE for a file that is none, is broken or cut; what the system says of the path
 */
export async function* readCapture(
  source: string | Source<Uint8Array>,
  options: ReadCaptureOptions = {},
): AsyncGenerator<CaptureEvent, void, undefined> {
  const bytes = new ByteSource(typeof source === 'string' ? createReadStream(source) : source);
  try {
    yield* eventsOf(bytes, await bytes.peek(4), options);
  } finally {
    await bytes.close();
  }
}

function eventsOf(bytes: ByteSource, head: Buffer, options: ReadCaptureOptions): Source<CaptureEvent> {
  if (isPcapng(head)) return tcpEvents(pcapngFrames(bytes), options);
  if (isPcap(head)) return tcpEvents(pcapFrames(bytes), options);
  if (head[0] === OPENING_BRACE) return readJsonLines(bytes.rest());
  if (options.from !== undefined) return bareBytes(bytes, options.from);
  throw broken(`No capture: ${guess(head)}`, 'offset 0', 0);
}

/** What a JSON object begins with, and no packet: its length would be beyond any limit. */
const OPENING_BRACE = 0x7b;

function guess(head: Buffer): string {
  if (head.length === 0) return 'the file is empty';
  if (head[0] === 0x1f && head[1] === 0x8b) return 'the file is compressed; gunzip it first';
  if (head[0] === 0) return 'it may be what one side said; then it must be told which side';
  return `it is neither JSON Lines nor pcapng nor pcap (it begins with ${head.toString('hex')})`;
}

async function* bareBytes(bytes: ByteSource, from: Side): AsyncGenerator<CaptureEvent, void, undefined> {
  const session = '1';
  yield { type: 'open', session, time: 0, only: from };
  for await (const chunk of bytes.rest()) {
    for (const portion of portionsOf(chunk)) yield { type: 'data', session, time: 0, from, bytes: portion };
  }
  yield { type: 'close', session, time: 0, from };
}
