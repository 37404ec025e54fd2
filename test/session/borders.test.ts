// Where one message ends and the next begins, for milters that want few commands or many: as Postfix sends messages, as
// Sendmail does, and as a server does that sends no macros.
import t from 'tap';
import type { MilterProtocol, Verdict } from '../../lib/index.js';
import { Dialogue, MESSAGE_STAGES, SERVERS, type MessageStage, type Server } from '../helpers/dialogue.js';
import { each, milter, STAGES, type Script } from '../helpers/milter.js';
import { inMemory, say, type Mta } from '../helpers/mta.js';

/** Every choice of callbacks that a milter can make of a message. */
const CHOICES: ReadonlyArray<readonly MessageStage[]> = Array.from({ length: 1 << MESSAGE_STAGES.length }, (_, mask) =>
  MESSAGE_STAGES.filter((_stage, bit) => (mask & (1 << bit)) !== 0),
);
/** None, each one, each pair, and all of them. */
const FEW = CHOICES.filter(({ length }) => length < 3 || length === MESSAGE_STAGES.length);

interface Started {
  readonly mta: Mta;
  readonly dialogue: Dialogue;
  readonly calls: string[];
  /** What each callback found as macro `i`. */
  readonly found: Array<string | undefined>;
  readonly errors: readonly unknown[];
}

/** A milter with some of the callbacks, each of which says what it is told once, and then nothing more. */
async function start(
  server: Server,
  stages: readonly MessageStage[],
  once: Partial<Record<MessageStage, Verdict>> = {},
): Promise<Started> {
  const found: Array<string | undefined> = [];
  const left = { ...once };
  const script: Script = {};
  for (const stage of stages) {
    script[stage] = function (this: MilterProtocol) {
      found.push(this.macro('i'));
      const verdict = left[stage];
      delete left[stage];
      return verdict;
    };
  }
  const { MyMilter, calls } = milter(script);
  const { mta, errors } = inMemory(MyMilter, { smfipOptions: 0x400 });
  return { mta, dialogue: await Dialogue.start(mta, server), calls, found, errors };
}

/** Ends the conversation; what was seen until nothing is on its way any more. */
async function summary({ mta, calls, found, errors }: Started, answers: string[][]): Promise<object> {
  mta.send(say.quit());
  await mta.closed;
  return { calls: calls.join(' '), answers, found, errors: errors.length, replies: mta.replies.length };
}

for (const server of SERVERS) {
  const macros = server !== 'a server without macros';
  /** What follows a message that is over. */
  const after = server === 'Postfix' ? ['abort false'] : [];
  const expect = (calls: readonly string[][], answers: string[][]): object => ({
    calls: [...calls.flat(), 'close'].join(' '),
    answers,
    found: calls.flatMap((list, i) =>
      list.filter((name) => !name.startsWith('abort')).map(() => (macros ? ['one', 'two'][i] : undefined)),
    ),
    errors: 0,
    replies: 0,
  });

  await t.test(`P69 ${server}: two messages, for every choice of callbacks`, async (t) => {
    const seen: Record<string, object> = {};
    const expected: Record<string, object> = {};
    for (const stages of CHOICES) {
      const one = await start(server, stages);
      const answers = [await one.dialogue.message({ id: 'one' }), await one.dialogue.message({ id: 'two' })];
      const calls = [...stages, ...after];
      seen[stages.join()] = await summary(one, answers);
      expected[stages.join()] = expect([calls, calls], [['continue'], ['continue']]);
    }
    t.same(seen, expected);
  });

  for (const verdict of ['reject', 'tempFail', 'accept', 'discard'] as const) {
    await t.test(
      `P63, P69 ${server}: ${verdict} at any stage of the first message, the second is a new one`,
      async (t) => {
        const seen: Record<string, object> = {};
        const expected: Record<string, object> = {};
        for (const stages of FEW) {
          for (const at of stages) {
            const one = await start(server, stages, { [at]: verdict });
            const answers = [
              await one.dialogue.message({ id: 'one' }),
              await one.dialogue.message({ id: 'two', headers: 2 }),
            ];
            const first: string[] = stages.slice(0, stages.indexOf(at) + 1);
            // P64: the only recipient is refused, which is no end. The server gives up, and says so where it has to.
            const open = at === 'rcpt' && (verdict === 'reject' || verdict === 'tempFail');
            first.push(...(open && (macros || stages.includes('mailFrom')) ? ['abort true'] : after));
            const second = [...stages.flatMap((stage) => (stage === 'header' ? [stage, stage] : [stage])), ...after];
            seen[`${stages.join()}: ${at}`] = await summary(one, answers);
            expected[`${stages.join()}: ${at}`] = expect([first, second], [[verdict], ['continue']]);
          }
        }
        t.same(seen, expected);
      },
    );
  }

  await t.test(`P60 ${server}: RSET behind any command of the first message, the second is a new one`, async (t) => {
    const seen: Record<string, object> = {};
    const expected: Record<string, object> = {};
    for (const stages of FEW) {
      for (const reset of MESSAGE_STAGES.slice(0, -1)) {
        const one = await start(server, stages);
        const answers = [await one.dialogue.message({ id: 'one', reset }), await one.dialogue.message({ id: 'two' })];
        const first: string[] = stages.filter((stage) => order(stage) <= order(reset));
        // Macros begin a message as well. Without them nothing tells of the end of one that had only recipients.
        if (macros || first.some((stage) => stage !== 'rcpt')) first.push('abort true');
        seen[`${stages.join()}: ${reset}`] = await summary(one, answers);
        expected[`${stages.join()}: ${reset}`] = expect([first, [...stages, ...after]], [[], ['continue']]);
      }
    }
    t.same(seen, expected);
  });
}

