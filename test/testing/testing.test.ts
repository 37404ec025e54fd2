// milter-stream/testing: a milter tried in process, as its author would do it.
import { Readable } from 'node:stream';
import t from 'tap';
import { MilterProtocol, SMFIF_ADDHDRS, SMFIF_ALLOPTS, type MacroDict, type Result } from '../../lib/index.js';
import { MilterError, testMilter, testSession } from '../../lib/testing/index.js';

const SPAM = 'From: a@example.org\nSubject: buy\n\nnow\n';

class Spam extends MilterProtocol<{ word: string } | undefined> {
  #spam = false;
  override header(name: string, value: string) {
    if (name === 'Subject') this.#spam = value.includes(this.context?.word ?? 'buy');
  }
  override eob(): Result {
    if (this.#spam) return this.setReply(550, '5.7.1', 'No spam, please');
    this.addHeader('X-Spam', 'no');
    this.addRcpt('<archive@example.com>');
  }
}

class Failing extends MilterProtocol<{ at: string; how: 'throws' | 'rejects' | 'hangs' }> {
  #act(stage: string): Result {
    const { at, how } = this.context;
    if (at !== stage) return undefined;
    if (how === 'throws') throw new TypeError(`no ${stage}`);
    return how === 'hangs' ? new Promise(() => {}) : Promise.reject(new TypeError(`no ${stage}`));
  }
  override connect(): Result {
    return this.#act('connect');
  }
  override rcpt(): Result {
    return this.#act('rcpt');
  }
  override eob(): Result {
    return this.#act('eob');
  }
  override close() {
    return this.#act('close') as PromiseLike<void>;
  }
}

t.test('a verdict, with the words of the milter', async (t) => {
  const result = await testMilter(Spam, Buffer.from(SPAM), { from: 'a@example.org', to: ['b@example.com'] });
  t.match(result, { verdict: 'reject', stage: 'eob', reply: { code: 550, lines: ['No spam, please'] } });
  t.equal(result.message.toString(), SPAM.replaceAll('\n', '\r\n'), 'nothing was changed');
});

t.test('the resulting message and envelope; every edit is allowed unless options say less', async (t) => {
  const context = { word: 'sell' };
  const result = await testMilter(Spam, Readable.from([SPAM.slice(0, 20), SPAM.slice(20)]), { context });
  t.equal(result.verdict, 'accept');
  t.match(String(result.message), /^X-Spam: no\r$/m);
  t.strictSame(result.envelope, {
    from: '<sender@example.org>',
    to: ['<recipient@example.com>', '<archive@example.com>'],
  });
  t.strictSame(
    result.modifications.map(({ type }) => type),
    ['addHeader', 'addRcpt'],
  );
  t.strictSame([result.sessionErrors, result.logs], [[], []]);
  await t.rejects(testMilter(Spam, SPAM, { context, smfifOptions: SMFIF_ADDHDRS }), {
    code: 'ERR_MILTER_NOT_NEGOTIATED',
    message: /addRcpt/,
  });
  await t.rejects(
    testMilter(Spam, SPAM, { context, actions: SMFIF_ALLOPTS & ~SMFIF_ADDHDRS }),
    { code: 'ERR_MILTER_NOT_NEGOTIATED', message: /addHeader/ },
    'a mail server that allows less',
  );
});

