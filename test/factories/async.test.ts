// AsyncFactory with real sockets: what runs around the sessions, and how many there may be.
import { once } from 'node:events';
import { connect, Server, Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import t, { type Test } from 'tap';
import { AsyncFactory, MilterProtocol, SMFIP_MDS_1M, type FactoryOptions } from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { connections, dial, serve } from '../helpers/dial.js';
import { outcome } from '../helpers/eob.js';
import { shortFolder } from '../helpers/folder.js';
import { milter } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, say } from '../helpers/mta.js';

const withIPv6 = Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === '::1'));

t.test('messages pass over TCP, IPv6 and a Unix socket', async (t) => {
  const places = ['inet:0@127.0.0.1', `unix:${shortFolder(t)}/a.sock`, ...(withIPv6 ? ['inet6:0@::1'] : [])];
  for (const where of places) {
    const { MyMilter, calls } = milter({
      body: () => {},
      eob(this: MilterProtocol) {
        this.addHeader('X', 'y');
        this.replBody('z'.repeat(500_000));
      },
    });
    const { factory, errors } = await serve(t, MyMilter, { smfifOptions: ALL_ACTIONS }, where);
    const { mta } = await dial(t, factory);
    await mta.negotiate();
    for (let i = 0; i < 2; i++) {
      t.equal((await mta.ask(say.body('b'.repeat(60_000)))).type, 'continue');
      mta.send(say.eob());
      const replies = await outcome(mta);
      t.match(replies.slice(-2), [{ type: 'addHeader' }, { type: 'continue' }], where);
      t.equal(replies.length, 8 + 2);
    }
    t.equal(factory.connections, 1);
    mta.send(say.quit());
    await mta.closed;
    await connections(factory, 0);
    t.strictSame(calls, ['body', 'eob', 'body', 'eob', 'close']);
    t.strictSame(errors, []);
  }
});

t.test('run() tells where it listens, once, however often it is called', async (t) => {
  const factory = new AsyncFactory('inet:0', MilterProtocol);
  t.teardown(() => factory.close());
  const told: unknown[] = [];
  factory.on('listening', (address) => told.push(address));
  t.equal(factory.address, undefined);
  const running = factory.run();
  t.equal(factory.run(), running);
  await running;
  t.equal(factory.run(), running);
  t.match(factory.address, { kind: 'inet', host: '127.0.0.1', port: Number });
  t.strictSame(told, [factory.address]);
});

t.test('setup() runs before the first session, teardown() after the last, and both reach the milter', async (t) => {
  const calls: unknown[] = [];
  class Pooled extends MilterProtocol<{ size: number }, { pool: number }> {
    static async setup(context: { size: number }) {
      await new Promise((resolve) => setImmediate(resolve));
      calls.push(['setup', context]);
      return { pool: context.size };
    }
    static async teardown(shared: { pool: number }) {
      await new Promise((resolve) => setImmediate(resolve));
      calls.push(['teardown', shared]);
    }
    override mailFrom() {
      calls.push([this.context, this.shared]);
    }
    override async close() {
      await new Promise<void>((resolve) => setImmediate(resolve));
      calls.push('close');
    }
  }
  const context = { size: 5 };
  const factory = new AsyncFactory('inet:0', Pooled, 0, { context });
  const running = factory.run();
  t.strictSame(calls, []);
  await running;
  for (let i = 0; i < 2; i++) {
    const { mta } = await dial(t, factory);
    await mta.negotiate();
    await mta.ask(say.mail());
    mta.end();
  }
  await factory.close();
  const session = [context, { pool: 5 }];
  const teardown = ['teardown', { pool: 5 }];
  t.strictSame(
    calls.filter((call) => call !== 'close'),
    [['setup', context], session, session, teardown],
  );
  t.strictSame([calls.length, calls.at(-1)], [6, teardown]);
});

t.test('a failing setup() fails run(): nothing listens, and there is nothing to tear down', async (t) => {
  for (const cause of [new Error('no database'), 'no database']) {
    const throws = (): never => {
      throw cause;
    };
    for (const setup of [() => Promise.reject(cause), throws]) {
      class Broken extends MilterProtocol {
        static readonly setup = setup;
        static teardown() {
          t.fail('there is nothing to tear down');
        }
      }
      const path = `${shortFolder(t)}/a.sock`;
      const factory = new AsyncFactory(path, Broken);
      const error = await factory.run().then(undefined, (failure: MilterError) => failure);
      t.match(error, { code: 'ERR_MILTER_CALLBACK', message: 'Broken.setup() failed: no database' });
      t.equal((error as MilterError).cause, cause);
      t.equal(factory.address, undefined);
      await t.rejects(once(connect(path), 'connect'), { code: 'ENOENT' });
      await factory.close();
    }
  }
});

