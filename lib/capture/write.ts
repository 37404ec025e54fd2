/** Writes captures, in either format. */
import { MilterError, show } from '../errors.js';
import { JsonLinesWriter } from './jsonl.js';
import { PcapngWriter } from './pcapng-writer.js';
import type { CaptureEvent, Source } from './types.js';

/** `jsonl`: JSON Lines, for people, grep and jq; `pcapng`: for Wireshark. */
export type CaptureFormat = 'jsonl' | 'pcapng';

/** Turns events into the bytes of a file, one by one. It keeps what sessions are open, and nothing else. */
export interface CaptureWriter {
  /** What the file begins with. */
  begin(): Buffer;
  /** The bytes of the next event. */
  write(event: CaptureEvent): Buffer;
}

/** @throws MilterError ERR_MILTER_OPTION */
export function captureWriter(format: CaptureFormat): CaptureWriter {
  if (format === 'jsonl') return new JsonLinesWriter();
  if (format === 'pcapng') return new PcapngWriter();
  throw new MilterError('ERR_MILTER_OPTION', `The format of a capture is jsonl or pcapng, not ${show(format)}`);
}

/**
 * The bytes of a file with these events: give it to pipeline() or Readable.from().
 * @throws MilterError ERR_MILTER_OPTION, and what the events throw
 */
export async function* writeCapture(
  events: Source<CaptureEvent>,
  format: CaptureFormat,
): AsyncGenerator<Buffer, void, undefined> {
  const writer = captureWriter(format);
  yield writer.begin();
  for await (const event of events) {
    const bytes = writer.write(event);
    if (bytes.length > 0) yield bytes;
  }
}