t.test('the envelope, its arguments, the SMTP client and macros are what the test says', async (t) => {
  const heard: unknown[] = [];
  class Listening extends MilterProtocol {
    override connect(...[hostname, family, ip, port, macros]: Parameters<MilterProtocol['connect']>) {
      heard.push([hostname, family, ip, port, macros['j']]);
    }
    override helo(name: string) {
      heard.push(name);
    }
    override mailFrom(address: string, macros: MacroDict, args: readonly string[]) {
      heard.push([address, args, macros['i']]);
    }
    override rcpt(address: string, macros: MacroDict, args: readonly string[]) {
      heard.push([address, args, macros['rcpt_mailer']]);
    }
  }
  await testMilter(Listening, 'A: b\n\n', {
    peer: { hostname: 'mx.example.net', address: '2001:db8::1', port: 25, helo: 'hello.example.net' },
    from: '',
    fromArgs: ['SIZE=9'],
    to: ['b@example.com', '<c@example.com>'],
    toArgs: ['NOTIFY=NEVER'],
    refused: ['nobody@example.com'],
    smfipOptions: 0x800,
    macros: { connect: { j: 'here' }, mailFrom: { i: 'Q1' } },
  });
  t.strictSame(heard, [
    ['mx.example.net', '6', '2001:db8::1', 25, 'here'],
    'hello.example.net',
    ['<>', ['SIZE=9'], 'Q1'],
    ['<b@example.com>', ['NOTIFY=NEVER'], undefined],
    ['<c@example.com>', ['NOTIFY=NEVER'], undefined],
    ['<nobody@example.com>', ['NOTIFY=NEVER'], 'error'],
  ]);
});

t.test('setup() and teardown() run as in a factory, once, around the session', async (t) => {
  const order: string[] = [];
  class Prepared extends MilterProtocol<string, { name: string }> {
    static setup(context: string) {
      order.push(`setup ${context}`);
      return Promise.resolve({ name: 'shared' });
    }
    static async teardown(shared: { name: string }) {
      await Promise.resolve();
      order.push(`teardown ${shared.name}`);
    }
    override eob() {
      order.push(`eob ${this.shared.name}`);
    }
    override async close() {
      await Promise.resolve();
      order.push('close');
    }
  }
  await testMilter(Prepared, SPAM, { context: 'given' });
  t.strictSame(order, ['setup given', 'eob shared', 'close', 'teardown shared']);

  order.length = 0;
  for (const options of [{ workers: 2 }, { like: 'exim' }, { maxPayload: 0 }]) {
    await t.rejects(testMilter(Prepared, SPAM, { context: 'given', ...(options as object) }), {
      code: 'ERR_MILTER_OPTION',
      message: Object.keys(options)[0],
    });
  }
  await t.rejects(testMilter(undefined as never, SPAM), { code: 'ERR_MILTER_OPTION', message: /MyMilter must be/ });
  t.strictSame(order, [], 'bad options are found before');
  await t.rejects(testMilter(Prepared, 'no header\n', { context: 'x' }), { code: 'ERR_MILTER_ARGUMENT' });
  t.strictSame(order, ['setup x', 'close', 'teardown shared'], 'a message that is none leaves nothing open');
});

t.test('what setup() and teardown() fail with is thrown', async (t) => {
  class BadStart extends MilterProtocol {
    static setup() {
      throw new Error('no database');
    }
  }
  class BadEnd extends MilterProtocol {
    static teardown() {
      throw new Error('still in use');
    }
  }
  await t.rejects(testMilter(BadStart, SPAM, { throwErrors: false }), { cause: new Error('no database') });
  await t.rejects(testMilter(BadEnd, SPAM), { code: 'ERR_MILTER_CALLBACK', message: /teardown\(\) failed/ });
  t.equal((await testMilter(BadEnd, SPAM, { throwErrors: false })).sessionErrors.length, 1);
});

t.test('a callback that fails fails the test, with what it threw as the cause', async (t) => {
  for (const at of ['connect', 'rcpt', 'eob', 'close']) {
    for (const how of ['throws', 'rejects'] as const) {
      const error = await testMilter(Failing, SPAM, { context: { at, how } }).catch((reason: unknown) => reason);
      t.match(error, { code: 'ERR_MILTER_CALLBACK', stage: at, cause: new TypeError(`no ${at}`) }, `${at} ${how}`);
      t.type(error, MilterError);
    }
  }
});

