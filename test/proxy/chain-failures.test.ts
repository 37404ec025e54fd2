// Several milters behind one proxy, and what goes wrong: every command is answered, and somebody hears why.
import t, { type Test } from 'tap';
import type { Command, Reply } from '../../lib/codec/index.js';
import { createProxy, type ProxyOptions } from '../../lib/proxy/index.js';
import { packet } from '../helpers/bytes.js';
import { chained, typesOf } from '../helpers/chained.js';
import { fakeMilter, silence, type Line, type Says, type Script } from '../helpers/fake-milter.js';
import { memoryInUse } from '../helpers/memory.js';
import { ALL_ACTIONS, ALL_STEPS, say } from '../helpers/mta.js';
import { inFrontOf } from '../helpers/proxied.js';

interface Away {
  readonly target: string;
}

/** A proxy in memory in front of milters m0, m1, … */
function scene(scripts: ReadonlyArray<Script | Away>, options: ProxyOptions = {}, own: object = {}) {
  const fakes = scripts.map((script) => ('target' in script ? undefined : fakeMilter(script)));
  const milters = scripts.map((script, i) => ({
    target: fakes[i]?.stream ?? (script as Away).target,
    name: `m${i}`,
  }));
  const streams = fakes.flatMap((fake) => fake?.stream ?? []);
  return { ...inFrontOf({ milters, options: own }, undefined, options), streams };
}

type Scene = ReturnType<typeof scene>;

const FAILURES = {
  closes: [(line: Line) => line.end(), 'ERR_MILTER_CONNECTION'],
  breaks: [(line: Line) => line.break(new Error('cable')), 'ERR_MILTER_CONNECTION'],
  'says what is no packet': [Buffer.from('HTTP/1.1 400 Bad\r\n'), 'ERR_MILTER_PACKET_TOO_LARGE'],
  'answers what is no answer': [packet('f'), 'ERR_MILTER_FILTER'],
  'does not answer': [silence, 'ERR_MILTER_TIMEOUT'],
} as const satisfies Record<string, [Says, string]>;

/** What the mail server hears instead, first with words; m0 is well and goes on. */
const SAID = {
  tempfail: [/^451 4\.7\.1 /, 'tempFail'],
  reject: [/^550 5\.5\.0 /, 'reject'],
  shutdown: [/^421 4\.7\.1 /, 'tempFail'],
  accept: [undefined, 'continue'],
} as const;

const EARLY = [say.connect(), say.helo(), say.unknown(), say.mail(), say.rcpt(), say.data()];
const CONTENT = [say.header(), say.eoh(), say.body()];
const STAGES = ['negotiate', ...[...EARLY, ...CONTENT, say.eob()].map(({ type }) => type)];

/** A whole session, in which m1 fails at a stage. @returns where the first refusal came, or the end */
async function refusedAt(t: Test, { mta, errors, streams }: Scene, onFailure: keyof typeof SAID, protocol: number) {
  const [text, plain] = SAID[onFailure];
  let refused: string | undefined;
  const hear = (reply: Reply, stage: string): void => {
    const isRefusal = reply.type !== 'continue' && reply.type !== 'accept';
    if (text === undefined) t.equal(reply.type, stage === 'eob' ? 'accept' : 'continue', stage);
    else if (refused !== undefined)
      t.ok(reply.type === plain || (reply.type === 'replyCode' && text.test(reply.text)), stage);
    else if (isRefusal) t.match(reply, { type: 'replyCode', text }, stage);
    if (isRefusal) refused ??= stage;
  };
  await mta.negotiate({ protocol });
  for (const command of EARLY) hear(await mta.ask(command), command.type);
  if (protocol === ALL_STEPS) mta.send(...CONTENT);
  else for (const command of CONTENT) hear(await mta.ask(command), command.type);
  hear(await mta.ask(say.eob()), 'eob');
  t.strictSame(mta.replies, [], 'and no more');
  mta.send(say.abort(), say.quit());
  await mta.closed;
  mta.end();
  t.ok(streams.every(({ destroyed }) => destroyed));
  t.equal(errors.length, 1);
  return refused;
}

