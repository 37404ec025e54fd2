// Sendmail sleeps for a minute at every start when the machine's name has no dot in it and no name server knows
// better, before it reads any configuration. So it gets a host name of its own: root can give a process one.

import { spawnSync } from 'node:child_process';
import { hostname } from 'node:os';

// An address is a name with dots that needs no looking up.
const SCRIPT = 'hostname 127.0.0.1 && exec "$@"';

let ownName: boolean | undefined;

function canHaveOwnName(): boolean {
  ownName ??= spawnSync('unshare', ['--uts', 'true']).status === 0;
  return ownName;
}

/** Whether this machine has a name with a dot in it, or can pretend to. */
export function hasFullHostName(): boolean {
  return hostname().includes('.') || canHaveOwnName();
}

/** The command as it is to be run for the program to find itself on a machine with a full host name. */
export function withFullHostName(program: string, args: string[]): [program: string, args: string[]] {
  return canHaveOwnName() ? ['unshare', ['--uts', 'sh', '-c', SCRIPT, 'sh', program, ...args]] : [program, args];
}
