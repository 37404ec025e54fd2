// What comes while a callback is at work: how far it is read, and in which order it is answered.
import t from 'tap';
import { encodeCommand, type Command } from '../../lib/codec/index.js';
import { cut } from '../helpers/bytes.js';
import { settled } from '../helpers/streams.js';
import { bareSession, each, gate, milter, STAGES, times, type BareSession, type Script } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, inMemory, message, say } from '../helpers/mta.js';

const OFFER: Command = { type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS };
const KIB = 1024;

const wire = (...commands: Command[]): Buffer =>
  Buffer.concat(commands.map((command) => encodeCommand(command, 0xffffff)));

/** A header whose packet has so many bytes. */
const sized = (bytes: number): Command => say.header('X', 'x'.repeat(bytes - 8));

interface Started extends BareSession {
  readonly calls: string[];
  /** Commands as bytes, in one chunk; what feed() says. */
  readonly feed: (...commands: Command[]) => boolean;
}

/** A session past its negotiation, of a milter that goes on everywhere but where its script says otherwise. */
function start(script: Script = {}, statics: object = {}): Started {
  const { MyMilter, calls } = milter({ ...each(STAGES), ...script }, statics);
  const bare = bareSession(MyMilter);
  const feed = (...commands: Command[]): boolean => bare.session.feed(wire(...commands));
  feed(OFFER);
  bare.replies.length = 0;
  return Object.assign(bare, { calls, feed });
}

t.test('order', async (t) => {
  for (const size of [1, 7, 1_000_000]) {
    await t.test(`P74 callbacks and replies stay in order, the conversation in pieces of ${size} bytes`, async (t) => {
      const order: string[] = [];
      const script: Script = {};
      for (const [i, stage] of STAGES.entries()) {
        script[stage] = async function () {
          order.push(`${stage} begins`);
          for (let turn = 0; turn < (i * 7) % 4; turn++) await new Promise(setImmediate);
          order.push(`${stage} ends`);
          return stage === 'rcpt' ? 'reject' : stage === 'body' ? 'tempFail' : undefined;
        };
      }
      const { MyMilter } = milter(script);
      const { mta } = inMemory(MyMilter);
      await mta.negotiate();
      const commands = [say.connect(), say.unknown(), say.helo(), ...message(), ...message(), say.quit()];
      for (const piece of cut(wire(...commands), size)) mta.bytes(piece);
      await mta.closed;
      const once = ['continue', 'reject', 'continue', 'continue', 'continue', 'tempFail', 'tempFail'];
      t.same(
        mta.replies.map(({ type }) => type),
        ['continue', 'continue', 'continue', ...once, ...once],
      );
      const heard = ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body'];
      const names = ['connect', 'unknown', 'helo', ...heard, ...heard];
      t.same(
        order,
        names.flatMap((name) => [`${name} begins`, `${name} ends`]),
      );
    });
  }

  await t.test('P70 a message that the end of the connection cuts: abort(), then close()', async (t) => {
    const { MyMilter, calls } = milter({ ...each(STAGES), header: async () => {} });
    const { mta, errors } = inMemory(MyMilter);
    await mta.negotiate();
    mta.send(say.mail(), say.header(), say.header());
    mta.end();
    t.equal(await mta.closed, undefined);
    t.same(calls, ['mailFrom', 'header', 'header', 'abort true', 'close']);
    t.equal(mta.replies.length, 3);
    t.same(errors, []);
  });

  await t.test(
    'P67 thousands of messages that wait, each with its body in the EOB, are one like the other',
    async (t) => {
      const { promise, open } = gate();
      const one = start({ connect: () => promise });
      const tail = Buffer.from('x');
      one.feed(say.connect(), ...times<Command[]>(4000, [say.mail(), { type: 'eob', chunk: tail }]).flat());
      open();
      await settled();
      t.equal(one.replies.length, 8001);
      t.same(one.calls.slice(-3), ['mailFrom', 'body', 'eob']);
      t.same(one.errors, []);
    },
  );

  await t.test('replies that are due together go out together', async (t) => {
    const written: Buffer[] = [];
    const { MyMilter } = milter(each(STAGES));
    const { mta, session } = inMemory(MyMilter);
    await mta.negotiate();
    session.on('data', (bytes: Buffer) => written.push(bytes));
    mta.send(...message());
    for (let i = 0; i < 7; i++) await mta.reply();
    t.equal(written.length, 1);
  });
});

