// How connections begin and end: milters that cannot be reached, sides that do not leave, bytes that go nowhere.
import { once } from 'node:events';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import t from 'tap';
import { MilterError } from '../../lib/index.js';
import { createProxy, type CaptureEvent, type Upstream } from '../../lib/proxy/index.js';
import { reach } from '../../lib/proxy/dialling.js';
import { penFor } from '../../lib/proxy/pen.js';
import { PlainReader } from '../../lib/proxy/reader.js';
import { packet } from '../helpers/bytes.js';
import { shortFolder } from '../helpers/folder.js';
import { listeningServers } from '../helpers/listening.js';
import { gate } from '../helpers/milter.js';
import { say } from '../helpers/mta.js';
import { connectedPair } from '../helpers/pair.js';
import { inFrontOf, proxied } from '../helpers/proxied.js';
import { settled } from '../helpers/streams.js';

const types = (events: readonly CaptureEvent[]): string[] => events.map(({ type }) => type);

t.test('P143 upstream down, and then garbage: the mail server is not left waiting', async (t) => {
  for (const hooks of [undefined, {}]) {
    const down = inFrontOf('unix:/no/such/socket', hooks);
    t.match(await down.mta.negotiate(), { type: 'negotiate' });
    down.mta.bytes(Buffer.from('GET / HTTP/1.1\r\n'));
    await down.mta.closed;
    down.mta.bytes(Buffer.from('more'));
    down.mta.end();
    await down.proxy.close();
    t.match(
      down.errors.map(({ code }) => code),
      ['ERR_MILTER_CONNECTION', 'ERR_MILTER_PACKET_TOO_LARGE'],
    );
    const lost = proxied({ helo: (line) => line.end() }, hooks);
    await lost.mta.negotiate();
    t.match(await lost.mta.ask(say.helo()), { type: 'replyCode' });
    lost.mta.bytes(Buffer.alloc(4));
    await lost.mta.closed;
    lost.mta.end();
    await lost.proxy.close();
  }
});

t.test('a side that does not close its connection when the other one has is not waited for without end', async (t) => {
  const [milter, upstream] = connectedPair();
  const stays = inFrontOf(() => upstream, undefined, { closeTimeout: 20 });
  milter.resume();
  stays.mta.send(say.helo(), { type: 'quit' });
  stays.mta.end();
  await stays.proxy.close();
  t.match(stays.errors, [
    {
      code: 'ERR_MILTER_TIMEOUT',
      message: 'The milter has not closed its connection within 20 ms after the other side',
    },
  ]);
  t.strictSame(types(stays.events), ['open', 'data', 'close']);

  const left = proxied({ quit: (line) => line.end() }, undefined, { closeTimeout: 20 });
  await left.mta.negotiate();
  left.mta.send({ type: 'quit' });
  await left.proxy.close();
  t.match(left.errors, [{ code: 'ERR_MILTER_TIMEOUT', message: /^The mail server has not closed/ }]);

  // A stream that is destroyed at one end, and a milter that does not notice.
  const [, unnoticed] = connectedPair();
  const [stream, end] = connectedPair();
  const proxy = createProxy(() => unnoticed, undefined, { closeTimeout: 20 });
  const told = once(proxy, 'sessionError');
  proxy.handle(end);
  await settled();
  stream.destroy();
  end.destroy();
  t.equal(proxy.connections, 1, 'it counts until both are gone, and so close() can end it');
  t.match(await told, [{ code: 'ERR_MILTER_TIMEOUT' }, '1']);
  await proxy.close();
});

t.test('while answers still come nobody is in a hurry', async (t) => {
  const [milter, upstream] = connectedPair();
  const { stream, proxy, errors } = inFrontOf(() => upstream, undefined, { closeTimeout: 60_000 });
  milter.resume();
  let heard = 0;
  stream.on('data', (bytes: Buffer) => (heard += bytes.length));
  stream.end(packet('E'));
  await settled();
  milter.write(packet('p'));
  await settled();
  milter.end(packet('c'));
  await proxy.close();
  t.equal(heard, 10);
  t.strictSame(errors, []);
});

