// What AsyncFactory does that the others cannot: the milter is in this process, with the very objects of the program.
// The rest is in the suite, which every factory must pass.
import t from 'tap';
import { AsyncFactory, MilterProtocol } from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { stopClock } from '../helpers/clock.js';
import { dial, serve } from '../helpers/dial.js';
import { milter } from '../helpers/milter.js';
import { say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

t.test('context, what setup() returned and what it threw are the very objects', async (t) => {
  const pool = { close: () => {} };
  const context = { open: () => pool };
  const seen: unknown[] = [];
  class Pooled extends MilterProtocol<typeof context, typeof pool> {
    static setup(given: typeof context) {
      seen.push(given);
      return given.open();
    }
    static teardown(shared: typeof pool) {
      seen.push(shared);
    }
    override mailFrom() {
      seen.push(this.context, this.shared);
    }
  }
  const factory = new AsyncFactory('inet:0', Pooled, 0, { context });
  await factory.run();
  const { mta } = await dial(t, factory);
  await mta.negotiate();
  await mta.ask(say.mail());
  mta.end();
  await factory.close();
  const expected = [context, context, pool, pool];
  t.ok(seen.length === 4 && seen.every((each, i) => each === expected[i]));

  const cause = new Error('no database');
  class Broken extends MilterProtocol {
    static setup(): never {
      throw cause;
    }
  }
  const error = await new AsyncFactory('inet:0', Broken).run().then(undefined, (failure: MilterError) => failure);
  t.equal(error?.cause, cause);
});

t.test('P142 closeTimeout is half a minute, unless an option says otherwise', async (t) => {
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

t.test('there are no workers, so what is about them is refused', async (t) => {
  t.throws(() => new AsyncFactory('inet:0', MilterProtocol, 0, { socket: 'child' }), {
    code: 'ERR_MILTER_OPTION',
    message: 'socket must be that of the parent: AsyncFactory has no children, got "child"',
  });
  const { factory } = await serve(t, MilterProtocol);
  await t.rejects(factory.reload(), { code: 'ERR_MILTER_UNSUPPORTED' });
  await factory.close();
  await t.rejects(factory.reload(), { code: 'ERR_MILTER_CLOSING' });
});
