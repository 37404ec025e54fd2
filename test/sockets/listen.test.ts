// What listening does to the file system and the network: who may connect, what is replaced, what is left alone.
import { chmod, lstat, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import * as fs from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { networkInterfaces, userInfo } from 'node:os';
import { EventEmitter, once } from 'node:events';
import t, { type Test } from 'tap';
import { parseAddress } from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { listen, type Listening, type ListenOptions } from '../../lib/sockets/listen.js';
import { shortFolder } from '../helpers/folder.js';

const DEFAULTS: ListenOptions = { backlog: 50, sockChmod: 0o666, sockOwner: undefined, sockGroup: undefined };
const uid = process.getuid?.() ?? 0;
const gid = process.getgid?.() ?? 0;
const asRoot = uid === 0 ? false : 'only root may give files away';
const asUser = uid === 0 ? 'root may do everything' : false;
const withIPv6 = Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === '::1'))
  ? false
  : 'there is no ::1 here';

type Listened = Listening & { readonly server: Server };

async function listening(t: Test, text: string, options: Partial<ListenOptions> = {}): Promise<Listened> {
  const server = createServer((socket) => socket.end());
  const result = await listen(server, parseAddress(text), { ...DEFAULTS, ...options });
  t.teardown(() => void server.close());
  return { ...result, server };
}

async function refused(text: string, options: Partial<ListenOptions> = {}): Promise<MilterError> {
  const server = createServer();
  try {
    await listen(server, parseAddress(text), { ...DEFAULTS, ...options });
  } catch (error) {
    if (server.listening) throw new Error('it listens all the same', { cause: error });
    return error as MilterError;
  }
  server.close();
  throw new Error('it was not refused');
}

