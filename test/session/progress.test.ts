// P126: the mail server is told that eob() is still at work, by itself or when asked, at the right moments only.
import { Readable } from 'node:stream';
import t from 'tap';
import { ACCEPT, MilterProtocol, type Result, type SessionOptions } from '../../lib/index.js';
import type { Reply } from '../../lib/codec/index.js';
import { stopClock } from '../helpers/clock.js';
import { outcome, thrown, withEob } from '../helpers/eob.js';
import { gate } from '../helpers/milter.js';
import { ALL_ACTIONS, inMemory, say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

const types = (replies: readonly Reply[]): string[] => replies.map((reply) => reply.type);

/** A session at the end of a message whose eob() is a function. */
async function atWork(eob: (milter: MilterProtocol) => Result, options: SessionOptions = {}) {
  const ready = inMemory(withEob(eob), { smfifOptions: ALL_ACTIONS, ...options });
  await ready.mta.negotiate();
  ready.mta.send(say.eob());
  await settled();
  return ready;
}

t.test('P126 while eob() waits, progress goes out after 3 seconds and every 3 seconds then', async (t) => {
  const clock = stopClock(t);
  const { promise, open } = gate();
  const { mta } = await atWork(() => promise);
  await clock.pass(2999);
  t.strictSame(types(mta.replies), []);
  await clock.pass(1);
  t.strictSame(types(mta.replies), ['progress']);
  await clock.pass(2999);
  t.equal(mta.replies.length, 1);
  await clock.pass(1);
  t.equal(mta.replies.length, 2);
  await clock.pass(30_000);
  t.equal(mta.replies.length, 12);
  open();
  t.equal((await outcome(mta)).at(-1)?.type, 'continue');
  await clock.pass(60_000);
  t.strictSame(types(mta.replies), [], 'and never behind the verdict');
});

t.test('P126 when it first goes out, and how often then, are options', async (t) => {
  const clock = stopClock(t);
  const { promise, open } = gate();
  const { mta } = await atWork(() => promise, { progressAfter: 100, progressEvery: 20 });
  await clock.pass(99);
  t.equal(mta.replies.length, 0);
  await clock.pass(1);
  t.equal(mta.replies.length, 1);
  await clock.pass(19);
  t.equal(mta.replies.length, 1);
  await clock.pass(21);
  t.equal(mta.replies.length, 3);
  open();
  await outcome(mta);
});

t.test('P126 a callback before eob() is not spoken for: progress there would break Sendmail', async (t) => {
  const clock = stopClock(t);
  const gates = [gate(), gate()] as const;
  class Slow extends MilterProtocol {
    override mailFrom() {
      return gates[0].promise;
    }
    override body() {
      return gates[1].promise;
    }
  }
  const { mta } = inMemory(Slow, { progressAfter: 1, progressEvery: 1 });
  await mta.negotiate();
  for (const [i, { open }] of gates.entries()) {
    mta.send(i === 0 ? say.mail() : say.body());
    await clock.pass(1000);
    t.strictSame(types(mta.replies), []);
    open();
    t.equal((await mta.reply()).type, 'continue');
  }
});

t.test('P126 each message has its own', async (t) => {
  const clock = stopClock(t);
  let { promise, open } = gate();
  const { mta } = await atWork(() => promise);
  for (let messages = 0; messages < 2; messages++) {
    await clock.pass(3000);
    open();
    t.strictSame(types(await outcome(mta)), ['progress', 'continue']);
    ({ promise, open } = gate());
    mta.send(say.eob());
    await clock.pass(2000);
  }
});

t.test('P126 progress goes on while a new body is read', async (t) => {
  const clock = stopClock(t);
  const source = new Readable({ read() {} });
  const { mta } = await atWork((m) => {
    m.addHeader('X', 'y');
    m.replBody(source);
  });
  source.push('one ');
  await clock.pass(6000);
  source.push('two');
  source.push(null);
  const replies = await outcome(mta);
  t.strictSame(types(replies), ['progress', 'progress', 'replBody', 'replBody', 'addHeader', 'continue']);
});

t.test('P119 P126 no progress comes between two pieces of a body, where Postfix would end the body', async (t) => {
  const clock = stopClock(t);
  const source = new Readable({ read() {} });
  const { mta } = await atWork((m) => m.replBody(source, { stream: true }));
  source.push('one ');
  await clock.pass(60_000);
  source.push('two');
  source.push(null);
  t.strictSame(types(await outcome(mta)), ['replBody', 'replBody', 'continue']);
});

t.test('P126 nor while a body waits to be taken', async (t) => {
  const clock = stopClock(t);
  const { mta, session } = await atWork((m) => m.progress());
  t.strictSame(types(await outcome(mta)), ['progress', 'continue']);
  session.destroy();
  const large = await atWork((m) => m.replBody(Buffer.alloc(1_000_000)));
  large.session.pause();
  await clock.pass(60_000);
  large.session.resume();
  const replies = types(await outcome(large.mta));
  t.notOk(replies.includes('progress'));
});

t.test('P126 progress() goes out at once, as often as it is called', async (t) => {
  const { promise, open } = gate();
  const { mta } = await atWork(async (m) => {
    m.progress();
    m.replBody('x');
    m.progress();
    await promise;
    m.progress();
    return ACCEPT;
  });
  t.strictSame(types(mta.replies), ['progress', 'progress']);
  open();
  t.strictSame(types(await outcome(mta)), ['progress', 'progress', 'progress', 'replBody', 'accept']);
});

t.test('P119 P126 progress() from the source of a body that is being sent throws', async (t) => {
  let milter: MilterProtocol | undefined;
  let code: string | undefined;
  async function* source(): AsyncGenerator<string> {
    yield 'one ';
    ({ code } = thrown(() => milter?.progress()));
    yield 'two';
  }
  const { mta } = await atWork((m) => {
    milter = m;
    m.replBody(source(), { stream: true });
  });
  t.strictSame(types(await outcome(mta)), ['replBody', 'replBody', 'continue']);
  t.equal(code, 'ERR_MILTER_WRONG_STAGE');
});

t.test('P126 nothing goes out after a deadline; the object is given up', async (t) => {
  const clock = stopClock(t);
  let milter: MilterProtocol | undefined;
  const { mta } = await atWork(
    (m) => {
      milter = m;
      return new Promise(() => {});
    },
    { eobDeadline: 4000 },
  );
  await clock.pass(60_000);
  t.strictSame(types(await outcome(mta)), ['progress', 'tempFail']);
  t.strictSame(mta.replies, []);
  t.equal(thrown(() => milter?.progress()).code, 'ERR_MILTER_DETACHED');
});

t.test('P126 where the connection is lost progress is for nobody, and no error', async (t) => {
  const clock = stopClock(t);
  const { promise, open } = gate();
  let called = false;
  const { session } = await atWork(async (m) => {
    await promise;
    m.progress();
    called = true;
  });
  let written = 0;
  session.push = () => (written++, true);
  session.destroy();
  await clock.pass(60_000);
  open();
  await settled();
  t.ok(called);
  t.equal(written, 0);
});
