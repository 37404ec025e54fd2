// What goes wrong in a milter's own code, and what a mail server breaks: who hears of it, what is answered, who lives on.
import t from 'tap';
import { MilterError } from '../../lib/errors.js';
import { MilterProtocol, type ErrorPolicy, type SessionOptions } from '../../lib/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import {
  bareSession,
  each,
  gate,
  memoryLog,
  matchAll,
  milter,
  STAGES,
  thenable,
  unlookable,
  type Script,
} from '../helpers/milter.js';
import { COMMANDS, inMemory, message, say, type Mta } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

interface Started {
  readonly mta: Mta;
  readonly calls: string[];
  readonly errors: readonly MilterError[];
  readonly log: ReturnType<typeof memoryLog>;
}

/** A milter that goes on everywhere but where its script says otherwise. */
async function start(script: Script = {}, options: SessionOptions = {}): Promise<Started> {
  const { MyMilter, calls } = milter({ ...each(STAGES), ...script });
  const log = memoryLog();
  const { mta, errors } = inMemory(MyMilter, { smfifOptions: 0x1ff, smfipOptions: 0x400, log, ...options });
  await mta.negotiate();
  return { mta, calls, errors, log };
}

const boom = (): never => {
  throw new Error('boom');
};

t.test('the error policy', async (t) => {
  for (const [name, errorPolicy, type] of [
    ['the default', undefined, 'tempFail'],
    ['tempfail', 'tempfail', 'tempFail'],
    ['accept', 'accept', 'accept'],
    ['reject', 'reject', 'reject'],
    ['a function that says continue', (): 'continue' => 'continue', 'continue'],
    ['a function that says shutdown', (): 'shutdown' => 'shutdown', 'replyCode'],
  ] as const) {
    for (const stage of STAGES) {
      const expected = stage === 'unknown' && type === 'accept' ? 'continue' : type;
      await t.test(`P75 ${name}: a ${stage}() that fails is answered with ${expected}, and told of`, async (t) => {
        for (const callback of [boom, async (): Promise<never> => boom()]) {
          const { mta, calls, errors, log } = await start({ [stage]: callback }, { errorPolicy });
          const inside = STAGES.indexOf(stage) > 2 && stage !== 'unknown';
          if (inside) await mta.play(say.mail());
          t.match(await mta.ask(COMMANDS[stage]), { type: expected });
          matchAll(t, errors, [{ code: 'ERR_MILTER_CALLBACK', stage, message: `${stage}() failed: boom` }]);
          t.match(errors[0]?.cause, { message: 'boom' });
          matchAll(t, log.lines, [
            { level: 'error', message: `${stage}() failed: boom`, details: { code: 'ERR_MILTER_CALLBACK' } },
          ]);
          t.same(calls, [...(inside ? ['mailFrom'] : []), stage]);
          t.same(mta.replies, [], 'one reply');
        }
      });
    }
  }

  await t.test('P75 the connection stays of use: the next message is like any other', async (t) => {
    let broken = true;
    const { mta, calls } = await start({ header: () => (broken ? boom() : undefined) });
    t.same(await mta.play(say.mail(), say.header(), say.eob()), ['continue', 'tempFail', 'tempFail']);
    broken = false;
    t.same(await mta.play(...message()), Array(7).fill('continue'));
    t.same(calls, ['mailFrom', 'header', ...STAGES.slice(2, 9)]);
  });

  await t.test('the class may say it, and the option wins', async (t) => {
    const statics = { errorPolicy: 'accept' };
    for (const [errorPolicy, type] of [
      [undefined, 'accept'],
      ['reject', 'reject'],
    ] as const) {
      const { mta } = inMemory(milter({ mailFrom: boom }, statics).MyMilter, { errorPolicy });
      await mta.negotiate();
      t.equal((await mta.ask(say.mail())).type, type);
    }
  });

  await t.test('a function is told the error and the stage', async (t) => {
    const told: unknown[] = [];
    const errorPolicy: ErrorPolicy = (error, where) => {
      told.push([error.code, (error.cause as Error).message, where]);
      return where.stage === 'rcpt' ? 'reject' : 'discard';
    };
    const { mta } = await start({ rcpt: boom, data: boom }, { errorPolicy });
    t.same(await mta.play(say.mail(), say.rcpt(), say.data()), ['continue', 'reject', 'discard']);
    t.same(told, [
      ['ERR_MILTER_CALLBACK', 'boom', { stage: 'rcpt' }],
      ['ERR_MILTER_CALLBACK', 'boom', { stage: 'data' }],
    ]);
  });

  for (const [what, policy, code] of [
    ['fails', boom, 'ERR_MILTER_CALLBACK'],
    ['says what is not legal there', () => 'discard', 'ERR_MILTER_VERDICT'],
    ['says nothing', () => {}, 'ERR_MILTER_VERDICT'],
    ['returns a promise', async () => 'reject', 'ERR_MILTER_VERDICT'],
  ] as const) {
    await t.test(`a function that ${what} is reported and taken for tempfail`, async (t) => {
      const { mta, errors } = await start({ helo: boom }, { errorPolicy: policy as ErrorPolicy });
      t.match(await mta.ask(say.helo()), { type: 'tempFail' });
      matchAll(t, errors, [
        { code: 'ERR_MILTER_CALLBACK', stage: 'helo' },
        { code, stage: 'helo' },
      ]);
      if (policy === boom) t.equal(errors[1]?.message, 'errorPolicy failed: boom');
    });
  }

  await t.test('edits that were made before the failure are not sent, also where it lets pass', async (t) => {
    const objects: MilterProtocol[] = [];
    const eob = function (this: MilterProtocol): void {
      objects.push(this);
      this.addHeader('X', 'y');
      boom();
    };
    const { mta } = await start({ eob }, { errorPolicy: 'accept' });
    t.match(await mta.ask(say.mail()), { type: 'continue' });
    t.match(await mta.ask(say.eob()), { type: 'accept' });
    t.throws(() => objects[0]?.addHeader('X', 'y'), { message: /called outside every callback$/ }, 'it has ended');
  });
});

