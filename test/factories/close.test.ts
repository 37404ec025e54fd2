// P142: close() and everything that ends a factory: messages in progress are finished, new ones come back later.
import { once } from 'node:events';
import { connect } from 'node:net';
import { lstat } from 'node:fs/promises';
import t from 'tap';
import { AsyncFactory, MilterProtocol } from '../../lib/index.js';
import { stopClock } from '../helpers/clock.js';
import { connections, dial, reach, serve } from '../helpers/dial.js';
import { shortFolder } from '../helpers/folder.js';
import { gate, milter } from '../helpers/milter.js';
import { ALL_ACTIONS, message, say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';
import { until } from '../helpers/until.js';

const LATER = { type: 'replyCode', text: /^421 4\.3\.2 / };

t.test('P142 close() lets the message in progress end, and refuses the next one for now', async (t) => {
  const { MyMilter, calls } = milter({ mailFrom: () => {}, rcpt: () => {}, eob: () => {} });
  const { factory, errors } = await serve(t, MyMilter);
  const { mta } = await dial(t, factory);
  const other = await dial(t, factory);
  await mta.negotiate();
  await mta.ask(say.mail());
  let over = false;
  const closing = factory.close().then(() => (over = true));
  other.mta.end();
  await connections(factory, 1);
  t.strictSame(await mta.play(say.rcpt(), say.eob()), ['continue', 'continue']);
  t.match(await mta.ask(say.mail()), LATER);
  t.match(await mta.ask(say.rcpt()), LATER, 'and whatever else comes');
  t.notOk(over, 'the milter does not close first');
  mta.send(say.quit());
  await closing;
  t.strictSame(calls, ['mailFrom', 'close', 'rcpt', 'eob', 'close']);
  t.strictSame(errors, []);
});

t.test('P142 a message of a milter that sees its end alone is refused there', async (t) => {
  const { MyMilter, calls } = milter({ eob: () => {} });
  const { factory } = await serve(t, MyMilter);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  mta.send(say.macros('M', { i: 'Q1' }));
  await mta.ask(say.eob());
  const closing = factory.close();
  t.match(await mta.ask(say.eob()), LATER);
  mta.end();
  await closing;
  t.strictSame(calls, ['eob', 'close']);
});

t.test('P142 a connection that says nothing more is waited for', async (t) => {
  const { factory } = await serve(t, MilterProtocol);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  let over = false;
  const closing = factory.close().then(() => (over = true));
  await settled();
  t.notOk(over);
  mta.end();
  await closing;
});

t.test('P142 nobody can connect any more, and the file is gone, at once', async (t) => {
  const { promise, open } = gate();
  for (const where of ['inet:0', `${shortFolder(t)}/a.sock`]) {
    const { MyMilter, calls } = milter({ mailFrom: () => promise });
    const { factory } = await serve(t, MyMilter, {}, where);
    const place = reach(factory.address);
    const { mta } = await dial(t, factory);
    await mta.negotiate();
    mta.send(say.mail());
    while (calls.length === 0) await settled();
    const closing = factory.close();
    await until('nobody to listen', () => factory.address === undefined);
    await t.rejects(once(connect(place), 'connect'), { code: 'path' in place ? 'ENOENT' : 'ECONNREFUSED' });
    if ('path' in place) await t.rejects(lstat(place.path), { code: 'ENOENT' });
    open();
    t.equal((await mta.reply()).type, 'continue', 'and the message goes on');
    mta.end();
    await closing;
  }
});

t.test('P142 a second call ends everything at once: abort() and close(), and a refusal for the command', async (t) => {
  const { MyMilter, calls } = milter({ mailFrom: () => {}, rcpt: () => new Promise<void>(() => {}) });
  const { factory, errors } = await serve(t, MyMilter);
  const [waiting, between, idle] = [await dial(t, factory), await dial(t, factory), await dial(t, factory)];
  for (const { mta } of [waiting, between, idle]) await mta.negotiate();
  await waiting.mta.ask(say.mail());
  await between.mta.ask(say.mail());
  waiting.mta.send(say.rcpt());
  while (!calls.includes('rcpt')) await settled();
  const closing = factory.close();
  t.equal(factory.close(), closing, 'it is the same closing');
  await closing;
  t.equal((await waiting.mta.reply()).type, 'tempFail');
  for (const { mta } of [waiting, between, idle]) {
    await mta.closed;
    t.strictSame(mta.replies, []);
  }
  t.strictSame(calls.slice(3).toSorted(), ['abort true', 'abort true', 'close', 'close', 'close']);
  t.strictSame(errors, []);
});

t.test('P142 the same after closeTimeout', async (t) => {
  const { MyMilter, calls } = milter({ mailFrom: () => new Promise<void>(() => {}) });
  const { factory } = await serve(t, MyMilter);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  mta.send(say.mail());
  while (calls.length === 0) await settled();
  const clock = stopClock(t);
  let over = false;
  const closing = factory.close().then(() => (over = true));
  await clock.pass(29_999);
  t.strictSame([over, calls], [false, ['mailFrom']]);
  await clock.pass(1);
  await closing;
  t.equal((await mta.reply()).type, 'tempFail');
  t.strictSame(calls, ['mailFrom', 'abort true', 'close']);
});

t.test('P142 closeTimeout is an option', async (t) => {
  const clock = stopClock(t);
  const { factory } = await serve(t, MilterProtocol, { closeTimeout: 5 });
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  const closing = factory.close();
  await until('nobody to listen', () => factory.address === undefined);
  await clock.pass(5);
  await closing;
  await mta.closed;
});

t.test('P142 abort() and close() of the milter are waited for', async (t) => {
  const { promise, open } = gate();
  const { MyMilter, calls } = milter({ mailFrom: () => {}, abort: () => promise, close: () => settled() });
  const { factory } = await serve(t, MyMilter);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  await mta.ask(say.mail());
  let over = false;
  void factory.close();
  const closing = factory.close().then(() => (over = true));
  await settled();
  t.strictSame([over, calls], [false, ['mailFrom', 'abort true']]);
  open();
  await closing;
  t.strictSame(calls, ['mailFrom', 'abort true', 'close']);
});

t.test('P142 a client that never reads does not keep a factory from closing', async (t) => {
  const bodies: Record<string, (m: MilterProtocol) => void> = {
    'the body is being written': (m) => m.replBody(Buffer.alloc(50_000_000)),
    // Small enough to be handed to the system in one go, too large for it.
    'the session is over': (m) => {
      for (let i = 0; i < 250; i++) m.replBody('z'.repeat(1000));
    },
  };
  for (const [name, replace] of Object.entries(bodies)) {
    const { MyMilter, calls } = milter({
      eob(this: MilterProtocol) {
        replace(this);
      },
    });
    const { factory } = await serve(t, MyMilter, { smfifOptions: ALL_ACTIONS });
    const { mta, socket } = await dial(t, factory);
    await mta.negotiate();
    socket.pause();
    // More than the buffers of the system can hold.
    const messages = name === 'the session is over' ? 100 : 1;
    for (let i = 0; i < messages; i++) mta.send(say.eob());
    mta.send(say.quit());
    while (!calls.includes('eob')) await settled();
    void factory.close();
    await factory.close();
    t.equal(calls.at(-1), 'close', name);
    t.equal(factory.connections, 0);
  }
});

t.test('P142 connections that wait for their turn are refused for now', async (t) => {
  const { MyMilter } = milter({ mailFrom: () => {} });
  const { factory } = await serve(t, MyMilter, { maxConnections: 1 });
  const first = await dial(t, factory);
  await first.mta.negotiate();
  const second = await dial(t, factory);
  const asked = second.mta.negotiate();
  await first.mta.ask(say.mail()); // by now the second one has come as well
  const closing = factory.close();
  t.equal((await asked).type, 'negotiate');
  t.match(await second.mta.ask(say.connect()), LATER);
  first.mta.end();
  second.mta.end();
  await closing;
});

t.test('the end of a factory is told of once', async (t) => {
  const { factory } = await serve(t, MilterProtocol);
  let told = 0;
  factory.on('close', () => told++);
  await Promise.all([factory.close(), factory.close()]);
  await factory.close();
  t.equal(told, 1);
  t.equal(factory.address, undefined);
});

/** A class that notes when it is set up and torn down. */
function pooled(setup: () => unknown = () => 'pool') {
  const calls: string[] = [];
  class Pooled extends MilterProtocol {
    static async setup() {
      calls.push('setup');
      return setup();
    }
    static teardown(shared: unknown) {
      calls.push(`teardown ${String(shared)}`);
    }
  }
  return { Pooled, calls };
}

t.test('P142 run() and close() may come in any order', async (t) => {
  const closed = { code: 'ERR_MILTER_CLOSING', message: 'The factory is closed' };
  await t.test('close() alone', async (t) => {
    const { Pooled, calls } = pooled();
    const factory = new AsyncFactory('inet:0', Pooled);
    factory.on('close', () => t.fail('it never ran'));
    await factory.close();
    await factory.close();
    await t.rejects(factory.run(), closed);
    await factory.close();
    t.strictSame(calls, []);
  });
  await t.test('close(), and run() in the same breath', async (t) => {
    const { Pooled, calls } = pooled();
    const factory = new AsyncFactory('inet:0', Pooled);
    factory.on('close', () => t.fail('it never ran'));
    const closing = factory.close();
    await t.rejects(factory.run(), closed);
    await closing;
    t.strictSame(calls, []);
  });
  await t.test('close() while setup() is at work', async (t) => {
    const { promise, open } = gate<string>();
    const { Pooled, calls } = pooled(() => promise);
    const factory = new AsyncFactory('inet:0', Pooled);
    const running = factory.run();
    const closing = factory.close();
    open('pool');
    await running;
    await closing;
    t.strictSame(calls, ['setup', 'teardown pool']);
    t.equal(factory.address, undefined);
  });
  await t.test('close() behind a run() that fails', async (t) => {
    const { Pooled, calls } = pooled(() => Promise.reject(new Error('oops')));
    const factory = new AsyncFactory('inet:0', Pooled);
    const running = factory.run();
    const closing = factory.close();
    await t.rejects(running, { code: 'ERR_MILTER_CALLBACK' });
    await closing;
    t.strictSame(calls, ['setup']);
  });
  await t.test('run() again after close()', async (t) => {
    const { factory } = await serve(t, MilterProtocol);
    const closing = factory.close();
    await t.rejects(factory.run(), closed);
    await closing;
    await t.rejects(factory.run(), closed);
  });
});

t.test('P142 an AbortSignal is a close()', async (t) => {
  await t.test('before run()', async (t) => {
    const { Pooled, calls } = pooled();
    const factory = new AsyncFactory('inet:0', Pooled, 0, { signal: AbortSignal.abort() });
    await t.rejects(factory.run(), { code: 'ERR_MILTER_CLOSING' });
    t.strictSame(calls, []);
  });
  await t.test('while it runs', async (t) => {
    const controller = new AbortController();
    const { MyMilter } = milter({ mailFrom: () => {} });
    const { factory } = await serve(t, MyMilter, { signal: controller.signal });
    const { mta } = await dial(t, factory);
    await mta.negotiate();
    await mta.ask(say.mail());
    const closed = once(factory, 'close');
    controller.abort();
    t.strictSame(
      await mta.play(...message().slice(1)),
      Array.from({ length: 6 }, () => 'continue'),
    );
    t.match(await mta.ask(say.mail()), LATER);
    mta.end();
    await closed;
  });
  await t.test('while setup() is at work', async (t) => {
    const controller = new AbortController();
    const { promise, open } = gate<string>();
    const { Pooled, calls } = pooled(() => promise);
    const factory = new AsyncFactory('inet:0', Pooled, 0, { signal: controller.signal });
    const closed = once(factory, 'close');
    const running = factory.run();
    controller.abort();
    open('pool');
    await running;
    await closed;
    t.strictSame(calls, ['setup', 'teardown pool']);
  });
  await t.test('behind a close(), or a run() that failed, it means nothing', async (t) => {
    const controller = new AbortController();
    const { factory } = await serve(t, MilterProtocol, { signal: controller.signal });
    const { mta } = await dial(t, factory);
    await mta.negotiate();
    const closing = factory.close();
    await until('nobody to listen', () => factory.address === undefined);
    controller.abort();
    t.equal((await mta.ask(say.eob())).type, 'replyCode', 'it is not a second call');
    mta.end();
    await closing;

    const other = new AbortController();
    const { Pooled } = pooled(() => Promise.reject(new Error('oops')));
    const failed = new AsyncFactory('inet:0', Pooled, 0, { signal: other.signal });
    failed.on('sessionError', (error) => t.fail(error.message));
    await t.rejects(failed.run());
    other.abort();
    await failed.close();
  });
});

t.test('P142 `await using` closes a factory', async (t) => {
  const { factory } = await serve(t, MilterProtocol);
  await factory[Symbol.asyncDispose]();
  t.equal(factory.address, undefined);
});
