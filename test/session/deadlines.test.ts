// Callbacks that take too long, and connections on which nothing comes.
import { Readable } from 'node:stream';
import t from 'tap';
import type { MilterError } from '../../lib/errors.js';
import type { ErrorPolicy, MilterProtocol, SessionOptions } from '../../lib/index.js';
import { Timer } from '../../lib/session/timer.js';
import { stopClock, type Clock } from '../helpers/clock.js';
import { bareSession, each, gate, matchAll, milter, STAGES, type Script, type Statics } from '../helpers/milter.js';
import { COMMANDS, ALL_ACTIONS, inMemory, say, type Mta } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

interface Started {
  readonly clock: Clock;
  readonly mta: Mta;
  readonly calls: string[];
  readonly errors: readonly MilterError[];
}

/** A milter that goes on everywhere but where its script says otherwise, in a time that the test makes pass. */
async function start(
  t: Parameters<typeof stopClock>[0],
  script: Script,
  options: SessionOptions = {},
  statics: Statics = {},
): Promise<Started> {
  const clock = stopClock(t);
  const { MyMilter, calls } = milter({ ...each(STAGES), ...script }, statics);
  const deadlines = { callbackDeadline: 100, eobDeadline: 300 };
  const { mta, errors } = inMemory(MyMilter, { smfifOptions: ALL_ACTIONS, ...deadlines, ...options });
  await mta.negotiate();
  return { clock, mta, calls, errors };
}

const never = (): Promise<void> => new Promise(() => {});

async function* failing(): AsyncGenerator<Buffer> {
  yield Buffer.alloc(1000);
  await Promise.resolve();
  throw new Error('boom');
}

