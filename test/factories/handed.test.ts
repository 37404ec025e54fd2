/** ForkFactory with `socket: 'child'`: the connection itself is handed to a process. And what processes do by themselves. */
import { connect, Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { MilterError } from '../../lib/errors.js';
import { HandedSocket } from '../../lib/factories/handed-socket.js';
import type { PoolWorker } from '../../lib/factories/pool-worker.js';
import { SMFIF_ADDHDRS, type FactoryOptions } from '../../lib/index.js';
import { alive, childPids } from '../helpers/children.js';
import { runProgram } from '../helpers/example.js';
import { writeModule } from '../helpers/modules.js';
import { stopClock } from '../helpers/clock.js';
import { outcome } from '../helpers/eob.js';
import { startedPool, type FakePool, type FakeWorker } from '../helpers/fake-workers.js';
import { shortFolder } from '../helpers/folder.js';
import { Mortal, touch } from '../helpers/mortal.js';
import { message, Mta, say } from '../helpers/mta.js';
import { skip } from '../helpers/open-files.js';
import { dialled, run, strike, type Running } from '../helpers/pooled.js';
import { answers, meet, play } from '../helpers/scenes.js';
import { settled } from '../helpers/streams.js';
import { until } from '../helpers/until.js';
import { FAST } from '../helpers/workers.js';

// ---- with processes of the test's -------------------------------------------------------------------------------------

interface Hand extends FakePool {
  readonly handed: HandedSocket;
  readonly socket: Socket;
  readonly reports: MilterError[];
  readonly first: FakeWorker;
  readonly second: FakeWorker;
  over: number;
}

async function hand(size = 2): Promise<Hand> {
  const fake = await startedPool({ size });
  const socket = new Socket();
  const reports: MilterError[] = [];
  const events = { report: (error: MilterError) => void reports.push(error), closed: () => void it.over++ };
  const worker = fake.pool.acquire() as PoolWorker;
  const handed = new HandedSocket(socket, fake.pool, worker, 300_000, events);
  const [first, second] = fake.workers as [FakeWorker, FakeWorker];
  const it: Hand = { ...fake, handed, socket, reports, first, second, over: 0 };
  return it;
}

t.test('our copy stays open until the process has taken the other', async (t) => {
  const it = await hand();
  t.strictSame([it.first.names(), it.first.sockets], [['socket'], [it.socket]]);
  it.socket.emit('error', new Error('somebody else tells'));
  t.notOk(it.socket.destroyed);
  it.first.says(['took', 1], ['taken', 1, 5], ['report', 1, { name: 'Error', message: 'boom' }]);
  t.ok(it.socket.destroyed);
  t.match(it.reports, [{ code: 'ERR_MILTER_CALLBACK', message: 'A session failed: boom' }]);
  it.handed.drain();
  await settled();
  t.strictSame(it.first.names(), ['drain']);
  t.equal(it.over, 0);
  it.first.says(['closed', 1, undefined]);
  t.equal(it.over, 1);
  it.first.die();
  t.equal(it.over, 1);
});

t.test('a process that ends before it has taken it: another one gets it, three in all', async (t) => {
  const it = await hand();
  it.handed.drain();
  it.first.die();
  await settled();
  t.strictSame(it.second.names(), ['socket', 'drain']);
  it.second.die();
  await settled();
  const third = it.workers[2] as FakeWorker;
  t.strictSame([third.sockets, it.socket.destroyed], [[it.socket], false]);
  third.die();
  t.strictSame([it.socket.destroyed, it.over], [true, 1]);
});

t.test('a process that ends when it has taken it: the connection is over', async (t) => {
  const it = await hand();
  it.first.says(['took', 1]);
  it.first.die();
  t.strictSame([it.over, it.second.names()], [1, []]);
});

t.test('no process is left', async (t) => {
  const it = await hand(1);
  it.pool.acquire = () => undefined;
  it.first.die();
  t.strictSame([it.socket.destroyed, it.over], [true, 1]);
});

t.test('destroy(): a process that does not end its session is killed, and nobody else gets it', async (t) => {
  for (const taken of [true, false]) {
    const clock = stopClock(t);
    const it = await hand();
    if (taken) it.first.says(['took', 1]);
    it.handed.destroy();
    it.handed.destroy();
    await settled();
    t.strictSame(it.first.names(), ['socket', 'destroy']);
    await clock.pass(999);
    t.notOk(it.first.killed);
    await clock.pass(1);
    t.ok(it.first.killed);
    t.strictSame([it.socket.destroyed, it.over, it.second.names()], [true, 1, []]);
  }
  const it = await hand();
  it.handed.destroy();
  it.first.says(['took', 1], ['closed', 1, undefined]);
  t.equal(it.over, 1);
});

// ---- with real ones ---------------------------------------------------------------------------------------------------

async function children(t: Test, options: FactoryOptions = {}): Promise<Running & { readonly trace: string }> {
  const trace = join(shortFolder(t), 'trace');
  touch(trace);
  const all = { workers: 2, socket: 'child' as const, smfifOptions: SMFIF_ADDHDRS, context: { trace }, ...options };
  return { ...(await run(t, 'ForkFactory', Mortal, all)), trace };
}

const begun = (trace: string): Promise<unknown> => until('the milter', () => readFileSync(trace, 'utf8') !== '');
const pidOf = (where: string): number => Number(where.split('/')[0]);

t.test('sessions in processes, socket and all', { skip }, async (t) => {
  const it = await children(t);
  const sessions = [await meet(t, it), await meet(t, it), await meet(t, it)];
  t.strictSame(new Set(sessions.map(({ where }) => pidOf(where))), new Set(childPids()));
  const [{ mta, where }, other] = sessions as [(typeof sessions)[0], (typeof sessions)[0]];
  mta.send(say.macros('M', { do: 'exit' }), say.mail());
  await mta.closed;
  t.strictSame(mta.replies, [], 'a process that dies closes its connections');
  await until('it to be known', () => it.factory.connections < 3);
  t.match(it.errors, [
    { code: 'ERR_MILTER_WORKER', message: `Worker process ${pidOf(where)} died: it ended with exit code 3` },
  ]);
  t.equal((await play(other.mta)).where, other.where, 'and no others');
  other.mta.send(say.quit());
  await other.mta.closed;
});

t.test('a process that is killed before it has taken a connection', { skip }, async (t) => {
  const it = await children(t);
  const first = await meet(t, it);
  const second = await meet(t, it);
  first.mta.send(say.quit());
  await until('it to be the least busy', () => it.factory.connections === 1);
  strike(first.where, 'SIGSTOP');
  const { mta } = await dialled(t, it.factory);
  mta.send({ type: 'negotiate', version: 6, actions: 0x1ff, protocol: 0x400 });
  await until('the connection', () => it.factory.connections === 2);
  strike(first.where, 'SIGKILL');
  t.equal((await mta.reply()).type, 'negotiate');
  t.equal((await play(mta)).where, second.where);
});

t.test('close(): messages in progress are finished, new ones refused; then all ends', { skip }, async (t) => {
  const it = await children(t);
  const [one, two] = [await meet(t, it), await meet(t, it)];
  await answers(one.mta, message().slice(0, 3));
  const closing = it.factory.close();
  await until('it to be told', async () => (await two.mta.ask(say.mail())).type === 'replyCode');
  one.mta.send(...message().slice(3));
  for (let i = 0; i < 3; i++) t.equal((await one.mta.reply()).type, 'continue');
  t.equal((await outcome(one.mta)).at(-1)?.type, 'continue');
  one.mta.send(say.quit());
  void it.factory.close();
  await closing;
  await two.mta.closed;
  t.strictSame([childPids(), it.errors], [[], []]);
});

t.test('close(), twice: a process that is blocked is killed', { skip }, async (t) => {
  const it = await children(t, { workers: 1 });
  const { mta } = await meet(t, it);
  mta.send(say.macros('M', { do: 'block' }), say.mail());
  await begun(it.trace);
  await Promise.all([it.factory.close(), it.factory.close()]);
  await mta.closed;
  t.strictSame(childPids(), []);
  t.match(it.errors, [{ code: 'ERR_MILTER_WORKER', message: /died: it did not end its sessions$/ }]);
});

t.test('the same where the parent has the socket', { skip }, async (t) => {
  const it = await children(t, { workers: 1, socket: 'parent' });
  const { mta } = await meet(t, it);
  mta.send(say.macros('M', { do: 'block' }), say.mail());
  await begun(it.trace);
  await Promise.all([it.factory.close(), it.factory.close()]);
  t.equal((await mta.reply()).type, 'tempFail');
  await mta.closed;
  t.strictSame(childPids(), []);
});

t.test('processes ignore SIGINT and SIGTERM, and end when their parent is killed', { skip }, async (t) => {
  for (const socket of ['parent', 'child'] as const) {
    const options = JSON.stringify({ ...FAST, workers: 2, socket });
    const module = writeModule(
      shortFolder(t),
      'program.mjs',
      `export class Mine extends MilterProtocol { static module = import.meta.url; }
       if (!isMilterWorker()) {
         const factory = new ForkFactory('inet:0', Mine, ${options});
         factory.on('sessionError', ({ message }) => console.log(message));
         await factory.run();
         console.log('port', factory.address.port, 'of', process.pid, '.');
       }`,
    );
    const program = runProgram(process.execPath, [...(FAST.execArgv ?? []), fileURLToPath(module)]);
    t.teardown(() => program.kill('SIGKILL'));
    await program.printed('.\n');
    const [port, parent] = (program.out().match(/\d+/g) ?? []).map(Number) as [number, number];
    const pids = childPids(parent);
    t.equal(pids.length, 2);
    for (const signal of ['SIGINT', 'SIGTERM'] as const) for (const pid of pids) process.kill(pid, signal);
    for (let i = 0; i < 2; i++) {
      const client = connect(port, '127.0.0.1');
      t.teardown(() => void client.destroy());
      t.equal((await new Mta(client).negotiate()).type, 'negotiate');
    }
    t.strictSame(childPids(parent), pids, 'both are at work');
    program.kill('SIGKILL');
    await program.ended;
    await until('them to end', () => !pids.some(alive));
    t.match(program.out(), /^port.*\n$/, 'and nobody has complained');
  }
});