t.test('what a callback throws', async (t) => {
  const bare = Object.create(null) as object;
  for (const [what, thrown, says] of [
    ['a string', 'no', 'eob() failed: "no"'],
    ['nothing', undefined, 'eob() failed: undefined'],
    ['null', null, 'eob() failed: null'],
    ['a number', 5, 'eob() failed: 5'],
    ['a symbol', Symbol('s'), 'eob() failed: Symbol(s)'],
    ['an object that cannot become a string', bare, 'eob() failed: an object'],
    ['an array', [1], 'eob() failed: an array of 1'],
  ] as const) {
    await t.test(`${what}: it is the cause of a MilterError`, async (t) => {
      for (const eob of [
        (): never => {
          throw thrown;
        },
        () => Promise.reject(thrown),
      ]) {
        const { mta, errors } = await start({ eob });
        await mta.play(say.mail());
        t.match(await mta.ask(say.eob()), { type: 'tempFail' });
        matchAll(t, errors, [{ code: 'ERR_MILTER_CALLBACK', stage: 'eob', message: says }]);
        t.equal(errors[0]?.cause, thrown);
      }
    });
  }

  await t.test('a MilterError stays what it is', async (t) => {
    const mine = new MilterError('ERR_MILTER_VALUE', 'mine');
    const { mta, errors } = await start({ helo: () => Promise.reject(mine) });
    await mta.play(say.helo());
    t.same(errors, [mine]);
  });
});

t.test('what a callback returns that is like a promise', async (t) => {
  const cases: ReadonlyArray<readonly [what: string, make: () => unknown, answer: string]> = [
    ['calls back at once', () => thenable((resolve) => resolve('reject')), 'reject'],
    ['calls back later', () => thenable((resolve) => setImmediate(resolve, 'reject')), 'reject'],
    [
      'calls back twice',
      () =>
        thenable((resolve) => {
          resolve('reject');
          resolve('accept');
        }),
      'reject',
    ],
    [
      'calls back both ways',
      () =>
        thenable((resolve, reject) => {
          reject(new Error('boom'));
          resolve('accept');
        }),
      'tempFail',
    ],
    [
      'throws behind its answer',
      () =>
        thenable((resolve) => {
          resolve('discard');
          boom();
        }),
      'discard',
    ],
    ['throws', () => thenable(boom), 'tempFail'],
    ['gives another one', () => thenable((resolve) => resolve(thenable((inner) => inner('reject')))), 'reject'],
    ['cannot be looked at', unlookable, 'tempFail'],
  ];
  for (const [what, make, answer] of cases) {
    await t.test(`one of a foreign make that ${what}: one reply`, async (t) => {
      const { mta, errors } = await start({ eob: make });
      await mta.play(say.mail());
      t.match(await mta.ask(say.eob()), { type: answer });
      await new Promise(setImmediate);
      t.match(await mta.ask(say.mail()), { type: 'continue' });
      t.same(mta.replies, []);
      t.equal(errors.length, answer === 'tempFail' ? 1 : 0);
    });
  }
});

