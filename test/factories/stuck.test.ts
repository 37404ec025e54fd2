// What is stuck, ambiguous or broken at the edges: it costs what it must, and nothing hangs.
import * as fs from 'node:fs/promises';
import { connect } from 'node:net';
import t from 'tap';
import type { Factory } from '../../lib/factories/factory.js';
import { findClass } from '../../lib/factories/find-class.js';
import { HandedSocket } from '../../lib/factories/handed-socket.js';
import { listen } from '../../lib/sockets/listen.js';
import { moduleOf } from '../../lib/factories/module-of.js';
import type { PoolWorker, Tenant } from '../../lib/factories/pool-worker.js';
import { enterWorker } from '../../lib/factories/worker-context.js';
import { inheritedFlags } from '../../lib/factories/worker-environment.js';
import { AsyncFactory, MilterProtocol, type MilterError } from '../../lib/index.js';
import { stopClock } from '../helpers/clock.js';
import { startedPool, type FakeWorker } from '../helpers/fake-workers.js';
import { shortFolder } from '../helpers/folder.js';
import { writeModule } from '../helpers/modules.js';
import { settled } from '../helpers/streams.js';

const tenant: Tenant = { receive() {}, workerDied() {}, waiting: true, patience: 1_000 };

t.test('a worker that is blocked is ended also when whoever it was blocked for has left', async (t) => {
  const clock = stopClock(t);
  const { pool, workers, errors } = await startedPool({ size: 1, patience: 8_000 });
  const worker = pool.acquire() as PoolWorker;
  const fake = workers[0] as FakeWorker;
  worker.pulse();
  await settled();
  t.strictSame(fake.names(), [], 'an empty one that owes no answer is not asked');
  const number = worker.add(tenant);
  fake.answers = false;
  worker.post(['destroy', number]);
  await settled();
  worker.remove(number);
  await clock.pass(7_999);
  worker.pulse();
  t.notOk(fake.killed);
  await clock.pass(1);
  worker.pulse();
  t.ok(fake.killed);
  t.match(errors, [{ message: 'Worker fake 1 died: it was blocked for 8000 ms' }]);
  t.equal(workers.length, 2, 'and replaced');
});

t.test('a worker that was told to stop and does not is ended', async (t) => {
  const clock = stopClock(t);
  const { pool, workers, errors } = await startedPool({ size: 1, stopTimeout: 500 });
  const old = workers[0] as FakeWorker;
  old.answers = false;
  await pool.reload();
  await settled();
  t.strictSame(old.names(), ['stop']);
  await clock.pass(500);
  t.ok(old.killed);
  t.match(errors, [{ message: 'Worker fake 1 died: it did not stop within 500 ms' }]);
});

t.test('a worker that is to die, and takes its time, gets no more tenants', async (t) => {
  const { pool, workers } = await startedPool({ size: 2 });
  const first = pool.acquire() as PoolWorker;
  (workers[0] as FakeWorker).kill = () => {};
  first.kill('was tried');
  first.kill('and is not tried twice');
  t.not(pool.acquire(), first);
  (workers[1] as FakeWorker).kill = () => {};
  (pool.acquire() as PoolWorker).kill('too');
  t.equal(pool.acquire(), undefined);
});

t.test('a connection that is handed over is destroyed once, however often that is said', async (t) => {
  const clock = stopClock(t);
  const { pool, workers } = await startedPool({ size: 1 });
  let over = 0;
  const events = { report() {}, closed: () => void over++ };
  const socket = connect({ port: 9, host: '127.0.0.1' }).on('error', () => {});
  t.teardown(() => void socket.destroy());
  const handed = new HandedSocket(socket, pool, pool.acquire() as PoolWorker, 1_000, events);
  const fake = workers[0] as FakeWorker;
  handed.destroy();
  handed.destroy();
  await settled();
  t.strictSame(fake.names(), ['socket', 'destroy']);
  fake.says(['closed', 1, undefined]);
  await clock.pass(60_000);
  t.strictSame([over, fake.killed], [1, false]);
});

t.test('a URL of another host is no file that is there', (t) => {
  const Milter = Object.assign(class M extends MilterProtocol {}, { module: 'file://host/x.js' });
  t.throws(() => moduleOf(Milter, 'ForkFactory'), {
    code: 'ERR_MILTER_OPTION',
    message: /^static module must be that of a file that is there/,
  });
  t.end();
});

