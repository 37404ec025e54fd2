// What becomes of failures: the reply, the event with its code and stage, the line in the log.
import { MilterError } from '../../../lib/errors.js';
import { ACCEPT, SMFIF_ADDHDRS, type FactoryOptions, type Stage } from '../../../lib/index.js';
import { outcome } from '../../helpers/eob.js';
import { memoryLog } from '../../helpers/milter.js';
import { ALL_ACTIONS, COMMANDS, message, say } from '../../helpers/mta.js';
import { Forgiving, Homeless, type Deed } from './milters.js';
import { playing, puppets, type Part } from './puppets.js';

/** What a callback does wrong, where, and what is told of it. */
const WRONGS: ReadonlyArray<readonly [stage: Stage, deed: Deed, told: object]> = [
  ['mailFrom', ['throw', 'oops'], { code: 'ERR_MILTER_CALLBACK', cause: { name: 'Error', message: 'oops' } }],
  ['data', ['throwText', 'oops'], { code: 'ERR_MILTER_CALLBACK', cause: 'oops' }],
  ['header', ['say', 5], { code: 'ERR_MILTER_VERDICT', message: 'header() returned 5, which is no verdict' }],
  ['eoh', ['say', 'skip'], { code: 'ERR_MILTER_VERDICT' }],
  ['body', ['call', 'addHeader', 'X', 'y'], { code: 'ERR_MILTER_WRONG_STAGE' }],
  ['eob', ['call', 'addHeader', 'X', '\0'], { code: 'ERR_MILTER_ARGUMENT' }],
  ['eob', ['call', 'delRcpt', '<a@example.org>'], { code: 'ERR_MILTER_NOT_NEGOTIATED' }],
  ['eob', ['call', 'addHeader', 'X', '\ud800'], { code: 'ERR_MILTER_TEXT', stage: undefined }],
  ['rcpt', ['never'], { code: 'ERR_MILTER_DEADLINE', message: 'rcpt() did not end within 30 ms' }],
  ['eob', ['never'], { code: 'ERR_MILTER_DEADLINE', message: 'eob() did not end within 40 ms' }],
];