t.test('a deadline', async (t) => {
  await t.test('passes after the connection was lost: abort() and close() are still called', async (t) => {
    const clock = stopClock(t);
    const { MyMilter, calls } = milter({ ...each(STAGES), rcpt: never });
    const { mta, session, errors } = inMemory(MyMilter, { callbackDeadline: 100 });
    await mta.negotiate();
    await mta.play(say.mail());
    mta.send(say.rcpt());
    await clock.pass(10);
    session.destroy();
    await clock.pass(100);
    matchAll(t, errors, [{ code: 'ERR_MILTER_DEADLINE', stage: 'rcpt' }]);
    t.same(calls, ['mailFrom', 'rcpt', 'abort true', 'close']);
  });

  for (const stage of STAGES) {
    await t.test(`passes in ${stage}(): a temporary failure then, and for the rest of the SMTP session`, async (t) => {
      const { clock, mta, calls, errors } = await start(t, { [stage]: never });
      const inside = STAGES.indexOf(stage) > 2 && stage !== 'unknown';
      if (inside) await mta.play(say.mail());
      const limit = stage === 'eob' ? 300 : 100;
      await clock.pass(50);
      mta.send(COMMANDS[stage]);
      await clock.pass(limit - 1);
      t.same(mta.replies, []);
      await clock.pass(1);
      t.match(await mta.reply(), { type: 'tempFail' });
      const message = `${stage}() did not end within ${limit} ms`;
      matchAll(t, errors, [{ code: 'ERR_MILTER_DEADLINE', stage, message }]);
      calls.length = 0;
      const rest = [say.rcpt(), say.eob(), say.mail(), say.rcpt(), say.eob(), say.helo(), say.unknown(), say.mail()];
      t.same(await mta.play(...rest), Array(rest.length).fill('tempFail'));
      mta.send(say.abort());
      t.same(await mta.play(say.mail()), ['tempFail']);
      t.same(calls, [], 'and no callback of the object is called');
      mta.send(say.quit());
      await mta.closed;
      t.same(calls, ['close'], 'but close(), once');
      t.same(mta.replies, []);
    });
  }

  for (const [errorPolicy, answer] of [
    ['accept', 'accept'],
    ['reject', 'reject'],
    [(): 'discard' => 'discard', 'discard'],
  ] as const satisfies ReadonlyArray<readonly [ErrorPolicy, string]>) {
    await t.test(
      `is answered by the error policy, ${answer}; the rest gets a temporary failure all the same`,
      async (t) => {
        const { clock, mta } = await start(t, { eob: never }, { errorPolicy });
        await mta.play(say.mail());
        mta.send(say.eob());
        await clock.pass(300);
        t.match(await mta.reply(), { type: answer });
        t.same(await mta.play(say.mail()), ['tempFail']);
      },
    );
  }

  await t.test('is not answered where the command is not: the rest hears of it', async (t) => {
    const { clock, mta, calls } = await start(t, { header: never }, {}, { noReply: ['header'] });
    await mta.play(say.mail());
    mta.send(say.header(), say.header());
    await clock.pass(100);
    t.same(await mta.play(say.eob()), ['tempFail']);
    t.same(mta.replies, []);
    t.same(calls, ['mailFrom', 'header']);
  });

  await t.test('in a dry run nothing is refused', async (t) => {
    const { clock, mta, calls } = await start(t, { header: never }, { dryRun: true });
    await mta.play(say.mail());
    mta.send(say.header());
    await clock.pass(100);
    t.match(await mta.reply(), { type: 'continue' });
    t.same(await mta.play(say.eob(), say.mail(), say.eob()), ['continue', 'continue', 'continue']);
    t.same(calls, ['mailFrom', 'header']);
  });

  await t.test('commands that came meanwhile get their answers behind it, in order', async (t) => {
    const { clock, mta } = await start(t, { rcpt: never });
    await mta.play(say.mail());
    mta.send(say.rcpt(), say.macros('R', {}), say.rcpt(), say.abort(), say.mail(), say.unknown(), say.quit());
    await clock.pass(100);
    await mta.closed;
    t.same(
      mta.replies.map(({ type }) => type),
      Array(4).fill('tempFail'),
    );
  });

  await t.test('P71 QUIT_NC: the next SMTP session has an object of its own, that works', async (t) => {
    let first = true;
    const script: Script = {
      helo() {
        if (!first) return undefined;
        first = false;
        return never();
      },
    };
    const { clock, mta, calls } = await start(t, script);
    mta.send(say.helo());
    await clock.pass(100);
    mta.send(say.quitNewConnection());
    t.match(await mta.reply(), { type: 'tempFail' });
    t.same(await mta.play(say.helo(), say.mail()), ['continue', 'continue']);
    t.same(calls, ['helo', 'close', 'helo', 'mailFrom']);
  });

  for (const late of ['resolves', 'rejects'] as const) {
    await t.test(`detaches the object: its methods throw; that it ${late} later is dropped`, async (t) => {
      const { promise, open, fail } = gate<'accept'>();
      const objects: MilterProtocol[] = [];
      let reason: unknown;
      const { clock, mta, errors } = await start(t, {
        eob() {
          objects.push(this);
          this.addHeader('X', 'y');
          this.signal.addEventListener('abort', () => (reason = this.signal.reason));
          return promise;
        },
      });
      await mta.play(say.mail());
      mta.send(say.eob());
      await clock.pass(300);
      t.match(await mta.reply(), { type: 'tempFail' }, 'without the edits');
      t.match(reason, { code: 'ERR_MILTER_DEADLINE' });
      const it = objects[0] as MilterProtocol;
      for (const [name, method] of [
        ['addHeader', () => it.addHeader('X', 'y')],
        ['setReply', () => it.setReply(550, '', 'no')],
        ['skip', () => it.skip()],
        ['progress', () => it.progress()],
        ['macro', () => it.macro('i')],
      ] as const) {
        t.throws(method, {
          code: 'ERR_MILTER_DETACHED',
          message: `${name}(): the session has given up on this object`,
        });
      }
      if (late === 'resolves') open('accept');
      else fail(new Error('late'));
      await settled();
      t.same(await mta.play(say.mail()), ['tempFail']);
      t.same(mta.replies, []);
      t.equal(errors.length, 1);
    });
  }

  await t.test('does not pass behind a callback that has ended in time', async (t) => {
    const { promise, open, fail } = gate();
    const { clock, mta, errors } = await start(t, { rcpt: () => promise, eob: async () => {} });
    await mta.play(say.mail());
    mta.send(say.rcpt());
    await clock.pass(99);
    open();
    t.match(await mta.reply(), { type: 'continue' });
    t.match(await mta.ask(say.eob()), { type: 'continue' });
    fail(new Error('too late to be heard'));
    await clock.pass(1000);
    t.same(await mta.play(say.mail()), ['continue']);
    t.same(errors, []);
  });

  await t.test('lets go of a new body that is not needed any more', async (t) => {
    const body = new Readable({ read() {} });
    const { clock, mta } = await start(t, {
      eob() {
        this.replBody(body);
        return never();
      },
    });
    await mta.play(say.mail());
    mta.send(say.eob());
    await clock.pass(300);
    t.match(await mta.reply(), { type: 'tempFail' });
    t.ok(body.destroyed);
  });

  for (const [what, body] of [
    ['was written', Readable.from([Buffer.alloc(1000)])],
    ['failed half-way', Readable.from(failing())],
  ] as const) {
    await t.test(`knows nothing of the body of an earlier message that ${what}`, async (t) => {
      let first = true;
      const script: Script = {
        eob() {
          if (!first) return never();
          first = false;
          this.replBody(body, { stream: true });
          return undefined;
        },
      };
      const { clock, mta } = await start(t, script, { errorPolicy: 'accept' });
      await mta.play(say.mail());
      t.match(await mta.ask(say.eob()), { type: 'replBody' });
      t.match(await mta.reply(), { type: what === 'was written' ? 'continue' : 'tempFail' });
      await mta.play(say.mail());
      mta.send(say.eob());
      await clock.pass(300);
      t.match(await mta.reply(), { type: 'accept' }, 'as the error policy says');
    });
  }

  await t.test('is put off by nothing that comes: only the callback counts', async (t) => {
    const { clock, mta } = await start(t, { rcpt: never });
    await mta.play(say.mail());
    mta.send(say.rcpt());
    await clock.pass(60);
    mta.send(say.rcpt());
    await clock.pass(40);
    t.match(await mta.reply(), { type: 'tempFail' });
  });
});

