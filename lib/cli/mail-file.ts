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
  return Promise.all(
    names.map(async (name) => {
      const bytes = name === '-' ? await readAll(io.stdin) : await readNamed(name);
      return parsed(name === '-' ? 'standard input' : name, bytes);
    }),
  );
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

function parsed(name: string, bytes: Buffer): MailFile {
  try {
    const message = Message.parse(bytes);
    return { name, message, bytes: message.toBuffer() };
  } catch (error) {
    const mbox = bytes.subarray(0, 5).toString('latin1') === 'From ' ? ' (the first line is that of an mbox)' : '';
    throw new CliError(EXIT.data, `${name}: ${(error as Error).message}${mbox}`);
  }
}
