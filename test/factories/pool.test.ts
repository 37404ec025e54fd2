/** The pool of workers, with workers of the test's: who gets a session, who takes the place of the dead, how all end. */
import t, { type Test } from 'tap';
import { MilterError } from '../../lib/errors.js';
import { poolOwner } from '../../lib/factories/pool.js';
import type { PoolWorker, Tenant } from '../../lib/factories/pool-worker.js';
import { packDetails, packError } from '../../lib/factories/portable.js';
import { stopClock } from '../helpers/clock.js';
import { fakePool, startedPool, type FakePool, type FakeWorker } from '../helpers/fake-workers.js';
import { memoryLog } from '../helpers/milter.js';
import { settled } from '../helpers/streams.js';

const WORKER = { code: 'ERR_MILTER_WORKER' };

interface FakeTenant extends Tenant {
  readonly received: unknown[];
  readonly deaths: MilterError[];
}

function tenant(waiting = false, patience = 8000): FakeTenant {
  const received: unknown[] = [];
  const deaths: MilterError[] = [];
  return {
    received,
    deaths,
    waiting,
    patience,
    receive: (message) => void received.push(message),
    workerDied: (error) => void deaths.push(error),
  };
}

/** Adds a tenant to the worker that the pool chooses; gives its name. */
function moveIn(fake: FakePool, who = tenant()): string {
  const worker = fake.pool.acquire();
  worker?.add(who);
  return worker?.name ?? 'nobody';
}

const nth = (fake: FakePool, number: number): FakeWorker => fake.workers[number - 1] as FakeWorker;

t.test('all workers are told to start at once, and are waited for', async (t) => {
  const fake = fakePool({ size: 3 });
  fake.eager = false;
  let started = false;
  const starting = fake.pool.start().then(() => (started = true));
  await settled();
  t.match(
    fake.workers.map((worker) => worker.take()),
    [1, 2, 3].map((number) => [['start', { module: 'file:///m.js', worker: `fake ${number}` }]]),
  );
  nth(fake, 1).says(['ready']);
  nth(fake, 2).says(['ready']);
  await settled();
  t.notOk(started);
  nth(fake, 3).says(['ready']);
  await starting;
  t.strictSame(fake.errors, []);
});

t.test('one that does not start: the others are ended, and start() says why', async (t) => {
  const packed = packError(new MilterError('ERR_MILTER_CALLBACK', 'setup() failed', { cause: new Error('no db') }));
  const ways: Array<[(worker: FakeWorker) => void, { code: string; message: string; cause?: object }]> = [
    [
      (worker) => worker.says(['failed', packed]),
      { code: 'ERR_MILTER_CALLBACK', message: 'setup() failed', cause: { message: 'no db' } },
    ],
    [
      (worker) => worker.says(['dying', packError(new TypeError('top level'))]),
      { ...WORKER, message: 'Worker fake 2 did not start: it ended with exit code 3: top level' },
    ],
    [() => {}, { ...WORKER, message: 'Worker fake 2 did not start: it ended with exit code 3' }],
    [
      (worker) => worker.die('could not be started', 'EAGAIN'),
      { ...WORKER, message: 'Worker fake 2 did not start: it could not be started: "EAGAIN"' },
    ],
    [(worker) => worker.says(['ready']), { ...WORKER, message: 'Worker fake 2 died: it ended with exit code 3' }],
  ];
  for (const [way, error] of ways) {
    const fake = fakePool({ size: 3 });
    fake.eager = false;
    const starting = fake.pool.start();
    nth(fake, 1).says(['ready']);
    way(nth(fake, 2));
    nth(fake, 2).die();
    await t.rejects(starting, error);
    t.ok(nth(fake, 1).killed && nth(fake, 3).killed, 'nothing is left');
    t.strictSame(fake.errors, [], 'and nobody else is told');
  }
});

t.test('startTimeout: one that never gets ready is killed', async (t) => {
  const clock = stopClock(t);
  const fake = fakePool({ size: 1, startTimeout: 500 });
  fake.eager = false;
  const rejected = t.rejects(fake.pool.start(), {
    ...WORKER,
    message: 'Worker fake 1 did not start: it did not get ready within 500 ms',
  });
  await clock.pass(499);
  t.notOk(nth(fake, 1).killed);
  await clock.pass(1);
  t.ok(nth(fake, 1).killed);
  await rejected;
});