t.test('a timer', async (t) => {
  const begin = (t: Parameters<typeof stopClock>[0]): { clock: Clock; timer: Timer; fired: () => number } => {
    let count = 0;
    return { clock: stopClock(t), timer: new Timer(() => count++), fired: () => count };
  };

  await t.test('fires once, when its time is over, and when it is started again', async (t) => {
    const { clock, timer, fired } = begin(t);
    timer.start(100);
    await clock.pass(60);
    timer.start(100);
    await clock.pass(99);
    t.equal(fired(), 0);
    await clock.pass(1);
    t.equal(fired(), 1);
    await clock.pass(1000);
    t.equal(fired(), 1);
    timer.start(50);
    await clock.pass(50);
    t.equal(fired(), 2);
  });

  await t.test('is put off by a touch, as often as it is touched', async (t) => {
    const { clock, timer, fired } = begin(t);
    timer.start(100);
    for (let i = 0; i < 5; i++) {
      await clock.pass(60);
      timer.touch();
    }
    await clock.pass(99);
    t.equal(fired(), 0);
    await clock.pass(1);
    t.equal(fired(), 1);
  });

  await t.test('does not fire when it is stopped, nor does a touch wake it', async (t) => {
    const { clock, timer, fired } = begin(t);
    timer.stop();
    timer.start(100);
    timer.stop();
    timer.touch();
    await clock.pass(1000);
    t.equal(fired(), 0);
  });
});