t.test('abort() and close()', async (t) => {
  for (const [how, callback] of [
    ['throws', boom],
    ['rejects', async () => boom()],
    ['cannot be looked at', unlookable],
  ] as const) {
    await t.test(`one that ${how} is told of, and changes nothing`, async (t) => {
      const { mta, calls, errors } = await start({ abort: callback, close: callback });
      await mta.play(say.mail());
      mta.send(say.abort());
      t.same(await mta.play(say.mail(), say.eob()), ['continue', 'continue']);
      mta.send(say.quitNewConnection());
      await mta.play(say.connect());
      mta.send(say.quit());
      t.equal(await mta.closed, undefined);
      t.same(calls, ['mailFrom', 'abort true', 'mailFrom', 'eob', 'close', 'connect', 'close']);
      matchAll(t, errors, [
        { code: 'ERR_MILTER_CALLBACK', stage: 'abort', message: 'abort() failed: boom' },
        { code: 'ERR_MILTER_CALLBACK', stage: 'close', message: 'close() failed: boom' },
        { code: 'ERR_MILTER_CALLBACK', stage: 'close' },
      ]);
    });
  }

  for (const [how, wait] of [
    ['at once', (): void => {}],
    ['in time', async (): Promise<void> => {}],
  ] as const) {
    await t.test(`behind one that has ended ${how} the object is in no callback`, async (t) => {
      const objects: MilterProtocol[] = [];
      const abort = function (this: MilterProtocol): void | Promise<void> {
        objects.push(this);
        return wait();
      };
      const { mta } = inMemory(milter({ abort }).MyMilter);
      await mta.negotiate();
      await mta.play(say.eob());
      mta.send(say.abort());
      await settled();
      t.throws(() => objects[0]?.setReply(550, '', 'no'), { message: /it was called outside every callback$/ });
    });
  }
});

t.test('a constructor that throws', async (t) => {
  for (const [errorPolicy, answer] of [
    ['tempfail', 'tempFail'],
    ['accept', 'accept'],
    ['reject', 'reject'],
    [(): 'connFail' => 'connFail', 'replyCode'],
  ] as const) {
    await t.test(`negotiates, and everything is answered by the error policy: ${answer}`, async (t) => {
      let working = false;
      const calls: string[] = [];
      class Fragile extends MilterProtocol {
        constructor() {
          super();
          if (!working) boom();
        }
        override connect(): void {
          calls.push('connect');
        }
        override close(): void {
          calls.push('close');
        }
      }
      const { mta, errors } = inMemory(Fragile, { errorPolicy });
      t.match(await mta.negotiate(), { type: 'negotiate', actions: 0, protocol: 0 });
      matchAll(t, errors, [{ code: 'ERR_MILTER_CALLBACK', stage: 'connect', message: 'The constructor failed: boom' }]);
      const commands = [say.connect(), say.helo(), ...message(), say.unknown(), say.mail()];
      t.same(await mta.play(...commands), Array(commands.length).fill(answer));
      mta.send(say.abort());
      t.same(await mta.play(say.eob()), [answer]);
      t.same(calls, []);
      working = true;
      mta.send(say.quitNewConnection());
      t.same(await mta.play(say.connect(), ...message()), Array(8).fill('continue'));
      t.same(calls, ['connect'], 'the next one works, and is asked');
      working = false;
      mta.send(say.quitNewConnection());
      t.same(await mta.play(say.connect()), [answer]);
      mta.send(say.quit());
      t.equal(await mta.closed, undefined);
      t.same(calls, ['connect', 'close']);
    });
  }
});

