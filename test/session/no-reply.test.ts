// Callbacks that are not answered: nothing is written for them, and what they say is kept for the next answer.
import t from 'tap';
import type { Command, Reply } from '../../lib/codec/index.js';
import type { MilterError } from '../../lib/errors.js';
import type { SessionOptions, Stage, Verdict } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { each, memoryLog, matchAll, milter, STAGES, type Script } from '../helpers/milter.js';
import { COMMANDS, ALL_STEPS, inMemory, say, type Mta } from '../helpers/mta.js';

/** The stages that can go unanswered. */
const QUIET = STAGES.filter((stage) => stage !== 'eob');
/** Those of a message. */
const INSIDE = ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body'] as const satisfies readonly Stage[];

const commands = (...stages: Stage[]): Command[] => stages.map((stage) => COMMANDS[stage]);

interface Started {
  readonly mta: Mta;
  readonly calls: string[];
  readonly errors: readonly MilterError[];
  readonly log: ReturnType<typeof memoryLog>;
}

/** A milter that goes on everywhere but where its script says otherwise, some callbacks of which are not answered. */
async function start(
  script: Script,
  noReply: readonly Stage[] = QUIET,
  options: SessionOptions = {},
): Promise<Started> {
  const { MyMilter, calls } = milter({ ...each(STAGES), ...script }, { noReply });
  const log = memoryLog();
  const { mta, errors } = inMemory(MyMilter, { smfipOptions: 0x400, log, ...options });
  await mta.negotiate();
  return { mta, calls, errors, log };
}

/** Says a verdict the first time, and nothing later. */
const once = (verdict: Verdict): (() => Verdict | undefined) => {
  const left = [verdict];
  return () => left.shift();
};

/** That nothing but `reply` was written so far. */
async function answered(mta: Mta, command: Command): Promise<Reply> {
  const reply = await mta.ask(command);
  if (mta.replies.length > 0) throw new Error(`${mta.replies.length} replies too many`);
  return reply;
}

for (const stage of QUIET) {
  for (const verdict of ['accept', 'reject', 'tempFail', 'discard'] as const) {
    if (verdict === 'discard' && !INSIDE.includes(stage as never)) continue;
    await t.test(`P24 where it cannot be agreed ${stage}() is answered, with ${verdict} at once`, async (t) => {
      const { MyMilter } = milter({ ...each(STAGES), [stage]: () => verdict }, { noReply: QUIET });
      const { mta } = inMemory(MyMilter);
      await mta.negotiate({ protocol: 0x3ff & ~0x80 });
      if (INSIDE.slice(1).includes(stage as never)) await mta.play(say.mail());
      const expected = stage === 'unknown' && verdict === 'accept' ? 'continue' : verdict;
      t.match(await answered(mta, COMMANDS[stage]), { type: expected });
    });

    if (!INSIDE.includes(stage as never)) continue;
    await t.test(
      `P25 ${verdict} from ${stage}() is given at EOB, the callbacks in between are not called`,
      async (t) => {
        const { mta, calls } = await start({ [stage]: once(verdict) });
        mta.send(...commands(...INSIDE, 'unknown', 'body'));
        t.match(await answered(mta, say.eob()), { type: verdict });
        t.same(calls, [...INSIDE.slice(0, INSIDE.indexOf(stage as never) + 1), 'unknown']);
        calls.length = 0;
        mta.send(...commands(...INSIDE.slice(1)), say.abort());
        mta.send(...commands(...INSIDE));
        t.match(await answered(mta, say.eob()), { type: 'continue' });
        t.same(calls, ['abort false', ...INSIDE, 'eob'], 'strays are neither heard nor answered; the next one is');
      },
    );

    await t.test(
      `P25 ${verdict} from ${stage}() is given at the next command that is answered, if that comes first`,
      async (t) => {
        const { mta, calls } = await start({ [stage]: once(verdict) }, [stage]);
        const at = INSIDE.indexOf(stage as never);
        await mta.play(...commands(...INSIDE.slice(0, at)));
        mta.send(COMMANDS[stage]);
        const next = COMMANDS[INSIDE[at + 1] ?? 'eob'];
        t.match(await answered(mta, next), { type: verdict });
        t.match(await answered(mta, stage === 'rcpt' ? say.data() : say.rcpt()), { type: verdict }, 'as do strays');
        t.same(calls, INSIDE.slice(0, at + 1));
        mta.send(say.abort());
        await mta.play(...(stage === 'mailFrom' ? [] : [say.mail()]));
        t.same(calls.slice(at + 1), ['abort false', ...(stage === 'mailFrom' ? [] : ['mailFrom'])]);
      },
    );
  }
}

