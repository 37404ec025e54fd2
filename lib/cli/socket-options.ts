/** Who may connect to the Unix socket that a command makes: the options, and what the library is told of them. */
import type { OptionRow } from './command.js';
import type { Values } from './values.js';

export const SOCKET_OPTIONS: readonly OptionRow[] = [
  { name: 'mode', value: 'MODE', text: 'Mode of a Unix socket, octal. Default 0660.' },
  { name: 'owner', value: 'USER', text: 'Owner of a Unix socket: a name or a number.' },
  { name: 'group', value: 'GROUP', text: 'Group of a Unix socket: that of the mail server, a name or a number.' },
];

interface SocketFile {
  readonly sockChmod: number;
  readonly sockOwner: string | number | undefined;
  readonly sockGroup: string | number | undefined;
}

/** @throws CliError */
export function socketFileOf(values: Values): SocketFile {
  return {
    sockChmod: modeOf(values),
    sockOwner: accountOf(values, 'owner'),
    sockGroup: accountOf(values, 'group'),
  };
}

/** Closer than the library's own default, which lets every local user talk to the milter. */
function modeOf(values: Values): number {
  const text = values.text('mode') ?? '0660';
  if (/^0?[0-7]{3}$/.test(text)) return Number.parseInt(text, 8);
  throw values.bad('mode', 'must be an octal mode like 0660');
}

function accountOf(values: Values, name: string): string | number | undefined {
  const text = values.text(name);
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : text;
}
