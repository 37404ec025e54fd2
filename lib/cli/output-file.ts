/**
 * The files that commands write. There is mail in them: nobody but their owner may read them. And what was there before is
 * lost for nothing but what takes its place.
 */
import { randomUUID } from 'node:crypto';
import { constants, fstatSync, rmSync, statSync, type WriteStream } from 'node:fs';
import { lstat, open, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { finished } from 'node:stream/promises';
import type { Io } from './command.js';
import { cannotWrite, usageError } from './exit.js';

const MODE = 0o600;
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Where signals come from, and go to again. */
type Signals = Pick<NodeJS.Process, 'once' | 'off' | 'kill' | 'pid'>;

/** A file that is open, and still what it was before, until begin(). */
export class OutputFile {
  readonly #name: string;
  readonly #handle: FileHandle;
  /** What has been made for it, and is to go if nothing comes of it: the file itself, or one beside it. */
  readonly #made: string | undefined;
  #over = (): void => {};

  private constructor(name: string, handle: FileHandle, made: string | undefined) {
    this.#name = name;
    this.#handle = handle;
    this.#made = made;
  }

  /** To be written where it is: it can be looked at while it grows. @throws what the system says */
  static async inPlace(name: string): Promise<OutputFile> {
    const flags = constants.O_WRONLY | constants.O_CREAT;
    try {
      return new OutputFile(name, await open(name, flags | constants.O_EXCL, MODE), name);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      return new OutputFile(name, await open(name, flags, MODE), undefined);
    }
  }

  /**
   * To be written beside it, and to take its place when it is whole. A device, a FIFO, a link, what is somebody else's, and
   * where no file can be made: in place.
   * @throws what the system says
   */
  static async beside(name: string, signals: Signals = process): Promise<OutputFile> {
    const there = await lstat(name).catch(() => undefined);
    if (there !== undefined && !(there.isFile() && there.nlink === 1 && isOurs(there))) return OutputFile.inPlace(name);
    const made = join(dirname(name), `.${basename(name)}.${randomUUID()}.tmp`);
    const handle = await open(made, 'wx', MODE).catch(() => undefined);
    if (handle === undefined) return OutputFile.inPlace(name);
    const file = new OutputFile(name, handle, made);
    const stop = (signal: NodeJS.Signals): void => {
      rmSync(made, { force: true });
      signals.kill(signals.pid, signal); // nobody listens any more: it ends the process
    };
    for (const signal of SIGNALS) signals.once(signal, stop);
    file.#over = () => {
      for (const signal of SIGNALS) signals.off(signal, stop);
    };
    return file;
  }

  /** From here on what was in it is gone, where it is written in place. */
  async begin(): Promise<WriteStream> {
    const stats = await this.#handle.stat();
    if (this.#made === undefined && stats.isFile()) {
      // Some file systems have no modes.
      if (isOurs(stats)) await Promise.allSettled([this.#handle.chmod(stats.mode & MODE)]);
      await this.#handle.truncate();
    }
    // What replaces something must be on the disk first.
    return this.#handle.createWriteStream({ flush: this.#isBeside });
  }

  /** All is written, and the stream is closed. @throws what the system says */
  async keep(): Promise<void> {
    if (this.#isBeside) await rename(this.#made as string, this.#name);
    this.#over();
  }

  /** Nothing comes of it. */
  async drop(): Promise<void> {
    await this.#handle.close();
    if (this.#made !== undefined) await rm(this.#made, { force: true });
    this.#over();
  }

  get #isBeside(): boolean {
    return this.#made !== undefined && this.#made !== this.#name;
  }
}

function isOurs({ uid }: { readonly uid: number }): boolean {
  return uid === process.geteuid?.();
}

/**
 * Writes a file. What fails in `write` leaves what was written until then; where it is the file that fails, the one that was
 * there before stays.
 * @throws CliError for the file; whatever `write` throws
 */
export async function writeTo(name: string, write: (stream: WriteStream) => Promise<void>): Promise<void> {
  let file: OutputFile | undefined;
  let failure: { readonly error: unknown } | undefined;
  try {
    file = await OutputFile.beside(name);
    const stream = (await file.begin()).on('error', () => {}); // finished() tells
    await write(stream).catch((error: unknown) => (failure = { error }));
    await finished(stream.end());
    await file.keep();
  } catch (error) {
    await file?.drop();
    throw cannotWrite(name, (error as Error).message);
  }
  if (failure !== undefined) throw (failure as { error: unknown }).error;
}

/**
 * A command that wrote what it reads would lose it, or never come to its end.
 * @param input,output names of files; - is the standard input or output
 * @throws CliError
 */
export function checkApart({ stdin, stdout }: Io, input: string, output: string): void {
  const read = identityOf(input === '-' ? stdin : input);
  if (read === undefined || read !== identityOf(output === '-' ? stdout : output)) return;
  const what = output === '-' ? 'The standard output' : output;
  throw usageError(`${what} is the file that is read: it would be lost`);
}

/** Which file it is, whatever its name; undefined for what is none. */
function identityOf(place: string | object): string | undefined {
  const { fd } = place as { readonly fd?: unknown };
  if (typeof place !== 'string' && typeof fd !== 'number') return undefined;
  try {
    const stats = typeof place === 'string' ? statSync(place, EXACT) : fstatSync(fd as number, EXACT);
    return stats.isFile() ? `${stats.dev}:${stats.ino}` : undefined;
  } catch {
    return undefined; // it will be told when it is opened
  }
}

const EXACT = { bigint: true } as const;