for (const onFailure of ['tempfail', 'reject', 'shutdown', 'accept'] as const) {
  t.test(`P92 onFailure '${onFailure}': at every stage, however a milter fails, it is told once`, async (t) => {
    for (const [what, [says, code]] of Object.entries(FAILURES)) {
      for (const stage of STAGES) {
        for (const protocol of [0, ALL_STEPS]) {
          await t.test(`it ${what} at ${stage}, protocol ${protocol}`, async (t) => {
            const odd = stage === 'negotiate' && what === 'answers what is no answer' ? packet('c') : says;
            const own = { commandTimeout: 10, contentTimeout: 10 };
            const all = scene([{}, { [stage]: odd }], { onFailure }, own);
            const early = stage === 'negotiate' ? 'connect' : stage;
            const at = ['header', 'eoh', 'body'].includes(stage) ? 'eob' : early;
            t.equal(await refusedAt(t, all, onFailure, protocol), onFailure === 'accept' ? undefined : at);
            const named = code === 'ERR_MILTER_FILTER' && stage === 'negotiate' ? 'ERR_MILTER_NEGOTIATION' : code;
            t.match(all.errors, [{ code: named, message: /^Milter m1: / }]);
          });
        }
      }
    }
    const away = scene([{}, { target: 'unix:/no/such/socket' }], { onFailure });
    t.equal(await refusedAt(t, away, onFailure, 0), onFailure === 'accept' ? undefined : 'connect');
    t.match(away.errors, [{ code: 'ERR_MILTER_CONNECTION', message: /^Milter m1: Cannot connect to .*ENOENT/ }]);
  });
}

t.test("onFailure 'close': the connection is closed, at whatever stage, and it is told once", async (t) => {
  for (const [what, [says]] of Object.entries(FAILURES)) {
    for (const stage of STAGES) {
      const odd = stage === 'negotiate' && what === 'answers what is no answer' ? packet('c') : says;
      const own = { commandTimeout: 10, contentTimeout: 10 };
      const { mta, errors, streams } = scene([{}, { [stage]: odd }], { onFailure: 'close' }, own);
      mta.send({ type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS });
      for (const command of [...EARLY, ...CONTENT, say.eob()]) mta.send(command);
      await mta.closed;
      mta.end();
      t.match(errors, [{ code: 'ERR_MILTER_CONNECTION', message: /was lost: Milter m1: / }], `it ${what} at ${stage}`);
      t.equal(errors.length, 1);
      t.ok(streams.every(({ destroyed }) => destroyed));
    }
  }
});

t.test(
  'what is said for the chain, or for one milter, is over onFailure; undefined is as if nothing was',
  async (t) => {
    const greeting = async (onFailure: ProxyOptions['onFailure'], own: object, milter: object): Promise<Reply> => {
      const target = 'unix:/no/such/socket';
      const { mta } = inFrontOf({ milters: [{ target, ...milter }], options: own }, undefined, { onFailure });
      await mta.negotiate();
      const reply = await mta.ask(say.connect());
      mta.end();
      await mta.closed;
      return reply;
    };
    const none = { defaultAction: undefined, connectTimeout: undefined, maxMessage: undefined };
    t.match(await greeting('reject', none, { defaultAction: undefined }), { text: /^550/ });
    t.match(await greeting('reject', { defaultAction: 'shutdown' }, {}), { text: /^421/ });
    t.match(await greeting('close', { defaultAction: 'tempfail' }, { defaultAction: 'accept' }), { type: 'accept' });
    t.match(await greeting(undefined, none, {}), { text: /^451/ });
  },
);

