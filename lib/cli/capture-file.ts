/** Captures in files: which format, what can go wrong on opening, and writing while mail passes. */
import { createReadStream, type WriteStream } from 'node:fs';
import { addAbortSignal } from 'node:stream';
import { readCapture, type ReadCaptureOptions } from '../capture/open.js';
import { captureWriter, type CaptureFormat, type CaptureWriter } from '../capture/write.js';
import type { CaptureEvent } from '../capture/types.js';
import type { Io } from './command.js';
import { cannotWrite, CliError, EXIT, usageError } from './exit.js';
import { OutputFile } from './output-file.js';

/** The format that a file's name asks for. @throws CliError */
export function formatOf(name: string): CaptureFormat {
  if (name.endsWith('.jsonl')) return 'jsonl';
  if (name.endsWith('.pcapng')) return 'pcapng';
  throw usageError(`${name}: the name of a capture ends in .jsonl or .pcapng`);
}

/**
 * The events of a capture; `-` is the standard input.
 * @param signal aborted: no more of them is wanted, and that is their end
 * @throws CliError for a file that cannot be read; what readCapture() throws
 */
export async function* capturedIn(
  io: Io,
  name: string,
  options: ReadCaptureOptions,
  signal?: AbortSignal,
): AsyncGenerator<CaptureEvent, void, undefined> {
  const source = name === '-' ? io.stdin : createReadStream(name);
  if (signal !== undefined) addAbortSignal(signal, source);
  try {
    yield* readCapture(source, options);
  } catch (error) {
    if (signal?.aborted === true) return;
    const { syscall, message } = error as NodeJS.ErrnoException;
    if (syscall === undefined) throw error;
    throw new CliError(EXIT.noInput, `Cannot read ${name}: ${message}`);
  }
}

/** The events, the first of which is read already: what cannot be read at all is known before anything is done. */
export async function begun<T>(events: AsyncIterable<T>): Promise<AsyncIterable<T>> {
  const rest = events[Symbol.asyncIterator]();
  const first = await rest.next();
  return (async function* () {
    try {
      for (let next = first; next.done !== true; next = await rest.next()) yield next.value;
    } finally {
      await rest.return?.();
    }
  })();
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
  readonly #file: OutputFile;
  readonly #writer: CaptureWriter;
  readonly #failed: (error: CliError) => void;
  readonly #most: number;
  #stream!: WriteStream;
  #hasBegun = false;
  #isOver = false;
  /** How much has been given to it. */
  bytes = 0;

  private constructor(name: string, file: OutputFile, failed: (error: CliError) => void, most: number) {
    this.#name = name;
    this.#file = file;
    this.#writer = captureWriter(formatOf(name));
    this.#failed = failed;
    this.#most = most;
  }

  /** Whether it can be written is known then; what was there before is still there. @throws CliError */
  static async open(name: string, failed: (error: CliError) => void, most = MOST_WAITING): Promise<CaptureFile> {
    formatOf(name);
    return new CaptureFile(name, await writable(name, OutputFile.inPlace(name)), failed, most);
  }

  /** From here on it is this capture. @throws CliError */
  async begin(): Promise<void> {
    this.#stream = await writable(this.#name, this.#file.begin());
    this.#hasBegun = true;
    this.#stream.on('error', (error) => this.#fail(error.message));
    this.#put(this.#writer.begin());
  }

  write(event: CaptureEvent): void {
    if (this.#isOver) return;
    if (this.#stream.writableLength > this.#most) this.#fail('the disk is too slow');
    else this.#put(this.#writer.write(event));
  }

  /** Resolves when all is written; of one that was not begun nothing is left. */
  async end(): Promise<void> {
    if (!this.#hasBegun) return this.#file.drop();
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
    this.#isOver = true;
    this.#stream.destroy();
    this.#failed(cannotWrite(this.#name, why));
  }
}

async function writable<T>(name: string, done: Promise<T>): Promise<T> {
  try {
    return await done;
  } catch (error) {
    throw cannotWrite(name, (error as Error).message);
  }
}
