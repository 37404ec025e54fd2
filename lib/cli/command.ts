/** What a command is: one table, of which its --help, its part of the man page and its parser are made. */
import type { Readable, Writable } from 'node:stream';
import type { Values } from './values.js';

/** Where text goes: a stream, perhaps of a terminal. */
export interface Output extends Pick<Writable, 'write' | 'on'> {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

/** What a command has of the world. `process` is one; tests make theirs. */
export interface Io {
  readonly stdin: Readable;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted: the command is to end. Where it is missing, the signals of the process say so. */
  readonly signal?: AbortSignal | undefined;
}

/** One option. */
export interface OptionRow {
  /** Without the dashes. */
  readonly name: string;
  /** One letter, without the dash. */
  readonly short?: string;
  /** What it takes, as the help calls it; missing for one that takes nothing. */
  readonly value?: string;
  /** It may be given several times. */
  readonly multiple?: true;
  readonly text: string;
}

export interface Command {
  readonly name: string;
  /** Half a sentence. */
  readonly summary: string;
  /** What stands behind the name, one line for each way to use it. */
  readonly usage: readonly string[];
  /** Paragraphs. */
  readonly text: readonly string[];
  readonly options: readonly OptionRow[];
  /** How many arguments it takes that are no options. */
  readonly positionals: { readonly min: number; readonly max: number };
  /** What its exit statuses mean; those that every command has need not be there. */
  readonly exits: ReadonlyArray<readonly [status: number, meaning: string]>;
  /** What stands behind `milter-stream`, and what it does. */
  readonly examples: ReadonlyArray<readonly [line: string, meaning: string]>;
  /**
   * @returns the exit status
   * @throws CliError, MilterError: what the user has to know
   */
  run(io: Io, values: Values, positionals: readonly string[]): Promise<number>;
}

/** What every command has. */
export const HELP: OptionRow = { name: 'help', short: 'h', text: 'Show this text.' };
