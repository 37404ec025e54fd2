/** Finds the command, reads its options, runs it, and tells of what goes wrong in a line. */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Command, Io, OptionRow } from './command.js';
import { COMMANDS } from './commands.js';
import { asCliError, cannotWrite, EXIT, usageError } from './exit.js';
import { helpOf, NAME, optionsOf, overview } from './help.js';
import { manPage } from './man.js';
import { nearest } from './nearest.js';
import { paintFor, printable } from './terminal.js';
import { Values } from './values.js';

/**
 * Runs a command line.
 * @param argv what stands behind the program's name
 * @returns the exit status
 */
export async function runCli(
  argv: readonly string[],
  io: Io,
  commands: readonly Command[] = COMMANDS,
): Promise<number> {
  // Whoever read the output may have gone, like head does: that is no failure. A full disk is one.
  let lost: Error | undefined;
  io.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') lost ??= error;
  });
  io.stderr.on('error', () => {});
  const status = await perform(argv, io, commands);
  await new Promise((resolve) => io.stdout.write('', resolve));
  if (lost === undefined) return status;
  return Math.max(status, tell(io, NAME, cannotWrite('to the standard output', lost.message)));
}

async function perform(argv: readonly string[], io: Io, commands: readonly Command[]): Promise<number> {
  let who = NAME;
  try {
    const [word, ...rest] = argv;
    const [asked, args] = word === 'help' && rest.length > 0 ? [rest[0] as string, ['--help']] : [word, rest];
    const shown = general(asked, commands);
    if (shown !== undefined) {
      io.stdout.write(shown);
      return EXIT.ok;
    }
    const command = find(asked, commands);
    who = `${NAME} ${command.name}`;
    const { values, positionals } = readLine(command, args);
    if (values.flag('help')) {
      io.stdout.write(helpOf(command));
      return EXIT.ok;
    }
    checkCount(command, positionals);
    return await command.run(io, values, positionals);
  } catch (error) {
    return tell(io, who, error);
  }
}

/** What is asked of no command in particular. */
function general(word: string | undefined, commands: readonly Command[]): string | undefined {
  if (word === '--help' || word === '-h' || word === 'help') return overview(commands);
  if (word === '--version' || word === '-V') return `${version()}\n`;
  return word === '--man' ? manPage(commands, version()) : undefined;
}

/** Of the package: its package.json is two folders up, from the sources as from what is made of them. */
function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

function find(word: string | undefined, commands: readonly Command[]): Command {
  const names = commands.map(({ name }) => name);
  if (word === undefined) throw usageError(`a command is missing: ${names.join(', ')}`);
  const found = commands.find(({ name }) => name === word);
  if (found !== undefined) return found;
  const what = word.startsWith('-') ? 'option' : 'command';
  throw usageError(`there is no ${what} ${word}${perhaps(nearest(word, names))}`);
}

function perhaps(name: string | undefined): string {
  return name === undefined ? '' : `: did you mean ${name}?`;
}

function readLine(command: Command, args: readonly string[]): { values: Values; positionals: readonly string[] } {
  const rows = optionsOf(command);
  try {
    const options = Object.fromEntries(rows.map((row) => [row.name, config(row)]));
    const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
    return { values: new Values(values), positionals };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'ERR_PARSE_ARGS_UNKNOWN_OPTION')
      throw usageError((message.split('\n')[0] as string).replace(/\.$/, ''));
    const [, name] = /'(--?[^' =]*)/.exec(message) as unknown as [string, string];
    const near = nearest(
      name,
      rows.map((row) => `--${row.name}`),
    );
    throw usageError(`there is no option ${name}${perhaps(near)}`);
  }
}

function config({ short, value, multiple }: OptionRow): {
  type: 'string' | 'boolean';
  short?: string;
  multiple?: boolean;
} {
  return {
    type: value === undefined ? 'boolean' : 'string',
    ...(short !== undefined && { short }),
    ...(multiple && { multiple }),
  };
}

function checkCount({ positionals: { min, max }, usage }: Command, given: readonly string[]): void {
  if (given.length < min) throw usageError(`an argument is missing: ${usage[0]}`);
  if (given.length > max) throw usageError(`one argument too many: ${given[max]}`);
}

/** Says what was wrong. An error that nobody has foreseen is the program's: that one is shown whole. */
function tell(io: Io, who: string, error: unknown): number {
  const { red } = paintFor(io.stderr, io.env);
  const known = asCliError(error);
  if (known === undefined) {
    const shown = error instanceof Error ? (error.stack ?? error.message) : String(error);
    io.stderr.write(
      `${red(`${who}: this is an error of ${NAME} itself`)}\n${shown.split('\n').map(printable).join('\n')}\n`,
    );
    return EXIT.software;
  }
  io.stderr.write(`${red(`${who}: ${printable(known.message)}`)}\n`);
  if (known.exit === EXIT.usage) io.stderr.write(`See ${who} --help\n`);
  return known.exit;
}
