// Clients that misbehave: each costs its own connection, in words, and nobody else anything.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import { MilterProtocol } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { connections, dial, reach, serve } from '../helpers/dial.js';
import { outcome } from '../helpers/eob.js';
import { shortFolder } from '../helpers/folder.js';
import { awaken, gate, milter } from '../helpers/milter.js';
import { ALL_ACTIONS, message, Mta, say } from '../helpers/mta.js';
import { openFiles } from '../helpers/open-files.js';
import { settled } from '../helpers/streams.js';
import { until } from '../helpers/until.js';

const STRANGERS: Readonly<Record<string, readonly [Buffer, RegExp]>> = {
  HTTP: [Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'), /the peer seems to be an HTTP client$/],
  SMTP: [Buffer.from('EHLO mx.example.org\r\n'), /the peer seems to be an SMTP client$/],
  TLS: [Buffer.from('160301020001000001fc0303', 'hex'), /the peer seems to speak TLS$/],
  clamd: [Buffer.from('nINSTREAM\n'), /the peer seems to be a client of clamd$/],
  text: [Buffer.from('hello there\r\n'), /the peer speaks text: "hello there/],
  garbage: [Buffer.alloc(100, 0xff), /^A packet claims a payload of 4294967294 bytes/],
  zeros: [Buffer.alloc(100), /^A packet of length 0/],
  'a letter that is none': [packet('?'), /^No packet of this direction has the code '\?'/],
  'P29 a command before the negotiation': [packet('M', '<a@b>'), /mailFrom out of order/],
};

t.test('whoever else dials is cut off, in words that say what it looks like; other sessions go on', async (t) => {
  const { MyMilter } = milter({ mailFrom: () => {} });
  const { factory, errors } = await serve(t, MyMilter);
  const good = await dial(t, factory);
  await good.mta.negotiate();
  for (const [name, [bytes, words]] of Object.entries(STRANGERS)) {
    const { mta } = await dial(t, factory);
    mta.bytes(bytes);
    await mta.closed;
    t.strictSame(mta.replies, []);
    const error = errors.pop();
    t.match(error?.message, words, name);
    t.strictSame(errors, [], 'it is told of once');
    t.equal((await good.mta.ask(say.mail())).type, 'continue');
  }
});

t.test('P80 P143 clients that break off at any point leave nothing behind', async (t) => {
  const { MyMilter, calls } = milter({
    mailFrom: () => new Promise<void>((resolve) => setImmediate(resolve)),
    eob(this: MilterProtocol) {
      this.replBody('z'.repeat(2_000_000));
    },
  });
  const { factory, errors } = await serve(t, MyMilter, { smfifOptions: ALL_ACTIONS });
  const ways: Record<string, (socket: Socket, mta: Mta) => unknown> = {
    'without a word': (socket) => socket.destroy(),
    'with a reset': (socket) => socket.resetAndDestroy(),
    'inside a packet': (_socket, mta) => {
      mta.bytes(Buffer.from('00000009', 'hex'));
      mta.end();
    },
    'with a reset in a callback': (socket, mta) => {
      mta.send(say.mail());
      socket.resetAndDestroy();
    },
    'while a body comes': async (socket, mta) => {
      mta.send(say.mail(), say.eob());
      await mta.reply();
      socket.destroy();
    },
    'with a reset while a body comes': async (socket, mta) => {
      mta.send(say.mail(), say.eob());
      await mta.reply();
      socket.resetAndDestroy();
    },
  };
  let closed = 0;
  for (const [name, breakOff] of Object.entries(ways)) {
    const { mta, socket } = await dial(t, factory);
    await mta.negotiate();
    await breakOff(socket, mta);
    await connections(factory, 0);
    closed++;
    t.equal(calls.filter((call) => call === 'close').length, closed, name);
  }
  t.strictSame(
    errors.map(({ code }) => code),
    ['ERR_MILTER_TRUNCATED'],
  );
  const { mta } = await dial(t, factory);
  t.equal((await mta.negotiate()).type, 'negotiate');
});

t.test('P70 a client that closes its half only still gets its answer', async (t) => {
  const { MyMilter, calls } = milter({
    mailFrom(this: MilterProtocol) {
      return once(this.signal, 'abort').then(() => {}); // of the end that has come
    },
  });
  const { factory } = await serve(t, MyMilter);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  mta.send(say.mail());
  mta.end();
  t.equal((await mta.reply()).type, 'continue');
  await connections(factory, 0);
  t.strictSame(calls, ['mailFrom', 'abort true', 'close']);
});

t.test('P70 QUIT closes both halves, also of a client that does not close its own', async (t) => {
  const { factory } = await serve(t, MilterProtocol);
  const socket = connect({ ...(reach(factory.address) as { host: string; port: number }), allowHalfOpen: true });
  t.teardown(() => void socket.destroy());
  const mta = new Mta(socket);
  await mta.negotiate();
  mta.send(say.quit());
  await connections(factory, 0);
  await mta.closed;
});

t.test('P70 what was answered before QUIT is not lost, however slowly it is taken', async (t) => {
  const { MyMilter } = milter({
    eob(this: MilterProtocol) {
      this.replBody('z'.repeat(250_000));
    },
  });
  const { factory } = await serve(t, MyMilter, { smfifOptions: ALL_ACTIONS });
  const { mta, socket } = await dial(t, factory);
  await mta.negotiate();
  socket.pause();
  const messages = Array.from({ length: 100 }, () => say.eob());
  mta.send(...messages, say.quit());
  // By the time that another one has come and gone, the session is over and the replies wait.
  const other = await dial(t, factory);
  await other.mta.negotiate();
  other.mta.send(say.quit());
  await other.mta.closed;
  socket.resume();
  await mta.closed;
  t.equal(mta.replies.filter(({ type }) => type === 'continue').length, messages.length);
});

t.test('the signal of a callback tells what broke, and a connection counts until close() has ended', async (t) => {
  let reason: unknown;
  const { promise, open } = gate();
  const { MyMilter, calls } = milter({
    async mailFrom(this: MilterProtocol) {
      await once(this.signal, 'abort');
      ({ reason } = this.signal);
    },
    close: () => promise,
  });
  const { factory } = await serve(t, MyMilter);
  const { mta, socket } = await dial(t, factory);
  await mta.negotiate();
  mta.send(say.mail());
  while (calls.length === 0) await settled();
  socket.resetAndDestroy();
  while (!calls.includes('close')) await settled();
  t.match(reason, { code: 'ERR_MILTER_CONNECTION', cause: { code: 'ECONNRESET' } });
  t.equal(factory.connections, 1);
  open();
  await connections(factory, 0);
});

t.test('P15 a client that sends without end is not read without end', async (t) => {
  const { promise, open } = gate();
  const { MyMilter, calls } = milter({ helo: () => {}, mailFrom: () => promise, header: () => {} });
  const { factory } = await serve(t, MyMilter);
  const flood = await dial(t, factory);
  await flood.mta.negotiate();
  const headers = 800;
  flood.mta.send(say.mail());
  for (let i = 0; i < headers; i++) flood.mta.send(say.header('X', 'y'.repeat(60_000)));
  const good = await dial(t, factory);
  await good.mta.negotiate();
  // Each answer takes a turn of the loop, in which the other socket could be read: more turns than it has bytes for.
  for (let i = 0; i < 2000; i++) await good.mta.ask(say.helo());
  t.ok(flood.socket.writableLength > 10_000_000, `${flood.socket.writableLength} bytes wait with the client`);
  open();
  while (flood.mta.replies.length < 1 + headers) await settled();
  t.equal(calls.filter((call) => call === 'header').length, headers);
});

t.test('P15 a client that never reads is not written to without end, and the others are served', async (t) => {
  const { MyMilter } = milter({
    mailFrom: () => {},
    eob(this: MilterProtocol) {
      this.replBody(Buffer.alloc(50_000_000));
    },
  });
  const { factory } = await serve(t, MyMilter, { smfifOptions: ALL_ACTIONS });
  const deaf = await dial(t, factory);
  await deaf.mta.negotiate();
  await deaf.mta.ask(say.mail());
  deaf.socket.pause();
  const before = process.memoryUsage().arrayBuffers;
  deaf.mta.send(say.eob(), say.quit());
  const good = await dial(t, factory);
  await good.mta.negotiate();
  for (let i = 0; i < 100; i++) t.equal((await good.mta.ask(say.mail())).type, 'continue');
  t.ok(process.memoryUsage().arrayBuffers - before < 90_000_000, 'the body is in memory once');
  deaf.socket.resume();
  const replies = await outcome(deaf.mta);
  const taken = replies.reduce((sum, reply) => sum + (reply.type === 'replBody' ? reply.chunk.length : 0), 0);
  t.equal(taken, 50_000_000);
  t.equal(await deaf.mta.closed, undefined, 'all of it, though QUIT has come');
});

t.test('P79 a connection on which no negotiation comes, or nothing any more, is closed', async (t) => {
  const { MyMilter, calls } = milter({ mailFrom: () => {} });
  const { factory, errors } = await serve(t, MyMilter, { negotiationTimeout: 20, idleTimeout: 50 });
  const silent = await dial(t, factory);
  await awaken(silent.mta.closed);
  t.match(errors.shift(), { code: 'ERR_MILTER_TIMEOUT', message: 'No negotiation came within 20 ms' });
  const idle = await dial(t, factory);
  idle.mta.send({ type: 'negotiate', version: 6, actions: 0, protocol: 0 }, say.mail());
  await awaken(idle.mta.closed);
  t.match(idle.mta.replies, [{ type: 'negotiate' }, { type: 'continue' }]);
  t.match(errors, [{ code: 'ERR_MILTER_TIMEOUT', message: 'Nothing came from the mail server within 50 ms' }]);
  await connections(factory, 0);
  t.strictSame(calls, ['close', 'mailFrom', 'abort true', 'close']);
});

t.test('P145 what comes behind QUIT is thrown away', async (t) => {
  const { factory, errors } = await serve(t, MilterProtocol);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  mta.send(say.quit(), ...message());
  mta.bytes(Buffer.alloc(1_000_000));
  await mta.closed;
  await connections(factory, 0);
  t.strictSame([mta.replies, errors], [[], []]);
});

t.test('no descriptor is left when a factory has closed', async (t) => {
  const sockets = (): number => openFiles('socket:').length;
  const before = sockets();
  for (const where of ['inet:0', `${shortFolder(t)}/a.sock`]) {
    const { factory } = await serve(t, MilterProtocol, { maxConnections: 2 }, where);
    const clients = await Promise.all(Array.from({ length: 5 }, () => dial(t, factory)));
    clients[1]?.mta.bytes(Buffer.alloc(10));
    clients[2]?.socket.destroy();
    await Promise.all([factory.close(), factory.close()]);
    for (const { socket } of clients) socket.destroy();
  }
  await until('the sockets to be closed', () => sockets() <= before);
  t.pass();
});