function order(stage: MessageStage): number {
  return MESSAGE_STAGES.indexOf(stage);
}

t.test('recipients', async (t) => {
  for (const verdict of ['reject', 'tempFail'] as const) {
    for (const stages of [['rcpt'], ['rcpt', 'eob'], ['mailFrom', 'rcpt', 'data'], MESSAGE_STAGES] as const) {
      await t.test(`P64 ${verdict} at rcpt leaves the message alone: ${stages.join(' + ')}`, async (t) => {
        const one = await start('Sendmail', stages, { rcpt: verdict });
        t.same(await one.dialogue.message({ id: 'one', recipients: 2 }), [verdict, 'continue']);
        t.same(
          one.calls,
          stages.flatMap((stage) => (stage === 'rcpt' ? [stage, stage] : [stage])),
        );
      });
    }
  }

  for (const verdict of ['accept', 'discard'] as const) {
    await t.test(`P65, P66 ${verdict} at rcpt ends the message, and strays get it again`, async (t) => {
      const { mta, calls } = await start('Postfix', MESSAGE_STAGES, { rcpt: verdict });
      const said = await mta.play(say.mail(), say.rcpt(), say.rcpt(), say.data(), say.eob());
      t.same(said, ['continue', verdict, verdict, verdict, verdict]);
      t.same(calls, ['mailFrom', 'rcpt']);
    });
  }

  await t.test('P97 the macros of a recipient are not those of the next, also where RCPT is not sent', async (t) => {
    const found: unknown[] = [];
    const { MyMilter } = milter({
      data() {
        found.push(this.macro('rcpt_addr'), this.macro('rcpt_host'));
      },
    });
    const { mta } = inMemory(MyMilter);
    await mta.negotiate();
    mta.send(say.macros('M', { i: 'A' }), say.macros('R', { rcpt_host: 'h', rcpt_addr: 'a' }));
    t.match(await mta.ask(say.macros('R', { rcpt_addr: 'b' }), say.data()), { type: 'continue' });
    t.same(found, ['b', undefined]);
  });
});

