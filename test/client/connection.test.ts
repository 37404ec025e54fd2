// Connecting: to sockets of both kinds and to streams, with good options and bad ones, in order and out of it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectSocket, createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import t from 'tap';
import { MilterClient, type ClientOptions, type ClientPeer } from '../../lib/client/index.js';
import { AsyncFactory, createSession, formatAddress, MilterProtocol, SMFIF_ALLOPTS } from '../../lib/index.js';
import { fakeMilter } from '../helpers/fake-milter.js';
import { gate, milter } from '../helpers/milter.js';

class Tagging extends MilterProtocol {
  override eob() {
    this.addHeader('X-Tag', this.macro('i') === undefined ? 'no queue id' : 'yes');
    this.replBody(Buffer.alloc(300_000, 'new\r\n'));
  }
}

const mail = { from: '<a@example.org>', to: ['<b@example.com>'], message: 'A: 1\r\n\r\nold' };
const after = Buffer.concat([Buffer.from('A: 1\r\nX-Tag: yes\r\n\r\n'), Buffer.alloc(300_000, 'new\r\n')]);

t.test('P147 over TCP, IPv6 and a Unix socket: several clients, several messages each', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'milter-')); // the path of a Unix socket must be short
  t.teardown(() => rmSync(folder, { recursive: true }));
  for (const where of ['inet:0@127.0.0.1', 'inet6:0@::1', `unix:${join(folder, 's')}`]) {
    const factory = new AsyncFactory(where, Tagging, SMFIF_ALLOPTS);
    await factory.run();
    const target = formatAddress(factory.address!);
    await Promise.all(
      ['one', 'two', 'three'].map(async (hostname) => {
        const client = new MilterClient(target);
        t.equal((await client.connect({ hostname })).outcome, 'continue');
        for (let i = 0; i < 3; i++) t.ok((await client.send(mail)).message.equals(after), `${hostname} at ${target}`);
        await client.quit();
      }),
    );
    await factory.close();
  }
});

t.test('a socket that is connected already, and a session in this process, are as good as an address', async (t) => {
  const factory = new AsyncFactory('inet:0', Tagging, SMFIF_ALLOPTS);
  await factory.run();
  const { port, host } = factory.address as { port: number; host: string };
  for (const stream of [connectSocket(port, host), createSession(Tagging, { smfifOptions: SMFIF_ALLOPTS })]) {
    const client = new MilterClient(stream);
    await client.connect();
    t.ok((await client.send(mail)).message.equals(after));
    await client.quit();
    t.ok(stream.destroyed);
    await t.rejects(client.connect(), { code: 'ERR_MILTER_CONNECTION', stage: 'negotiate', message: /closed before/ });
  }
  await factory.close();
});

t.test('a client can connect again after quit()', async (t) => {
  const { MyMilter, calls } = milter({
    connect: (hostname: string) => (hostname === 'bad' ? 'reject' : undefined),
  });
  const factory = new AsyncFactory('inet:0', MyMilter);
  await factory.run();
  const client = new MilterClient(formatAddress(factory.address!));
  t.equal((await client.connect({ hostname: 'bad' })).outcome, 'reject');
  await client.quit();
  t.equal((await client.connect({ hostname: 'good' })).outcome, 'continue');
  t.match(await client.send(mail), { verdict: 'accept', stage: 'eob' }, 'nothing of the last connection is left');
  await client.quit();
  await client.quit();
  t.strictSame(calls, ['connect', 'close', 'connect', 'abort false', 'close']);
  await factory.close();
});

t.test('nextSession() without QUIT_NC, and after a failure, goes on with a new connection', async (t) => {
  const { MyMilter, calls } = milter({
    connect: (hostname: string) => (hostname === 'bad' ? 'reject' : undefined),
    mailFrom: (address: string) => {
      if (address === '<bad>') throw new Error('boom');
    },
  });
  for (const version of [2, 6] as const) {
    calls.length = 0;
    const factory = new AsyncFactory('inet:0', MyMilter, { callbackDeadline: 1000 });
    factory.on('sessionError', () => {});
    await factory.run();
    const client = new MilterClient(formatAddress(factory.address!), { version });
    await client.connect();
    t.match(await client.nextSession({ hostname: 'bad' }), { outcome: 'reject' });
    t.match(await client.nextSession(), { outcome: 'continue' });
    t.match(await client.send(mail), { verdict: 'accept' });
    await client.quit();
    t.strictSame(
      calls.filter((call) => call === 'connect' || call === 'close'),
      ['connect', 'close', 'connect', 'close', 'connect', 'close'],
    );
    await factory.close();
  }
  const lost = createServer((socket) => socket.on('error', () => {}).once('data', () => socket.destroy())).listen(0);
  await once(lost, 'listening');
  const { port } = lost.address() as AddressInfo;
  const client = new MilterClient(`inet:${port}@127.0.0.1`, { defaultAction: 'accept' });
  t.match(await client.connect(), { outcome: 'accept', error: { code: 'ERR_MILTER_CONNECTION' } });
  const first = once(lost, 'connection');
  t.match(await client.nextSession(), { outcome: 'accept' });
  await first;
  await client.quit();
  lost.close();
});

t.test('P70 P82 quit() says QUIT and resolves when the milter’s close() has ended', async (t) => {
  const { promise, open } = gate();
  const { MyMilter, calls } = milter({ close: () => promise });
  const client = new MilterClient(createSession(MyMilter));
  await client.connect();
  let over = false;
  const quit = client.quit().then(() => (over = true));
  await new Promise(setImmediate);
  t.strictSame([calls, over], [['close'], false]);
  open();
  await quit;
});