t.test('back-pressure', async (t) => {
  await t.test('about 64 KiB are read ahead, then no more until the callback is done with', async (t) => {
    const { promise, open } = gate();
    const one = start({ mailFrom: () => promise });
    t.ok(one.feed(say.mail()));
    let taken = 0;
    while (one.feed(sized(KIB))) taken++;
    t.equal(taken, 63);
    t.equal(one.resumed, 0);
    open();
    await settled();
    t.equal(one.resumed, 1);
    t.equal(one.replies.length, 65);
    t.ok(one.feed(sized(KIB)));
  });

  await t.test('counts objects too', async (t) => {
    const { promise, open } = gate();
    const one = start({ mailFrom: () => promise });
    one.session.receive(say.mail());
    let taken = 0;
    while (one.session.receive({ type: 'body', chunk: Buffer.alloc(KIB) })) taken++;
    t.equal(taken, 63);
    open();
    await settled();
    while (one.session.receive(say.rcpt()) && taken < 100) taken++;
    t.equal(taken, 100, 'nothing is left of the count');
    const two = start({ mailFrom: () => promise.then(() => new Promise(() => {})) });
    two.session.receive(say.mail());
    for (taken = 0; two.session.receive({ type: 'eob' }); taken++);
    t.equal(taken, 1023);
  });

  await t.test('the command that is at work does not count: an ABORT behind a large body is still seen', async (t) => {
    const { promise, open } = gate();
    let signal: AbortSignal | undefined;
    const one = start({
      body() {
        ({ signal } = this);
        return promise;
      },
    });
    one.feed(say.mail());
    t.ok(one.feed(say.body('x'.repeat(65_535))));
    t.ok(one.feed(say.abort()));
    t.equal(signal?.aborted, true);
    open();
    await settled();
    t.same(one.calls, ['mailFrom', 'body', 'abort true']);
  });

  await t.test('what was read ahead with it does count', async (t) => {
    const { promise, open } = gate();
    const one = start({ mailFrom: () => promise });
    t.notOk(one.feed(say.mail(), ...Array<Command>(64).fill(sized(KIB))));
    open();
    await settled();
    t.equal(one.resumed, 1);
    t.equal(one.replies.length, 65);
  });

  await t.test('the part of a packet that came meanwhile is forgotten when the callback is done with', async (t) => {
    const gates = [gate(), gate()];
    const one = start({ header: () => gates.shift()?.promise });
    const [first, second] = [...gates];
    one.feed(say.mail(), say.header());
    const large = wire({ type: 'body', chunk: Buffer.alloc(100_000) });
    t.notOk(one.session.feed(large.subarray(0, 99_000)));
    first?.open();
    await settled();
    t.equal(one.resumed, 1);
    t.ok(one.session.feed(large.subarray(99_000)));
    t.ok(one.feed(say.header()));
    t.ok(one.feed(say.header()));
    second?.open();
    await settled();
    t.same(one.calls, ['mailFrom', 'header', 'body', 'header', 'header']);
  });

  await t.test('the count begins anew when everything that waited is at work', async (t) => {
    const gates = [gate(), gate()];
    const opens = gates.map(({ open }) => open);
    const one = start({ header: () => gates.shift()?.promise });
    one.feed(say.mail(), say.header());
    t.ok(one.feed(sized(40 * KIB)));
    opens[0]?.();
    await settled();
    t.ok(one.feed(sized(40 * KIB)));
    t.notOk(one.feed(sized(40 * KIB)));
    opens[1]?.();
    await settled();
    t.equal(one.replies.length, 5);
  });

  await t.test('replies that nobody takes: no more is read until they are', async (t) => {
    const one = start();
    one.roomy = false;
    t.notOk(one.feed(say.mail()));
    t.equal(one.resumed, 0);
    one.roomy = true;
    one.session.drained();
    one.session.drained();
    t.equal(one.resumed, 1, 'asked for once');
    t.ok(one.feed(say.rcpt()));
    one.session.drained();
    t.equal(one.resumed, 1);
  });

  await t.test('both at once: it goes on when both are over', async (t) => {
    const { promise, open } = gate();
    const one = start({ rcpt: () => promise });
    one.roomy = false;
    t.notOk(one.feed(say.mail(), say.rcpt(), sized(64 * KIB)));
    one.session.drained();
    t.equal(one.resumed, 0, 'too much is read ahead');
    open();
    await settled();
    t.equal(one.resumed, 0, 'and then the new replies wait');
    one.session.drained();
    t.equal(one.resumed, 1);
  });

  await t.test('P15 through a stream: a mail server that sends without end is held up', async (t) => {
    const { promise, open } = gate();
    const { MyMilter, calls } = milter({ mailFrom: () => promise, header() {} }, { noReply: ['header'] });
    const { mta, session } = inMemory(MyMilter);
    await mta.negotiate();
    mta.send(say.mail());
    for (let i = 0; i < 200; i++) mta.send(sized(KIB));
    await settled();
    t.ok(session.writableLength > 100 * KIB, `${session.writableLength} bytes wait outside`);
    open();
    t.match(await mta.reply(), { type: 'continue' });
    t.match(await mta.ask(say.eob()), { type: 'continue' });
    t.equal(calls.length, 201);
  });
});
