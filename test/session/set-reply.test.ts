// setReply(): the SMTP reply of the milter's own, when it is used, what it looks like on the wire, what it may say.
import t from 'tap';
import type { Command } from '../../lib/codec/index.js';
import type { MilterError } from '../../lib/errors.js';
import { MilterProtocol, type SessionOptions, type Verdict } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { each, memoryLog, matchAll, milter, STAGES, times, type Script } from '../helpers/milter.js';
import { COMMANDS, inMemory, say, type Mta } from '../helpers/mta.js';

type Arguments = Parameters<MilterProtocol['setReply']>;

async function start(
  script: Script,
  options: SessionOptions = {},
): Promise<{
  mta: Mta;
  calls: string[];
  errors: readonly MilterError[];
  warnings: string[];
  /** Sends a command; the bytes of the answer. */
  bytes: (command: Command) => Promise<Buffer>;
}> {
  const { MyMilter, calls } = milter(script);
  const log = memoryLog();
  const { mta, session, errors } = inMemory(MyMilter, { ...options, log });
  await mta.negotiate();
  let last: Buffer = Buffer.alloc(0);
  session.on('data', (chunk: Buffer) => (last = chunk));
  const warnings: string[] = [];
  log.warn = (_details, message) => void warnings.push(message);
  const bytes = async (command: Command): Promise<Buffer> => {
    await mta.ask(command);
    return last;
  };
  return { mta, calls, errors, warnings, bytes };
}

t.test('when it is used', async (t) => {
  const no: Arguments = [550, '5.7.1', 'no'];
  const later: Arguments = [451, '4.7.1', 'later'];
  const NO = packet('y', '550 5.7.1 no');
  const LATER = packet('y', '451 4.7.1 later');
  type Case = readonly [
    what: string,
    says: Arguments,
    returns: Verdict | 'it' | undefined,
    answer: Buffer,
    warns: boolean,
  ];
  const cases: readonly Case[] = [
    ['returned', no, 'it', NO, false],
    ['and nothing returned', no, undefined, NO, false],
    ['and REJECT returned', no, 'reject', NO, false],
    ['with 4xx returned', later, 'it', LATER, false],
    ['with 4xx, and nothing returned', later, undefined, LATER, false],
    ['with 4xx, and TEMPFAIL returned', later, 'tempFail', LATER, false],
    ['P104 with 4xx, and REJECT returned: the plain one', later, 'reject', packet('r'), true],
    ['P104 with 5xx, and TEMPFAIL returned: the plain one', no, 'tempFail', packet('t'), true],
    ['and CONTINUE returned, which wins', no, 'continue', packet('c'), true],
    ['and ACCEPT returned, which wins', no, 'accept', packet('a'), true],
    ['and DISCARD returned, which wins', no, 'discard', packet('d'), true],
  ];
  for (const [what, says, returns, answer, warns] of cases) {
    for (const slow of [false, true]) {
      await t.test(`setReply() ${what}${slow ? ', in an async callback' : ''}`, async (t) => {
        const eob = function (this: MilterProtocol): Verdict | undefined {
          const verdict = this.setReply(...says);
          return returns === 'it' ? verdict : returns;
        };
        const { errors, warnings, bytes } = await start({
          eob: slow
            ? async function (this: MilterProtocol) {
                await Promise.resolve();
                return eob.call(this);
              }
            : eob,
        });
        t.same(await bytes(say.eob()), answer);
        t.same(warnings, warns ? [`setReply() is not used: the callback returned '${returns}'`] : []);
        t.same(errors, []);
      });
    }
  }

  await t.test('P109 it is forgotten after its callback, whatever became of it', async (t) => {
    const { bytes, warnings } = await start({
      mailFrom() {
        this.setReply(...no);
        return 'continue';
      },
      rcpt: () => 'reject',
      data() {
        this.setReply(...no);
        throw new Error('boom');
      },
      eob: () => 'reject',
    });
    t.same(await bytes(say.mail()), packet('c'));
    t.same(await bytes(say.rcpt()), packet('r'));
    t.same(await bytes(say.data()), packet('t'), 'an error is an error');
    t.same(await bytes(say.mail()), packet('c'));
    t.same(await bytes(say.eob()), packet('r'));
    t.equal(warnings.length, 2);
  });

  await t.test('of several the last one counts', async (t) => {
    const { bytes } = await start({
      eob() {
        this.setReply(...no);
        this.setReply(...later);
      },
    });
    t.same(await bytes(say.eob()), LATER);
  });

  for (const stage of STAGES) {
    await t.test(`from ${stage}() it is a refusal like REJECT, and strays hear r`, async (t) => {
      const script: Script = each([stage], function (this: MilterProtocol) {
        return this.setReply(...no);
      });
      const { mta, bytes, calls } = await start({ mailFrom() {}, ...script });
      if (stage !== 'mailFrom') await mta.play(say.mail());
      calls.length = 0;
      t.same(await bytes(COMMANDS[stage]), NO);
      const own = stage === 'rcpt' || stage === 'unknown' || stage === 'eob';
      t.same(await bytes(say.header()), packet(stage === 'eob' || !own ? 'r' : 'c'));
      const still = stage === 'connect' || stage === 'helo';
      t.same(await bytes(say.mail()), stage === 'mailFrom' ? NO : packet(still ? 'r' : 'c'));
    });

    await t.test(`a 421 from ${stage}() ends the SMTP session: strays hear t`, async (t) => {
      const script: Script = each([stage], function (this: MilterProtocol) {
        return this.setReply(421, '4.7.0', 'bye');
      });
      const { mta, bytes, calls } = await start({ helo() {}, mailFrom() {}, ...script });
      if (stage !== 'mailFrom') await mta.play(say.mail());
      t.same(await bytes(COMMANDS[stage]), packet('y', '421 4.7.0 bye'));
      calls.length = 0;
      for (const command of [say.data(), say.helo(), say.mail(), say.eob(), say.unknown()]) {
        t.same(await bytes(command), packet('t'));
      }
      t.same(calls, []);
    });
  }
});