t.test('where listening fails, what setup() made is torn down', async (t) => {
  const calls: string[] = [];
  class Pooled extends MilterProtocol<unknown, string> {
    static setup() {
      calls.push('setup');
      return 'pool';
    }
    static teardown(shared: string) {
      calls.push(`teardown ${shared}`);
    }
  }
  const factory = new AsyncFactory(`${shortFolder(t)}/missing/a.sock`, Pooled);
  await t.rejects(factory.run(), { code: 'ERR_MILTER_LISTEN' });
  await factory.close();
  t.strictSame(calls, ['setup', 'teardown pool']);
});

t.test('a failing teardown() is told of, and close() ends all the same', async (t) => {
  for (const cause of [new Error('oops'), 'oops']) {
    class Broken extends MilterProtocol {
      static teardown() {
        throw cause as Error;
      }
    }
    const { factory, errors } = await serve(t, Broken);
    await factory.close();
    t.match(errors, [{ code: 'ERR_MILTER_CALLBACK', message: 'Broken.teardown() failed: oops', cause }]);
  }
});

t.test('a milter whose constructor fails refuses that connection for now, and no other', async (t) => {
  let made = 0;
  class Moody extends MilterProtocol {
    constructor() {
      super();
      if (++made === 1) throw new Error('not in the mood');
    }
    override mailFrom() {}
  }
  const { factory, errors } = await serve(t, Moody);
  const first = await dial(t, factory);
  await first.mta.negotiate();
  t.equal((await first.mta.ask(say.mail())).type, 'tempFail');
  t.match(errors, [{ code: 'ERR_MILTER_CALLBACK', message: 'The constructor failed: not in the mood' }]);
  const second = await dial(t, factory);
  await second.mta.negotiate();
  t.equal((await second.mta.ask(say.mail())).type, 'continue');
});

t.test('P75 a callback that fails is told of once, and the other sessions notice nothing', async (t) => {
  const { MyMilter } = milter({
    async mailFrom(address: string) {
      await new Promise((resolve) => setImmediate(resolve));
      if (address === '<bad@example.org>') throw new Error('oops');
    },
  });
  const { factory, errors } = await serve(t, MyMilter);
  const [good, bad] = [await dial(t, factory), await dial(t, factory)];
  await Promise.all([good.mta.negotiate(), bad.mta.negotiate()]);
  const replies = await Promise.all([good.mta.ask(say.mail()), bad.mta.ask(say.mail('<bad@example.org>'))]);
  t.strictSame(
    replies.map(({ type }) => type),
    ['continue', 'tempFail'],
  );
  t.match(errors, [{ code: 'ERR_MILTER_CALLBACK', stage: 'mailFrom', message: 'mailFrom() failed: oops' }]);
  t.equal((await bad.mta.ask(say.abort(), say.mail())).type, 'continue');
});

/** A factory that serves one connection at once, which it has. */
async function full(t: Test, overload: NonNullable<FactoryOptions['overload']>) {
  const { MyMilter, calls } = milter({ mailFrom: () => {} });
  const served = await serve(t, MyMilter, { maxConnections: 1, overload });
  const first = await dial(t, served.factory);
  await first.mta.negotiate();
  return { ...served, calls, first };
}

t.test("P144 connections above maxConnections wait for their turn: overload 'queue'", async (t) => {
  const { factory, first, calls } = await full(t, 'queue');
  const second = await dial(t, factory);
  const third = await dial(t, factory);
  const asked = [second.mta.negotiate(), third.mta.negotiate()] as const;
  t.equal((await first.mta.ask(say.mail())).type, 'continue');
  t.equal(factory.connections, 1);
  first.mta.end();
  t.equal((await asked[0]).type, 'negotiate');
  t.equal(factory.connections, 1);
  t.strictSame(third.mta.replies, []);
  second.mta.end();
  t.equal((await asked[1]).type, 'negotiate', 'in their order');
  t.strictSame(calls, ['mailFrom', 'abort true', 'close', 'close']);
});