t.test('what is kept', async (t) => {
  await t.test('a reply of its own goes out with the verdict', async (t) => {
    const { mta } = await start({
      header() {
        return this.setReply(550, '5.7.1', 'no');
      },
    });
    mta.send(say.mail(), say.header());
    t.match(await answered(mta, say.eob()), { type: 'replyCode', text: '550 5.7.1 no' });
  });

  await t.test('P64 a recipient that was not answered cannot be refused alone: the message is', async (t) => {
    const { mta, calls } = await start({ rcpt: once('reject') }, ['rcpt']);
    await mta.play(say.mail());
    mta.send(say.rcpt(), say.rcpt());
    t.match(await answered(mta, say.data()), { type: 'reject' });
    t.match(await answered(mta, say.eob()), { type: 'reject' });
    t.same(calls, ['mailFrom', 'rcpt']);
  });

  await t.test('a failure is told at once, and what the error policy says of it is kept', async (t) => {
    for (const [errorPolicy, verdict] of [
      ['tempfail', 'tempFail'],
      ['reject', 'reject'],
      ['accept', 'accept'],
      [(): Verdict => 'discard', 'discard'],
    ] as const) {
      const fails = (): never => {
        throw new Error('boom');
      };
      const { mta, calls, errors } = await start({ header: fails }, QUIET, { errorPolicy });
      mta.send(say.mail(), say.header(), say.header());
      t.match(await answered(mta, say.eob()), { type: verdict });
      matchAll(t, errors, [{ code: 'ERR_MILTER_CALLBACK', stage: 'header', message: 'header() failed: boom' }]);
      t.same(calls, ['mailFrom', 'header']);
    }
  });

  await t.test(
    'P74 callbacks that take their time: in order, one after the other, the answer behind all of them',
    async (t) => {
      const order: string[] = [];
      const slow = (name: string) => async (): Promise<void> => {
        order.push(`${name} begins`);
        await new Promise(setImmediate);
        order.push(`${name} ends`);
      };
      const { mta } = await start({ mailFrom: slow('mailFrom'), rcpt: slow('rcpt'), header: slow('header') });
      mta.send(say.mail(), say.rcpt(), say.header());
      t.match(await answered(mta, say.eob()), { type: 'continue' });
      const names = ['mailFrom', 'rcpt', 'header'];
      t.same(
        order,
        names.flatMap((name) => [`${name} begins`, `${name} ends`]),
      );
    },
  );

  for (const [how, slow] of [
    ['at once', false],
    ['in time', true],
  ] as const) {
    await t.test(`P68 SKIP from a body() that is not answered: swallowed ${how}; eob() knows`, async (t) => {
      const seen: unknown[] = [];
      const { mta } = await start({
        body(chunk: Buffer) {
          seen.push(chunk.toString());
          return slow ? Promise.resolve(this.skip()) : this.skip();
        },
        eob() {
          seen.push(this.bodySkipped);
        },
      });
      for (let round = 0; round < 2; round++) {
        mta.send(say.mail(), say.body('1'), say.body('2'));
        t.match(await answered(mta, say.eob()), { type: 'continue' });
      }
      t.same(seen, ['1', true, '1', true]);
    });
  }
});