t.test('destroy() reaches connections whose mail server has left already', async (t) => {
  const [, upstream] = connectedPair();
  const { stream, proxy, errors } = inFrontOf(() => upstream);
  stream.resume().end();
  await settled();
  await proxy.destroy();
  t.ok(upstream.destroyed);
  t.strictSame(errors, []);
});

t.test('what a function gives for a milter that is none: an error, and the configured reply', async (t) => {
  const ended = new Duplex({ read() {}, write() {} }).destroy();
  await once(ended, 'close');
  const cases: Array<[upstream: () => unknown, message: RegExp]> = [
    [() => Promise.reject(new Error('no')), /^Cannot connect to the milter: no$/],
    [() => Promise.reject('no words'), /: no words$/],
    [
      () => {
        throw new Error('at once');
      },
      /: at once$/,
    ],
    [() => undefined, /: undefined is no stream to be read and written$/],
    [() => ({ on() {}, write() {} }), /: an object \(Object\) is no stream/],
    [() => ended, /: its stream is destroyed$/],
    [() => new Promise(() => {}), /: nothing within 20 ms$/],
    [() => Promise.reject(new MilterError('ERR_MILTER_CONNECTION', 'in its own words')), /^in its own words$/],
  ];
  for (const [upstream, message] of cases) {
    const { mta, errors, proxy } = inFrontOf(upstream as Upstream, undefined, { connectTimeout: 20 });
    t.match(await mta.negotiate(), { type: 'negotiate', actions: 0 });
    t.match(await mta.ask(say.connect()), { type: 'replyCode' });
    t.match(errors, [{ code: 'ERR_MILTER_CONNECTION', message }]);
    await proxy.destroy();
  }
});

t.test('a signal that is aborted before, or while it is dialled, is seen', async (t) => {
  const leaving = new AbortController();
  const milter = new Duplex({ read() {}, write() {} });
  const dial = (): Duplex => {
    leaving.abort();
    return milter;
  };
  t.match(await reach(dial, 60_000, leaving.signal), { code: 'ERR_MILTER_ABORTED' });
  t.match(await reach(() => new Promise(() => {}), 60_000, leaving.signal), { code: 'ERR_MILTER_ABORTED' });
  await settled();
  t.ok(milter.destroyed);
});

t.test('a mail server that leaves while the milter is being reached: opened, closed, nothing left', async (t) => {
  const { promise, open } = gate();
  const late = new Duplex({ read() {}, write() {} });
  let told: AbortSignal | undefined;
  const { proxy, stream, events, errors } = inFrontOf(async (signal) => {
    told = signal;
    await promise;
    return late;
  });
  await settled();
  t.equal(told?.aborted, false);
  const closing = proxy.close();
  await proxy.close();
  await closing;
  t.equal(told?.aborted, true);
  t.strictSame(types(events), ['open', 'close']);
  t.strictSame(errors, []);
  open();
  await settled();
  t.ok(late.destroyed, 'what comes too late is not kept');
  t.ok(stream.readableEnded || !stream.readable || stream.destroyed || stream.readableLength === 0);
  late.emit('error', new Error('nobody hears it'));
});

t.test('a mail server’s stream that is destroyed before it is handled, or while the milter is reached', async (t) => {
  const [, end] = connectedPair();
  end.destroy();
  await once(end, 'close');
  const [, upstream] = connectedPair();
  const proxy = createProxy(() => upstream);
  const events: CaptureEvent[] = [];
  proxy.on('event', (event) => events.push(event));
  proxy.handle(end);
  await settled();
  t.strictSame(types(events), ['open', 'close']);
  t.equal(proxy.connections, 0);
  t.ok(upstream.destroyed);
  await proxy.close();
  const [, other] = connectedPair();
  proxy.handle(other);
  t.ok(other.destroyed, 'after close() none are taken');
});