t.test('what it looks like', async (t) => {
  const long = 'x'.repeat(980);
  const cases: ReadonlyArray<readonly [what: string, says: Arguments, text: string]> = [
    [
      'P108 lines: the same code, - on all but the last, CRLF between',
      [550, '5.7.1', ['A', 'B', 'C']],
      '550-5.7.1 A\r\n550-5.7.1 B\r\n550 5.7.1 C',
    ],
    ['P108 one line in an array', [550, '5.7.1', ['A']], '550 5.7.1 A'],
    ['P107 % is doubled', [550, '5.7.1', '100% of %s'], '550 5.7.1 100%% of %%s'],
    ['a code in a string', ['450', '4.2.0', 'busy'], '450 4.2.0 busy'],
    ['no enhanced code', [550, '', 'no'], '550 no'],
    ['P105 a line that could be taken for an enhanced code gets one', [550, '', '4.7.1 no'], '550 5.0.0 4.7.1 no'],
    ['nothing but codes', [550, '5.7.1', ''], '550 5.7.1 '],
    ['P106 980 bytes', [550, '5.7.1', long], `550 5.7.1 ${long}`],
    ['P106 32 lines', [550, '', Array<string>(32).fill('a')], `${'550-a\r\n'.repeat(31)}550 a`],
  ];
  for (const [what, says, text] of cases) {
    await t.test(what, async (t) => {
      const { bytes, errors } = await start({
        eob() {
          return this.setReply(...says);
        },
      });
      t.same(await bytes(say.eob()), packet('y', text));
      t.same(errors, []);
    });
  }
});

