/** The texts of --help. */
import { HELP, type Command, type OptionRow } from './command.js';
import { EXIT } from './exit.js';

const WIDTH = 80;

export const NAME = 'milter-stream';
export const SUMMARY = 'tools for milters, the mail filters of Postfix and Sendmail';

/** What is said of all commands. */
export const GENERAL: readonly OptionRow[] = [
  { name: 'help', short: 'h', text: 'Show this text, or behind a command that of the command.' },
  { name: 'version', short: 'V', text: 'Show the version.' },
  { name: 'man', text: 'Print the man page: milter-stream --man | man -l -' },
];

/** Exit statuses that any command may have. */
export const COMMON_EXITS: Command['exits'] = [
  [EXIT.usage, 'the command line is wrong'],
  [EXIT.software, 'an error of milter-stream itself'],
  [EXIT.cannotWrite, 'the standard output cannot be written, unless nobody reads it any more'],
];

/** What environment variables do. */
export const ENVIRONMENT: ReadonlyArray<readonly [name: string, meaning: string]> = [
  ['NO_COLOR', 'Not empty: no colours, whatever else is set.'],
  ['FORCE_COLOR', 'Anything but 0: colours even where the output is no terminal.'],
  ['DEBUG', 'milter:* shows what the library does.'],
];

export const ADDRESSES =
  'An ADDRESS is inet:8891@127.0.0.1, inet:127.0.0.1:8891, inet6:8891@::1, inet:[::1]:8891, unix:/run/my.sock, ' +
  'local:/run/my.sock or /run/my.sock.';

/** Those of a command and the ones that every command has, in ascending order. */
export function exitsOf({ exits }: Command): Command['exits'] {
  const own = new Set(exits.map(([status]) => status));
  return [...exits, ...COMMON_EXITS.filter(([status]) => !own.has(status))].toSorted((a, b) => a[0] - b[0]);
}

export function optionsOf({ options }: Command): readonly OptionRow[] {
  return [...options, HELP];
}

/** An option as it is written: `-o, --output FILE`. */
export function flags({ name, short, value }: OptionRow): string {
  return `${short === undefined ? '' : `-${short}, `}--${name}${value === undefined ? '' : ` ${value}`}`;
}

/** The help of a command. */
export function helpOf(command: Command): string {
  return [
    ...command.usage.map((usage, i) => `${i === 0 ? 'Usage:' : '      '} ${NAME} ${command.name} ${usage}`),
    '',
    ...command.text.flatMap((paragraph) => [...wrap(paragraph, 0), '']),
    'Options:',
    ...optionsOf(command).flatMap((row) => entry(flags(row), row.text, 26)),
    '',
    'Exit status:',
    ...exitsOf(command).flatMap(([status, meaning]) => entry(String(status), meaning, 6)),
    '',
    'Examples:',
    ...command.examples.flatMap(([line, meaning]) => [`  ${NAME} ${line}`, ...wrap(meaning, 6)]),
    '',
  ].join('\n');
}

/** The help of the whole. */
export function overview(commands: readonly Command[]): string {
  return [
    `Usage: ${NAME} COMMAND [OPTION]... [ARGUMENT]...`,
    '',
    `${NAME}: ${SUMMARY}.`,
    '',
    'Commands:',
    ...commands.flatMap(({ name, summary }) => entry(name, summary, 12)),
    '',
    'Options:',
    ...GENERAL.flatMap((row) => entry(flags(row), row.text, 20)),
    '',
    ...wrap(ADDRESSES, 0),
    '',
    'Environment:',
    ...ENVIRONMENT.flatMap(([name, meaning]) => entry(name, meaning, 20)),
    '',
    `${NAME} COMMAND --help says more.`,
    '',
  ].join('\n');
}

/** A term, and what it means in a column of its own. */
function entry(term: string, meaning: string, column: number): string[] {
  const lines = wrap(meaning, column);
  const head = `  ${term}`;
  if (head.length >= column) return [head, ...lines];
  return [head.padEnd(column) + (lines[0] as string).trimStart(), ...lines.slice(1)];
}

/** Words in lines of 80 columns. */
export function wrap(text: string, indent: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && indent + line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line].map((each) => ' '.repeat(indent) + each);
}