t.test('P42 the peer: what CONNECT and HELO say of it', async (t) => {
  const said = async (peer?: ClientPeer) => {
    const { stream, heard } = fakeMilter();
    await new MilterClient(stream).connect(peer);
    return heard.flatMap((each) =>
      each.type === 'connect'
        ? [each.hostname, each.family, each.port, each.address]
        : each.type === 'helo'
          ? [each.name]
          : [],
    );
  };
  t.strictSame(await said(), ['localhost', '4', 25_000, '127.0.0.1', 'localhost']);
  t.strictSame(await said({ hostname: 'mx', address: '2001:db8::1', port: 7, helo: 'other' }), [
    'mx',
    '6',
    7,
    '2001:db8::1',
    'other',
  ]);
  t.strictSame(await said({ address: '/run/s' }), ['localhost', 'L', 0, '/run/s', 'localhost']);
  t.strictSame(await said({ family: 'U' }), ['localhost', 'U', 0, '', 'localhost']);
  t.strictSame(await said({ family: '6', address: 'IPv6:::1' }), ['localhost', '6', 25_000, 'IPv6:::1', 'localhost']);
});

t.test('a peer that no packet can carry: the connection is closed', async (t) => {
  const { stream } = fakeMilter();
  const client = new MilterClient(stream);
  await t.rejects(client.connect({ helo: 'a\0b' }), { code: 'ERR_MILTER_VALUE', packet: 'helo' });
  t.ok(stream.destroyed);
  await t.rejects(client.send(mail), { code: 'ERR_MILTER_SEQUENCE' });
});

t.test('P31 each version is offered with the steps it has, all actions, or what is said', async (t) => {
  const offered = async (options: ClientOptions) => {
    const { stream, heard } = fakeMilter();
    await new MilterClient(stream, options).connect();
    return heard[0];
  };
  t.match(await offered({}), { version: 6, actions: 0x1ff, protocol: 0x1fffff });
  t.match(await offered({ version: 6 }), { version: 6, actions: 0x1ff, protocol: 0x1fffff });
  t.match(await offered({ version: 4 }), { version: 4, actions: 0x1ff, protocol: 0x37f });
  t.match(await offered({ version: 3 }), { version: 3, actions: 0x1ff, protocol: 0x17f });
  t.match(await offered({ version: 2 }), { version: 2, actions: 0x1ff, protocol: 0x7f });
  t.match(await offered({ actions: 1, protocol: 0x2000_0000 }), { version: 6, actions: 1, protocol: 0x2000_0000 });
  t.match(await offered({ actions: undefined, protocol: undefined, version: undefined }), {
    version: 6,
    actions: 0x1ff,
  });
});

t.test('a bad option or address is an error of the constructor that names it', async (t) => {
  const stream = fakeMilter().stream;
  for (const [options, words] of [
    [{ version: 5 }, 'version must be 2, 3, 4 or 6, got 5'],
    [{ version: '6' }, 'version must be 2, 3, 4 or 6, got "6"'],
    [{ actions: -1 }, 'actions must be a number of 32 bits, got -1'],
    [{ protocol: 2 ** 32 }, 'protocol must be a number of 32 bits, got 4294967296'],
    [{ like: 'exim' }, `like must be 'postfix' or 'sendmail', got "exim"`],
    [{ macros: null }, 'macros must be an object of objects, got null'],
    [{ macros: 'j' }, 'macros must be an object of objects, got "j"'],
    [{ connectTimeout: 0 }, 'connectTimeout must be a whole number from 1 to 2147483647, got 0'],
    [{ commandTimeout: 2 ** 31 }, 'commandTimeout must be a whole number from 1 to 2147483647, got 2147483648'],
    [{ contentTimeout: 1.5 }, 'contentTimeout must be a whole number from 1 to 2147483647, got 1.5'],
    [{ ownMacros: 1 }, 'ownMacros must be true or false, got 1'],
    [{ timeout: 1 }, 'timeout is no option, got 1'],
    [null, 'options must be an object, got null'],
    ['x', 'options must be an object, got "x"'],
  ] as const) {
    t.throws(() => new MilterClient(stream, options as ClientOptions), { code: 'ERR_MILTER_OPTION', message: words });
  }
  t.throws(() => new MilterClient('inet:0@127.0.0.1'), {
    code: 'ERR_MILTER_ADDRESS',
    message: /port 0 is nothing to connect to/,
  });
});

t.test('calls out of order are errors that say what to do', async (t) => {
  const { stream } = fakeMilter();
  const client = new MilterClient(stream);
  const first = { code: 'ERR_MILTER_SEQUENCE', message: 'Not connected: connect() first' };
  await t.rejects(client.send(mail), first);
  await t.rejects(client.unknown('FOO'), first);
  await t.rejects(client.nextSession(), first);
  const connecting = client.connect();
  await t.rejects(client.connect(), {
    code: 'ERR_MILTER_SEQUENCE',
    message: 'Another call is at work: await it first',
  });
  await connecting;
  await t.rejects(client.connect(), { code: 'ERR_MILTER_SEQUENCE', message: 'Connected already: quit() first' });
  const sending = client.send(mail);
  await t.rejects(client.send(mail), { code: 'ERR_MILTER_SEQUENCE' });
  t.match(await sending, { verdict: 'accept' }, 'what was at work is not disturbed');
});

t.test('P90 connecting takes no longer than connectTimeout', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const client = new MilterClient(`inet:${port}`, { connectTimeout: 50 });
  // The time is over before the system has had a chance to connect.
  t.intercept(globalThis, 'setTimeout', { value: (fire: () => void) => queueMicrotask(fire) });
  const expected = {
    code: 'ERR_MILTER_CONNECTION',
    message: `Cannot connect to inet:${port}@127.0.0.1: nothing within 50 ms`,
  };
  await t.rejects(client.connect(), expected);
  server.close();
});