/** Whether somebody answers. */
async function answers(where: string | { host: string; port: number }): Promise<boolean> {
  const socket = typeof where === 'string' ? connect(where) : connect(where);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

const modeOf = async (path: string): Promise<number> => (await lstat(path)).mode & 0o777;

/** A socket on which nobody listens any more. */
async function leftOver(path: string): Promise<void> {
  const server = createServer();
  server.listen(`${path}.first`);
  await once(server, 'listening');
  await rename(`${path}.first`, path);
  server.close();
}

t.test('P139 port 0 finds a free port and says which', async (t) => {
  const { address, release } = await listening(t, 'inet:0@127.0.0.1');
  t.match(address, { kind: 'inet', host: '127.0.0.1', port: Number });
  t.ok(address.kind === 'inet' && address.port > 0 && (await answers(address)));
  await release();
});

t.test('P139 inet6 listens for IPv6 alone', { skip: withIPv6 }, async (t) => {
  const { address } = await listening(t, 'inet6:0@::');
  t.ok(address.kind === 'inet' && (await answers({ host: '::1', port: address.port })));
  t.notOk(address.kind === 'inet' && (await answers({ host: '127.0.0.1', port: address.port })));
  const both = await listening(t, 'inet:0@[::]');
  t.ok(both.address.kind === 'inet' && (await answers({ host: '127.0.0.1', port: both.address.port })));
  const loopback = await listening(t, 'inet6:0');
  t.match(loopback.address, { host: '::1', ipv6Only: true });
});

t.test('P139 a port in use, and an address that is not ours, are refused in words', async (t) => {
  const { address } = await listening(t, 'inet:0@127.0.0.1');
  const port = address.kind === 'inet' ? address.port : 0;
  const inUse = await refused(`inet:${port}@127.0.0.1`);
  t.match(inUse, { code: 'ERR_MILTER_LISTEN', cause: { code: 'EADDRINUSE' } });
  t.ok(inUse.message.startsWith(`Cannot listen on inet:${port}@127.0.0.1: another process listens there (`));
  const notOurs = await refused('inet:0@192.0.2.1');
  t.match(notOurs, { code: 'ERR_MILTER_LISTEN', message: /: this machine has no such address \(/ });
});

t.test('P141 a Unix socket has the mode that was asked for, whatever the umask', async (t) => {
  const folder = shortFolder(t);
  for (const sockChmod of [0o666, 0o660, 0o600, 0o777, 0]) {
    const path = `${folder}/${sockChmod.toString(8)}.sock`;
    const { address, release } = await listening(t, `unix:${path}`, { sockChmod });
    t.strictSame(address, { kind: 'unix', path });
    t.equal(await modeOf(path), sockChmod);
    if (sockChmod === 0o666) t.ok(await answers(path));
    t.strictSame(await readdir(folder), [`${sockChmod.toString(8)}.sock`], 'nothing else is left');
    await release();
    t.strictSame(await readdir(folder), []);
  }
});

t.test('a relative path is one from the working directory', async (t) => {
  const folder = shortFolder(t);
  const back = process.cwd();
  process.chdir(folder);
  t.teardown(() => process.chdir(back));
  const { release } = await listening(t, 'my.sock');
  t.strictSame(await readdir(folder), ['my.sock']);
  t.ok(await answers(`${folder}/my.sock`));
  await release();
});

t.test('the owner and the group are set, by number and by name', async (t) => {
  const path = `${shortFolder(t)}/a.sock`;
  const { username } = userInfo();
  const known = (await readFile('/etc/passwd', 'utf8')).split('\n').some((line) => line.startsWith(`${username}:`));
  const owners = known ? [uid, username] : [uid];
  const groups = (await readFile('/etc/group', 'utf8')).split('\n').map((line) => line.split(':'));
  const group = groups.find(([, , number]) => Number(number) === gid)?.[0];
  for (const sockOwner of owners) {
    for (const sockGroup of group === undefined ? [gid] : [gid, group, undefined]) {
      const { release } = await listening(t, path, { sockOwner, sockGroup });
      const { uid: owner, gid: owning } = await lstat(path);
      t.strictSame([owner, owning], [uid, gid], `${sockOwner} ${sockGroup}`);
      await release();
    }
  }
});

t.test('an account is looked up by its name; the one alone leaves the other as it is', async (t) => {
  const accounts = (await readFile('/etc/passwd', 'utf8')).split('\n').map((line) => line.split(':'));
  const [name, , number] = accounts.find(([, , user, group]) => user !== group) as [string, string, string];
  const groups = (await readFile('/etc/group', 'utf8')).split('\n').map((line) => line.split(':'));
  const [groupName, , groupNumber] = groups.at(1) as [string, string, string];
  for (const [options, expected] of [
    [{ sockOwner: name }, [Number(number), -1]],
    [{ sockOwner: 7 }, [7, -1]],
    [{ sockGroup: groupName }, [-1, Number(groupNumber)]],
    [{ sockOwner: 0, sockGroup: 8 }, [0, 8]],
  ] as const) {
    const given: number[] = [];
    const { listen } = await watched(t, {
      chown: async (_path: string, ...ids: number[]) => void given.push(...ids),
    });
    const server = createServer();
    const { release } = await listen(server, parseAddress(`${shortFolder(t)}/a.sock`), { ...DEFAULTS, ...options });
    t.strictSame(given, expected);
    t.equal(server.listenerCount('error'), 0, 'errors to come are for somebody else');
    server.close();
    await release();
  }
});

t.test('the socket can be given to somebody else', { skip: asRoot }, async (t) => {
  const path = `${shortFolder(t)}/a.sock`;
  await listening(t, path, { sockOwner: 65_534, sockGroup: 65_533 });
  const { uid: owner, gid: group } = await lstat(path);
  t.strictSame([owner, group], [65_534, 65_533]);
  await rm(path);
  await listening(t, path, { sockGroup: 'daemon' });
  t.equal((await lstat(path)).uid, 0, 'either alone leaves the other as it is');
});

t.test('a socket that cannot be given away is not left behind', { skip: asUser }, async (t) => {
  const folder = shortFolder(t);
  const error = await refused(`${folder}/a.sock`, { sockOwner: 0 });
  t.match(error, { code: 'ERR_MILTER_LISTEN', message: /: not allowed \(/, cause: { code: 'EPERM' } });
  t.strictSame(await readdir(folder), []);
});

t.test('an account that nobody knows is refused before anything is made', async (t) => {
  const folder = shortFolder(t);
  for (const [options, message] of [
    [{ sockOwner: 'no-such-user' }, "sockOwner: /etc/passwd has no 'no-such-user'; a number works for any account"],
    [{ sockGroup: 'no-such-group' }, "sockGroup: /etc/group has no 'no-such-group'; a number works for any account"],
  ] as const) {
    t.match(await refused(`${folder}/a.sock`, options), { code: 'ERR_MILTER_OPTION', message });
    t.strictSame(await readdir(folder), []);
  }
});

/** listen() with a file system of which some calls are the test's, and what it called, in order. */
async function watched(t: Test, own: Partial<Record<keyof typeof fs, (...args: never[]) => unknown>> = {}) {
  const calls: string[] = [];
  const mocks: Record<string, unknown> = { ...fs };
  for (const name of ['mkdtemp', 'chown', 'chmod', 'rename', 'rmdir', 'unlink'] as const) {
    mocks[name] = async (...args: never[]) => {
      calls.push(name);
      const call = own[name] ?? fs[name];
      return call(...args);
    };
  }
  const mocked = await t.mockImport<{ listen: typeof listen }>('../../lib/sockets/listen.js', {
    'node:fs/promises': mocks,
  });
  return { listen: mocked.listen, calls };
}

t.test('P141 owner, group and mode are set before anybody can connect, in a folder of our own', async (t) => {
  const folder = shortFolder(t);
  await fs.mkdir(`${folder}/sub`);
  const path = `${folder}/sub/a.sock`;
  let own = '';
  const { listen, calls } = await watched(t, {
    mkdtemp: async (prefix: string) => (own = await fs.mkdtemp(prefix)),
    async chmod(made: string, mode: number) {
      t.equal(await modeOf(own), 0o700, 'nobody else can enter it');
      t.strictSame(await readdir(`${folder}/sub`), [own.slice(-7)], 'it lies beside the place of the socket');
      await chmod(made, mode);
    },
  });
  const server = createServer();
  await listen(server, parseAddress(path), { ...DEFAULTS, sockOwner: uid });
  server.close();
  t.strictSame(calls, ['mkdtemp', 'chown', 'chmod', 'rename', 'rmdir']);
  t.match(own, new RegExp(`^${folder}/sub/\\.\\w{6}$`));
});

t.test('what goes wrong half-way leaves nothing behind', async (t) => {
  const folder = shortFolder(t);
  for (const name of ['chmod', 'rename'] as const) {
    for (const failure of [new Error('oops'), Object.assign(new Error('oops'), { code: 'EXDEV' })]) {
      const { listen } = await watched(t, { [name]: () => Promise.reject(failure) });
      const server = createServer();
      await t.rejects(listen(server, parseAddress(`${folder}/a.sock`), DEFAULTS), {
        code: 'ERR_MILTER_LISTEN',
        message: `Cannot listen on unix:${folder}/a.sock: the system refused (oops)`,
        cause: failure,
      });
      t.notOk(server.listening);
      t.strictSame(await readdir(folder), []);
    }
  }
});

t.test('P140 a socket that is left over is replaced', async (t) => {
  const path = `${shortFolder(t)}/a.sock`;
  await leftOver(path);
  t.notOk(await answers(path));
  const { release } = await listening(t, path);
  t.ok(await answers(path));
  await release();
});

t.test('P140 anything else at the path is refused and left alone', async (t) => {
  const folder = shortFolder(t);
  await writeFile(`${folder}/file`, 'content');
  await fs.mkdir(`${folder}/folder`);
  await leftOver(`${folder}/stale`);
  await symlink(`${folder}/file`, `${folder}/link`);
  await symlink(`${folder}/stale`, `${folder}/socket-link`);
  await symlink(`${folder}/nowhere`, `${folder}/dangling`);
  for (const [name, what] of Object.entries({
    file: 'a file that is no socket',
    folder: 'a folder',
    link: 'a symbolic link',
    'socket-link': 'a symbolic link',
    dangling: 'a symbolic link',
  })) {
    t.match(await refused(`unix:${folder}/${name}`), {
      code: 'ERR_MILTER_LISTEN',
      message: `Cannot listen on unix:${folder}/${name}: there is ${what} already, left untouched`,
    });
  }
  t.equal(await readFile(`${folder}/link`, 'utf8'), 'content');
  t.strictSame((await readdir(folder)).toSorted(), ['dangling', 'file', 'folder', 'link', 'socket-link', 'stale']);
});

t.test('P140 a socket on which somebody listens is refused, and goes on', async (t) => {
  const folder = shortFolder(t);
  await listening(t, `${folder}/a.sock`);
  t.match(await refused(`${folder}/a.sock`), {
    code: 'ERR_MILTER_LISTEN',
    message: `Cannot listen on unix:${folder}/a.sock: another process does`,
  });
  t.ok(await answers(`${folder}/a.sock`));
  t.strictSame(await readdir(folder), ['a.sock']);
});

t.test('P140 only a refused connection proves that nobody listens', async (t) => {
  const path = `${shortFolder(t)}/a.sock`;
  await leftOver(path);
  const denied = (): EventEmitter => {
    const socket = Object.assign(new EventEmitter(), { destroy: () => {} });
    process.nextTick(() => socket.emit('error', Object.assign(new Error('denied'), { code: 'EACCES' })));
    return socket;
  };
  const mocked = await t.mockImport<{ listen: typeof listen }>('../../lib/sockets/listen.js', {
    'node:net': { connect: denied },
  });
  await t.rejects(mocked.listen(createServer(), parseAddress(path), DEFAULTS), { message: /: another process does$/ });
});

t.test('a folder that is not there, or is none, is told of', async (t) => {
  const folder = shortFolder(t);
  await writeFile(`${folder}/file`, '');
  t.match(await refused(`${folder}/missing/a.sock`), { message: /: the folder is not there \(/ });
  t.match(await refused(`${folder}/file/a.sock`), { message: /: a part of the path is no folder \(/ });
});

t.test('P139 a folder whose path leaves no room for the work is refused before anything is made', async (t) => {
  const base = shortFolder(t);
  const room = (process.platform === 'linux' ? 107 : 103) - '/.XXXXXX/s'.length;
  const folder = (length: number): string => `${base}/${'d'.repeat(length - base.length - 1)}`;
  for (const length of [room, room + 1]) await fs.mkdir(folder(length));
  const { release } = await listening(t, `${folder(room)}/a.sock`);
  t.ok(await answers(`${folder(room)}/a.sock`));
  await release();
  t.match(await refused(`${folder(room + 1)}/a.sock`), {
    code: 'ERR_MILTER_LISTEN',
    message: /: the path of its folder has \d+ bytes; at most \d+ leave room for a Unix socket$/,
  });
  t.strictSame(await readdir(folder(room + 1)), []);
});

t.test('P141 the file is removed only if it is still ours', async (t) => {
  const folder = shortFolder(t);
  const path = `${folder}/a.sock`;
  const first = await listening(t, path);
  await rm(path);
  await first.release();
  t.strictSame(await readdir(folder), [], 'gone already');

  const second = await listening(t, path);
  await rm(path);
  await writeFile(path, 'somebody else');
  await second.release();
  t.equal(await readFile(path, 'utf8'), 'somebody else');
  await rm(path);

  const third = await listening(t, path);
  await rm(path);
  await listening(t, path);
  await third.release();
  t.ok(await answers(path), 'another one of the same name');
});
