/**
 * Opens the socket that mail servers connect to.
 *
 * A Unix socket gets its owner, group and mode before anyone can connect: it is made inside a folder that only we can
 * enter, and moved to its place when it is ready. What is at that place is replaced only if it is a socket on which
 * nobody answers.
 *
 * An inherited socket is left as it is: its mode, owner and file are the business of whoever opened it.
 */
import { chmod, chown, lstat, mkdtemp, rename, rm, rmdir, unlink } from 'node:fs/promises';
import { connect, type AddressInfo, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { MilterError } from '../errors.js';
import { accountId } from './accounts.js';
import { formatAddress, MAX_PATH, type InheritedSocket, type ListenAddress, type SocketAddress } from '../address.js';
import { inheritedDescriptor, pathOf } from './inherited.js';

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
export async function listen(server: Server, address: ListenAddress, options: ListenOptions): Promise<Listening> {
  try {
    if (address.kind === 'unix') return await listenOnPath(server, address.path, options);
    if (address.kind === 'inet') return await listenOnPort(server, address, options);
    return await listenOnDescriptor(server, address);
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

/** The system's maximum, which is systemd's default: Node cannot but call listen(), and that sets the backlog anew. */
const INHERITED_BACKLOG = 0x7fff_ffff;

/** Whoever opened it holds it too: after close() connections wait for the next program that it is passed to. */
async function listenOnDescriptor(server: Server, address: InheritedSocket): Promise<Listening> {
  const fd = inheritedDescriptor(address);
  await opened(server, { fd }, INHERITED_BACKLOG);
  const bound = server.address() as AddressInfo | null;
  return {
    address: bound
      ? { kind: 'inet', host: bound.address, port: bound.port, ipv6Only: false }
      : { kind: 'unix', path: pathOf(fd) },
    release: () => Promise.resolve(),
  };
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

/** @param backlog here for a descriptor, in the options for the others: so Node wants it */
function opened(server: Server, options: object, backlog?: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    const done = (): void => {
      server.off('error', reject);
      resolve();
    };
    if (backlog === undefined) server.listen(options, done);
    else server.listen(options, backlog, done); // with a descriptor, Node looks for it here only
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

/** What else may be wrong with a socket that was made by somebody else. */
const INHERITED_WORDS: Readonly<Record<string, string>> = {
  EINVAL: 'it is no stream socket to listen on',
  EEXIST: 'this process uses it already',
};

function listenError(address: ListenAddress, cause: NodeJS.ErrnoException): MilterError {
  const inherited = address.kind === 'systemd' || address.kind === 'fd';
  const words = { ...WORDS, ...(inherited && INHERITED_WORDS) }[cause.code ?? ''] ?? 'the system refused';
  return new MilterError(
    'ERR_MILTER_LISTEN',
    `Cannot listen on ${formatAddress(address)}: ${words} (${cause.message})`,
    {
      cause,
    },
  );
}
