/**
 * Opens the socket that mail servers connect to.
 *
 * A Unix socket gets its owner, group and mode before anyone can connect: it is made inside a folder that only we can
 * enter, and moved to its place when it is ready. What is at that place is replaced only if it is a socket on which
 * nobody answers.
 */
import { chmod, chown, lstat, mkdtemp, rename, rm, rmdir, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { MilterError } from '../errors.js';
import { accountId } from './accounts.js';
import { formatAddress, MAX_PATH, type SocketAddress } from '../address.js';

export interface ListenOptions {
  /** How many connections may wait to be accepted. */
  readonly backlog: number;
  /** Mode of a Unix socket. */
  readonly sockChmod: number;
  /** Owner of a Unix socket: a name or a number. */
  readonly sockOwner: string | number | undefined;
  /** Group of a Unix socket: a name or a number. */
  readonly sockGroup: string | number | undefined;
}

/** A socket that listens. */
export interface Listening {
  /** Where; with the port that was found for port 0. */
  readonly address: SocketAddress;
  /** Removes a Unix socket's file if it is still ours. */
  readonly release: () => Promise<void>;
}

/** @throws MilterError ERR_MILTER_LISTEN, in words; ERR_MILTER_OPTION for an unknown owner or group */
export async function listen(server: Server, address: SocketAddress, options: ListenOptions): Promise<Listening> {
  try {
    return address.kind === 'unix'
      ? await listenOnPath(server, address.path, options)
      : await listenOnPort(server, address, options);
  } catch (error) {
    throw error instanceof MilterError ? error : listenError(address, error as NodeJS.ErrnoException);
  }
}

async function listenOnPort(
  server: Server,
  address: Extract<SocketAddress, { kind: 'inet' }>,
  { backlog }: ListenOptions,
): Promise<Listening> {
  const { host, port, ipv6Only } = address;
  await opened(server, { host, port, backlog, ipv6Only });
  const bound = server.address() as { port: number };
  return { address: { ...address, port: bound.port }, release: () => Promise.resolve() };
}

async function listenOnPath(server: Server, path: string, options: ListenOptions): Promise<Listening> {
  await checkPlace(path);
  const owner = await idOr(-1, 'sockOwner', options.sockOwner, '/etc/passwd');
  const group = await idOr(-1, 'sockGroup', options.sockGroup, '/etc/group');
  const folder = await ownFolder(path);
  const made = join(folder, 's');
  try {
    await opened(server, { path: made, backlog: options.backlog });
    if (owner !== -1 || group !== -1) await chown(made, owner, group);
    await chmod(made, options.sockChmod);
    const { dev, ino } = await lstat(made);
    await rename(made, path);
    await rmdir(folder);
    const release = async (): Promise<void> => {
      const now = await lstat(path).catch(() => undefined);
      if (now?.dev === dev && now.ino === ino) await unlink(path);
    };
    return { address: { kind: 'unix', path }, release };
  } catch (error) {
    server.close();
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

/** A folder beside the socket's place. Its path is longer than the socket's may be, and a longer one would be cut. */
async function ownFolder(path: string): Promise<string> {
  const parent = dirname(path);
  const most = MAX_PATH - '/.XXXXXX/s'.length;
  const size = Buffer.byteLength(parent);
  if (size <= most) return mkdtemp(`${parent}/.`);
  throw new MilterError(
    'ERR_MILTER_LISTEN',
    `Cannot listen on unix:${path}: the path of its folder has ${size} bytes; at most ${most} leave room for a Unix socket`,
  );
}

async function idOr(none: number, option: string, account: string | number | undefined, file: string): Promise<number> {
  return account === undefined ? none : accountId(option, account, file);
}

function opened(server: Server, options: object): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(options, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** Refuses whatever is at the path, unless it is a socket that nobody listens on. */
async function checkPlace(path: string): Promise<void> {
  // Where it cannot be looked at, nothing can be made either: that says why.
  const there = await lstat(path).catch(() => undefined);
  if (there === undefined) return;
  if (!there.isSocket()) {
    const what = there.isDirectory()
      ? 'a folder'
      : there.isSymbolicLink()
        ? 'a symbolic link'
        : 'a file that is no socket';
    throw new MilterError(
      'ERR_MILTER_LISTEN',
      `Cannot listen on unix:${path}: there is ${what} already, left untouched`,
    );
  }
  if (await somebodyAnswers(path)) {
    throw new MilterError('ERR_MILTER_LISTEN', `Cannot listen on unix:${path}: another process does`);
  }
}

/** Only a refused connection proves that a socket is left over; when in doubt, somebody is there. */
function somebodyAnswers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const answer = (yes: boolean): void => {
      socket.destroy();
      resolve(yes);
    };
    socket.once('connect', () => answer(true));
    socket.once('error', (error: NodeJS.ErrnoException) => answer(error.code !== 'ECONNREFUSED'));
  });
}

const WORDS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another process listens there',
  EADDRNOTAVAIL: 'this machine has no such address',
  EACCES: 'not allowed',
  EPERM: 'not allowed',
  ENOTFOUND: 'no such host',
  ENOENT: 'the folder is not there',
  ENOTDIR: 'a part of the path is no folder',
  ENAMETOOLONG: 'the path is too long for a Unix socket',
};

function listenError(address: SocketAddress, cause: NodeJS.ErrnoException): MilterError {
  const words = WORDS[cause.code ?? ''] ?? 'the system refused';
  return new MilterError(
    'ERR_MILTER_LISTEN',
    `Cannot listen on ${formatAddress(address)}: ${words} (${cause.message})`,
    {
      cause,
    },
  );
}