t.test(
  'sessions go to the least busy: tenants, then those that wait, those that are ready, and not the slow',
  async (t) => {
    const clock = stopClock(t);
    const fake = await startedPool({ size: 3 });
    t.strictSame([moveIn(fake), moveIn(fake), moveIn(fake), moveIn(fake)], ['fake 1', 'fake 2', 'fake 3', 'fake 1']);
    moveIn(fake, tenant(true));
    moveIn(fake, tenant(true));
    const one = fake.pool.acquire() as PoolWorker;
    t.equal(one.name, 'fake 1', 'where fewer wait');
    t.strictSame([one.tenants, one.waiting], [2, 0]);
    one.remove(1);
    one.remove(1);
    t.equal(one.tenants, 1);
    nth(fake, 1).answers = false;
    one.post(['pulse']);
    await clock.pass(1000);
    t.notOk(one.slow);
    await clock.pass(1);
    t.ok(one.slow);
    t.equal(fake.pool.acquire()?.name, 'fake 2', 'one that answers nothing gets nothing new');
    nth(fake, 2).answers = nth(fake, 3).answers = false;
    fake.pool.acquire();
    fake.pool.acquire();
    nth(fake, 1).wakes();
    t.notOk(one.slow);
    fake.eager = false;
    nth(fake, 1).die();
    t.equal(fake.pool.acquire()?.name, 'fake 2', 'nor one that is still starting');
    nth(fake, 2).die();
    nth(fake, 3).die();
    t.equal(fake.pool.acquire()?.name, 'fake 4', 'while there are others');
  },
);

t.test('perSession: a worker for each, one in reserve, and it ends with its tenant', async (t) => {
  const fake = await startedPool({ perSession: true });
  t.equal(fake.workers.length, 1);
  const worker = fake.pool.acquire() as PoolWorker;
  const number = worker.add(tenant());
  t.equal(fake.workers.length, 2);
  t.equal(moveIn(fake), 'fake 2', 'which may still be on its way');
  await settled();
  t.equal(worker.state, 'retired');
  worker.remove(number);
  await settled();
  t.strictSame(nth(fake, 1).names(), ['stop']);
  t.strictSame(fake.errors, [], 'as it was told');
  nth(fake, 2).die();
  t.match(fake.errors, [{ ...WORKER, message: 'Worker fake 2 died: it ended with exit code 3' }]);
  t.equal(fake.workers.length, 3, 'the one in reserve is there already');
});

t.test('a worker that dies is replaced at once, its tenants are told', async (t) => {
  const fake = await startedPool({ size: 2 });
  const [a, b] = [tenant(), tenant()];
  moveIn(fake, a);
  moveIn(fake, b);
  nth(fake, 1).says(['dying', packError(new Error('boom'))]);
  nth(fake, 1).die();
  t.equal(fake.workers.length, 3);
  t.match(a.deaths, [
    { ...WORKER, message: 'Worker fake 1 died: it ended with exit code 3: boom', cause: { message: 'boom' } },
  ]);
  t.strictSame([b.deaths, fake.errors], [[], a.deaths]);
  nth(fake, 1).says(['log', 'info', {}, 'late']);
  t.strictSame(fake.messages, [], 'the dead say nothing');
});

/** All that are there die; gives when the next is started, if not at once. */
async function massacre(fake: FakePool): Promise<string> {
  const before = fake.workers.length;
  fake.errors.length = 0;
  for (const worker of fake.workers.slice()) worker.die();
  await settled();
  return fake.workers.length > before ? 'at once' : (fake.errors.at(-1)?.message ?? 'never');
}

t.test('workers that keep dying are replaced later and later, until one has served somebody', async (t) => {
  const clock = stopClock(t);
  const fake = await startedPool({ size: 1 });
  const text = (ms: number): string => `Workers keep dying: the next one is started in ${ms} ms`;
  t.equal(await massacre(fake), 'at once');
  for (const ms of [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]) {
    t.equal(await massacre(fake), text(ms));
    t.match(fake.errors, [WORKER, WORKER]);
    t.equal(moveIn(fake), 'nobody');
    const count = fake.workers.length;
    await clock.pass(ms - 1);
    t.equal(fake.workers.length, count);
    await clock.pass(1);
    t.equal(fake.workers.length, count + 1);
  }
  fake.pool.acquire()?.served();
  t.equal(await massacre(fake), 'at once');
  t.equal(await massacre(fake), text(100));
});