t.test('what it refuses', async (t) => {
  const cases: ReadonlyArray<readonly [what: string, says: readonly unknown[], message: RegExp]> = [
    [
      'P104 a code that lets pass, as the documentation has it',
      [250, '2.0.0', 'ok'],
      /250 is no refusal.* return ACCEPT/,
    ],
    ['P104 3xx', [354, '', 'go'], /the code must be 400 to 599, got 354/],
    ['P104 6xx', [600, '', 'no'], /400 to 599/],
    ['P104 two digits', ['55', '', 'no'], /400 to 599, got "55"/],
    ['P104 four digits', [5500, '', 'no'], /400 to 599/],
    ['P104 no number', ['5x0', '', 'no'], /400 to 599/],
    ['P104 nothing', [undefined, '', 'no'], /400 to 599/],
    ['P105 an enhanced code of another class', [550, '4.7.1', 'no'], /4\.7\.1 is of another class than 550/],
    ['P105 half an enhanced code', [550, '5.7', 'no'], /must be like 5\.7\.1, got "5\.7"/],
    ['P105 too many digits', [550, '5.1234.1', 'no'], /must be like/],
    ['P106 CR', [550, '', 'a\rb'], /"\\r" at 1/],
    ['P106 LF', [550, '', ['a', 'b\n']], /"\\n" at 1/],
    ['P106 NUL', [550, '', '\0'], /"\\u0000" at 0/],
    ['P106 981 bytes', [550, '', 'x'.repeat(981)], /has 981 bytes; at most 980/],
    ['P106 981 bytes, of fewer characters', [550, '', `${'é'.repeat(490)}x`], /has 981 bytes/],
    ['P106 33 lines', [550, '', Array(33).fill('a')], /has 33 lines; at most 32/],
    ['no lines', [550, '', []], /a string or an array of lines/],
    ['no string', [550, '', 5], /a string or an array of lines/],
    ['a line that is no string', [550, '', ['a', null]], /each line must be a string/],
  ];
  for (const [what, says, message] of cases) {
    await t.test(what, async (t) => {
      const thrown: unknown[] = [];
      const { mta, errors } = await start({
        mailFrom() {
          try {
            this.setReply(...(says as Arguments));
          } catch (error) {
            thrown.push(error);
          }
        },
        eob() {
          this.setReply(...(says as Arguments));
        },
      });
      t.same(await mta.play(say.mail(), say.eob()), ['continue', 'tempFail'], 'caught, nothing is said by it');
      matchAll(t, [...thrown, ...errors], times(2, { code: 'ERR_MILTER_ARGUMENT', message }));
    });
  }
});

t.test('where it does not work', async (t) => {
  await t.test('abort() and close() are not answered', async (t) => {
    const { mta, errors } = await start({
      abort() {
        this.setReply(550, '', 'no');
      },
      close() {
        this.setReply(550, '', 'no');
      },
    });
    mta.send(say.abort(), say.quit());
    await mta.closed;
    const says = (stage: string): string =>
      `setReply() works in a callback that is answered; it was called in ${stage}()`;
    matchAll(t, errors, [
      { code: 'ERR_MILTER_WRONG_STAGE', stage: 'abort', message: says('abort') },
      { code: 'ERR_MILTER_WRONG_STAGE', stage: 'close', message: says('close') },
    ]);
  });

  await t.test('in a constructor, and behind the end of a callback', async (t) => {
    const caught: unknown[] = [];
    class Early extends MilterProtocol {
      constructor() {
        super();
        this.attempt();
      }
      override eob(): void {
        late = () => this.attempt();
      }
      attempt(): void {
        try {
          this.setReply(550, '', 'no');
        } catch (error) {
          caught.push(error);
        }
      }
    }
    let late = (): void => {};
    const { mta } = inMemory(Early);
    await mta.negotiate();
    t.same(await mta.play(say.eob()), ['continue']);
    late();
    const message = 'setReply() works in a callback that is answered; it was called outside every callback';
    matchAll(t, caught, [
      { code: 'ERR_MILTER_WRONG_STAGE', stage: undefined, message },
      { code: 'ERR_MILTER_WRONG_STAGE', stage: undefined, message },
    ]);
  });

  await t.test('an object that no session has made has nothing to work with', async (t) => {
    const orphan = new MilterProtocol();
    const code = 'ERR_MILTER_DETACHED';
    t.throws(() => orphan.setReply(550, '', 'no'), { code, message: /was not made by a session/ });
    t.throws(() => orphan.signal, { code });
    t.throws(() => orphan.macro('i'), { code });
  });

  await t.test('nor has one that a milter makes in its constructor', async (t) => {
    let inner: MilterProtocol | undefined;
    class Outer extends MilterProtocol {
      override eob(): Verdict {
        inner = new MilterProtocol();
        return this.setReply(550, '', 'outer');
      }
    }
    class Nested extends Outer {
      readonly inner = new Outer();
    }
    const { mta } = inMemory(Nested);
    await mta.negotiate();
    t.match(await mta.ask(say.eob()), { type: 'replyCode', text: '550 outer' });
    t.throws(() => inner?.macro('i'), { code: 'ERR_MILTER_DETACHED' });
  });
});
