/** Threads and processes as a factory sees them: what they are started with, what they say, and how they end. */
import childProcess, { type ForkOptions } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { PassThrough } from 'node:stream';
import { syncBuiltinESMExports } from 'node:module';
import threads, { type ResourceLimits, type WorkerOptions } from 'node:worker_threads';
import t, { type Test } from 'tap';
import { stopClock } from '../helpers/clock.js';
import { processLink, threadLink, type Link, type StartLink } from '../../lib/factories/links.js';

const BATCH = [['bytes', 1, new Uint8Array(3)], ['pulse']] as const;
const PACKED = { milterStream: [1, 3, ['pulse']], bytes: Buffer.alloc(3) };

/** What a link told. */
interface Told {
  readonly link: Link;
  readonly received: unknown[];
  readonly ended: unknown[];
}

function start(startLink: StartLink): Told {
  const received: unknown[] = [];
  const ended: unknown[] = [];
  const link = startLink({
    received: (batch, answer) => void received.push([batch, answer]),
    ended: (how, cause) => void ended.push([how, cause]),
  });
  return { link, received, ended };
}

class FakeChild extends EventEmitter {
  readonly stdio: unknown[] = [];
  pid: number | undefined = 4711;
  connected = true;
  readonly sent: unknown[] = [];
  readonly kills: unknown[] = [];

  send(...args: unknown[]): void {
    this.sent.push(args.slice(0, 3));
    (args[3] as () => void)();
  }

  kill(signal: string): void {
    this.kills.push(signal);
  }
}

/** fork() gives this child from now on; gives what it was called with. */
function forking(t: Test, child: FakeChild): { options?: ForkOptions } {
  const call: { options?: ForkOptions } = {};
  const { fork } = childProcess;
  childProcess.fork = ((_entry: URL, _args: string[], options: ForkOptions) => {
    call.options = options;
    return child;
  }) as unknown as typeof fork;
  syncBuiltinESMExports();
  t.teardown(() => {
    childProcess.fork = fork;
    syncBuiltinESMExports();
  });
  return call;
}

const processOf = (resourceLimits?: ResourceLimits, execArgv?: string[]): Told =>
  start(processLink({ resourceLimits, execArgv, socket: 'child' }));

t.test('a process: its messages, and none behind its end', (t) => {
  const child = new FakeChild();
  forking(t, child);
  const { link, received, ended } = processOf();
  t.equal(link.name, 'process 4711');
  child.emit('message', { milterStream: [['ready']] });
  child.emit('message', { milterStream: [], answer: true });
  child.emit('message', 'of the milter');
  child.emit('error', new Error('it could not be told'));
  t.strictSame(ended, []);
  const socket = {} as never;
  link.send(BATCH, socket);
  t.strictSame(child.sent, [[PACKED, socket, { keepOpen: true }]]);
  child.connected = false;
  link.send(BATCH);
  t.equal(child.sent.length, 1, 'what cannot be sent is answered when it has ended');
  link.kill();
  t.strictSame(child.kills, ['SIGKILL']);
  child.emit('exit', null, 'SIGKILL');
  child.emit('exit', 1, null);
  child.emit('message', { milterStream: [['ready']] });
  t.strictSame(received, [
    [[['ready']], false],
    [[], true],
  ]);
  t.strictSame(ended, [['was ended by SIGKILL', undefined]]);
  t.end();
});

const piped = (): Told => start(processLink({ resourceLimits: undefined, execArgv: undefined, socket: 'parent' }));

t.test('a process whose batches go through pipes: none is lost that it said before its end', (t) => {
  const child = new FakeChild();
  const [there, back] = [new PassThrough(), new PassThrough()];
  child.stdio.push(null, null, null, null, there, back);
  const call = forking(t, child);
  const { link, received, ended } = piped();
  t.ok(call.options?.env?.['MILTER_STREAM_PIPES']);
  t.strictSame(call.options?.stdio?.slice(3), ['ipc', 'pipe', 'pipe']);
  child.emit('exit', 0, null);
  link.send(BATCH);
  there.emit('error', new Error('EPIPE')); // what it has said is read all the same
  there.destroy();
  link.send(BATCH);
  back.end(there.read());
  back.on('end', () => {
    t.strictSame(ended, []);
    child.emit('close', 0, null);
    t.match(received, [[[['bytes', 1, Buffer.alloc(3)], ['pulse']], false]]);
    t.strictSame(ended, [['ended with exit code 0', undefined]]);
    t.strictSame(child.sent, []);
    t.end();
  });
});

t.test('a process that writes nonsense into its pipe is killed, and nothing that it says counts any more', (t) => {
  const child = new FakeChild();
  const back = new PassThrough();
  child.stdio.push(null, null, null, null, new PassThrough(), back);
  forking(t, child);
  const { received, ended } = piped();
  back.on('end', () => {
    t.strictSame(child.kills, ['SIGKILL']);
    child.emit('close', null, 'SIGKILL');
    t.match(ended, [['was ended by SIGKILL', { code: 'ERR_MILTER_PACKET_TOO_LARGE' }]]);
    t.strictSame(received, []);
    t.end();
  });
  back.end('GET / HTTP/1.1');
});

