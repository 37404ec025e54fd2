// runFilter(), step by step, with a factory whose steps end when the test says so.
import { EventEmitter } from 'node:events';
import t from 'tap';
import { MilterError } from '../../lib/errors.js';
import { runFilter, type FactoryEvents, type RunnableFactory, type SocketAddress } from '../../lib/index.js';
import type { SystemdNotify as Notify } from '../../lib/factories/systemd-notify.js';
import { fakeNotify } from '../helpers/fake-notify.js';
import { shortFolder } from '../helpers/folder.js';
import { gate, matchAll, memoryLog } from '../helpers/milter.js';
import { settled } from '../helpers/streams.js';

const handlers = (): number[] => ['SIGTERM', 'SIGINT', 'SIGHUP'].map((name) => process.listenerCount(name));

class Stub extends EventEmitter<FactoryEvents> implements RunnableFactory {
  address: SocketAddress | undefined;
  readonly calls: string[] = [];
  readonly running = gate();
  readonly closing = gate();
  reloading = gate();

  run(): Promise<void> {
    this.calls.push('run');
    return this.running.promise;
  }
  close(): Promise<void> {
    this.calls.push('close');
    return this.closing.promise;
  }
  reload(): Promise<void> {
    this.calls.push('reload');
    return this.reloading.promise;
  }
  listen(): void {
    this.address = { kind: 'inet', host: '127.0.0.1', port: 1, ipv6Only: false };
    this.running.open();
  }
}

const send = (signal: NodeJS.Signals): boolean => process.emit(signal, signal);

t.test('reloads come one after the other, those that come meanwhile as a single one', async (t) => {
  const factory = new Stub();
  const log = memoryLog();
  const errors: MilterError[] = [];
  factory.on('sessionError', (error) => errors.push(error));
  const over = runFilter(factory, { log });
  send('SIGHUP');
  await settled();
  t.strictSame(factory.calls, ['run'], 'not before it listens');
  factory.listen();
  await settled();
  t.strictSame(factory.calls, ['run', 'reload']);
  const { reloading } = factory;
  factory.reloading = gate();
  for (let i = 0; i < 3; i++) send('SIGHUP');
  await settled();
  t.strictSame(factory.calls, ['run', 'reload']);
  reloading.open();
  await settled();
  t.strictSame(factory.calls, ['run', 'reload', 'reload']);
  const failure = new MilterError('ERR_MILTER_WORKER', 'no such class');
  factory.reloading.fail(failure);
  await settled();
  t.strictSame(errors, [failure]);
  send('SIGTERM');
  send('SIGHUP');
  await settled();
  t.strictSame(factory.calls, ['run', 'reload', 'reload', 'close'], 'none any more');
  factory.closing.open();
  await over;
  t.strictSame(
    log.lines.map(({ level, message }) => `${level} ${message}`),
    [
      'info listening on inet:1@127.0.0.1',
      'info reloaded',
      'error reload failed: no such class',
      'info closing: the messages in progress are finished',
    ],
  );
});

t.test('it is over when somebody else closes the factory, or a signal does while it starts', async (t) => {
  const before = handlers();
  const { env, told } = fakeNotify(t);
  t.intercept(process, 'env', { value: { ...process.env, ...env } });
  const factory = new Stub();
  const over = runFilter(factory);
  t.strictSame(
    handlers(),
    before.map((count) => count + 1),
  );
  factory.listen();
  await settled();
  send('SIGHUP');
  await settled();
  factory.address = undefined;
  factory.reloading.open();
  await settled();
  factory.emit('close');
  await over;
  t.strictSame(handlers(), before);
  t.equal(factory.listenerCount('close'), 0);
  t.match(told(), ['READY=1|', 'RELOADING=1|', 'STOPPING=1|'], 'it is not ready once it closes');
  t.equal(told().length, 3);

  const starting = new Stub();
  const second = runFilter(starting);
  send('SIGTERM');
  starting.listen();
  starting.closing.open();
  await second;
  t.strictSame(starting.calls, ['run', 'close']);
  t.match(told().slice(3), ['STOPPING=1|']);
  t.equal(told().length, 4);

  const closed = new Stub();
  const third = runFilter(closed);
  closed.running.open();
  await settled();
  send('SIGHUP');
  closed.emit('close');
  await third;
  t.strictSame(closed.calls, ['run'], 'closed by the time that it was ready');
  t.equal(told().length, 5);
});

t.test('systemd that cannot be told costs one warning, and nothing else', async (t) => {
  const failing = fakeNotify(t, 'echo told >>"$TOLD"; exit 3');
  const missing = { PATH: shortFolder(t), NOTIFY_SOCKET: '/none' };
  for (const [env, what] of [
    [failing.env, /^systemd could not be told how the milter is: Command failed: systemd-notify READY=1 STATUS=/],
    [missing, /^systemd could not be told how the milter is: spawn systemd-notify ENOENT$/],
  ] as const) {
    t.intercept(process, 'env', { value: { ...process.env, ...env } });
    const factory = new Stub();
    const log = memoryLog();
    const over = runFilter(factory, { log });
    factory.listen();
    await settled();
    send('SIGTERM');
    factory.closing.open();
    await over;
    matchAll(
      t,
      log.lines.filter(({ level }) => level === 'warn'),
      [{ message: what, details: { error: Error } }],
    );
  }
  t.strictSame(failing.told(), ['told', 'told'], 'it goes on trying');
});

