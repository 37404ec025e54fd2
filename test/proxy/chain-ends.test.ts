// Several milters behind one mail server, which goes away, or takes back what it has said, while they are at work.
import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import t from 'tap';
import type { ClientOptions } from '../../lib/client/index.js';
import type { MilterError } from '../../lib/errors.js';
import { createSession, MilterProtocol, SMFIF_ALLOPTS } from '../../lib/index.js';
import { chainMilter } from '../../lib/proxy/chain-milter.js';
import { packet } from '../helpers/bytes.js';
import { chained, typesOf } from '../helpers/chained.js';
import { agrees, fakeMilter, silence, type Line, type Script } from '../helpers/fake-milter.js';
import { gate } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, Mta, say } from '../helpers/mta.js';
import { inFrontOf } from '../helpers/proxied.js';
import { settled } from '../helpers/streams.js';

const EARLY = [say.connect(), say.helo(), say.mail(), say.rcpt(), say.data()];
const CONTENT = [say.header(), say.eoh(), say.body()];

/** A message whose end m0 is asked about and does not answer; m1 waits for its turn. */
async function stuck(options: ClientOptions = {}, script: Script = {}) {
  const talk: { line?: Line } = {};
  const asked = gate();
  const eob = (line: Line): void => {
    talk.line = line;
    asked.open();
  };
  const all = chained([{ ...script, eob: [eob, packet('c')] }, {}], options);
  await all.mta.negotiate();
  await all.mta.play(...EARLY);
  all.mta.send(...CONTENT, say.eob());
  await asked.promise;
  return { ...all, talk: talk as { line: Line } };
}

t.test(
  'P60 ABORT while a milter is at work on the message: all hear of it at once, and the session goes on',
  async (t) => {
    const { mta, fakes, errors, talk } = await stuck({}, { mailFrom: [packet('c'), silence, packet('c')] });
    t.equal((await mta.ask(say.abort())).type, 'tempFail', 'the end of the message is answered');
    for (const { heard } of fakes) t.equal(heard.at(-1)!.type, 'abort');
    t.notOk(typesOf(fakes[1]!.heard).includes('eob'));
    mta.send(say.mail());
    await settled();
    t.equal(fakes[0]!.heard.at(-1)!.type, 'mailFrom', 'it may be asked before it has answered');
    talk.line.write(Buffer.concat([packet('p'), packet('h', 'X', 'late')]));
    talk.line.write(Buffer.concat([packet('r'), packet('c')]));
    t.equal((await mta.reply()).type, 'continue', 'what it owed is passed over');
    t.strictSame(await mta.play(say.rcpt(), say.data()), ['continue', 'continue']);
    mta.send(...CONTENT);
    t.equal((await mta.ask(say.eob())).type, 'accept');
    t.strictSame(mta.replies, []);
    t.strictSame(errors, []);
  },
);

t.test(
  'P70 QUIT, another session, or the end, while a milter is at work: the message is cut short, nothing hangs',
  async (t) => {
    for (const [what, cut] of [
      ['QUIT', (mta: Mta) => mta.send(say.quit(), say.mail())],
      ['the end', (mta: Mta) => mta.end()],
      ['bytes that are no packet', (mta: Mta) => mta.bytes(Buffer.alloc(8))],
      ['half a packet, and the end', (mta: Mta) => (mta.bytes(Buffer.from([0, 0])), mta.end())],
    ] as const) {
      const { mta, fakes, stream } = await stuck({ commandTimeout: 20 });
      fakes[0]!.stream._final = () => {}; // it does not even close
      cut(mta);
      t.equal((await mta.reply()).type, 'tempFail', what);
      for (const { heard } of fakes) t.ok(['abort', 'quit'].includes(heard.at(-1)!.type), what);
      const error = await mta.closed;
      const code = {
        'bytes that are no packet': 'ERR_MILTER_EMPTY_PACKET',
        'half a packet, and the end': 'ERR_MILTER_TRUNCATED',
      };
      t.equal((error as MilterError | undefined)?.code, code[what as never]);
      t.ok(
        fakes.every(({ stream }) => stream.destroyed),
        what,
      );
      t.strictSame(mta.replies, [], 'P145 what follows QUIT is nobody’s');
      stream.destroy();
    }
    const { mta, fakes, talk } = await stuck();
    t.equal((await mta.ask(say.quitNewConnection())).type, 'tempFail');
    mta.send(say.connect());
    await settled();
    talk.line.write(packet('c'));
    t.equal((await mta.reply()).type, 'continue');
    t.strictSame(typesOf(fakes[0]!.heard).slice(-3), ['abort', 'quitNewConnection', 'connect']);
  },
);

t.test('an end that is cut short before its turn comes is not given to the milters', async (t) => {
  const { mta, fakes } = chained([{}]);
  await mta.negotiate();
  await mta.play(...EARLY);
  t.equal((await mta.ask(say.eob(), say.abort())).type, 'tempFail');
  t.strictSame(await mta.play(say.mail(), say.rcpt(), say.data(), say.eob()), [
    'continue',
    'continue',
    'continue',
    'accept',
  ]);
  t.strictSame(
    typesOf(fakes[0]!.heard).filter((type) => type === 'eob' || type === 'abort'),
    ['abort', 'eob', 'abort'],
  );
});

