// What is left when a side goes away at a bad moment: under back-pressure, behind a hook, in the middle of garbage.
import { once } from 'node:events';
import { Duplex } from 'node:stream';
import t from 'tap';
import { SMFIP_NR_HELO, SMFIP_NR_RCPT } from '../../lib/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import { agrees, type Line } from '../helpers/fake-milter.js';
import { gate } from '../helpers/milter.js';
import { say } from '../helpers/mta.js';
import { connectedPair } from '../helpers/pair.js';
import { inFrontOf, proxied } from '../helpers/proxied.js';
import { settled } from '../helpers/streams.js';

const OFFER = packet('O', u32(6), u32(0x1ff), u32(0x1fffff));
const BODIES = Buffer.alloc(20 * 64_005, packet('B', Buffer.alloc(64_000)));

t.test('P143 a milter that leaves while it holds the mail server back does not hold it for ever', async (t) => {
  for (const trickle of [undefined, 500]) {
    for (const how of ['end', 'destroy'] as const) {
      const [milter, upstream] = connectedPair();
      const { mta, stream, errors, proxy } = inFrontOf(() => upstream, undefined, { trickle });
      milter.once('data', () => milter.pause().write(agrees(6, 0, 0)));
      mta.bytes(OFFER);
      t.match(await mta.reply(), { type: 'negotiate' });
      stream.write(BODIES);
      await settled();
      milter[how]();
      if (how === 'end') upstream.push(null); // it is read, as nothing is to be written there
      for (let i = 0; i < 20; i++) t.match(await mta.reply(), { type: 'replyCode' });
      t.match(errors, [{ code: 'ERR_MILTER_CONNECTION', message: /was lost/ }]);
      stream.end();
      await proxy.close();
    }
  }
});

t.test('P134 bytes that are no packets wait for what a hook holds, in their order, and not without end', async (t) => {
  const { promise, open } = gate();
  const [milter, upstream] = connectedPair();
  const { stream, proxy } = inFrontOf(() => upstream, {
    command: ({ type }) => (type === 'helo' ? promise : undefined),
    reply: ({ type }) => (type === 'continue' ? promise : undefined),
  });
  const heard: Buffer[] = [];
  const said: Buffer[] = [];
  milter.on('data', (bytes: Buffer) => heard.push(bytes));
  stream.on('data', (bytes: Buffer) => said.push(bytes));
  milter.write(Buffer.concat([packet('c'), Buffer.of(0, 0, 0, 9, 1)]));
  stream.write(packet('H', 'x'));
  await settled();
  stream.write(Buffer.concat([Buffer.alloc(8), Buffer.from('SECOND')]));
  await settled();
  stream.write('THIRD');
  milter.write('LAST');
  await settled();
  t.strictSame([heard.length, said.length], [0, 0]);
  let taken = 0;
  while (stream.write(Buffer.alloc(60_000)) && taken < 100) {
    taken++;
    await settled();
  }
  t.ok(taken < 10, `${taken} pieces were taken`);
  open();
  await settled();
  const all = Buffer.concat(heard);
  t.ok(all.subarray(0, 26).equals(Buffer.concat([packet('H', 'x'), Buffer.alloc(8), Buffer.from('SECONDTHIRD')])));
  t.equal(all.length, 7 + 8 + 11 + (taken + 1) * 60_000);
  t.ok(Buffer.concat(said).equals(Buffer.concat([packet('c'), Buffer.of(0, 0, 0, 9, 1), Buffer.from('LAST')])));
  await proxy.destroy();
});

t.test('a stream that fails before anybody looks at it is a milter that cannot be reached', async (t) => {
  const failing = (): Duplex => new Duplex({ read() {}, write() {} }).destroy(new Error('ENETUNREACH'));
  for (const upstream of [failing, () => Promise.resolve(failing())]) {
    const { mta, errors, proxy } = inFrontOf(upstream);
    t.match(await mta.negotiate(), { type: 'negotiate', actions: 0 });
    t.match(errors, [{ code: 'ERR_MILTER_CONNECTION', message: 'Cannot connect to the milter: ENETUNREACH' }]);
    await proxy.destroy();
  }
});

