/** The lines that a milter prints while it runs. */
import { MilterError } from '../errors.js';
import type { Logger } from '../session/options.js';
import type { Io } from './command.js';
import { jsonLine, paintFor, printable } from './terminal.js';

type Level = keyof Logger;

/** Lines of JSON, all on the standard output. */
export function jsonLog({ stdout }: Io): Logger {
  const line =
    (level: Level) =>
    (details: object, message: string): void => {
      const plain = Object.entries(details).map(([key, value]): [string, unknown] => [key, plainly(value)]);
      stdout.write(jsonLine({ time: new Date().toISOString(), level, message, ...Object.fromEntries(plain) }));
    };
  return { info: line('info'), warn: line('warn'), error: line('error') };
}

/** An Error is an empty object in JSON. */
function plainly(value: unknown): unknown {
  if (!(value instanceof Error)) return value;
  const { name, message, stack, cause } = value;
  const code = (value as NodeJS.ErrnoException).code;
  return { name, code, message, ...(cause === undefined ? { stack } : { cause: plainly(cause) }) };
}

/** As sd-daemon(3) wants them. */
const PRIORITY: Readonly<Record<Level, number>> = { info: 6, warn: 4, error: 3 };

/** Lines for people, and for the journal, which takes the level from their front. Warnings go to the standard error. */
export function textLog({ stdout, stderr, env }: Io): Logger {
  const { red, yellow } = paintFor(stderr, env);
  const front = (level: Level): string => (env['JOURNAL_STREAM'] ? `<${PRIORITY[level]}>` : '');
  const print =
    (level: Level, stream: Io['stdout'], paint: (text: string) => string) =>
    (details: object, message: string): void => {
      const line = [message, ...Object.entries(details).flatMap(([key, value]) => field(key, value))].join(' ');
      const more = stackOf(details).map((each) => `${front(level)}  ${each}\n`);
      stream.write([`${front(level)}${paint(printable(line))}\n`, ...more].join(''));
    };
  return {
    info: print('info', stdout, (text) => text),
    warn: print('warn', stderr, yellow),
    error: print('error', stderr, red),
  };
}

/** The message has what an error says. */
function field(key: string, value: unknown): string[] {
  if (value === undefined || value instanceof Error) return [];
  return [`${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`];
}

/** Where a callback has thrown: whoever writes the milter wants to know. */
function stackOf(details: { err?: unknown }): string[] {
  const { err } = details;
  if (!(err instanceof MilterError) || !(err.cause instanceof Error)) return [];
  return (err.cause.stack ?? '').split('\n').map(printable);
}