t.test('connectTimeout counts for each of several milters, unless the chain has its own', async (t) => {
  const timeouts: number[] = [];
  const { setTimeout } = globalThis;
  t.intercept(globalThis, 'setTimeout', {
    value: (act: () => void, ms: number) => {
      timeouts.push(ms);
      return setTimeout(act, ms);
    },
  });
  const target = 'unix:/no/such/socket';
  for (const options of [{}, { connectTimeout: 4321 }]) {
    const { mta } = inFrontOf({ milters: [target, target], options }, undefined, { connectTimeout: 1234 });
    await mta.negotiate();
    mta.end();
    await mta.closed;
  }
  // The proxy has a limit for each connection, too.
  t.equal(timeouts.filter((ms) => ms === 1234).length, 2 + 2);
  t.equal(timeouts.filter((ms) => ms === 4321).length, 2);
});

t.test('bad options are named when the proxy is made', async (t) => {
  const milters = ['inet:1'];
  for (const [options, message] of [
    [{ maxMessage: 0 }, /^maxMessage must be a whole number from 1 /],
    [{ maxMessage: 1.5 }, /^maxMessage must be/],
    [{ like: 'exim' }, /^like must be/],
    [{ maxMassage: 1 }, /^maxMassage is no option/],
  ] as const) {
    t.throws(() => createProxy({ milters, options: options as never }), { code: 'ERR_MILTER_OPTION', message });
  }
  t.throws(() => createProxy([]), { code: 'ERR_MILTER_OPTION' });
  t.throws(() => createProxy(['nowhere:1']), { code: 'ERR_MILTER_ADDRESS' });
});

t.test('of several that fail each is told, once in each SMTP session; also of two that end it', async (t) => {
  const dead = { connect: packet('f') };
  const { mta, errors } = chained([dead, {}, dead], { defaultAction: 'accept' });
  await mta.negotiate();
  t.strictSame(await mta.play(...EARLY), ['continue', 'continue', 'continue', 'continue', 'continue', 'continue']);
  t.match(errors, [{ message: /^Milter m0: / }, { message: /^Milter m2: / }]);
  mta.send(say.quitNewConnection());
  t.equal((await mta.ask(say.connect())).type, 'continue');
  t.equal(errors.length, 2, 'a connection that was lost is the same failure still');

  const both = chained([dead, { negotiate: silence }, { negotiate: packet('c') }], {
    defaultAction: 'throw',
    commandTimeout: 10,
  });
  both.mta.send({ type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS });
  t.match(await both.mta.closed, { code: 'ERR_MILTER_TIMEOUT', message: /^Milter m1: / });
  t.match(both.errors, [{ code: 'ERR_MILTER_NEGOTIATION', message: /^Milter m2: / }]);
  t.ok(both.fakes.every(({ stream }) => stream.destroyed));
});

t.test(
  'a message above maxMessage costs the default action, the rest of it is swallowed, the next one passes',
  async (t) => {
    const cases = {
      tempfail: { type: 'replyCode', text: /^451/ },
      reject: { type: 'replyCode', text: /^550/ },
      shutdown: { type: 'replyCode', text: /^421/ },
      accept: { type: 'accept' },
      quarantine: { type: 'quarantine', reason: /too large/ },
    } as const;
    for (const [defaultAction, expected] of Object.entries(cases)) {
      const options = { defaultAction: defaultAction as keyof typeof cases, maxMessage: 20_000 };
      const { mta, fakes, errors } = chained([{}], options);
      await mta.negotiate();
      for (let round = 1; round <= 2; round++) {
        await mta.play(say.mail(), say.rcpt());
        mta.send(say.header(), say.eoh(), say.body('x'.repeat(10_000)));
        mta.send(say.body('y'.repeat(10_000)), say.body('z'.repeat(10_000)), say.header());
        t.match(await mta.ask(say.eob()), expected, defaultAction);
        if (defaultAction === 'quarantine') t.match(await mta.reply(), { type: 'accept' });
        t.equal(errors.length, round);
        t.match(errors.at(-1), { code: 'ERR_MILTER_MESSAGE_TOO_LARGE', message: /maxMessage, 20000 bytes/ });
        t.equal(fakes[0]!.heard.at(-1)!.type, 'abort', 'the milters hear that it is over');
      }
      await mta.play(say.mail(), say.rcpt());
      mta.send(say.header(), say.eoh(), say.body('x'.repeat(10_000)));
      t.match(await mta.ask(say.eob()), { type: 'accept' });
      t.strictSame(
        typesOf(fakes[0]!.heard).filter((type) => type === 'mailFrom' || type === 'eob' || type === 'abort'),
        ['mailFrom', 'abort', 'mailFrom', 'abort', 'mailFrom', 'eob', 'abort'],
      );
    }
    const closed = chained([{}], { defaultAction: 'throw', maxMessage: 20_000 });
    await closed.mta.negotiate();
    await closed.mta.play(say.mail(), say.rcpt());
    closed.mta.send(say.body('x'.repeat(30_000)));
    t.match(await closed.mta.closed, { code: 'ERR_MILTER_MESSAGE_TOO_LARGE' });
    t.ok(closed.fakes[0]!.stream.destroyed);
  },
);

