/**
 * Reads a stream whole before anything of it is sent: into memory first, beyond a limit into a file that has no name
 * any more, so that nothing is left behind however the process ends.
 */
import { randomUUID } from 'node:crypto';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { toBytes } from '../codec/text.js';
import { MilterError, show } from '../errors.js';

/** A stream of text or bytes: Node's, a web stream, an async generator. */
export type ByteStream = AsyncIterable<string | Uint8Array>;

/** Ends a stream that nobody will read to its end. */
export function destroyStream(stream: ByteStream): void {
  const any = stream as { destroy?(): void; cancel?(): PromiseLike<void> };
  if (typeof any.destroy === 'function') any.destroy();
  else if (typeof any.cancel === 'function') any.cancel().then(undefined, () => {});
}

export interface SpoolOptions {
  /** How many bytes of a stream are kept in memory; the rest goes to a file. */
  readonly spoolMemory: number;
}

/** One thing a stream gave, as bytes. @throws MilterError ERR_MILTER_ARGUMENT */
export function chunkBytes(chunk: unknown): Buffer {
  if (typeof chunk === 'string') return toBytes(chunk);
  if (chunk instanceof Uint8Array) return Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  throw new MilterError('ERR_MILTER_ARGUMENT', `replBody(): the stream gave ${show(chunk)}, not bytes or a string`);
}

export class Spool {
  /** Settles when the stream has ended; rejects with what the stream failed with. */
  readonly ready: Promise<void>;

  readonly #source: ByteStream;
  readonly #limit: number;
  #memory: Buffer[] = [];
  #memoryBytes = 0;
  #file: FileHandle | undefined;
  #discarded = false;

  /** Starts reading at once: a stream that fails before the callback has returned must be heard. */
  constructor(source: ByteStream, options: SpoolOptions) {
    this.#source = source;
    this.#limit = options.spoolMemory;
    this.ready = this.#fill();
    this.ready.catch(() => {});
  }

  async #fill(): Promise<void> {
    try {
      for await (const chunk of this.#source) {
        await this.#keep(chunkBytes(chunk));
        if (this.#discarded) break;
      }
    } catch (error) {
      this.discard();
      throw error;
    } finally {
      if (this.#discarded) await this.#closeFile(); // it may have been opened after discard()
    }
  }

  async #keep(bytes: Buffer): Promise<void> {
    if (this.#file === undefined && this.#memoryBytes + bytes.length <= this.#limit) {
      this.#memory.push(bytes);
      this.#memoryBytes += bytes.length;
      return;
    }
    this.#file ??= await unnamedFile();
    await this.#file.appendFile(bytes);
  }

  /** What was read: pieces of what was kept in memory as they came, then of the file, each of at most `size` bytes. */
  async *chunks(size: number): AsyncGenerator<Buffer> {
    yield* this.#memory;
    const reading = { start: 0, highWaterMark: size, autoClose: false };
    if (this.#file !== undefined) yield* this.#file.createReadStream(reading) as AsyncIterable<Buffer>;
  }

  /** Forgets everything; a stream that is still being read is destroyed. */
  discard(): void {
    this.#discarded = true;
    this.#memory = [];
    destroyStream(this.#source);
    this.#closeFile().catch(() => {});
  }

  async #closeFile(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.close();
  }
}

async function unnamedFile(): Promise<FileHandle> {
  const path = join(tmpdir(), `milter-stream-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}