t.test('systemd is told one thing after the other, and a program that cannot even be tried is no harm', async (t) => {
  type Done = (error: Error | null) => void;
  const calls: Array<{ args: readonly string[]; done: Done }> = [];
  const execFile = (_file: string, args: readonly string[], _options: object, done: Done): void => {
    calls.push({ args, done });
    if (args[0] === 'STOPPING=1') throw new Error('no memory');
  };
  const { SystemdNotify } = await t.mockImport<{ SystemdNotify: new (failed: (error: Error) => void) => Notify }>(
    '../../lib/factories/systemd-notify.js',
    { 'node:child_process': { execFile } },
  );
  t.intercept(process, 'env', { value: { ...process.env, NOTIFY_SOCKET: '/none' } });
  const failures: string[] = [];
  const systemd = new SystemdNotify(({ message }) => failures.push(message));
  systemd.tell('READY=1');
  systemd.tell('STOPPING=1');
  await settled();
  t.strictSame(
    calls.map(({ args }) => args),
    [['READY=1']],
  );
  calls[0]?.done(null);
  await systemd.told;
  t.equal(calls.length, 2);
  t.strictSame(failures, ['no memory']);
});

t.test('what is told to systemd is a line for each variable, whatever is in it', async (t) => {
  const { env, told } = fakeNotify(t);
  t.intercept(process, 'env', { value: { ...process.env, ...env } });
  const factory = new Stub();
  const over = runFilter(factory);
  factory.listen();
  factory.reloading.fail(new MilterError('ERR_MILTER_WORKER', 'no\nREADY=0'));
  send('SIGHUP');
  await settled();
  send('SIGINT');
  factory.closing.open();
  await over;
  t.equal(told()[2], 'READY=1|STATUS=listening on inet:1@127.0.0.1; reload failed: no READY=0|');
});

t.test('what run() and close() reject with is what it rejects with', async (t) => {
  const before = handlers();
  const failure = new Error('no');
  const factory = new Stub();
  const over = runFilter(factory);
  factory.running.fail(failure);
  await t.rejects(over, failure);
  t.strictSame(handlers(), before);
  t.equal(factory.listenerCount('close'), 0);
  const other = new Stub();
  const second = runFilter(other);
  other.listen();
  send('SIGINT');
  other.closing.fail(failure);
  await t.rejects(second, failure);
  t.strictSame(handlers(), before);
});

t.test('the second signal ends a program that hangs while it starts', async (t) => {
  const before = handlers();
  const killed: unknown[][] = [];
  t.intercept(process, 'kill', {
    value: (...args: unknown[]) => killed.push([...args, process.listenerCount('SIGINT')]),
  });
  const factory = new Stub();
  const over = runFilter(factory);
  send('SIGTERM');
  t.strictSame(killed, []);
  send('SIGINT');
  t.strictSame(killed, [[process.pid, 'SIGINT', before[1]]], 'as if nobody had listened to it');
  factory.listen();
  factory.closing.open();
  await over;
});

t.test('the signals that are acted on can be chosen', async (t) => {
  const before = handlers();
  for (const [signals, added] of [
    [undefined, [1, 1, 1]],
    [true, [1, 1, 1]],
    [false, [0, 0, 0]],
    [[], [0, 0, 0]],
    [
      ['SIGHUP', 'SIGTERM'],
      [1, 0, 1],
    ],
  ] as const) {
    const factory = new Stub();
    const over = runFilter(factory, { signals });
    t.strictSame(
      handlers().map((count, i) => count - before[i]!),
      added,
    );
    factory.listen();
    factory.emit('close');
    await over;
    t.strictSame(handlers(), before);
  }
  for (const signals of ['SIGTERM', ['SIGUSR1'], 1, null] as unknown as true[]) {
    const factory = new Stub();
    await t.rejects(runFilter(factory, { signals }), {
      code: 'ERR_MILTER_OPTION',
      message: /^signals must be true, false or a list of SIGTERM, SIGINT, SIGHUP, got /,
    });
    t.strictSame(factory.calls, []);
  }
  await t.rejects(runFilter(new Stub(), { log: {} as never }), {
    code: 'ERR_MILTER_OPTION',
    message: /^log must have/,
  });
});

t.test('in a worker it does nothing', async (t) => {
  t.intercept(globalThis, Symbol.for('milter-stream.worker') as never, { value: { classes: [] } });
  const before = handlers();
  const factory = new Stub();
  await runFilter(factory, { signals: 'nonsense' as never });
  t.strictSame(factory.calls, []);
  t.strictSame(handlers(), before);
});