t.test('workers that serve and die: ten times in ten seconds for each place are made up for at once', async (t) => {
  const clock = stopClock(t);
  const fake = await startedPool({ size: 1 });
  for (let i = 0; i < 10; i++) {
    fake.pool.acquire()?.served();
    t.equal(await massacre(fake), 'at once');
    await clock.pass(900);
  }
  fake.pool.acquire()?.served();
  t.equal(await massacre(fake), 'Workers keep dying: the next one is started in 1000 ms');
  await clock.pass(1000 + 900);
  fake.pool.acquire()?.served();
  t.equal(await massacre(fake), 'at once', 'the first two are forgotten');
});

t.test('reload(): new workers take over, the old ones end with their last tenant', async (t) => {
  const fake = await startedPool({ size: 2 });
  const worker = fake.pool.acquire() as PoolWorker;
  const number = worker.add(tenant());
  await fake.pool.reload();
  await settled();
  t.strictSame([moveIn(fake), moveIn(fake)], ['fake 3', 'fake 4']);
  t.strictSame(nth(fake, 2).names(), ['stop']);
  t.strictSame(nth(fake, 1).names(), []);
  worker.remove(number);
  await settled();
  t.strictSame(nth(fake, 1).names(), ['stop']);
  t.strictSame(fake.errors, []);
  worker.retire();
  worker.kill('is dead');
  t.notOk(nth(fake, 1).killed);
});

t.test('reload(): one that does not start leaves everything as it was', async (t) => {
  const fake = await startedPool({ size: 2 });
  fake.eager = false;
  const reloading = fake.pool.reload();
  const other = fake.pool.reload();
  await settled();
  t.equal(fake.workers.length, 4, 'one reload after the other');
  nth(fake, 3).says(['ready']);
  nth(fake, 4).says(['failed', packError(new MilterError('ERR_MILTER_WORKER', 'does not load'))]);
  nth(fake, 4).die();
  await t.rejects(reloading, { ...WORKER, message: 'does not load' });
  t.ok(nth(fake, 3).killed);
  t.strictSame(fake.errors, [], 'told to the caller alone');
  t.equal(moveIn(fake), 'fake 1');
  await settled();
  nth(fake, 5).says(['ready']);
  nth(fake, 6).says(['ready']);
  await other;
  t.equal(moveIn(fake), 'fake 5');
});

t.test('reload(): places that were to be filled are', async (t) => {
  const clock = stopClock(t);
  const fake = await startedPool({ size: 1 });
  await massacre(fake);
  await massacre(fake);
  await fake.pool.reload();
  const count = fake.workers.length;
  await clock.pass(30_000);
  t.equal(fake.workers.length, count, 'and not once more');
});

t.test('stop(): all end; nothing is started any more', async (t) => {
  const clock = stopClock(t);
  const fake = await startedPool({ size: 2 });
  nth(fake, 1).die();
  nth(fake, 2).die();
  nth(fake, 3).die();
  await clock.pass(0);
  fake.eager = false;
  const reloading = fake.pool.reload();
  await settled();
  const count = fake.workers.length;
  const stopping = fake.pool.stop();
  for (const worker of fake.workers.slice(-2)) worker.says(['ready']);
  await stopping;
  await t.rejects(reloading, { code: 'ERR_MILTER_CLOSING' });
  await t.rejects(fake.pool.reload(), { code: 'ERR_MILTER_CLOSING' });
  await clock.pass(60_000);
  t.equal(fake.workers.length, count);
});

t.test('stop(): one that is killed is not replaced', async (t) => {
  const clock = stopClock(t);
  const fake = await startedPool({ size: 1, stopTimeout: 700 });
  nth(fake, 1).die();
  await settled();
  nth(fake, 2).answers = false;
  const stopping = fake.pool.stop();
  await clock.pass(700);
  await stopping;
  t.match(fake.errors, [{ message: /^Worker fake 1 died/ }, { message: /^Worker fake 2 died: it did not stop/ }]);
  t.equal(fake.errors.length, 2);
});