t.test('or is answered by the error policy, where the test says one, and told in the result', async (t) => {
  const context = { at: 'eob', how: 'throws' } as const;
  for (const [options, verdict] of [
    [{ throwErrors: false }, 'tempFail'],
    [{ errorPolicy: 'reject' }, 'reject'],
    [{ errorPolicy: 'accept' }, 'accept'],
  ] as const) {
    const result = await testMilter(Failing, SPAM, { context, ...options });
    t.equal(result.verdict, verdict);
    t.match(result.sessionErrors, [{ code: 'ERR_MILTER_CALLBACK', stage: 'eob' }]);
    t.match(result.logs, [{ level: 'error', message: 'eob() failed: no eob' }]);
  }
  await t.rejects(testMilter(Failing, SPAM, { context, errorPolicy: 'accept', throwErrors: true }), {
    code: 'ERR_MILTER_CALLBACK',
    stage: 'eob',
  });
});

t.test('a callback that never ends does not hang the test', async (t) => {
  const deadlines = { callbackDeadline: 20, eobDeadline: 20 };
  for (const at of ['connect', 'rcpt', 'eob', 'close']) {
    const options = { context: { at, how: 'hangs' as const }, ...deadlines };
    await t.rejects(testMilter(Failing, SPAM, options), { code: 'ERR_MILTER_DEADLINE', stage: at }, at);
    const { verdict } = await testMilter(Failing, SPAM, { ...options, throwErrors: false });
    t.equal(verdict, at === 'close' ? 'accept' : 'tempFail');
  }
});

t.test('a constructor that throws, and a promise that nobody waits for, are seen as well', async (t) => {
  class Unmade extends MilterProtocol {
    constructor() {
      super();
      throw new Error('cannot be made');
    }
  }
  await t.rejects(testMilter(Unmade, SPAM), { cause: new Error('cannot be made') });
  class Unanswered extends MilterProtocol {
    static readonly noReply = ['header'];
    override header() {
      return Promise.reject(new Error('nobody waits'));
    }
  }
  await t.rejects(testMilter(Unanswered, SPAM), { cause: new Error('nobody waits') });
});

t.test('what the milter logs is in the result, and still goes where it should', async (t) => {
  class Careless extends MilterProtocol {
    override rcpt() {
      this.setReply(550, '5.1.1', 'no');
      return 'continue' as const;
    }
  }
  const lines: string[] = [];
  const level = (_: object, message: string) => void lines.push(message);
  const log = { info: level, warn: level, error: level };
  const { logs, verdict } = await testMilter(Careless, SPAM, { logMessages: true, log });
  t.equal(verdict, 'accept');
  t.match(logs, [
    { level: 'warn', message: /setReply\(\) is not used/, details: { stage: 'rcpt' } },
    { level: 'info' },
  ]);
  t.strictSame(
    lines,
    logs.map(({ message }) => message),
  );
});

