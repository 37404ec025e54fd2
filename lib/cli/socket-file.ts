/** Looks at a Unix socket: whether it is one, whose it is, who gets at it, and where a chrooted mail server sees it. */
import type { Stats } from 'node:fs';
import { lstat, readFile, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { note, ok, problem, warning, type Finding } from './finding.js';
import { insideQueue, realPath } from './hints.js';

/** A user, as far as permissions go. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gids: readonly number[];
}

export interface SocketFile {
  /** From the root on, without symbolic links. */
  readonly path: string;
  readonly owner: string;
  readonly group: string;
  /** Octal. */
  readonly mode: string;
  /** As a chrooted smtpd sees it; null where it cannot. */
  readonly chrooted: string | null;
}

export interface Inspection {
  /** Missing where it cannot be looked at. */
  readonly file?: SocketFile;
  /** There is nothing to connect to. */
  readonly hopeless?: true;
  readonly findings: readonly Finding[];
}

export interface Surroundings {
  /** The mail server's user, whose access is looked at. */
  readonly user: string;
  readonly queueDirectory: string;
  readonly passwd?: string;
  readonly group?: string;
}

export async function inspectSocket(given: string, surroundings: Surroundings): Promise<Inspection> {
  const { user, queueDirectory, passwd = '/etc/passwd', group = '/etc/group' } = surroundings;
  const accounts = { passwd: await tableOf(passwd), group: await tableOf(group) };
  const path = realPath(given);
  const places = await placesOf(path).catch((error: NodeJS.ErrnoException) => error);
  if (places instanceof Error) return unknown(path, places);
  const { stats } = places;
  const seen = insideQueue(path, queueDirectory);
  const file = {
    path,
    owner: nameOf(accounts.passwd, stats.uid),
    group: nameOf(accounts.group, stats.gid),
    mode: octal(stats),
    chrooted: seen === undefined ? null : `/${seen}`,
  };
  if (!stats.isSocket())
    return { file, hopeless: true, findings: [problem(`${path} is ${kindOf(stats)}, not a socket`)] };
  const account = accountOf(accounts, user);
  const findings = [
    ok(`${path} is a socket of ${file.owner}, group ${file.group}, mode ${file.mode}`),
    ...(account === undefined
      ? [note(`this machine has no user ${user} (--user): what the mail server may do was not looked at`)]
      : [reach(places, account, accounts)]),
    ...(stats.mode & 0o002
      ? [warning(`its mode ${file.mode} lets every local user talk to the milter: 0660 is better`)]
      : []),
    seen === undefined ? unseen(path, queueDirectory) : ok(`a chrooted smtpd sees it as /${seen}: write unix:${seen}`),
  ];
  return { file, findings };
}

function unknown(path: string, { code, message }: NodeJS.ErrnoException): Inspection {
  if (code !== 'ENOENT') return { findings: [warning(`${path} cannot be looked at: ${message}`)] };
  return {
    hopeless: true,
    findings: [problem(`there is no ${path}: the milter is not running, or listens elsewhere`)],
  };
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return 'a folder';
  return stats.isSymbolicLink() ? 'a symbolic link to nothing' : 'a file';
}

function unseen(path: string, queueDirectory: string): Finding {
  return note(
    `a chrooted smtpd cannot see ${path}: have the milter listen below ${queueDirectory}, or write n into the chroot ` +
      'column of smtpd in master.cf',
  );
}

/** A place in the file system. */
interface Place {
  readonly path: string;
  readonly stats: Stats;
}

/** A socket with the folders on the way to it. @throws the system's error where they cannot be looked at */
async function placesOf(path: string): Promise<Place & { readonly folders: readonly Place[] }> {
  const stats = await lstat(path);
  const folders = foldersTo(path).map(async (folder) => ({ path: folder, stats: await stat(folder) }));
  return { path, stats, folders: await Promise.all(folders) };
}

/** Whether a user gets to a socket: into every folder on the way, and then writes to it, as unix(7) says. */
function reach(
  { path, stats, folders }: Awaited<ReturnType<typeof placesOf>>,
  account: Account,
  accounts: Accounts,
): Finding {
  const described = (at: string, stats: Stats): string =>
    `${at} (${nameOf(accounts.passwd, stats.uid)}:${nameOf(accounts.group, stats.gid)}, mode ${octal(stats)})`;
  const shut = folders.find((folder) => !allows(folder.stats, account, 0o1));
  if (shut !== undefined) return problem(`user ${account.name} cannot enter ${described(shut.path, shut.stats)}`);
  if (allows(stats, account, 0o2)) return ok(`user ${account.name} can connect to it`);
  return problem(
    `user ${account.name} cannot write to ${described(path, stats)}: serve it with the mail server's group, mode 0660`,
  );
}

function foldersTo(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [...foldersTo(parent), parent];
}

/** @param bit 1 to enter a folder, 2 to write */
export function allows(
  { uid, gid, mode }: Pick<Stats, 'uid' | 'gid' | 'mode'>,
  account: Account,
  bit: number,
): boolean {
  if (account.uid === 0) return true;
  if (account.uid === uid) return (mode & (bit << 6)) !== 0;
  return (mode & (account.gids.includes(gid) ? bit << 3 : bit)) !== 0;
}

/** The lines of /etc/passwd and /etc/group, taken apart. */
interface Accounts {
  readonly passwd: readonly string[][];
  readonly group: readonly string[][];
}

async function tableOf(file: string): Promise<string[][]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.split('\n').map((line) => line.split(':'));
}

function accountOf({ passwd, group }: Accounts, name: string): Account | undefined {
  const entry = passwd.find(([own]) => own === name);
  if (entry === undefined) return undefined;
  const more = group
    .filter(([, , , members = '']) => members.split(',').includes(name))
    .map(([, , gid]) => Number(gid));
  return { name, uid: Number(entry[2]), gids: [Number(entry[3]), ...more] };
}

function nameOf(table: readonly string[][], id: number): string {
  return table.find(([, , own]) => own === String(id))?.[0] ?? String(id);
}

function octal({ mode }: Stats): string {
  return (mode & 0o7777).toString(8).padStart(4, '0');
}