t.test('ABORT while a milter takes nothing: the end is answered, the milter costs the default action', async (t) => {
  const waiting = gate();
  const eoh = (line: Line): void => {
    fakes[0]!.stream._write = () => waiting.open();
    line.write(packet('c'));
  };
  const { mta, fakes, errors } = chained([{ eoh }], { commandTimeout: 20 });
  await mta.negotiate();
  await mta.play(...EARLY);
  mta.send(say.body('x'.repeat(100_000)), say.eob());
  await waiting.promise;
  t.equal((await mta.ask(say.abort())).type, 'tempFail');
  t.match(await mta.ask(say.mail()), { type: 'replyCode', text: /^451/ });
  t.match(errors, [{ code: 'ERR_MILTER_TIMEOUT', message: /It takes nothing/ }]);
});

t.test('a milter that fails after the ABORT costs the default action from then on', async (t) => {
  const { mta, errors, talk } = await stuck();
  t.equal((await mta.ask(say.abort())).type, 'tempFail');
  talk.line.end();
  await settled();
  t.match(await mta.ask(say.mail()), { type: 'replyCode', text: /^451/ });
  t.match(errors, [{ message: /^Milter m0: / }]);
});

t.test('a milter that fails in the moment of the ABORT has failed', async (t) => {
  const { mta, talk } = await stuck({ defaultAction: 'throw' });
  talk.line.write(Buffer.alloc(8));
  mta.send(say.abort());
  t.match(await mta.closed, { code: 'ERR_MILTER_EMPTY_PACKET', message: /^Milter m0: / });
});

t.test('destroy() closes all connections at once, whatever is at work', async (t) => {
  const { stream, mta, fakes, errors } = await stuck();
  fakes[0]!.stream._final = () => {};
  mta.send(say.mail(), say.quit());
  stream.destroy();
  t.ok(fakes.every(({ stream }) => stream.destroyed));
  await mta.closed;
  await settled();
  t.strictSame(mta.replies, []);
  t.strictSame(errors, [], 'nobody has failed');
  for (const at of ['negotiate', 'connect', 'rcpt'] as const) {
    const asked = gate();
    const all = chained([{ [at]: () => asked.open() }, {}]);
    all.mta.send({ type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS }, ...EARLY);
    await asked.promise;
    all.stream.destroy();
    t.ok(all.fakes.every(({ stream }) => stream.destroyed));
    await settled();
    t.strictSame(all.errors, []);
  }
});

t.test('behind a proxy: the mail server goes, or the proxy is closed at once, and no milter is left', async (t) => {
  for (const [what, leave] of [
    ['it closes', ({ stream }) => void stream.end()],
    ['it is gone', ({ stream }) => void stream.destroy()],
    ['the proxy', ({ proxy }) => void proxy.destroy()],
  ] as ReadonlyArray<[string, (scene: ReturnType<typeof inFrontOf>) => void]>) {
    const asked = gate();
    const fakes = [fakeMilter({ eob: () => asked.open() }), fakeMilter()];
    for (const { stream } of fakes) stream._final = () => {}; // it does not even close
    const milters = fakes.map(({ stream }) => ({ target: stream as never }));
    const scene = inFrontOf({ milters, options: { commandTimeout: 20 } });
    await scene.mta.negotiate();
    scene.mta.send(say.mail(), say.rcpt(), say.eob());
    await asked.promise;
    leave(scene);
    for (const { stream } of fakes) if (!stream.destroyed) await once(stream, 'close');
    const last = fakes.map(({ heard }) => heard.at(-1)!.type);
    if (what !== 'the proxy') t.strictSame(last, ['quit', 'quit'], what);
    await scene.proxy.close();
    t.strictSame(scene.errors, [], what);
  }
});

t.test('destroy() while milters are being dialled, first and again: no connection is left', async (t) => {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on('error', () => {}));
    socket.on('data', () => socket.write(agrees(2)));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const target = `inet:${(server.address() as AddressInfo).port}@127.0.0.1`;
  const dialled = chainMilter([target, target])();
  const early = new Mta(dialled);
  early.send({ type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS });
  early.send(say.connect(), say.quitNewConnection(), say.connect());
  dialled.destroy();
  await early.closed;
  await settled();
  t.equal(sockets.length, 0, 'dialling is given up');
  const stream = chainMilter([target, target])();
  const mta = new Mta(stream);
  await mta.negotiate();
  t.equal(sockets.length, 2);
  mta.send(say.connect(), say.quitNewConnection(), say.connect());
  await once(sockets[0]!, 'data').then(() => once(sockets[0]!, 'close'));
  stream.destroy();
  await mta.closed;
  for (const socket of sockets) if (!socket.destroyed) await once(socket, 'close');
  server.close();
  await once(server, 'close');
});

t.test('a real milter hears of the ABORT while its eob() is at work, and answers the next message', async (t) => {
  let messages = 0;
  const working = gate();
  const reasons: unknown[] = [];
  class Slow extends MilterProtocol {
    override async eob() {
      const { signal } = this;
      if (messages++ > 0) return this.addHeader('X', 'second');
      const { promise, open } = gate();
      signal.addEventListener('abort', () => (reasons.push(signal.reason), open()));
      working.open();
      await promise;
    }
  }
  const stream = createSession(Slow, { smfifOptions: SMFIF_ALLOPTS });
  const mta = new Mta(chainMilter([{ target: stream, name: 'slow' }] as never)());
  await mta.negotiate();
  mta.send(say.eob());
  await working.promise;
  t.equal((await mta.ask(say.abort())).type, 'tempFail');
  t.match(reasons, [{ code: 'ERR_MILTER_ABORTED' }]);
  t.match(await mta.ask(say.eob()), { type: 'addHeader', value: 'second' });
  t.equal((await mta.reply()).type, 'accept');
});