t.test('testSession() plays several messages, and one command at a time', async (t) => {
  const heard: string[] = [];
  class Strict extends MilterProtocol {
    override connect(): Result {
      heard.push('connect');
    }
    override helo(name: string): Result {
      if (name === 'localhost') return this.setReply(550, '5.7.1', 'You are not me');
    }
    override rcpt(address: string): Result {
      if (address === '<nobody@example.com>') return this.setReply(550, '5.1.1', 'Nobody');
    }
    override data(): Result {
      heard.push('data');
    }
    override unknown(line: string): Result {
      heard.push(line);
      return 'reject';
    }
    override abort(interrupted: boolean) {
      heard.push(`abort ${interrupted}`);
    }
    override close() {
      heard.push('close');
    }
  }
  const session = await testSession(Strict, { peer: { helo: false }, smfipOptions: 0x800 });
  t.match(session.greeting, { outcome: 'continue' });
  t.equal(session.agreed.version, 6);
  t.match(await session.helo('localhost'), { outcome: 'reject', reply: { lines: ['You are not me'] } });
  t.match(await session.nextSession({ hostname: 'mx.example.net' }), { outcome: 'continue' });
  t.match(await session.unknown('XYZZY'), { outcome: 'reject' });
  await session.mailFrom('a@example.org');
  t.match(await session.rcpt('nobody@example.com'), { outcome: 'reject', reply: { code: 550 } });
  await session.rcpt('b@example.com');
  await session.refusedRcpt('c@example.com', { enhanced: '5.1.1', lines: ['no'] });
  await session.abort();
  await session.mailFrom('a@example.org', ['SIZE=3']);
  await session.rcpt('b@example.com');
  t.match(await session.data(), { outcome: 'continue' });
  t.match(await session.message(SPAM), { verdict: 'accept', envelope: { to: ['<b@example.com>'] } });
  t.match(await session.send({ from: 'a@b', to: ['nobody@example.com'], refused: ['x@y'], message: SPAM }), {
    verdict: 'reject',
    recipients: [{ address: '<nobody@example.com>' }],
  });
  t.strictSame([session.sessionErrors, session.logs], [[], []]);
  await session.quit();
  await session.close();
  t.strictSame(heard, [
    'connect',
    'close',
    'connect',
    'XYZZY',
    'abort true',
    'data',
    'abort false',
    'abort true',
    'close',
  ]);
});

t.test('a failure is thrown once, by the call that it belongs to, and the session can go on', async (t) => {
  const context = { at: 'rcpt', how: 'throws' } as const;
  const session = await testSession(Failing, { context });
  await session.mailFrom('a@b');
  await t.rejects(session.rcpt('c@d'), { code: 'ERR_MILTER_CALLBACK', stage: 'rcpt' });
  await session.abort();
  await session[Symbol.asyncDispose]();
  t.equal(session.sessionErrors.length, 1);
  await t.rejects(testSession(Failing, { context: { at: 'connect', how: 'throws' } }), {
    code: 'ERR_MILTER_CALLBACK',
    stage: 'connect',
  });
});

t.test('a mistake of the test itself is what it is', async (t) => {
  const session = await testSession(Spam);
  await t.rejects(session.rcpt('c@d'), { code: 'ERR_MILTER_SEQUENCE' });
  await t.rejects(session.connect(), { code: 'ERR_MILTER_SEQUENCE' });
  await session.close();
});

t.test('a test session hands on what MilterClient takes besides, and refuses what it refuses', async (t) => {
  const seen: string[] = [];
  class Seeing extends MilterProtocol {
    override helo() {
      seen.push(`helo ${this.macro('h')}`);
    }
    override unknown() {
      seen.push(`unknown ${this.macro('h')}`);
    }
    override data() {
      seen.push(`data ${this.macro('d')}`);
    }
    override eob() {
      seen.push(`eob ${this.macro('i')}`);
    }
  }
  const session = await testSession(Seeing);
  await session.open();
  await session.helo('x', { macros: { helo: { h: '1' } } });
  await session.unknown('FOO', { macros: { helo: { h: '2' } } });
  await session.mailFrom('a');
  await session.rcpt('b');
  await session.data({ macros: { data: { d: '3' } } });
  const { message } = await session.message('A: 1\n', { macros: { eob: { i: '4' } }, ownHeaders: 'Received: x\r\n' });
  t.equal(String(message), 'Received: x\r\nA: 1\r\n');
  t.strictSame(seen.slice(1), ['helo 1', 'unknown 1', 'data 3', 'eob 4']);
  await session.nextSession({}, { macros: { helo: { h: '5' } } });
  t.equal(seen.at(-1), 'helo 5');
  t.equal(await session.quit(), true);
  await t.rejects(testMilter(Seeing, 'A: 1\n', { to: 'x@y' as never }), {
    code: 'ERR_MILTER_ARGUMENT',
    message: 'to must be a list, got "x@y"',
  });
});