export const failures: Part = (t, variant) => {
  t.test('P75 each failure is answered for now, and told of once, with its code and its stage', async (t) => {
    const options = { smfifOptions: SMFIF_ADDHDRS, callbackDeadline: 30, eobDeadline: 40 };
    for (const [stage, deed, told] of WRONGS) {
      const play = await playing(t, variant, { [stage]: [['tick'], deed] }, options);
      const { mta } = await play.agreed();
      const before = message().slice(
        0,
        message().findIndex(({ type }) => type === stage),
      );
      await mta.play(...before);
      t.equal((await mta.ask(COMMANDS[stage])).type, 'tempFail', JSON.stringify([stage, deed]));
      const error = await play.failure();
      t.match(error, { name: 'MilterError', stage, ...told }, JSON.stringify(deed));
      t.ok(error instanceof MilterError);
      mta.end();
      await play.alone();
      t.strictSame(play.errors, []);
    }
  });

  t.test(
    'P75 a deadline that has passed ends the SMTP session for the milter, with every message refused',
    async (t) => {
      const script = { mailFrom: [['first', ['never']]], rcpt: [] } as const;
      const play = await playing(t, variant, script, { callbackDeadline: 30 });
      const { mta } = await play.agreed();
      t.strictSame(
        await mta.play(...message()),
        message().map(() => 'tempFail'),
      );
      t.match(await play.failure(), { code: 'ERR_MILTER_DEADLINE', stage: 'mailFrom' });
      mta.send(say.abort());
      t.strictSame(
        await mta.play(...message()),
        message().map(() => 'tempFail'),
      );
      mta.send(say.quit());
      await mta.closed;
      await play.alone();
      t.equal(play.count('mailFrom'), 1);
      t.equal(play.count('close'), 1);
      t.strictSame(play.errors, []);
    },
  );

  t.test('P30 what breaks the protocol is told of with the packet it came with', async (t) => {
    const play = await playing(t, variant, { connect: [] });
    const { mta } = await play.agreed();
    mta.send(say.connect(), say.connect());
    await mta.closed;
    t.match(await play.failure(), { code: 'ERR_MILTER_SEQUENCE', packet: 'connect', stage: 'connect' });
    const other = await play.agreed();
    other.mta.send({ type: 'negotiate', version: 6, actions: 0, protocol: 0 });
    await other.mta.closed;
    t.match(await play.failure(), { code: 'ERR_MILTER_SEQUENCE', packet: 'negotiate' });
    await play.alone();
    t.strictSame(play.errors, []);
  });

  t.test('Options: errorPolicy as a word says what the mail server hears', async (t) => {
    for (const [errorPolicy, reply] of [
      ['accept', 'accept'],
      ['reject', 'reject'],
      ['tempfail', 'tempFail'],
    ] as const) {
      const play = await playing(t, variant, { mailFrom: [['throw', 'oops']] }, { errorPolicy });
      const { mta } = await play.agreed();
      t.equal((await mta.ask(say.mail())).type, reply);
      t.match(await play.failure(), { code: 'ERR_MILTER_CALLBACK' });
    }
  });

  t.test('Options: `static errorPolicy` may be a function; the option of the name wins', async (t) => {
    const script = { mailFrom: [['throw', 'oops']], eob: [['throw', 'oops']] } as const;
    const asked = async (options: FactoryOptions): Promise<string[]> => {
      const play = await playing(t, variant, script, { ...options, Milter: Forgiving });
      const { mta } = await play.agreed();
      const replies = await mta.play(say.mail());
      mta.send(say.abort());
      replies.push((await mta.ask(say.rcpt())).type);
      return replies;
    };
    t.equal((await asked({}))[0], 'reject');
    t.equal((await asked({ errorPolicy: 'accept' }))[0], 'accept');
  });

  t.test('Options: what cannot travel to a worker is refused when the factory is made, in words', async (t) => {
    const errorPolicy = () => ACCEPT;
    const gift = (): void => {};
    const made = {
      errorPolicy: () => puppets(t, variant, {}, { errorPolicy }),
      context: () => puppets(t, variant, {}, { gift }),
      'static module': () => puppets(t, variant, {}, { Milter: Homeless }),
    };
    for (const [what, make] of Object.entries(made)) {
      if (variant.runtime === 'here') {
        t.doesNotThrow(make, what);
        continue;
      }
      const factory = variant.runtime === 'thread' ? 'ThreadFactory' : 'ForkFactory';
      t.throws(make, { code: 'ERR_MILTER_OPTION', message: new RegExp(`^${what} .*${factory}`) });
    }
    if (variant.runtime !== 'here') {
      t.throws(made['static module'], {
        message: /add `static module = import\.meta\.url;` to Homeless, got undefined$/,
      });
      t.throws(made['errorPolicy'], { message: /make it `static errorPolicy` of the class/ });
    }
  });

  t.test('Log: a failure is a line, with what it was of and who had it', async (t) => {
    const log = memoryLog();
    const play = await playing(t, variant, { mailFrom: [['throw', 'oops']], teardown: [['throw', 'no']] }, { log });
    const { mta } = await play.agreed();
    mta.send(say.macros('M', { i: 'Q1' }));
    t.equal((await mta.ask(say.mail())).type, 'tempFail');
    mta.end();
    await play.factory.close();
    t.match(log.lines, [
      {
        level: 'error',
        message: 'mailFrom() failed: oops',
        details: {
          code: 'ERR_MILTER_CALLBACK',
          queueId: 'Q1',
          err: { name: 'MilterError', stage: 'mailFrom', cause: { message: 'oops' } },
        },
      },
      { level: 'error', message: 'Puppet.teardown() failed: no', details: { code: 'ERR_MILTER_CALLBACK' } },
    ]);
    t.equal(log.lines.length, 2);
    const { worker } = (log.lines[0] as { details: { worker?: string } }).details;
    t.match(worker, { here: undefined, thread: /^thread \d+$/, process: /^process \d+$/ }[variant.runtime]);
    t.match(play.errors, [{ stage: 'mailFrom' }, { message: 'Puppet.teardown() failed: no' }]);
  });

  t.test('Log: a line for each message when asked for, with what it was and who had it; warnings too', async (t) => {
    const log = memoryLog();
    const script = {
      mailFrom: [['of', '<bad@example.org>', ['call', 'setReply', 550, '5.7.1', 'no']]],
      rcpt: [
        ['report', 'where'],
        ['call', 'setReply', 550, '5.7.1', 'no'],
        ['say', ACCEPT],
      ],
      eob: [['call', 'addHeader', 'X', 'y']],
    } as const;
    const options = { log, logMessages: true, smfifOptions: ALL_ACTIONS };
    const play = await playing(t, variant, script, options);
    const { mta } = await play.agreed();
    mta.send(say.macros('M', { i: 'Q1' }), say.mail());
    await mta.reply();
    mta.send(say.eob());
    await outcome(mta);
    mta.send(say.macros('M', { i: 'Q2' }));
    t.match(await mta.ask(say.mail('<bad@example.org>')), { type: 'replyCode', text: '550 5.7.1 no' });
    mta.end();
    await play.factory.close();
    t.match(
      log.lines.map(({ level, details, message: text }) => ({ level, ...details, text })),
      [
        { level: 'info', queueId: 'Q1', verdict: 'continue', stage: 'eob', edits: { addHeader: 1 }, ms: Number },
        { level: 'info', queueId: 'Q2', verdict: 'reject', stage: 'mailFrom', edits: undefined, ms: Number },
      ],
    );
    t.equal(log.lines.length, 2);
    for (const { details } of log.lines) {
      const { worker } = details as { worker: unknown };
      t.match(
        String(worker),
        { here: String(process.pid), thread: /^thread \d+$/, process: /^process \d+$/ }[variant.runtime],
      );
    }
  });

  t.test('Log: a logger that fails harms nobody', async (t) => {
    const fails = (): never => {
      throw new Error('disk full');
    };
    const log = { info: fails, warn: fails, error: fails };
    const script = { mailFrom: [['first', ['throw', 'oops']]] } as const;
    const play = await playing(t, variant, script, { log, logMessages: true });
    const { mta } = await play.agreed();
    t.equal((await mta.ask(say.mail())).type, 'tempFail');
    t.match(await play.failure(), { message: 'mailFrom() failed: oops' });
    mta.send(say.abort());
    t.strictSame(await mta.play(say.mail(), say.eob()), ['continue', 'continue']);
  });
};