t.test('abort() and close()', async (t) => {
  await t.test('an abort() that hangs has the time of a callback; then its object is given up', async (t) => {
    const objects: MilterProtocol[] = [];
    const abort = function (this: MilterProtocol): Promise<void> {
      objects.push(this);
      return never();
    };
    const { clock, mta, calls, errors } = await start(t, { abort });
    await mta.play(say.mail());
    mta.send(say.abort(), say.mail());
    await clock.pass(99);
    t.same(mta.replies, []);
    await clock.pass(1);
    t.match(await mta.reply(), { type: 'tempFail' });
    matchAll(t, errors, [
      { code: 'ERR_MILTER_DEADLINE', stage: 'abort', message: 'abort() did not end within 100 ms' },
    ]);
    t.throws(() => objects[0]?.macro('i'), { code: 'ERR_MILTER_DETACHED' });
    t.same(await mta.play(say.eob(), say.helo(), say.mail()), Array(3).fill('tempFail'));
    mta.send(say.abort(), say.quit());
    await mta.closed;
    t.same(calls, ['mailFrom', 'abort true', 'close']);
  });

  for (const late of ['resolves', 'rejects'] as const) {
    await t.test(`a close() that hangs does not hold the connection; that it ${late} later is dropped`, async (t) => {
      const { promise, open, fail } = gate();
      const { clock, mta, calls, errors } = await start(t, { close: () => promise });
      mta.send(say.quit());
      await clock.pass(100);
      t.equal(await mta.closed, undefined);
      if (late === 'resolves') open();
      else fail(new Error('late'));
      await settled();
      t.same(calls, ['close']);
      matchAll(t, errors, [{ code: 'ERR_MILTER_DEADLINE', stage: 'close' }]);
      t.equal(errors.length, 1);
    });
  }

  await t.test('a close() that hangs at QUIT_NC: the next SMTP session begins when it has had its time', async (t) => {
    const { clock, mta, calls } = await start(t, { close: never });
    mta.send(say.quitNewConnection(), say.connect());
    await clock.pass(99);
    t.same(calls, ['close']);
    await clock.pass(1);
    t.match(await mta.reply(), { type: 'continue' });
    t.same(calls, ['close', 'connect']);
  });
});

t.test('silence', async (t) => {
  await t.test('P79 nothing comes for too long: abort(), close(), the connection ends', async (t) => {
    const { clock, mta, calls } = await start(t, {}, { idleTimeout: 1000 });
    await clock.pass(900);
    await mta.play(say.mail());
    await clock.pass(999);
    t.same(calls, ['mailFrom'], 'each command puts it off');
    await clock.pass(1);
    const message = 'Nothing came from the mail server within 1000 ms';
    t.match(await mta.closed, { code: 'ERR_MILTER_TIMEOUT', message });
    t.same(calls, ['mailFrom', 'abort true', 'close']);
  });

  await t.test('P79 objects put it off as bytes do', async (t) => {
    const clock = stopClock(t);
    const { MyMilter } = milter(each(STAGES));
    const { session, errors } = bareSession(MyMilter, { idleTimeout: 1000 });
    session.receive({ type: 'negotiate', version: 6, actions: 0, protocol: 0 });
    await clock.pass(900);
    session.receive(say.mail());
    await clock.pass(999);
    t.same(errors, []);
    await clock.pass(1);
    matchAll(t, errors, [{ code: 'ERR_MILTER_TIMEOUT' }]);
  });

  await t.test('P79 by default two hours are not too long', async (t) => {
    const { clock, mta, calls } = await start(t, {});
    await clock.pass(7_200_000);
    t.same(await mta.play(say.mail()), ['continue']);
    await clock.pass(7_209_999);
    t.same(calls, ['mailFrom']);
    await clock.pass(1);
    t.match(await mta.closed, { code: 'ERR_MILTER_TIMEOUT' });
  });

  await t.test('P79 while a callback is at work, it is the mail server that waits', async (t) => {
    const { promise, open } = gate();
    const { clock, mta, errors } = await start(t, { eob: () => promise }, { idleTimeout: 50 });
    await mta.play(say.mail());
    mta.send(say.eob());
    await clock.pass(140);
    open();
    t.match(await mta.reply(), { type: 'continue' });
    t.same(errors, []);
    await clock.pass(50);
    t.match(await mta.closed, { code: 'ERR_MILTER_TIMEOUT' });
  });
});
