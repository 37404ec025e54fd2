// What is said in the log: a line for each message when asked for, what a dry run would have done, and never content.
import t from 'tap';
import {
  ACCEPT,
  CONN_FAIL,
  DISCARD,
  MilterProtocol,
  REJECT,
  SKIP,
  TEMPFAIL,
  type Result,
  type SessionOptions,
} from '../../lib/index.js';
import type { Command } from '../../lib/codec/index.js';
import { stopClock } from '../helpers/clock.js';
import { atEob, outcome, withEob } from '../helpers/eob.js';
import { memoryLog } from '../helpers/milter.js';
import { ALL_ACTIONS, inMemory, message, say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

/** A message whose macros have a queue id, up to its end. */
const withId = (id = 'Q1'): Command[] => [
  say.macros('M', { i: id }),
  say.mail('<secret-sender@a.org>', 'ENVID=secret-arg'),
  say.rcpt('<secret-rcpt@b.org>'),
  say.data(),
  say.header('Subject', 'secret-subject'),
  say.eoh(),
  say.body('secret-body'),
  say.eob(),
];

/** Plays a message to a milter that has all callbacks, of which some are functions of the test's. */
async function played(
  callbacks: Partial<Record<string, (m: MilterProtocol) => Result>>,
  options: SessionOptions,
  commands = withId(),
) {
  const log = memoryLog();
  const { lines } = log;
  class Milter extends MilterProtocol {
    override mailFrom() {
      return callbacks['mailFrom']?.(this);
    }
    override rcpt() {
      return callbacks['rcpt']?.(this);
    }
    override data() {}
    override header() {
      return callbacks['header']?.(this);
    }
    override eoh() {}
    override body() {
      return callbacks['body']?.(this);
    }
    override eob() {
      return callbacks['eob']?.(this);
    }
    override abort() {}
  }
  const { mta, session } = inMemory(Milter, { smfifOptions: ALL_ACTIONS, log, ...options });
  await mta.negotiate();
  const replies: string[] = [];
  for (const command of commands) {
    mta.send(command);
    if (command.type === 'macro' || command.type === 'abort') continue;
    if (command.type === 'eob') replies.push(...(await outcome(mta)).map((reply) => reply.type));
    else replies.push((await mta.reply()).type);
  }
  return { mta, session, lines, replies };
}

const everything = (m: MilterProtocol): void => {
  m.addHeader('X-Secret-Name', 'secret-value');
  m.addHeader('X-Secret-Name', 'secret-value');
  m.chgHeader('Subject', 'secret-value');
  m.addRcpt('secret-new@b.org', 'ORCPT=secret-arg');
  m.chgFrom('secret-from@b.org');
  m.quarantine('secret-reason');
  m.replBody('secret-new-body');
};
const COUNTS = { replBody: 1, addHeader: 2, chgHeader: 1, addRcptPar: 1, chgFrom: 1, quarantine: 1 };

t.test('without logMessages a message leaves no line', async (t) => {
  const { lines } = await played({ eob: everything }, {});
  t.strictSame(lines, []);
});

t.test('with logMessages a message leaves one line: queue id, verdict, stage, edits, time, worker', async (t) => {
  const clock = stopClock(t);
  const slow = (m: MilterProtocol): Result => {
    everything(m);
    return clock.pass(1234.4);
  };
  const { lines, mta } = await played({ eob: slow }, { logMessages: true });
  t.strictSame(lines, [
    {
      level: 'info',
      details: { queueId: 'Q1', verdict: 'continue', stage: 'eob', edits: COUNTS, ms: 1234, worker: process.pid },
      message: 'message: continue',
    },
  ]);
  mta.send(say.macros('M', { i: 'Q2' }), say.mail(), say.abort());
  await settled();
  t.match(lines[1], { details: { queueId: 'Q2', verdict: 'aborted', stage: 'abort', edits: undefined, ms: 0 } });
  t.equal(lines.length, 2);
});

t.test('the line tells where a message ended, and how', async (t) => {
  const oops = (): never => {
    throw new Error('oops');
  };
  const cases: ReadonlyArray<[Parameters<typeof played>[0], string, string]> = [
    [{ mailFrom: () => REJECT }, 'mailFrom', 'reject'],
    [{ rcpt: () => DISCARD }, 'rcpt', 'discard'],
    [{ header: () => ACCEPT }, 'header', 'accept'],
    [{ body: () => TEMPFAIL }, 'body', 'tempFail'],
    [{ eob: (m) => m.setReply(550, '5.7.1', 'no') }, 'eob', 'reject'],
    [{ rcpt: () => REJECT }, 'eob', 'continue'],
    [{ header: oops }, 'header', 'tempFail'],
    [{ header: () => CONN_FAIL }, 'header', 'connFail'],
  ];
  for (const [callbacks, stage, verdict] of cases) {
    const { lines } = await played(callbacks, { logMessages: true });
    const [line, ...more] = lines.filter(({ level }) => level === 'info');
    t.match(line, { details: { queueId: 'Q1', stage, verdict }, message: `message: ${verdict}` });
    t.strictSame(more, []);
  }
});

t.test('the line of a message that was cut short comes with its end', async (t) => {
  const ends: Record<string, (mta: Awaited<ReturnType<typeof played>>) => void> = {
    ABORT: ({ mta }) => mta.send(say.abort()),
    QUIT: ({ mta }) => mta.send(say.quit()),
    MAIL: ({ mta }) => mta.send(say.mail()),
    'the end of the connection': ({ mta }) => mta.end(),
  };
  for (const [name, end] of Object.entries(ends)) {
    const ready = await played({}, { logMessages: true }, withId().slice(0, 3));
    t.strictSame(ready.lines, []);
    end(ready);
    await settled();
    t.match(ready.lines, [{ details: { verdict: 'aborted', stage: 'abort' } }], name);
    t.equal(ready.lines.length, 1);
  }
});

t.test('edits are counted only where they were made', async (t) => {
  const failing = async function* (): AsyncGenerator<string> {
    yield* [];
    throw new Error('oops');
  };
  const endings: Record<string, (m: MilterProtocol) => Result> = {
    'a refusal': () => REJECT,
    'a throw': () => {
      throw new Error('oops');
    },
    'a body that cannot be read': (m) => m.replBody(failing()),
    'a body that fails half-way': (m) => {
      m.replBody('x');
      m.replBody(failing(), { stream: true });
    },
  };
  for (const errorPolicy of ['tempfail', 'accept'] as const) {
    for (const [name, end] of Object.entries(endings)) {
      const eob = (m: MilterProtocol): Result => {
        everything(m);
        return end(m);
      };
      const { lines } = await played({ eob }, { logMessages: true, errorPolicy });
      t.match(lines.at(-1), { details: { stage: 'eob', edits: undefined } }, `${name}, ${errorPolicy}`);
    }
  }
});

t.test('nor where eob() did not end in time', async (t) => {
  const clock = stopClock(t);
  const log = memoryLog();
  const { lines } = log;
  const milter = withEob((m) => {
    m.addHeader('X', 'y');
    m.replBody(
      (async function* () {
        await new Promise(() => {});
        yield '';
      })(),
    );
  });
  const { mta } = inMemory(milter, { smfifOptions: ALL_ACTIONS, log, logMessages: true, errorPolicy: 'accept' });
  await mta.negotiate();
  mta.send(say.eob());
  await clock.pass(300_000);
  t.match(lines, [
    { level: 'error', details: { code: 'ERR_MILTER_DEADLINE' } },
    { level: 'info', details: { stage: 'eob', verdict: 'accept', edits: undefined } },
  ]);
  t.equal(lines.length, 2);
});

t.test('a failing callback is told of with its error, its code and the queue id', async (t) => {
  const cause = new Error('oops');
  const eob = (): never => {
    throw cause;
  };
  const { lines } = await played({ eob }, {});
  t.equal(lines.length, 1);
  t.match(lines[0], {
    level: 'error',
    message: 'eob() failed: oops',
    details: { code: 'ERR_MILTER_CALLBACK', queueId: 'Q1', err: { cause, stage: 'eob' } },
  });
});

t.test('a dry run calls every callback, answers continue to everything and changes nothing', async (t) => {
  const cases: ReadonlyArray<[string, Parameters<typeof played>[0]]> = [
    ['mailFrom', { mailFrom: () => REJECT }],
    ['rcpt', { rcpt: () => TEMPFAIL }],
    ['header', { header: () => DISCARD }],
    ['body', { body: () => SKIP }],
    ['eob', { eob: () => REJECT }],
    ['eob', { eob: (m) => (everything(m), ACCEPT) }],
    ['eob', { eob: everything }],
  ];
  for (const [stage, callbacks] of cases) {
    const { replies, lines, mta } = await played(callbacks, { dryRun: true });
    t.strictSame(
      replies,
      Array.from({ length: 7 }, () => 'continue'),
      stage,
    );
    t.match(lines[0], { level: 'info', details: { queueId: 'Q1' } });
    t.strictSame(
      await mta.play(...message()),
      Array.from({ length: 7 }, () => 'continue'),
      'the next message as well',
    );
  }
});

t.test('a dry run says what it would have done', async (t) => {
  const said = async (callbacks: Parameters<typeof played>[0]): Promise<unknown> =>
    (await played(callbacks, { dryRun: true })).lines;
  const line = (stage: string, verdict: string, more: object = {}): object => ({
    level: 'info',
    details: { queueId: 'Q1', stage, verdict, reply: undefined, edits: undefined, ...more },
    message: `dry run: ${stage}() would have said ${verdict}`,
  });
  const changed = {
    level: 'info',
    details: { queueId: 'Q1', edits: COUNTS },
    message: 'dry run: eob() would have changed the message',
  };
  t.strictSame(await said({}), []);
  t.strictSame(await said({ rcpt: () => REJECT }), [line('rcpt', 'reject')]);
  t.strictSame(await said({ header: (m) => m.setReply(451, '4.7.1', 'later') }), [
    line('header', 'tempFail', { reply: '451 4.7.1 later' }),
  ]);
  t.strictSame(await said({ eob: everything }), [changed]);
  t.strictSame(await said({ eob: (m) => (everything(m), ACCEPT) }), [
    line('eob', 'accept', { edits: COUNTS }),
    changed,
  ]);
  t.strictSame(
    await said({ eob: (m) => (everything(m), REJECT) }),
    [line('eob', 'reject')],
    'which takes the edits back',
  );
});

t.test('a dry run with logMessages has both lines', async (t) => {
  const { lines } = await played({ eob: everything }, { dryRun: true, logMessages: true });
  t.strictSame(
    lines.map((line) => line.message),
    ['dry run: eob() would have changed the message', 'message: continue'],
  );
});

t.test('no line about a message holds anything of its content, nor of the edits', async (t) => {
  const verdicts: Array<() => Result> = [() => undefined, () => ACCEPT, () => REJECT, () => TEMPFAIL, () => DISCARD];
  const all: unknown[] = [];
  for (const dryRun of [true, false]) {
    for (const verdict of verdicts) {
      for (const callback of ['mailFrom', 'rcpt', 'header', 'body']) {
        const eob = (m: MilterProtocol): Result => {
          everything(m);
          return verdict();
        };
        const macros = say.macros('M', { i: 'Q1', '{mail_addr}': 'secret-sender@a.org' });
        const commands = [macros, ...withId().slice(1), say.abort()];
        const { lines } = await played({ [callback]: verdict, eob }, { dryRun, logMessages: true }, commands);
        all.push(...lines);
      }
    }
  }
  t.ok(all.length > 40);
  t.notMatch(JSON.stringify(all), /secret/i);
});

t.test('by default nobody is told anything, and nothing breaks', async (t) => {
  const { replies, errors } = await atEob(() => Promise.reject(new Error('oops')), { logMessages: true, dryRun: true });
  t.match(replies, [{ type: 'continue' }]);
  t.equal(errors.length, 1);
});