t.test('HELO in the middle of a message', async (t) => {
  for (const stages of [['eob'], ['header'], ['rcpt', 'eob'], MESSAGE_STAGES] as const) {
    await t.test(`P58 where HELO itself is not sent, its macros tell of it: ${stages.join(' + ')}`, async (t) => {
      const one = await start('Postfix', stages);
      const { mta, dialogue } = one;
      mta.send(say.macros('M', { i: 'one' }));
      const begun: string[] = stages.includes('mailFrom' as never) ? await mta.play(say.mail()) : [];
      mta.send(say.macros('H', {}), say.abort());
      t.same(await dialogue.message({ id: 'two' }), ['continue']);
      const first = [...begun.map(() => 'mailFrom'), 'abort true', 'abort false'];
      t.match(await summary(one, []), {
        calls: [...first, ...stages, 'abort false', 'close'].join(' '),
        found: [...begun.map(() => 'one'), ...stages.map(() => 'two')],
      });
    });
  }

  await t.test('P58 Postfix says HELO and then ABORT: abort() is told once that the message was cut', async (t) => {
    const { MyMilter, calls } = milter(each(STAGES));
    const { mta } = inMemory(MyMilter);
    await mta.negotiate();
    await mta.play(say.helo(), say.mail(), say.rcpt(), say.helo());
    mta.send(say.abort());
    await mta.play(say.mail());
    t.same(calls, ['helo', 'mailFrom', 'rcpt', 'abort true', 'helo', 'abort false', 'mailFrom']);
  });
});

t.test('what a message leaves behind', async (t) => {
  /** A milter that looks at what is there, and is up to something in its first message. */
  const curious = (): { script: Script; seen: unknown[]; signals: AbortSignal[] } => {
    const seen: unknown[] = [];
    const signals: AbortSignal[] = [];
    let first = true;
    const script: Script = {
      mailFrom() {
        signals.push(this.signal);
        seen.push(['mailFrom', this.bodySkipped, this.macro('i'), this.signal.aborted]);
      },
      header() {
        if (first) this.setReply(550, '5.7.1', 'of the first message');
        return 'continue';
      },
      body(chunk: Buffer) {
        seen.push(['body', chunk.toString()]);
        return first ? 'skip' : undefined;
      },
      eob() {
        seen.push(['eob', this.bodySkipped, this.signal === signals.at(-1)]);
        if (!first) return 'reject';
        first = false;
        this.addHeader('X', 'y');
        throw new Error('after an edit');
      },
      unknown() {
        seen.push(['unknown', this.bodySkipped, this.macro('i'), this.signal.aborted]);
      },
    };
    return { script, seen, signals };
  };

  await t.test('P69 neither macros nor signal, skip, reply or edits are found in the next message', async (t) => {
    const { script, seen, signals } = curious();
    const { mta } = inMemory(milter(script).MyMilter, { smfifOptions: 0x1ff, smfipOptions: 0x400 });
    await mta.negotiate();
    const bodies = [say.header(), say.body('1'), say.body('2')];
    mta.send(say.macros('M', { i: 'A' }));
    t.same(await mta.play(say.mail(), ...bodies, say.eob()), ['continue', 'continue', 'skip', 'continue', 'tempFail']);
    t.same(await mta.play(say.unknown()), ['continue']);
    t.same(await mta.play(say.mail(), ...bodies, say.eob()), [...Array(4).fill('continue'), 'reject']);
    t.same(seen, [
      ['mailFrom', false, 'A', false],
      ['body', '1'],
      ['eob', true, true],
      ['unknown', false, undefined, false],
      ['mailFrom', false, undefined, false],
      ['body', '1'],
      ['body', '2'],
      ['eob', false, true],
    ]);
    t.not(signals[0], signals[1]);
    t.same(mta.replies, []);
  });

  await t.test('P69 nor are they when the first message was aborted', async (t) => {
    const { script, seen, signals } = curious();
    const { mta } = inMemory(milter(script).MyMilter, { smfipOptions: 0x400 });
    await mta.negotiate();
    mta.send(say.macros('M', { i: 'A' }));
    await mta.play(say.mail(), say.header(), say.body('1'));
    mta.send(say.abort());
    await mta.play(say.unknown(), say.mail(), say.body('1'));
    t.same(seen, [
      ['mailFrom', false, 'A', false],
      ['body', '1'],
      ['unknown', false, undefined, false],
      ['mailFrom', false, undefined, false],
      ['body', '1'],
    ]);
    t.same(
      signals.map(({ aborted }) => aborted),
      [true, false],
    );
  });
});