t.test('stop(): one that does not is killed, and told of', async (t) => {
  const clock = stopClock(t);
  const fake = await startedPool({ size: 2, stopTimeout: 700 });
  nth(fake, 2).answers = false;
  (fake.pool.acquire() as PoolWorker).add(tenant());
  let over = false;
  const stopping = fake.pool.stop().then(() => (over = true));
  await clock.pass(699);
  t.notOk(over);
  await clock.pass(1);
  await stopping;
  t.strictSame([nth(fake, 1).killed, nth(fake, 2).killed], [true, true]);
  t.strictSame(
    fake.errors.map((error) => error.message).toSorted(),
    [1, 2].map((number) => `Worker fake ${number} died: it did not stop within 700 ms`),
    'with what is still in it, or without',
  );
});

/** The pool's pulse, when the test says so. */
function pulseOf(t: Test): { beat(): void } {
  const pulse = { beat: () => {} };
  const setInterval = (beat: () => void): { unref(): unknown } => {
    pulse.beat = beat;
    const timer = { unref: () => timer };
    return timer;
  };
  t.intercept(globalThis, 'setInterval', { value: setInterval });
  t.intercept(globalThis, 'clearInterval', { value: () => {} });
  return pulse;
}

t.test('a worker with tenants gives signs of life, or is killed when nobody would wait longer', async (t) => {
  const pulse = pulseOf(t);
  const clock = stopClock(t);
  const fake = await startedPool({ size: 2 });
  const who = tenant(true, 20_000);
  moveIn(fake, tenant(false, 8000));
  fake.pool.acquire();
  pulse.beat();
  await settled();
  t.strictSame([nth(fake, 1).names(), nth(fake, 2).names()], [['pulse'], []]);
  (fake.pool as unknown as { acquire(): PoolWorker }).acquire().add(who);
  nth(fake, 1).answers = nth(fake, 2).answers = false;
  pulse.beat();
  await clock.pass(7999);
  pulse.beat();
  t.notOk(nth(fake, 1).killed);
  await clock.pass(2);
  pulse.beat();
  t.strictSame([nth(fake, 1).killed, nth(fake, 2).killed], [true, false]);
  t.match(fake.errors, [{ ...WORKER, message: /^Worker fake 1 died: it was blocked for 800\d ms$/ }]);
  nth(fake, 2).wakes();
  await clock.pass(20_001);
  nth(fake, 2).wakes();
  nth(fake, 2).wakes();
  pulse.beat();
  t.notOk(nth(fake, 2).killed, 'one that lives again');
});

t.test('what is posted in one turn is one batch; a socket goes alone, behind it', async (t) => {
  const fake = await startedPool({ size: 1 });
  const worker = fake.pool.acquire() as PoolWorker;
  const batches: number[] = [];
  const link = nth(fake, 1);
  const send = link.send.bind(link);
  link.send = (batch, socket) => {
    batches.push(batch.length);
    send(batch, socket);
  };
  worker.post(['pulse']);
  worker.post(['end', 1]);
  await settled();
  worker.post(['pulse']);
  worker.postSocket(['socket', 1], {} as never);
  await settled();
  t.strictSame(batches, [2, 1, 1]);
  t.strictSame(link.names(), ['pulse', 'end', 'pulse', 'socket']);
  worker.post(['pulse']);
  link.die();
  await settled();
  t.strictSame(link.names(), [], 'nothing is sent to the dead');
});

t.test('what a worker says goes to its tenant, or to the owner', async (t) => {
  const fake = await startedPool({ size: 1 });
  const who = tenant();
  moveIn(fake, who);
  const link = nth(fake, 1);
  link.says(
    ['taken', 1, 5],
    ['taken', 2, 6],
    ['log', 'warn', {}, 'a line'],
    ['unclean', packError(new MilterError('ERR_MILTER_CALLBACK', 'teardown'))],
  );
  t.strictSame(who.received, [['taken', 1, 5]]);
  t.strictSame(fake.messages, [['log', 'warn', {}, 'a line']]);
  t.match(fake.errors, [{ code: 'ERR_MILTER_CALLBACK', message: 'teardown' }]);
  const log = memoryLog();
  const owner = poolOwner(log, () => {});
  owner.message(['log', 'warn', packDetails({ a: 1 }), 'a line']);
  owner.message(['ready']);
  t.strictSame(log.lines, [{ level: 'warn', details: { a: 1 }, message: 'a line' }]);
});