t.test('a process that has closed its pipe is killed, unless it ends', async (t) => {
  for (const ends of [false, true]) {
    const clock = stopClock(t);
    const child = new FakeChild();
    const back = new PassThrough();
    child.stdio.push(null, null, null, null, new PassThrough(), back);
    forking(t, child);
    piped();
    back.destroy();
    await once(back, 'close');
    if (ends) child.emit('close', 0, null);
    await clock.pass(1000);
    t.strictSame(child.kills, ends ? [] : ['SIGKILL']);
  }
});

t.test('a process that could not even get its pipes', (t) => {
  const child = new FakeChild();
  Object.assign(child, { pid: undefined, stdio: undefined, connected: false });
  forking(t, child);
  const { link, ended } = piped();
  link.send(BATCH);
  const error = new Error('spawn EMFILE');
  child.emit('error', error);
  t.strictSame(ended, [['could not be started', error]]);
  t.end();
});

t.test('a process that ends by itself, and one that cannot be started', (t) => {
  const child = new FakeChild();
  forking(t, child);
  const { ended } = processOf();
  child.emit('exit', 7, null);
  t.strictSame(ended, [['ended with exit code 7', undefined]]);
  child.pid = undefined;
  const other = processOf();
  t.equal(other.link.name, 'process (none)');
  const error = new Error('spawn EAGAIN');
  child.emit('error', error);
  t.strictSame(other.ended, [['could not be started', error]]);
  t.end();
});

t.test('a process is started with the flags that stand for limits, and not as the main process of a service', (t) => {
  const call = forking(t, new FakeChild());
  process.env['NOTIFY_SOCKET'] = '/run/x';
  t.teardown(() => delete process.env['NOTIFY_SOCKET']);
  processOf({ maxOldGenerationSizeMb: 100, maxYoungGenerationSizeMb: 48, stackSizeMb: 0.5, codeRangeSizeMb: 1 }, [
    '--x',
  ]);
  t.strictSame(call.options?.execArgv, [
    '--x',
    '--max-old-space-size=100',
    '--max-semi-space-size=16',
    '--stack-size=512',
  ]);
  t.equal(call.options?.serialization, 'advanced');
  t.notOk('NOTIFY_SOCKET' in (call.options?.env ?? {}));
  processOf({ maxYoungGenerationSizeMb: 1 }, []);
  t.strictSame(call.options?.execArgv, ['--max-semi-space-size=1']);
  processOf();
  t.strictSame(call.options?.execArgv, process.execArgv);
  t.end();
});

t.test('a thread: its messages, and its end with what it died of', (t) => {
  let last: FakeThread | undefined;
  class FakeThread extends EventEmitter {
    threadId = 5;
    readonly posted: unknown[] = [];
    terminated = 0;

    constructor(
      _entry: URL,
      readonly options: WorkerOptions,
    ) {
      super();
      // oxlint-disable-next-line typescript/no-this-alias -- the test looks at the one that was made
      last = this;
    }

    postMessage(...args: unknown[]): void {
      this.posted.push(args);
    }

    terminate(): void {
      this.terminated++;
    }
  }
  const { Worker } = threads;
  threads.Worker = FakeThread as unknown as typeof Worker;
  syncBuiltinESMExports();
  t.teardown(() => {
    threads.Worker = Worker;
    syncBuiltinESMExports();
  });
  const resourceLimits = { maxOldGenerationSizeMb: 100 };
  const { link, received, ended } = start(threadLink({ resourceLimits, execArgv: ['--x'], socket: 'parent' }));
  const thread = last as FakeThread;
  t.match(thread.options, { resourceLimits, execArgv: ['--x'] });
  thread.threadId = -1;
  t.equal(link.name, 'thread 5');
  thread.emit('message', { milterStream: [['ready']] });
  thread.emit('message', { milterStream: [], answer: true });
  thread.emit('message', 'of the milter');
  t.strictSame(received, [
    [[['ready']], false],
    [[], true],
  ]);
  link.send(BATCH);
  const [[envelope, moved]] = thread.posted as [[{ bytes: Buffer }, ArrayBuffer[]]];
  t.strictSame(envelope, PACKED);
  t.ok(moved.length === 1 && moved[0] === envelope.bytes.buffer, 'bytes are not copied once more');
  link.kill();
  t.equal(thread.terminated, 1);
  const error = new Error('boom');
  thread.emit('error', error);
  thread.emit('exit', 1);
  t.strictSame(ended, [['ended with exit code 1', error]]);

  const { execArgv } = process;
  t.teardown(() => (process.execArgv = execArgv));
  start(threadLink({ resourceLimits: undefined, execArgv: undefined, socket: 'parent' }));
  t.notOk('execArgv' in (last as FakeThread).options || 'resourceLimits' in (last as FakeThread).options, 'inherited');
  process.execArgv = ['--y', '-e', '1'];
  start(threadLink({ resourceLimits: undefined, execArgv: undefined, socket: 'parent' }));
  t.strictSame((last as FakeThread).options.execArgv, ['--y'], 'but for what a thread cannot have');
  t.end();
});
