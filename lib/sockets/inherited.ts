/**
 * Sockets that whoever started this process has opened for it, by systemd's rules: sd_listen_fds(3).
 *
 * LISTEN_FDS says how many there are, from descriptor 3 on, LISTEN_PID for which process they are (the environment goes
 * on to children, the sockets do not), and LISTEN_FDNAMES what the units call them, with colons between.
 */
import { fstatSync, readFileSync } from 'node:fs';
import { formatAddress, type InheritedSocket } from '../address.js';
import { MilterError } from '../errors.js';

const FIRST = 3;

/** What LISTEN_FDNAMES calls a socket that has no name. */
const UNNAMED = 'unknown';

/**
 * The descriptor of an inherited socket.
 * @throws MilterError ERR_MILTER_LISTEN when there is none such, or what is there is no socket
 */
export function inheritedDescriptor(address: InheritedSocket, env: NodeJS.ProcessEnv = process.env): number {
  const fd = address.kind === 'fd' ? address.fd : choose(address, passed(address, env));
  const what = whatIsAt(fd);
  if (what === 'a socket') return fd;
  throw refusal(address, `descriptor ${fd} is ${what}`);
}

/** The names of the sockets that systemd has passed. */
function passed(address: InheritedSocket, env: NodeJS.ProcessEnv): string[] {
  const { LISTEN_FDS: count, LISTEN_PID: pid, LISTEN_FDNAMES: names } = env;
  if (count === undefined) {
    throw refusal(address, 'no socket was passed, LISTEN_FDS is not set: start it by its .socket unit');
  }
  if (Number(pid) !== process.pid) {
    const whose = pid === undefined ? 'LISTEN_PID is not set' : `LISTEN_PID is ${pid}, this process is ${process.pid}`;
    throw refusal(
      address,
      `${whose}: they are passed to the program started first, so start node itself, not npm or a shell`,
    );
  }
  if (!/^[1-9]\d{0,8}$/.test(count)) throw refusal(address, `LISTEN_FDS is '${count}', which is no number of sockets`);
  const list = names?.split(':') ?? Array.from({ length: Number(count) }, () => UNNAMED);
  if (list.length === Number(count)) return list;
  throw refusal(address, `LISTEN_FDS is ${count}, but LISTEN_FDNAMES has ${list.length} names`);
}

function choose(address: InheritedSocket & { kind: 'systemd' }, names: readonly string[]): number {
  const { name } = address;
  const found = names.flatMap((each, i) => (name === '' || each === name ? [FIRST + i] : []));
  if (found.length === 1) return found[0] as number;
  const there = names.map((each, i) => `${each} (fd:${FIRST + i})`).join(', ');
  const which = found.length > 1 ? (name === '' ? 'several' : 'several of that name') : 'none of that name';
  throw refusal(address, `${which} among the sockets that were passed: ${there}`);
}

function whatIsAt(fd: number): string {
  try {
    const stats = fstatSync(fd);
    if (stats.isSocket()) return 'a socket';
    return stats.isFile() ? 'a file, no socket' : 'no socket';
  } catch {
    return 'not open';
  }
}

/**
 * The path of a Unix socket; '' for one that has none, and where the system does not tell. Node has no call for it.
 * Under systemd's ProcSubset=pid there is no /proc/net.
 */
export function pathOf(fd: number, table = '/proc/self/net/unix'): string {
  try {
    // Num RefCount Protocol Flags Type St Inode Path; an abstract name has an @ for its NUL.
    const inode = String(fstatSync(fd).ino);
    const rows = readFileSync(table, 'utf8')
      .split('\n')
      .map((row) => /^(?:\S+ +){6}(\d+) (.*)$/.exec(row));
    const path = rows.find((row) => row?.[1] === inode)?.[2] ?? '';
    return path.startsWith('@') ? '' : path;
  } catch {
    return '';
  }
}

function refusal(address: InheritedSocket, what: string): MilterError {
  return new MilterError('ERR_MILTER_LISTEN', `Cannot listen on ${formatAddress(address)}: ${what}`);
}