t.test('what makes it go away', async (t) => {
  for (const [how, between] of [
    ['ABORT', [say.abort()]],
    ['HELO', [say.helo()]],
    ['MAIL', []],
  ] as const) {
    await t.test(`${how} drops what a message has said`, async (t) => {
      const { mta, calls } = await start({ header: once('reject') });
      mta.send(say.mail(), say.header(), say.body(), ...between, say.mail(), say.header());
      t.match(await answered(mta, say.eob()), { type: 'continue' });
      const helo = how === 'HELO' ? ['helo'] : [];
      t.same(calls, ['mailFrom', 'header', 'abort true', ...helo, 'mailFrom', 'header', 'eob']);
    });
  }

  for (const [stage, verdict, at] of [
    ['connect', 'reject', 'r'],
    ['connect', 'accept', 'a'],
    ['helo', 'accept', 'a'],
    ['helo', 'shutdown', 'y'],
    ['mailFrom', 'shutdown', 'y'],
    ['unknown', 'connFail', 'y'],
  ] as const) {
    await t.test(`${verdict} from ${stage}() concerns the SMTP session, and nothing does`, async (t) => {
      const { mta, calls } = await start({ [stage]: once(verdict) });
      const before = stage === 'unknown' ? [say.mail()] : [];
      mta.send(...before, COMMANDS[stage], say.helo(), say.mail(), say.abort(), say.helo(), say.mail(), say.unknown());
      const answer = await answered(mta, say.eob());
      t.equal(answer.type[0], at === 'y' ? 'r' : at, answer.type);
      if (at === 'y') t.match(answer, { type: 'replyCode', text: /^421 / });
      const later = at === 'y' ? 'tempFail' : verdict;
      mta.send(say.mail());
      t.match(await answered(mta, say.eob()), { type: later });
      t.same(
        calls.filter((name) => !name.startsWith('abort')),
        [...before.map(({ type }) => type), stage],
      );
    });
  }

  await t.test('a 421 of its own concerns the SMTP session too', async (t) => {
    const { mta, calls } = await start({
      header() {
        return this.setReply(421, '4.7.0', 'bye');
      },
    });
    mta.send(say.mail(), say.header(), say.abort(), say.mail());
    t.match(await answered(mta, say.eob()), { type: 'replyCode', text: '421 4.7.0 bye' });
    t.same(calls, ['mailFrom', 'header', 'abort true']);
  });

  await t.test('REJECT from helo() holds for every MAIL up to the next HELO', async (t) => {
    const { mta, calls } = await start({ helo: once('reject') }, ['helo']);
    mta.send(say.helo());
    t.match(await answered(mta, say.unknown()), { type: 'continue' }, 'it is no part of a message');
    mta.send(say.abort());
    t.match(await answered(mta, say.mail()), { type: 'reject' });
    t.match(await answered(mta, say.mail()), { type: 'reject' });
    mta.send(say.abort(), say.helo());
    t.match(await answered(mta, say.mail()), { type: 'continue' });
    t.same(calls, ['helo', 'unknown', 'abort false', 'abort false', 'helo', 'mailFrom']);
  });

  await t.test('and is dropped by a HELO that comes before any answer', async (t) => {
    const { mta, calls } = await start({ helo: once('reject') }, ['helo']);
    mta.send(say.helo(), say.helo());
    t.match(await answered(mta, say.mail()), { type: 'continue' });
    t.same(calls, ['helo', 'helo', 'mailFrom']);
  });

  await t.test('QUIT_NC drops everything', async (t) => {
    const { mta, calls } = await start({ connect: once('reject') });
    mta.send(say.connect(), say.quitNewConnection(), say.connect(), say.mail());
    t.match(await answered(mta, say.eob()), { type: 'continue' });
    t.same(calls, ['connect', 'close', 'connect', 'mailFrom', 'eob']);
  });
});

t.test('unknown()', async (t) => {
  for (const verdict of ['accept', 'reject', 'tempFail'] as const) {
    await t.test(`${verdict} concerns that command alone: unanswered, it is lost, with a warning`, async (t) => {
      const { mta, calls, log } = await start({ unknown: once(verdict) });
      mta.send(say.mail(), say.unknown(), say.header());
      t.match(await answered(mta, say.eob()), { type: 'continue' });
      t.same(calls, ['mailFrom', 'unknown', 'header', 'eob']);
      const message = 'a verdict from unknown() is lost where it is not answered';
      t.same(log.lines, [{ level: 'warn', details: { verdict }, message }]);
    });
  }

  await t.test('so is what the error policy says of a failure; the failure is told', async (t) => {
    const { mta, errors } = await start({ unknown: () => Promise.reject(new Error('boom')) });
    mta.send(say.mail(), say.unknown());
    t.match(await answered(mta, say.eob()), { type: 'continue' });
    matchAll(t, errors, [{ code: 'ERR_MILTER_CALLBACK', stage: 'unknown' }]);
  });

  await t.test('answered, it hears what connect() has said without an answer', async (t) => {
    const { mta, calls } = await start({ connect: once('reject') }, ['connect']);
    mta.send(say.connect());
    t.match(await answered(mta, say.unknown()), { type: 'reject' });
    t.match(await answered(mta, say.helo()), { type: 'reject' });
    t.same(calls, ['connect']);
  });
});

t.test('a gap that NO bits leave: what connect() said is given at the first command that comes', async (t) => {
  for (const stages of [['eob'], ['header', 'eob'], ['rcpt']] as const) {
    const { MyMilter, calls } = milter({ ...each(stages), connect: once('tempFail') }, { noReply: ['connect'] });
    const { mta } = inMemory(MyMilter);
    t.match(await mta.negotiate({ protocol: ALL_STEPS }), { type: 'negotiate' });
    mta.send(say.connect(), say.macros('H', {}), say.macros('M', { i: 'A' }));
    t.match(await answered(mta, COMMANDS[stages[0]]), { type: 'tempFail' });
    t.match(await answered(mta, COMMANDS[stages[0]]), { type: 'tempFail' });
    t.same(calls, ['connect']);
  }
});

t.test('P25 not a byte goes out, however the commands come', async (t) => {
  const written: Buffer[] = [];
  const { MyMilter } = milter(each(STAGES), { noReply: QUIET });
  const { mta, session } = inMemory(MyMilter);
  await mta.negotiate();
  session.on('data', (bytes: Buffer) => written.push(bytes));
  mta.send(say.connect(), say.helo(), ...commands(...INSIDE), say.unknown(), say.eob());
  await mta.reply();
  t.same(written, [packet('c')]);
});