t.test('trickle: packets of any size, in order, and no more than some of them in memory', async (t) => {
  const [milter, upstream] = connectedPair();
  const { stream, proxy, errors } = inFrontOf(() => upstream, undefined, { trickle: 1 });
  const large = packet('B', Buffer.alloc(200_000, 'a'));
  let heard = 0;
  milter.pause();
  stream.write(large);
  await settled();
  let written = 0;
  while (stream.write(Buffer.alloc(64 * 1024, packet('B', Buffer.alloc(1019)))) && written < 200) {
    written++;
    await settled();
  }
  t.ok(written < 20, `${written} of 200 pieces were taken`);
  const all = large.length + (written + 1) * 64 * 1024;
  const over = new Promise<void>((resolve) => {
    milter.on('data', (bytes: Buffer) => {
      if (bytes.length > 1) t.fail('a piece of more than a byte');
      heard += bytes.length;
      if (heard === all) resolve();
    });
  });
  milter.resume();
  await over;
  t.strictSame(errors, []);
  stream.end(packet('Q'));
  await once(milter, 'end');
  t.equal(heard, all + 5, 'the end comes behind all that was written');
  milter.end();
  await proxy.close();
});

t.test('behind the end, and to a reader that has left, nothing is written', async (t) => {
  for (const pieces of [undefined, 2]) {
    for (const gone of [false, true]) {
      const [here, there] = connectedPair();
      const pen = penFor(here, pieces, () => {});
      let heard = '';
      there.on('data', (bytes: Buffer) => (heard += String(bytes)));
      pen.write(Buffer.from('abc'));
      pen.end();
      if (gone) here.destroy();
      pen.write(Buffer.from('d'));
      pen.end();
      await settled();
      t.ok('abc'.startsWith(heard) && (gone || heard === 'abc'), `${heard} ${String(pieces)}`);
    }
  }
});

t.test('trickle: the reader leaves in the middle', async (t) => {
  for (const how of ['destroy', 'end'] as const) {
    const [milter, upstream] = connectedPair();
    const { stream, proxy } = inFrontOf(() => upstream, undefined, { trickle: 1, closeTimeout: 20 });
    stream.resume();
    milter.once('data', () => milter[how]());
    stream.write(packet('B', Buffer.alloc(1000)));
    await settled();
    stream.end();
    await settled();
    await proxy.destroy();
    t.equal(proxy.connections, 0);
  }
});

t.test('an error that a listener throws is not taken for bytes that are no packets', async (t) => {
  const oops = (): never => {
    throw new Error('a listener’s own');
  };
  const bad = (): never => {
    throw new MilterError('ERR_MILTER_SEQUENCE', 'of ours, but not of the bytes');
  };
  for (const [route, message] of [
    [oops, /own/],
    [bad, /of ours/],
  ] as const) {
    t.throws(() => new PlainReader(undefined, route, () => {}).push(packet('c'), 5, false), { message });
  }
});

t.test('P143 listen() is for one at a time, may be tried again, and knows that the proxy was closed', async (t) => {
  const folder = shortFolder(t);
  const proxy = createProxy('inet:1');
  await t.rejects(proxy.listen('inet:nonsense'), { code: 'ERR_MILTER_ADDRESS' });
  await t.rejects(proxy.listen(`unix:${join(folder, 'no', 's')}`), { code: 'ERR_MILTER_LISTEN' });
  const first = proxy.listen(`unix:${join(folder, 's')}`);
  await t.rejects(proxy.listen('inet:0'), { code: 'ERR_MILTER_SEQUENCE', message: /listens already/ });
  await first;
  await proxy.close();
  await t.rejects(proxy.listen('inet:0'), { code: 'ERR_MILTER_SEQUENCE', message: /has been closed/ });
  const hasty = createProxy('inet:1');
  const listening = hasty.listen(`unix:${join(folder, 'h')}`);
  const closed = hasty.close();
  await t.rejects(listening, { code: 'ERR_MILTER_SEQUENCE', message: /has been closed/ });
  await closed;
  const unlucky = createProxy('inet:1');
  const failing = unlucky.listen(`unix:${join(folder, 'no', 's')}`);
  const done = unlucky.close();
  await t.rejects(failing, { code: 'ERR_MILTER_LISTEN' });
  await done;
});

t.test('P143 a connection that cannot be accepted is told of, and the rest goes on', async (t) => {
  const servers = listeningServers(t);
  const proxy = createProxy('inet:1');
  await proxy.listen('inet:0');
  const told = once(proxy, 'sessionError');
  servers.at(-1)?.emit('error', new Error('accept EMFILE'));
  t.match(await told, [{ code: 'ERR_MILTER_LISTEN', message: 'Cannot accept a connection: accept EMFILE' }, '']);
  await proxy.close();
});
