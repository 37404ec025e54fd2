/**
 * The factory's half of a session that runs in a worker: what is passed on, what a worker that takes over is told, and
 * what the mail server hears when there is none.
 */
import t from 'tap';
import { outcome } from '../helpers/eob.js';
import { agree, agreed, bytesOf, GO, heard, OFFER, open, pass } from '../helpers/relay.js';
import { message, say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';
import { until } from '../helpers/until.js';

const LATER = { type: 'replyCode', text: /^421 4\.3\.2 / };

t.test('a worker that takes over hears of the offer, CONNECT and HELO with their macros', async (t) => {
  for (const pipelined of [false, true]) {
    const stage = await open(t);
    const c = [say.macros('C', { j: 'mta' }), say.connect()];
    if (pipelined) {
      stage.mta.send(OFFER, ...c);
      await heard(stage.first);
      stage.first.replies(1, agree(), GO);
      t.strictSame([(await stage.mta.reply()).type, (await stage.mta.reply()).type], ['negotiate', 'continue']);
    } else {
      stage.mta.send(OFFER);
      await heard(stage.first);
      stage.first.replies(1, agree());
      await stage.mta.reply();
      stage.mta.send(...c);
      await heard(stage.first);
      stage.first.replies(1, GO);
      await stage.mta.reply();
    }
    const h = [say.macros('H', { tls: 'no' }), say.helo()];
    stage.mta.send(...h);
    await heard(stage.first);
    stage.first.replies(1, GO);
    await stage.mta.reply();
    stage.first.die();
    const m = [say.macros('M', { i: '1' }), say.mail()];
    stage.mta.send(...m);
    const bytes = await heard(stage.second);
    t.strictSame(bytes, bytesOf(OFFER, ...c, ...h, ...m));
    stage.second.replies(1, agree(), GO, GO, { type: 'reject' });
    t.equal((await stage.mta.reply()).type, 'reject', 'only what is new is passed on');
    t.strictSame(stage.mta.replies, []);
  }
});

t.test('the offer finds no worker: what comes is refused for now', async (t) => {
  for (const when of ['before', 'waiting']) {
    const stage = await open(t, {}, 1);
    if (when === 'waiting') {
      stage.mta.send(OFFER, say.connect());
      await heard(stage.first);
    }
    stage.pool.acquire = () => undefined;
    stage.first.die();
    if (when === 'before') stage.mta.send(OFFER, say.connect());
    t.equal((await stage.mta.reply()).type, 'negotiate');
    t.match(await stage.mta.reply(), LATER);
    t.match(await stage.mta.ask(say.helo()), LATER);
    stage.mta.send(say.quit());
    await stage.mta.closed;
  }
});

t.test('a command finds no worker: it is refused for now, if it is answered at all', async (t) => {
  const stage = await agreed(t, {}, 0x4000); // MAIL is not
  stage.pool.acquire = () => undefined;
  stage.first.die();
  t.strictSame(await stage.mta.play(say.helo(), say.rcpt()), ['tempFail', 'tempFail']);
  t.equal((await stage.mta.ask(say.quitNewConnection(), say.mail(), say.rcpt())).type, 'tempFail');
  t.equal((await stage.mta.ask(say.data())).type, 'tempFail');
  t.strictSame(stage.mta.replies, []);
});

t.test('a packet that nobody knows ends a session that has no worker', async (t) => {
  const stage = await agreed(t);
  stage.pool.acquire = () => undefined;
  stage.first.die();
  stage.mta.bytes(Buffer.from('000000017a', 'hex'));
  await stage.mta.closed;
  t.match(stage.reports, [{ code: 'ERR_MILTER_UNKNOWN_CODE' }]);
});

t.test('a mail server that breaks the protocol is told of once', async (t) => {
  const stage = await agreed(t);
  stage.mta.bytes(Buffer.from('00000000', 'hex'));
  await until('the end', () => stage.first.names().includes('lost'));
  stage.mta.bytes(Buffer.from('00000000', 'hex'));
  await settled();
  stage.first.says(['closed', 1, { name: 'Error', message: 'lost' }]);
  await stage.mta.closed;
  await until('the end', () => stage.over);
  t.match(stage.reports, [{ code: 'ERR_MILTER_EMPTY_PACKET' }]);
  t.equal(stage.reports.length, 1);
});

t.test('a packet that ends with the connection is told of, and the session ends', async (t) => {
  for (const attached of [true, false]) {
    const stage = await agreed(t);
    stage.pool.acquire = () => undefined;
    if (!attached) stage.first.die();
    stage.mta.bytes(Buffer.from('0000', 'hex'));
    stage.mta.end();
    if (attached) {
      await until('the end', () => stage.first.names().includes('lost'));
      stage.first.says(['closed', 1, { name: 'Error', message: 'lost' }]);
    }
    await until('the end', () => stage.over);
    t.match(stage.reports, [{ code: 'ERR_MILTER_TRUNCATED' }]);
  }
});

t.test('a second offer ends a session that has no worker', async (t) => {
  const stage = await agreed(t);
  stage.first.die();
  stage.mta.send(OFFER);
  await until('the end', () => stage.over);
  t.match(stage.reports, [{ code: 'ERR_MILTER_SEQUENCE' }]);
});

t.test('a command before the offer ends a session that has no worker', async (t) => {
  const stage = await open(t);
  stage.pool.acquire = () => undefined;
  stage.first.die();
  stage.mta.send(say.connect());
  await until('the end', () => stage.over);
  t.match(stage.reports, [{ code: 'ERR_MILTER_SEQUENCE', message: /connect out of order/ }]);
});

t.test('an offer of a version that nobody speaks ends a session that has no worker', async (t) => {
  const stage = await open(t);
  stage.pool.acquire = () => undefined;
  stage.mta.send({ ...OFFER, version: 1 } as typeof OFFER);
  await heard(stage.first);
  stage.first.die();
  await until('the end', () => stage.over);
  t.match(stage.reports, [{ code: 'ERR_MILTER_WORKER' }, { code: 'ERR_MILTER_NEGOTIATION' }]);
});

t.test('three workers that die of the offer are enough: then what comes is refused for now', async (t) => {
  const stage = await open(t);
  stage.mta.send(say.macros('C', { j: 'mta' }), OFFER);
  for (let i = 0; i < 3; i++) {
    const worker = stage.workers[i] as (typeof stage.workers)[0];
    await until('the offer', () => worker.sent.some(([name]) => name === 'bytes'));
    await settled();
    t.strictSame(
      worker.sent.map(([name]) => name).filter((name) => name !== 'start'),
      ['open', 'bytes', 'end'].slice(0, i === 2 ? 3 : 2),
      'the last hears of the end as well',
    );
    t.strictSame(worker.bytes(1), bytesOf(say.macros('C', { j: 'mta' }), OFFER), 'each gets what the first got');
    if (i === 1) {
      stage.mta.end();
      await until('the end', () => worker.names().includes('end'));
    }
    worker.die();
  }
  await stage.mta.closed;
  t.match(stage.mta.replies, [{ type: 'negotiate' }]);
  await until('the end', () => stage.over);
});

t.test('destroy(): the offer is not given to another worker', async (t) => {
  const stage = await open(t);
  stage.mta.send(OFFER, say.connect());
  await heard(stage.first);
  stage.relay.destroy();
  stage.first.die();
  await stage.mta.closed;
  t.match(stage.mta.replies, [{ type: 'negotiate' }, LATER]);
  t.strictSame(stage.second.names(), []);
});

t.test('a worker of its own that ends the session, with an error or without, ends the connection', async (t) => {
  for (const error of [undefined, { name: 'Error', message: 'boom' }]) {
    const stage = await agreed(t);
    stage.first.says(['took', 1]);
    stage.first.says(['report', 1, { name: 'TypeError', message: 'boom' }]);
    stage.first.says(['closed', 1, error]);
    await stage.mta.closed;
    await until('the end', () => stage.over);
    t.match(stage.reports, [{ code: 'ERR_MILTER_CALLBACK', message: 'A session failed: boom' }]);
    stage.relay.destroy();
  }
});

t.test("what comes when all is over is nobody's", async (t) => {
  const stage = await agreed(t);
  stage.first.says(['closed', 1, undefined]);
  stage.mta.send(say.mail());
  stage.socket.emit('data', bytesOf(say.mail()));
  stage.socket.emit('end');
  stage.socket.emit('error', new Error('late'));
  stage.first.die();
  await until('the end', () => stage.over);
  t.strictSame(stage.reports, []);
});

t.test('QUIT without a worker, and a worker that dies of QUIT, end the connection', async (t) => {
  for (const before of [true, false]) {
    const stage = await agreed(t);
    if (before) stage.first.die();
    stage.mta.send(say.quit(), say.mail());
    if (!before) {
      await heard(stage.first);
      stage.first.die();
    }
    await stage.mta.closed;
    await until('the end', () => stage.over);
    t.strictSame(stage.second.names(), []);
  }
});

t.test('QUIT_NC: what the SMTP session before was told is not repeated', async (t) => {
  const stage = await agreed(t);
  stage.mta.send(say.macros('C', { a: '1' }), say.connect('a'), say.macros('H', { b: '1' }), say.helo('b'));
  await heard(stage.first);
  stage.first.replies(1, GO, GO);
  await stage.mta.reply();
  await stage.mta.reply();
  stage.first.die();
  stage.mta.send(say.quitNewConnection(), say.connect('c'));
  t.strictSame(await heard(stage.second), bytesOf(OFFER, say.connect('c')));
  stage.second.replies(1, agree(), GO);
  t.equal((await stage.mta.reply()).type, 'continue');
});

t.test('the connection is lost', async (t) => {
  for (const attached of [true, false]) {
    const stage = await agreed(t);
    if (!attached) stage.first.die();
    stage.client.resetAndDestroy();
    if (attached) {
      await until('the news', () => stage.first.names().includes('lost'));
      stage.socket.emit('error', new Error('again'));
      stage.first.says(['closed', 1, undefined]);
    }
    await until('the end', () => stage.over);
    t.strictSame(stage.reports, []);
  }
});

t.test('a worker that dies while the connection ends: it ends', async (t) => {
  const stage = await agreed(t);
  stage.mta.send(say.mail());
  await heard(stage.first);
  stage.mta.end();
  await until('the end', () => stage.first.names().includes('end'));
  stage.first.die();
  t.equal((await stage.mta.reply()).type, 'tempFail');
  await stage.mta.closed;
  await until('the end', () => stage.over);
});

t.test('draining: the worker is told, also one that takes over; macros that begin a message come first', async (t) => {
  const stage = await agreed(t);
  stage.mta.send(say.macros('M', { i: '1' }));
  await settled();
  t.strictSame(stage.first.names(), [], 'macros wait for their command');
  stage.relay.drain();
  await settled();
  const told = stage.first.take();
  t.strictSame(
    told.map(([name]) => name),
    ['bytes', 'drain'],
  );
  await pass(stage, say.mail());
  stage.first.die();
  stage.relay.drain();
  t.equal((await stage.mta.ask(say.rcpt())).type, 'tempFail');
  t.match(await stage.mta.ask(say.abort(), say.mail()), LATER, 'a new message without a worker is turned away');
  t.match(await stage.mta.ask(say.rcpt()), LATER);
  stage.mta.send(say.quitNewConnection(), say.macros('C', {}), say.connect());
  await until('the second', () => stage.second.sent.length > 0);
  t.strictSame(stage.second.names().slice(0, 2), ['open', 'drain']);
  stage.relay.drain();
});

t.test('the end of the connection comes behind macros that begin a message', async (t) => {
  const stage = await agreed(t);
  stage.mta.send(say.macros('M', { i: '1' }));
  stage.mta.end();
  await until('the end', () => stage.first.sent.some(([name]) => name === 'end'));
  t.strictSame(stage.first.names(), ['bytes', 'end']);
});

t.test('destroy(): the session ends in its worker; without one at once', async (t) => {
  const stage = await agreed(t);
  stage.mta.send(say.mail());
  await heard(stage.first);
  stage.relay.destroy();
  await settled();
  t.strictSame(stage.first.names(), ['destroy']);
  stage.first.replies(1, { type: 'tempFail' });
  stage.first.says(['closed', 1, undefined]);
  t.equal((await stage.mta.reply()).type, 'tempFail');
  await until('the end', () => stage.over);
  const other = await agreed(t);
  other.first.die();
  other.relay.destroy();
  await other.mta.closed;
  await until('the end', () => other.over);
});

t.test('destroy(): a worker that dies of it is not replaced', async (t) => {
  const stage = await agreed(t);
  stage.mta.send(say.mail());
  await heard(stage.first);
  stage.relay.destroy();
  stage.first.die();
  t.equal((await stage.mta.reply()).type, 'tempFail');
  await stage.mta.closed;
  t.strictSame(stage.second.names(), []);
});

t.test('macros are split from their command, and the command into bytes: they come together', async (t) => {
  const stage = await agreed(t);
  const bytes = bytesOf(
    say.macros('M', { i: 'Q1', auth_type: 'PLAIN' }),
    say.macros('R', {}),
    say.macros('M', { i: 'Q2' }),
    say.mail(),
  );
  for (const byte of bytes) {
    t.strictSame(stage.first.sent, []);
    stage.client.write(Buffer.of(byte));
    await settled();
  }
  t.strictSame(await heard(stage.first), bytesOf(say.macros('R', {}), say.macros('M', { i: 'Q2' }), say.mail()));
});

t.test('macros do not hold on to the memory they came in', async (t) => {
  const stage = await agreed(t);
  const chunk = bytesOf(say.macros('M', { i: 'Q1' }));
  stage.socket.emit('data', chunk);
  chunk.fill(0);
  stage.mta.send(say.mail());
  t.strictSame(await heard(stage.first), bytesOf(say.macros('M', { i: 'Q1' }), say.mail()));
});

t.test('a worker that answers serves, whatever its answer is', async (t) => {
  for (const type of ['continue', 'reject'] as const) {
    const stage = await agreed(t, {}, 0, 1);
    stage.first.die();
    stage.mta.send(say.mail());
    await heard(stage.second);
    stage.second.replies(1, agree(), { type });
    t.equal((await stage.mta.reply()).type, type);
    stage.second.die();
    t.equal(stage.workers.length, 3, 'so that the next one comes at once');
  }
});

t.test('all commands of a chunk go out as one message', async (t) => {
  const stage = await agreed(t);
  const torn = bytesOf(say.rcpt()).subarray(0, 7);
  stage.mta.bytes(Buffer.concat([bytesOf(...message()), torn]));
  await until('the message', () => stage.first.sent.length > 0);
  t.equal(stage.first.sent.length, 1);
  const [first] = stage.first.take();
  t.ok(bytesOf(...message()).equals((first as readonly ['bytes', number, Uint8Array])[2]));
  stage.first.replies(1, GO, GO, GO, GO, GO, GO, { type: 'addHeader', name: 'X', value: 'y' }, GO);
  for (let i = 0; i < 6; i++) await stage.mta.reply();
  t.match(await outcome(stage.mta), [{ type: 'addHeader' }, { type: 'continue' }]);
});

t.test('a connection that is read by its data events is relayed as well', async (t) => {
  const stage = await agreed(t, {}, 0, 2, false);
  await pass(stage, ...message().slice(0, -1));
  stage.mta.bytes(bytesOf(say.eob()));
  t.ok((await heard(stage.first)).equals(bytesOf(say.eob())));
  stage.first.replies(1, GO);
  t.equal((await stage.mta.reply()).type, 'continue');
});
