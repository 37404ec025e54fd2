/** The man page: what --help says, in roff(7). */
import type { Command } from './command.js';
import { ADDRESSES, ENVIRONMENT, exitsOf, flags, GENERAL, NAME, optionsOf, SUMMARY } from './help.js';

export function manPage(commands: readonly Command[], version: string): string {
  const lines = [
    `.TH ${NAME.toUpperCase()} 1 "" "${NAME} ${version}" "User Commands"`,
    '.SH NAME',
    text(`${NAME} - ${SUMMARY}`),
    '.SH SYNOPSIS',
    ...commands.flatMap(({ name, usage }) =>
      usage.flatMap((each) => [`.B ${text(`${NAME} ${name}`)}`, text(each), '.br']),
    ),
    '.SH DESCRIPTION',
    text(ADDRESSES),
    '.SH COMMANDS',
    ...commands.flatMap(section),
    '.SH OPTIONS',
    ...GENERAL.flatMap((row) => term(flags(row), row.text)),
    '.SH ENVIRONMENT',
    ...ENVIRONMENT.flatMap(([name, meaning]) => term(name, meaning)),
    '',
  ];
  return lines.join('\n');
}

function section(command: Command): string[] {
  return [
    `.SS ${text(command.name)}: ${text(command.summary)}`,
    ...command.text.flatMap((paragraph) => [text(paragraph), '.PP']),
    'Options:',
    ...optionsOf(command).flatMap((row) => term(flags(row), row.text)),
    '.PP',
    'Exit status:',
    ...exitsOf(command).flatMap(([status, meaning]) => term(String(status), meaning)),
    '.PP',
    'Examples:',
    ...command.examples.flatMap(([line, meaning]) => term(`${NAME} ${line}`, meaning)),
  ];
}

function term(head: string, meaning: string): string[] {
  return ['.TP', `.B ${text(head)}`, text(meaning)];
}

/** Text that roff takes for nothing else: a point or a quote in front would be a request. */
function text(words: string): string {
  return words
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('"', '\\(dq')
    .replace(/^(?=[.'])/, '\\&');
}