t.test('what a mail server breaks', async (t) => {
  const violations: ReadonlyArray<readonly [what: string, code: string, bytes: Buffer]> = [
    ['a packet of length 0', 'ERR_MILTER_EMPTY_PACKET', u32(0)],
    ['a packet larger than the limit', 'ERR_MILTER_PACKET_TOO_LARGE', u32(0x7fff_ffff)],
    ['a packet of an unknown code', 'ERR_MILTER_UNKNOWN_CODE', packet('Z')],
    ['a packet with wrong content', 'ERR_MILTER_MALFORMED', packet('L', 'Subject')],
    ['a second CONNECT', 'ERR_MILTER_SEQUENCE', packet('C', 'h', Buffer.from('U'))],
    ['a second offer', 'ERR_MILTER_SEQUENCE', packet('O', u32(6), u32(0), u32(0))],
  ];
  for (const [what, code, bytes] of violations) {
    await t.test(`${what} ends the session, with abort() and close()`, async (t) => {
      const { mta, calls, errors, log } = await start();
      await mta.play(say.connect(), say.mail());
      mta.bytes(Buffer.concat([bytes, packet('N')]));
      t.match(await mta.closed, { code });
      matchAll(t, errors, [{ code }]);
      matchAll(t, log.lines, [{ level: 'error', details: { code } }]);
      t.same(calls, ['connect', 'mailFrom', 'abort true', 'close']);
      t.same(mta.replies, []);
    });

    await t.test(`${what} behind a callback at work: that one is told, and awaited`, async (t) => {
      const { promise, open } = gate();
      let signal: AbortSignal | undefined;
      const { mta, calls, errors } = await start({
        header() {
          ({ signal } = this);
          return promise;
        },
      });
      await mta.play(say.connect(), say.mail());
      mta.send(say.header());
      mta.bytes(bytes);
      // A frame that cannot be cut is found at once; what is wrong with an order, in its turn.
      if (code !== 'ERR_MILTER_SEQUENCE') t.match(signal, { aborted: true, reason: { code } });
      else t.equal(signal?.aborted, false);
      t.same(calls, ['connect', 'mailFrom', 'header']);
      mta.send(say.eob());
      open();
      t.match(await mta.closed, { code });
      matchAll(t, errors, [{ code }]);
      t.same(calls, ['connect', 'mailFrom', 'header', 'abort true', 'close']);
    });
  }

  await t.test("what comes behind the break, while a callback is at work, is nobody's: nor is the end", async (t) => {
    const { promise, open } = gate();
    const { MyMilter, calls } = milter({ ...each(STAGES), header: () => promise });
    const { session, replies, errors, closed } = bareSession(MyMilter);
    session.feed(packet('O', u32(6), u32(0), u32(0)));
    session.feed(Buffer.concat([packet('M', '<>'), packet('L', 'X', 'y')]));
    session.feed(u32(0));
    t.ok(session.feed(Buffer.from('GET / HTTP/1.1')) && session.receive(say.eob()));
    session.end();
    session.lost(new Error('gone'));
    session.sendProgress();
    matchAll(t, errors, [{ code: 'ERR_MILTER_EMPTY_PACKET' }]);
    open();
    t.match(await closed, { code: 'ERR_MILTER_EMPTY_PACKET' });
    t.equal(errors.length, 1);
    t.equal(replies.length, 2);
    t.same(calls, ['mailFrom', 'header', 'abort true', 'close']);
  });

  await t.test('commands before the break are answered, those behind it are not heard', async (t) => {
    const { MyMilter, calls } = milter(each(STAGES));
    const { session, replies, errors, closed } = bareSession(MyMilter);
    session.feed(packet('O', u32(6), u32(0), u32(0)));
    session.feed(Buffer.concat([packet('M', '<>'), packet('E'), packet('E'), packet('M', '<>')]));
    t.match(await closed, { code: 'ERR_MILTER_SEQUENCE' });
    t.same(
      replies.map(({ type }) => type),
      ['negotiate', 'continue', 'continue'],
    );
    t.same(calls, ['mailFrom', 'eob', 'close']);
    t.equal(errors.length, 1);
  });

  await t.test('one session ends, the others of its class live on', async (t) => {
    const { MyMilter, calls } = milter({ ...each(STAGES), eob: async () => {} });
    const [one, other] = [inMemory(MyMilter), inMemory(MyMilter)];
    await one.mta.negotiate();
    await other.mta.negotiate();
    await Promise.all([one.mta.play(say.mail()), other.mta.play(say.mail())]);
    one.mta.bytes(packet('Z'));
    t.match(await one.mta.closed, { code: 'ERR_MILTER_UNKNOWN_CODE' });
    t.same(await other.mta.play(say.eob(), ...message()), Array(8).fill('continue'));
    t.same(other.errors, []);
    t.equal(calls.filter((name) => name === 'close').length, 1);
  });

  await t.test('a failure of the session itself, or of its port, ends this session too', async (t) => {
    const { MyMilter, calls } = milter(each(STAGES));
    const { session, replies, errors, closed } = bareSession(MyMilter);
    session.receive({ type: 'negotiate', version: 6, actions: 0, protocol: 0 });
    replies.push = boom;
    session.receive(say.mail());
    t.match(await closed, { code: 'ERR_MILTER_CALLBACK', message: 'The session failed: boom' });
    t.equal(errors.length, 1);
    t.same(calls, ['mailFrom', 'abort true', 'close']);
  });
});

t.test('a logger and a listener that fail harm neither the session nor the process', async (t) => {
  const fail = (): never => {
    throw new Error('disk full');
  };
  const { MyMilter } = milter({ rcpt: () => Promise.reject(new Error('boom')), eob: () => {} });
  const { mta, session } = inMemory(MyMilter, { log: { info: fail, warn: fail, error: fail }, logMessages: true });
  session.on('sessionError', fail);
  await mta.negotiate();
  t.same(await mta.play(say.mail(), say.rcpt(), say.eob()), ['continue', 'tempFail', 'continue']);
});

t.test('what a mail server sends wrong is told with the command before it', async (t) => {
  const { MyMilter } = milter({ rcpt: () => {} });
  const { mta, errors } = inMemory(MyMilter);
  await mta.negotiate();
  await mta.play(say.mail());
  mta.bytes(Buffer.from([0, 0, 0, 2, 0x52, 0x61]));
  await mta.closed;
  matchAll(t, errors, [{ code: 'ERR_MILTER_MALFORMED', packet: 'rcpt', stage: 'mailFrom' }]);
});
