/** Messages out of files, or of the standard input. */
import { readFile } from 'node:fs/promises';
import { Message } from '../client/index.js';
import type { Io } from './command.js';
import { CliError, EXIT, usageError } from './exit.js';

export interface MailFile {
  /** As it was given. */
  readonly name: string;
  readonly message: Message;
  /** With the line ends that SMTP has. */
  readonly bytes: Buffer;
}

/** Reads all of them: one that is wrong must not be found when others have been sent. @throws CliError */
export async function readMail(io: Io, names: readonly string[]): Promise<MailFile[]> {
  if (names.filter((name) => name === '-').length > 1) throw usageError('the standard input (-) can be read only once');
  const files: MailFile[] = [];
  // One after the other: a process may not have any number of files open.
  for (const name of names) {
    const bytes = name === '-' ? await readAll(io.stdin) : await readNamed(name);
    files.push(parsed(name === '-' ? 'standard input' : name, bytes));
  }
  return files;
}

async function readAll(stream: AsyncIterable<Buffer | string>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(Buffer.from(chunk as Buffer));
  return Buffer.concat(chunks);
}

const WORDS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EISDIR: 'it is a folder',
  EACCES: 'not allowed',
};

async function readNamed(name: string): Promise<Buffer> {
  try {
    return await readFile(name);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new CliError(EXIT.noInput, `Cannot read ${name}: ${WORDS[code as string] ?? message}`);
  }
}

/** Of UTF-8 and UTF-16. Some editors put one in front; the first header would get it into its name. */
const BYTE_ORDER_MARK = /^(\xef\xbb\xbf|\xff\xfe|\xfe\xff)/;

function parsed(name: string, bytes: Buffer): MailFile {
  if (BYTE_ORDER_MARK.test(bytes.toString('latin1', 0, 3))) {
    throw new CliError(
      EXIT.data,
      `${name}: A byte order mark is before the first header (save it as UTF-8 without one)`,
    );
  }
  try {
    const message = Message.parse(bytes);
    return { name, message, bytes: message.toBuffer() };
  } catch (error) {
    const mbox = bytes.subarray(0, 5).toString('latin1') === 'From ' ? ' (the first line is that of an mbox)' : '';
    throw new CliError(EXIT.data, `${name}: ${(error as Error).message}${mbox}`);
  }
}
