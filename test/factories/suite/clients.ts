// Clients that misbehave: each costs its own connection, in words, and nobody else anything.
import { connect, type Socket } from 'node:net';
import { packet } from '../../helpers/bytes.js';
import { reach } from '../../helpers/dial.js';
import { outcome } from '../../helpers/eob.js';
import { shortFolder } from '../../helpers/folder.js';
import { awaken } from '../../helpers/milter.js';
import { ALL_ACTIONS, message, Mta, say } from '../../helpers/mta.js';
import { openFiles } from '../../helpers/open-files.js';
import { settled } from '../../helpers/streams.js';
import { until } from '../../helpers/until.js';
import { playing, type Part } from './puppets.js';

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

export const clients: Part = (t, variant) => {
  t.test('whoever else dials is cut off, in words that say what it looks like; others go on', async (t) => {
    const play = await playing(t, variant, { mailFrom: [] });
    const good = await play.agreed();
    for (const [name, [bytes, words]] of Object.entries(STRANGERS)) {
      const { mta } = await play.dial();
      mta.bytes(bytes);
      await mta.closed;
      t.strictSame(mta.replies, []);
      t.match((await play.failure()).message, words, name);
      t.equal((await good.mta.ask(say.mail())).type, 'continue');
    }
    good.mta.end();
    await play.alone();
    t.strictSame(play.errors, [], 'each was told of once');
  });

  t.test('garbage in the middle of a conversation ends it, and the message is interrupted', async (t) => {
    const play = await playing(t, variant, { mailFrom: [['tick']] });
    for (const garbage of [Buffer.alloc(100, 0xff), packet('?')]) {
      const { mta } = await play.agreed();
      mta.bytes(Buffer.concat([packet('M', '<a@b>\0'), garbage]));
      await mta.closed;
      t.match(await play.failure(), { name: 'MilterError', code: /^ERR_MILTER_(PACKET_TOO_LARGE|UNKNOWN_CODE)$/ });
      await play.alone();
    }
    t.strictSame(play.errors, []);
    t.equal(play.count('close'), 2);
    t.equal(play.count('abort true'), play.count('mailFrom'));
  });

  t.test('P80 P143 clients that break off at any point leave nothing behind', async (t) => {
    const script = { mailFrom: [['tick']], eob: [['body', 2_000_000]] } as const;
    const play = await playing(t, variant, script, { smfifOptions: ALL_ACTIONS });
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
      const { mta, socket } = await play.agreed();
      await breakOff(socket, mta);
      await play.alone();
      closed++;
      t.equal(play.count('close'), closed, name);
    }
    t.strictSame(
      play.errors.map(({ code }) => code),
      ['ERR_MILTER_TRUNCATED'],
    );
    const { mta } = await play.dial();
    t.equal((await mta.negotiate()).type, 'negotiate');
  });

  t.test('P70 a client that closes its half only still gets its answer', async (t) => {
    const play = await playing(t, variant, { mailFrom: [['aborted']] });
    const { mta } = await play.agreed();
    mta.send(say.mail());
    mta.end();
    t.equal((await mta.reply()).type, 'continue', 'the callback saw the end that had come');
    await play.alone();
    t.strictSame(play.calls(), ['mailFrom', ['aborted', 'ERR_MILTER_CONNECTION'], 'abort true', 'close']);
  });

  t.test(
    'Reading while busy: an ABORT aborts the signal of the callback at work, and the next message passes',
    async (t) => {
      const play = await playing(t, variant, { mailFrom: [['first', ['aborted']]] });
      const { mta } = await play.agreed();
      mta.send(say.mail(), say.abort());
      t.strictSame(await mta.play(say.mail(), say.eob()), ['continue', 'continue']);
      t.equal((await mta.reply()).type, 'continue');
      mta.send(say.quit());
      await play.alone();
      const first = ['mailFrom', ['aborted', 'ERR_MILTER_ABORTED'], 'abort true'];
      t.strictSame(play.calls(), [...first, 'mailFrom', 'close']);
    },
  );

  t.test('P70 QUIT closes both halves, also of a client that does not close its own', async (t) => {
    const play = await playing(t, variant);
    const place = reach(play.factory.address) as { host: string; port: number };
    const socket = connect({ ...place, allowHalfOpen: true });
    t.teardown(() => void socket.destroy());
    const mta = new Mta(socket);
    await mta.negotiate();
    mta.send(say.quit());
    await play.alone();
    await mta.closed;
  });

  t.test('P70 what was answered before QUIT is not lost, however slowly it is taken', async (t) => {
    const play = await playing(t, variant, { eob: [['body', 250_000]] }, { smfifOptions: ALL_ACTIONS });
    const { mta, socket } = await play.agreed();
    socket.pause();
    const messages = Array.from({ length: 100 }, () => say.eob());
    mta.send(...messages, say.quit());
    // By the time that another one has come and gone, the session is over and the replies wait.
    const other = await play.agreed();
    other.mta.send(say.quit());
    await other.mta.closed;
    socket.resume();
    await mta.closed;
    t.equal(mta.replies.filter(({ type }) => type === 'continue').length, messages.length);
  });

  t.test('the signal of a callback tells what broke, and a connection counts until close() has ended', async (t) => {
    const play = await playing(t, variant, { mailFrom: [['hold'], ['aborted']], close: [['hold']] });
    const { mta, socket } = await play.agreed();
    mta.send(say.mail());
    const goOn = await play.held('mailFrom');
    socket.resetAndDestroy();
    goOn();
    const end = await play.held('close');
    t.strictSame(play.calls(), ['mailFrom', ['aborted', 'ERR_MILTER_CONNECTION', 'ECONNRESET'], 'abort true', 'close']);
    t.equal(play.factory.connections, 1);
    end();
    await play.alone();
    t.strictSame(play.errors, []);
  });

  t.test('P15 a client that sends without end is not read without end', async (t) => {
    const play = await playing(t, variant, { helo: [], mailFrom: [['hold']], header: [] });
    const flood = await play.agreed();
    const headers = 800;
    flood.mta.send(say.mail());
    for (let i = 0; i < headers; i++) flood.mta.send(say.header('X', 'y'.repeat(60_000)));
    const release = await play.held('mailFrom');
    const good = await play.agreed();
    // Each answer takes a turn of the loop, in which the other socket could be read: more turns than it has bytes for.
    for (let i = 0; i < 2000; i++) await good.mta.ask(say.helo());
    t.ok(flood.socket.writableLength > 10_000_000, `${flood.socket.writableLength} bytes wait with the client`);
    release();
    while (flood.mta.replies.length < 1 + headers) await settled();
    t.equal(play.count('header'), headers);
  });

  t.test('P15 a client that never reads is not written to without end, and the others are served', async (t) => {
    const script = { mailFrom: [], eob: [['body', 50_000_000]] } as const;
    const play = await playing(t, variant, script, { smfifOptions: ALL_ACTIONS });
    const deaf = await play.agreed();
    await deaf.mta.ask(say.mail());
    deaf.socket.pause();
    const before = process.memoryUsage().arrayBuffers;
    deaf.mta.send(say.eob(), say.quit());
    const good = await play.agreed();
    for (let i = 0; i < 100; i++) t.equal((await good.mta.ask(say.mail())).type, 'continue');
    // By the time that a worker's body begins, the whole of it has left the worker.
    await until('the body to begin', () => deaf.socket.readableLength > 0);
    const here = variant.runtime === 'here' ? 50_000_000 : 0;
    t.ok(process.memoryUsage().arrayBuffers - before < here + 40_000_000, 'the body is in memory once');
    deaf.socket.resume();
    const replies = await outcome(deaf.mta);
    const taken = replies.reduce((sum, reply) => sum + (reply.type === 'replBody' ? reply.chunk.length : 0), 0);
    t.equal(taken, 50_000_000);
    t.equal(await deaf.mta.closed, undefined, 'all of it, though QUIT has come');
  });

  t.test('P79 a connection on which no negotiation comes, or nothing any more, is closed', async (t) => {
    const play = await playing(t, variant, { mailFrom: [] }, { negotiationTimeout: 20, idleTimeout: 50 });
    const silent = await play.dial();
    await awaken(silent.mta.closed);
    t.match(await play.failure(), { code: 'ERR_MILTER_TIMEOUT', message: 'No negotiation came within 20 ms' });
    const idle = await play.dial();
    idle.mta.send({ type: 'negotiate', version: 6, actions: 0, protocol: 0 }, say.mail());
    await awaken(idle.mta.closed);
    t.match(idle.mta.replies, [{ type: 'negotiate' }, { type: 'continue' }]);
    const error = { code: 'ERR_MILTER_TIMEOUT', message: 'Nothing came from the mail server within 50 ms' };
    t.match(await play.failure(), error);
    await play.alone();
    t.strictSame(play.errors, []);
    t.strictSame(play.calls(), ['close', 'mailFrom', 'abort true', 'close']);
  });

  t.test('P145 what comes behind QUIT is thrown away', async (t) => {
    const play = await playing(t, variant);
    const { mta } = await play.agreed();
    mta.send(say.quit(), ...message());
    mta.bytes(Buffer.alloc(1_000_000));
    await mta.closed;
    await play.alone();
    t.strictSame([mta.replies, play.errors], [[], []]);
  });

  t.test('P71 QUIT_NC begins another SMTP session on the connection, with a milter of its own', async (t) => {
    const play = await playing(t, variant, { connect: [['report', 'arguments']], mailFrom: [] });
    const { mta } = await play.agreed();
    t.strictSame(await mta.play(say.connect('one'), say.mail()), ['continue', 'continue']);
    mta.send(say.quitNewConnection());
    t.strictSame(await mta.play(say.connect('two'), say.mail()), ['continue', 'continue']);
    mta.send(say.quit());
    await mta.closed;
    await play.alone();
    const names = play.calls().map((call) => (Array.isArray(call) ? (call[1] as string[])[0] : call));
    const session = (name: string): string[] => ['connect', name, 'mailFrom', 'abort true', 'close'];
    t.strictSame(names, [...session('one'), ...session('two')]);
  });

  t.test('no descriptor is left when a factory has closed', async (t) => {
    const sockets = (): number => openFiles('socket:').length;
    const before = sockets();
    for (const where of ['inet:0', `${shortFolder(t)}/a.sock`]) {
      const play = await playing(t, variant, {}, { maxConnections: 2, where });
      const dialled = await Promise.all(Array.from({ length: 5 }, () => play.dial()));
      dialled[1]?.mta.bytes(Buffer.alloc(10));
      dialled[2]?.socket.destroy();
      await Promise.all([play.factory.close(), play.factory.close()]);
      for (const { socket } of dialled) socket.destroy();
      await play.over();
    }
    await until('the sockets to be closed', () => sockets() <= before);
    t.pass();
  });
};