t.test('a program that was given among the flags is not that of the workers', (t) => {
  t.strictSame(inheritedFlags(['--import=a', '-e', 'fork()', '--input-type=module', '--trace-warnings']), [
    '--import=a',
    '--trace-warnings',
  ]);
  t.strictSame(inheritedFlags(['--eval=1', '--print=2', '--input-type', 'module', '-pe', '3']), []);
  t.end();
});

t.test("close() ends everything also when the socket's file cannot be removed", async (t) => {
  const denied = Object.assign(new Error('EACCES: permission denied, unlink'), { code: 'EACCES' });
  const { Factory: Mocked } = await t.mockImport<{ Factory: typeof Factory }>('../../lib/factories/factory.js', {
    '../../lib/sockets/listen.js': {
      listen: async (...args: Parameters<typeof listen>) => ({
        ...(await listen(...args)),
        release: () => Promise.reject(denied),
      }),
    },
  });
  class Idle extends Mocked {
    protected check(): void {}
    protected async start(): Promise<void> {}
    protected serve(): never {
      throw new Error('nobody comes');
    }
    protected async stop(): Promise<void> {}
    protected async replaceWorkers(): Promise<void> {}
  }
  const factory = new Idle('inet:0', MilterProtocol);
  const errors: MilterError[] = [];
  let closed = false;
  factory.on('sessionError', (error) => errors.push(error));
  factory.on('close', () => (closed = true));
  await factory.run();
  await factory.close();
  t.ok(closed);
  t.match(errors, [
    { code: 'ERR_MILTER_LISTEN', message: 'Cannot remove the socket: EACCES: permission denied, unlink' },
  ]);
});

t.test('a run() that fails forgets the signal', async (t) => {
  const controller = new AbortController();
  const { signal } = controller;
  const factory = new AsyncFactory('inet:0@192.0.2.1', MilterProtocol, { signal });
  await t.rejects(factory.run(), { code: 'ERR_MILTER_LISTEN' });
  let told = false;
  factory.on('close', () => (told = true));
  controller.abort();
  await settled();
  t.notOk(told);
});

// findClass() makes this process a worker, in which run() does nothing: these come last.

t.test('mail goes through the class that was meant, or through none', async (t) => {
  const folder = shortFolder(t);
  const two = writeModule(
    folder,
    'two.mjs',
    `const make = (n) => class Same extends MilterProtocol { static module = import.meta.url; static n = n };
     for (const n of [1, 2]) new ThreadFactory('inet:0', make(n));
     export default class Other extends MilterProtocol { static module = import.meta.url }
     class Own extends MilterProtocol { static module = import.meta.url }
     new ThreadFactory('inet:0', Own);`,
  );
  await t.rejects(findClass(two, 'Same'), {
    code: 'ERR_MILTER_WORKER',
    message: /has 2 classes called Same, and mail/,
  });
  t.equal((await findClass(two, 'Other')).name, 'Other');
  t.equal((await findClass(two, 'Own')).name, 'Own', 'and not the default export');
  await t.rejects(findClass(two, 'None'), {
    message: /has no class None: it exports default, .*Export it there, `export class None`/,
  });
  const nameless = writeModule(
    folder,
    'nameless.mjs',
    `for (const n of [1, 2]) new ThreadFactory('inet:0', (() => class extends MilterProtocol { static module = import.meta.url })());`,
  );
  await t.rejects(findClass(nameless, ''), { message: /has 2 classes without a name/ });
  await t.rejects(findClass(writeModule(folder, 'empty.mjs', ''), ''), { message: /has no class without a name/ });
});

t.test('in a worker run(), reload() and close() do nothing', async (t) => {
  enterWorker();
  const factory = new AsyncFactory('inet:0', MilterProtocol);
  for (const call of [factory.run(), factory.reload(), factory.close()]) t.equal(await call, undefined);
  t.equal(factory.address, undefined);
});

t.test('a module that does not load says as much as is known', async (t) => {
  const folder = shortFolder(t);
  await fs.writeFile(`${folder}/broken.mjs`, 'let let;');
  const importing = writeModule(folder, 'importing.mjs', `import './broken.mjs';`);
  await t.rejects(findClass(importing, 'M'), {
    message: /does not load in a worker, in it or in a module that it imports: /,
  });
  const behind = writeModule(
    folder,
    'behind.mjs',
    `const f = new ThreadFactory('inet:0', class M extends MilterProtocol { static module = import.meta.url });
     await f.run();
     console.log(f.address.port);`,
  );
  await t.rejects(findClass(behind, 'M'), {
    message: /\(what stands behind run\(\) runs in workers as well: isMilterWorker/,
  });
});