t.test("P144 they are refused for now: overload 'tempfail'", async (t) => {
  const { factory, first, calls } = await full(t, 'tempfail');
  const second = await dial(t, factory);
  t.equal((await second.mta.negotiate()).type, 'negotiate');
  const refusal = { type: 'replyCode', text: /^421 4\.3\.2 / };
  t.match(await second.mta.ask(say.connect()), refusal);
  t.match(await second.mta.ask(say.mail()), refusal);
  second.mta.send(say.quit());
  await second.mta.closed;
  await connections(factory, 1);
  t.equal((await first.mta.ask(say.mail())).type, 'continue');
  t.strictSame(calls, ['mailFrom'], 'no milter is made for it');
  first.mta.end();
  await connections(factory, 0);
  const third = await dial(t, factory);
  await third.mta.negotiate();
  t.equal((await third.mta.ask(say.mail())).type, 'continue');
});

t.test("P144 they are closed: overload 'close'", async (t) => {
  const { factory, first } = await full(t, 'close');
  const second = await dial(t, factory);
  await second.mta.closed;
  t.strictSame(second.mta.replies, []);
  t.equal((await first.mta.ask(say.mail())).type, 'continue');
});

t.test('P144 a client that breaks off while it waits for its turn harms nobody', async (t) => {
  const { factory, first, errors } = await full(t, 'queue');
  const second = await dial(t, factory);
  const third = await dial(t, factory);
  t.equal((await first.mta.ask(say.mail())).type, 'continue');
  second.socket.resetAndDestroy();
  t.equal((await first.mta.ask(say.rcpt())).type, 'continue');
  const asked = third.mta.negotiate();
  first.mta.end();
  t.equal((await asked).type, 'negotiate');
  t.strictSame(errors, []);
});

t.test('P144 a connection that breaks makes room for one other, not for two', async (t) => {
  const { factory, first } = await full(t, 'queue');
  const second = await dial(t, factory);
  const third = await dial(t, factory);
  t.equal((await first.mta.ask(say.mail())).type, 'continue');
  first.socket.resetAndDestroy();
  const asked = third.mta.negotiate();
  await second.mta.negotiate();
  t.equal((await second.mta.ask(say.mail())).type, 'continue');
  t.equal(factory.connections, 1);
  t.strictSame(third.mta.replies, []);
  second.mta.end();
  await asked;
});

t.test('P27 a larger size of packets that was agreed is used', async (t) => {
  const { MyMilter } = milter({
    eob(this: MilterProtocol) {
      this.replBody('z'.repeat(100_000));
    },
  });
  const { factory } = await serve(t, MyMilter, { smfifOptions: ALL_ACTIONS });
  const { mta } = await dial(t, factory);
  await mta.negotiate({ protocol: ALL_STEPS | SMFIP_MDS_1M });
  mta.send(say.eob());
  t.equal((await outcome(mta)).length, 2);
});

t.test('small packets are sent at once, and connections that are dead are found out', async (t) => {
  const calls: unknown[] = [];
  for (const name of ['setNoDelay', 'setKeepAlive'] as const) {
    t.intercept(Socket.prototype, name, { value: (on: boolean) => void calls.push([name, on]) });
  }
  const { factory } = await serve(t, MilterProtocol);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  t.strictSame(calls, [
    ['setNoDelay', true],
    ['setKeepAlive', true],
  ]);
});

t.test('P143 a connection that cannot be accepted is told of, and the rest goes on', async (t) => {
  const listen = Reflect.get(Server.prototype, 'listen') as (...args: unknown[]) => Server;
  let server: Server | undefined;
  t.intercept(Server.prototype, 'listen', {
    value(this: Server, ...args: unknown[]) {
      server = listen.apply(this, args);
    },
  });
  const { factory, errors } = await serve(t, MilterProtocol);
  const cause = Object.assign(new Error('accept EMFILE'), { code: 'EMFILE' });
  server?.emit('error', cause);
  t.match(errors, [{ code: 'ERR_MILTER_LISTEN', message: 'Cannot accept a connection: accept EMFILE', cause }]);
  const { mta } = await dial(t, factory);
  t.equal((await mta.negotiate()).type, 'negotiate');
});