t.test(
  'whatever a message is too large with: recipients, headers, many small pieces, the one inside the end',
  async (t) => {
    const endless: Record<string, Command> = {
      rcpt: say.rcpt(`<${'x'.repeat(500)}@example.com>`),
      data: say.data(),
      header: say.header('A', 'x'.repeat(500)),
      eoh: say.eoh(),
      body: say.body('x'),
    };
    for (const [what, command] of Object.entries(endless)) {
      for (const protocol of [0, ALL_STEPS]) {
        const { mta, errors } = chained([{}], { maxMessage: 20_000 });
        await mta.negotiate({ protocol });
        await mta.play(say.mail(), say.rcpt());
        const isAnswered = protocol === 0 || what === 'rcpt' || what === 'data';
        let replies: string[] = [];
        for (let i = 0; i < 100; i++) {
          if (isAnswered) replies.push((await mta.ask(command)).type);
          else mta.send(command);
        }
        const first = replies.indexOf('replyCode');
        t.strictSame(
          replies.slice(0, Math.max(0, first)).filter((type) => type !== 'continue'),
          [],
        );
        t.strictSame(
          replies.slice(first + 1).filter((type) => type !== 'tempFail'),
          [],
          'the words come once',
        );
        t.match(await mta.ask(say.eob()), { type: isAnswered ? 'tempFail' : 'replyCode' }, what);
        t.equal(errors.length, 1);
      }
    }
    const { mta } = chained([{}], { maxMessage: 20_000 });
    await mta.negotiate();
    await mta.play(say.mail(), say.rcpt());
    t.match(await mta.ask({ type: 'eob', chunk: Buffer.alloc(20_000) }), { type: 'replyCode' });

    // Where it is to be put on hold, that is said at its end.
    const hold = chained([{}], { maxMessage: 20_000, defaultAction: 'quarantine' });
    await hold.mta.negotiate({ protocol: 0 });
    await hold.mta.play(say.mail(), say.rcpt());
    t.strictSame(await hold.mta.play(say.body('x'.repeat(30_000)), say.header()), ['continue', 'continue']);
    t.match(await hold.mta.ask(say.eob()), { type: 'quarantine' });
    t.match(await hold.mta.reply(), { type: 'accept' });
    // A small piece that holds on to all that it came with.
    const { mta: greedy } = chained([{}], { maxMessage: 1_000_000 });
    await greedy.negotiate();
    await greedy.play(say.mail(), say.rcpt());
    for (let i = 0; i < 20; i++) greedy.send(say.macros('B', { x: 'x'.repeat(60_000) }), say.body('x'));
    t.match(await greedy.ask(say.eob()), { type: 'replyCode' });
  },
);

t.test('what passes outside of messages is not kept', async (t) => {
  const { mta, fakes } = chained([{}]);
  await mta.negotiate();
  const before = await memoryInUse();
  for (let i = 0; i < 300; i++) {
    await mta.ask(say.unknown('x'.repeat(65_000)));
    fakes[0]!.heard.length = 0;
  }
  t.ok((await memoryInUse()) - before < 5_000_000);
});
