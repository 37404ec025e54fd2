/** Captures in files: which format, what can go wrong on opening, and writing while mail passes. */
import { createReadStream, createWriteStream, type WriteStream } from 'node:fs';
import { once } from 'node:events';
import { readCapture, type ReadCaptureOptions } from '../capture/open.js';
import { captureWriter, type CaptureFormat, type CaptureWriter } from '../capture/write.js';
import type { CaptureEvent } from '../capture/types.js';
import type { Io } from './command.js';
import { CliError, EXIT, usageError } from './exit.js';

/** The format that a file's name asks for. @throws CliError */
export function formatOf(name: string): CaptureFormat {
  if (name.endsWith('.jsonl')) return 'jsonl';
  if (name.endsWith('.pcapng')) return 'pcapng';
  throw usageError(`${name}: the name of a capture ends in .jsonl or .pcapng`);
}

/**
 * The events of a capture; `-` is the standard input.
 * @throws CliError for a file that cannot be read; what readCapture() throws
 */
export async function* capturedIn(
  io: Io,
  name: string,
  options: ReadCaptureOptions,
): AsyncGenerator<CaptureEvent, void, undefined> {
  const source = name === '-' ? io.stdin : createReadStream(name);
  try {
    yield* readCapture(source, options);
  } catch (error) {
    const { syscall, message } = error as NodeJS.ErrnoException;
    if (syscall === undefined) throw error;
    throw new CliError(EXIT.noInput, `Cannot read ${name}: ${message}`);
  }
}

/** Whether something in the file could not be read: what else is a problem was one when it was recorded. */
export function isDamage(event: { readonly type: string; readonly text?: string }): boolean {
  return event.type === 'gap' || (event.type === 'problem' && /^(Line|Frame) \d+: /.test(event.text as string));
}

/** Most bytes that wait for the disk. */
const MOST_WAITING = 67_108_864;

/** A capture that is being written. What it fails with is told once: mail passes all the same. */
export class CaptureFile {
  readonly #name: string;
  readonly #stream: WriteStream;
  readonly #writer: CaptureWriter;
  readonly #failed: (error: CliError) => void;
  readonly #most: number;
  #isOver = false;
  /** How much has been given to it. */
  bytes = 0;

  private constructor(name: string, stream: WriteStream, failed: (error: CliError) => void, most: number) {
    this.#name = name;
    this.#stream = stream;
    this.#writer = captureWriter(formatOf(name));
    this.#failed = failed;
    this.#most = most;
    stream.on('error', (error) => this.#fail(error.message));
  }

  /** Only who writes it may read it: there is mail in it. @throws CliError */
  static async open(name: string, failed: (error: CliError) => void, most = MOST_WAITING): Promise<CaptureFile> {
    formatOf(name);
    const stream = createWriteStream(name, { mode: 0o600 });
    try {
      await once(stream, 'open');
    } catch (error) {
      throw cannotWrite(name, (error as Error).message);
    }
    const file = new CaptureFile(name, stream, failed, most);
    file.#put(file.#writer.begin());
    return file;
  }

  write(event: CaptureEvent): void {
    if (this.#isOver) return;
    if (this.#stream.writableLength > this.#most) this.#fail('the disk is too slow');
    else this.#put(this.#writer.write(event));
  }

  async end(): Promise<void> {
    if (this.#isOver) return;
    await new Promise<void>((resolve) => {
      this.#stream.on('close', resolve);
      this.#stream.end();
    });
  }

  #put(bytes: Buffer): void {
    this.bytes += bytes.length;
    this.#stream.write(bytes);
  }

  #fail(why: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stream.destroy();
    this.#failed(cannotWrite(this.#name, why));
  }
}

export function cannotWrite(name: string, why: string): CliError {
  return new CliError(EXIT.cannotWrite, `Cannot write ${name}: ${why}`);
}