t.test('an answer of a hook where none is awaited is an error, and the packet passes', async (t) => {
  const { mta, milter, errors } = proxied(
    { negotiate: agrees(6, 0, SMFIP_NR_RCPT), rcpt: Buffer.alloc(0) },
    { command: ({ type }) => (type === 'rcpt' ? { answer: { type: 'reject' } } : undefined) },
  );
  await mta.negotiate();
  mta.send(say.rcpt());
  t.match(await mta.ask(say.data()), { type: 'continue' });
  t.strictSame(
    milter.heard.map(({ type }) => type),
    ['negotiate', 'rcpt', 'data'],
  );
  t.match(errors, [{ code: 'ERR_MILTER_NOT_NEGOTIATED', message: /has answered rcpt, but no answer is awaited/ }]);
});

t.test('a hook that never comes to an end does not keep a connection that the mail server has left', async (t) => {
  const { mta, proxy, errors } = proxied(
    {},
    { command: ({ type }) => (type === 'helo' ? new Promise<void>(() => {}) : undefined) },
    { closeTimeout: 20 },
  );
  await mta.negotiate();
  mta.send(say.helo());
  mta.end();
  await proxy.close();
  t.match(errors, [{ code: 'ERR_MILTER_TIMEOUT' }]);
});

t.test('an offer that cannot be read is answered where there is no milter; QUIT ends the connection', async (t) => {
  for (const hooks of [undefined, {}]) {
    const { mta, proxy } = inFrontOf('unix:/no/such/socket', hooks);
    for (const [bytes, version] of [
      [packet('O', Buffer.alloc(3)), 6],
      [packet('O', u32(2), u32(0), u32(0), u32(9)), 2],
    ] as const) {
      mta.bytes(bytes);
      t.match(await mta.reply(), { type: 'negotiate', version, actions: 0, protocol: 0 });
    }
    t.match(await mta.ask(say.helo()), { type: 'replyCode' });
    mta.send({ type: 'quit' });
    await mta.closed;
    mta.end();
    await proxy.close();
  }
});

t.test('P41 who negotiates again when the milter is gone is answered by the new agreement', async (t) => {
  for (const hooks of [undefined, {}]) {
    const { mta } = proxied(
      { negotiate: agrees(6, 1, SMFIP_NR_HELO), helo: Buffer.alloc(0), rcpt: (line: Line) => line.end() },
      hooks,
    );
    await mta.negotiate();
    mta.send(say.helo());
    t.match(await mta.ask(say.rcpt()), { type: 'replyCode' });
    t.match(await mta.negotiate(), { type: 'negotiate', protocol: 0 });
    t.match(await mta.ask(say.helo()), { type: 'replyCode' });
  }
});

t.test('P41 an answer to the offer whose lists cannot be read still says what is answered', async (t) => {
  const odd = agrees(6, 1, SMFIP_NR_HELO, u32(1), Buffer.from('no NUL'));
  for (const hooks of [undefined, {}]) {
    const { mta } = proxied({ negotiate: odd, helo: Buffer.alloc(0), rcpt: (line: Line) => line.end() }, hooks);
    t.match(await mta.negotiate(), { type: 'malformed' });
    mta.send(say.helo(), say.helo());
    t.match(await mta.ask(say.mail()), { type: 'continue' });
    t.match(await mta.ask(say.rcpt()), { type: 'replyCode' });
    await settled();
    t.equal(mta.replies.length, 0, 'nothing is due for what is not answered');
  }
  const mended = proxied(
    { negotiate: odd, helo: Buffer.alloc(0) },
    {
      reply: (reply) =>
        reply.type === 'malformed' ? { type: 'negotiate', version: 6, actions: 1, protocol: 0 } : undefined,
    },
  );
  t.match(await mended.mta.negotiate(), { type: 'negotiate', protocol: 0 });
  t.match(await mended.mta.ask(say.helo()), { type: 'continue' }, 'and the proxy answers what the milter does not');
});

t.test('the mail server is held back by a milter, and so is its end', async (t) => {
  const [milter, upstream] = connectedPair();
  const { mta, stream, proxy } = inFrontOf(() => upstream, undefined, { closeTimeout: 20 });
  milter.once('data', () => milter.pause().write(agrees(6, 0, 0)));
  mta.bytes(OFFER);
  await mta.reply();
  stream.write(BODIES);
  stream.end();
  await settled();
  milter.destroy();
  upstream.push(null);
  await once(stream, 'end');
  await proxy.close();
  t.equal(proxy.connections, 0);
});
