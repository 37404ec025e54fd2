// callInThread under AsyncFactory: the main thread stays responsive, and a thread that dies or is stuck is told of.
import t from 'tap';
import {
  AsyncFactory,
  callInThread,
  createSession,
  MilterProtocol,
  type FactoryOptions,
  type ProtocolClass,
} from '../../lib/index.js';
import { connections, dial, serve } from '../helpers/dial.js';
import { thrown } from '../helpers/eob.js';
import { memoryLog } from '../helpers/milter.js';
import { ALL_ACTIONS, Mta, say } from '../helpers/mta.js';
import { until } from '../helpers/until.js';
import { FAST } from '../helpers/workers.js';
import { Burner, Talker, Unfound } from './in-thread-milters.js';

// A thread that is on its way counts against the deadline of whoever waits for it.
const OPTIONS: FactoryOptions = { ...FAST, workers: 1, smfifOptions: ALL_ACTIONS, callbackDeadline: 60_000 };

t.test('while a callback burns the processor in a thread, another session plays a whole message', async (t) => {
  const flags = new Int32Array(new SharedArrayBuffer(8));
  const { factory } = await serve(t, Burner, { ...OPTIONS, workers: 2, context: { flags } });
  const burning = await dial(t, factory);
  await burning.mta.negotiate();
  burning.mta.send(say.mail('<burn@example.org>'));
  await until('the callback to burn', () => Atomics.load(flags, 0) === 1);
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  t.strictSame(await mta.play(say.mail(), say.rcpt(), say.eob()), ['continue', 'continue', 'continue']);
  const third = await dial(t, factory);
  await third.mta.negotiate();
  t.equal((await third.mta.ask(say.mail())).type, 'continue', 'nor is its thread given another');
  t.strictSame(burning.mta.replies, [], 'and only then');
  Atomics.store(flags, 1, 1);
  t.equal((await burning.mta.reply()).type, 'continue');
});

t.test('a thread that dies is told of and replaced, and what its sessions ask later fails too', async (t) => {
  const log = memoryLog();
  const { factory, errors } = await serve(t, Talker, { ...OPTIONS, log });
  const { mta } = await dial(t, factory);
  const other = await dial(t, factory);
  await mta.negotiate();
  await other.mta.negotiate();
  await other.mta.ask(say.helo('fine'));
  t.equal((await mta.ask(say.helo('exit'))).type, 'tempFail');
  const died = { code: 'ERR_MILTER_WORKER', message: /^Worker thread \d+ died: it ended with exit code 7$/ };
  const lost = { stage: 'helo', message: /^helo\(\) is lost: Worker thread/, cause: died };
  t.match(errors.splice(0), [died, lost]);
  t.match(log.lines, [{ level: 'error', message: died.message }, { level: 'error' }]);
  t.equal((await mta.ask(say.helo('fine'))).type, 'tempFail', 'its state is gone');
  t.equal((await other.mta.ask(say.helo('fine'))).type, 'tempFail', 'that of the other one too');
  const { mta: next } = await dial(t, factory);
  await next.negotiate();
  t.equal((await next.ask(say.helo('fine'))).type, 'continue');
  mta.send(say.quitNewConnection());
  t.equal((await mta.ask(say.helo('fine'))).type, 'continue', 'the next SMTP session has a new object');
});

t.test('while threads die one after the other, what they are there for fails', async (t) => {
  const { factory, errors } = await serve(t, Talker, OPTIONS);
  for (const name of ['exit', 'exit', 'fine']) {
    const { mta } = await dial(t, factory);
    await mta.negotiate();
    t.equal((await mta.ask(say.helo(name))).type, 'tempFail');
  }
  t.match(errors.at(-1), { code: 'ERR_MILTER_WORKER', stage: 'helo', message: 'There is no thread to call helo() in' });
});

t.test('a callback that is late is given up; a thread that it blocks is ended', async (t) => {
  const { factory, errors } = await serve(t, Talker, { ...OPTIONS, callbackDeadline: 50 });
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  t.equal((await mta.ask(say.helo('late'))).type, 'tempFail');
  t.match(errors.splice(0), [{ code: 'ERR_MILTER_DEADLINE' }]);
  mta.send(say.quit());
  await connections(factory, 0);

  const slow = await serve(t, Talker, { ...OPTIONS, eobDeadline: 50 });
  const end = await dial(t, slow.factory);
  await end.mta.negotiate();
  await end.mta.play(say.helo('late eob'), say.mail());
  end.mta.send(say.eob());
  t.equal((await end.mta.reply()).type, 'progress');
  t.equal((await end.mta.reply()).type, 'tempFail');
  t.match(slow.errors, [{ code: 'ERR_MILTER_DEADLINE', stage: 'eob' }], 'and its thread is not blocked');

  const flags = new Int32Array(new SharedArrayBuffer(8));
  const blocked = await serve(t, Burner, { ...OPTIONS, callbackDeadline: 50, context: { flags } });
  const second = await dial(t, blocked.factory);
  await second.mta.negotiate();
  t.equal((await second.mta.ask(say.mail('<burn@example.org>'))).type, 'tempFail');
  second.mta.send(say.quit());
  await connections(blocked.factory, 0);
  await until('the thread to be ended', () => blocked.errors.length === 2);
  t.match(blocked.errors, [{ code: 'ERR_MILTER_DEADLINE' }, { message: /died: it was blocked for \d+ ms$/ }]);
  await until('another thread to take its place', async () => {
    const third = await dial(t, blocked.factory);
    await third.mta.negotiate();
    return (await third.mta.ask(say.mail())).type === 'continue';
  });
});

t.test('close() ends the threads; setup() that fails there fails run()', async (t) => {
  const { factory } = await serve(t, Talker, { ...OPTIONS, workers: undefined });
  await factory.close();
  const failing = new AsyncFactory('inet:0', Talker, { ...OPTIONS, startTimeout: 1 });
  await t.rejects(failing.run(), {
    code: 'ERR_MILTER_WORKER',
    message: /did not start: it did not get ready within 1 ms/,
  });
  await failing.close();
});

t.test('what it needs is said when the factory is made, or the class', (t) => {
  const make = (Milter: ProtocolClass, options = {}) => thrown(() => new AsyncFactory('inet:0', Milter, options));
  t.match(make(Unfound), {
    code: 'ERR_MILTER_OPTION',
    message: /^static module is needed by callInThread.*`static module = import\.meta\.url;` to Unfound/,
  });
  t.match(make(Talker, { context: { call() {} } }), {
    code: 'ERR_MILTER_OPTION',
    message: /^context cannot be cloned, as the workers of callInThread need it/,
  });
  t.match(
    make(
      class extends MilterProtocol {
        static callInThread = ['hello'];
      },
    ),
    {
      message: /^callInThread works on the callbacks connect, .*, close; it cannot be used on hello$/,
    },
  );
  t.throws(() => {
    class Wrong extends MilterProtocol {
      // @ts-expect-error -- it is no callback
      @callInThread
      hello = 1;
    }
    return Wrong;
  });
  t.end();
});

t.test('createSession() runs the callback in place', async (t) => {
  const mta = new Mta(createSession(Talker));
  await mta.negotiate();
  t.match(await mta.ask(say.helo('text')), { text: '550 5.7.1 said there' });
  t.equal((await mta.ask(say.helo('signal'))).type, 'continue', 'where there is a signal');
});
