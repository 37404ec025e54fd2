// The modification methods: where they work, what they refuse, what they put on the wire, and when all of it is dropped.
import t from 'tap';
import {
  ACCEPT,
  bareAddress,
  CONTINUE,
  DISCARD,
  MilterProtocol,
  REJECT,
  SKIP,
  TEMPFAIL,
  toText,
  type Result,
} from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { bracketAddress } from '../../lib/envelope.js';
import { encodeReply, type Reply } from '../../lib/codec/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import { again, atEob, outcome, thrown, withEob } from '../helpers/eob.js';
import { ALL_ACTIONS, inMemory, message, say } from '../helpers/mta.js';

type Call = (milter: MilterProtocol) => unknown;

/** One good call of each method, and the flag it needs. */
const METHODS: Readonly<Record<string, { call: Call; flag: string; bit: number }>> = {
  addRcpt: { call: (m) => m.addRcpt('c@b.org'), flag: 'SMFIF_ADDRCPT', bit: 0x84 },
  'addRcpt with arguments': {
    call: (m) => m.addRcpt('c@b.org', 'NOTIFY=NEVER'),
    flag: 'SMFIF_ADDRCPT_PAR',
    bit: 0x80,
  },
  delRcpt: { call: (m) => m.delRcpt('b@b.org'), flag: 'SMFIF_DELRCPT', bit: 0x08 },
  replBody: { call: (m) => m.replBody('x'), flag: 'SMFIF_CHGBODY', bit: 0x02 },
  addHeader: { call: (m) => m.addHeader('X', 'y'), flag: 'SMFIF_ADDHDRS', bit: 0x01 },
  chgHeader: { call: (m) => m.chgHeader('X', 'y', 1), flag: 'SMFIF_CHGHDRS', bit: 0x10 },
  insHeader: { call: (m) => m.insHeader(0, 'X', 'y'), flag: 'SMFIF_ADDHDRS', bit: 0x01 },
  chgFrom: { call: (m) => m.chgFrom('a@b.org'), flag: 'SMFIF_CHGFROM', bit: 0x40 },
  quarantine: { call: (m) => m.quarantine('held'), flag: 'SMFIF_QUARANTINE', bit: 0x20 },
};

/** What a call in eob() puts on the wire before the verdict. */
async function edits(call: Call, options?: Parameters<typeof atEob>[1]): Promise<Reply[]> {
  const { replies } = await atEob((m) => void call(m), options);
  return replies.slice(0, -1);
}

/** The error of a call in eob(). */
async function refusal(call: Call, options?: Parameters<typeof atEob>[1], actions = ALL_ACTIONS): Promise<MilterError> {
  let error: MilterError | undefined;
  const { replies } = await atEob((m) => void (error = thrown(() => call(m))), options, { actions });
  t.strictSame(
    replies.map((reply) => reply.type),
    ['continue'],
  );
  return error as MilterError;
}

t.test('P114 outside eob() every method throws and sends nothing', async (t) => {
  const seen: string[] = [];
  const tryAll = (milter: MilterProtocol, where: string): void => {
    for (const [name, { call }] of Object.entries({
      ...METHODS,
      progress: { call: (m: MilterProtocol) => m.progress() },
    })) {
      const { code, message } = thrown(() => call(milter));
      const method = name.split(' ')[0] as string;
      const says = where.includes(' ') ? where : `in ${where}()`;
      if (message !== `${method}() works in eob() only; it was called ${says}`) t.fail(message);
      seen.push(`${where} ${name} ${code}`);
    }
  };
  let later: (() => void) | undefined;
  class Everywhere extends MilterProtocol {
    constructor() {
      super();
      tryAll(this, 'outside every callback');
    }
    override connect() {
      tryAll(this, 'connect');
    }
    override helo() {
      tryAll(this, 'helo');
    }
    override async mailFrom() {
      tryAll(this, 'mailFrom');
      await Promise.resolve();
      tryAll(this, 'mailFrom');
    }
    override rcpt() {
      tryAll(this, 'rcpt');
    }
    override data() {
      tryAll(this, 'data');
    }
    override header() {
      tryAll(this, 'header');
    }
    override eoh() {
      tryAll(this, 'eoh');
    }
    override body() {
      tryAll(this, 'body');
    }
    override eob() {
      later = () => tryAll(this, 'outside every callback');
    }
    override unknown() {
      tryAll(this, 'unknown');
    }
    override async abort() {
      tryAll(this, 'abort');
    }
    override close() {
      tryAll(this, 'close');
    }
  }
  const { mta, errors } = inMemory(Everywhere, { smfifOptions: ALL_ACTIONS });
  await mta.negotiate();
  const played = await mta.play(say.connect(), say.helo(), say.unknown(), ...message());
  (later as () => void)();
  mta.send(say.abort(), say.quit());
  t.equal(await mta.closed, undefined);
  t.strictSame(
    played,
    Array.from({ length: 10 }, () => 'continue'),
  );
  t.strictSame(mta.replies, []);
  t.strictSame(errors, []);
  const places = 'outside connect helo unknown mailFrom mailFrom rcpt data header eoh body outside abort close';
  t.equal(seen.length, places.split(' ').length * (Object.keys(METHODS).length + 1));
  t.ok(seen.every((line) => line.endsWith('ERR_MILTER_WRONG_STAGE')));
});

t.test('P114 an object that no session made has nothing to work with', async (t) => {
  const lonely = new MilterProtocol();
  for (const { call } of Object.values(METHODS))
    t.match(
      thrown(() => call(lonely)),
      { code: 'ERR_MILTER_DETACHED' },
    );
});

t.test('P115 a method whose flag was not agreed throws and names the flag', async (t) => {
  for (const [name, { call, flag, bit }] of Object.entries(METHODS)) {
    const notOffered = await refusal(call, {}, ALL_ACTIONS & ~bit);
    t.match(notOffered, { code: 'ERR_MILTER_NOT_NEGOTIATED', stage: 'eob' }, `${name}, not offered`);
    t.ok(notOffered.message.startsWith(`${name.split(' ')[0]}() needs ${flag},`), notOffered.message);
    const notWanted = await refusal(call, { smfifOptions: ALL_ACTIONS & ~bit });
    t.equal(notWanted.message, notOffered.message, `${name}, not wanted`);
    t.equal((await edits(call, { smfifOptions: bit })).length, 1, `${name} with ${flag} alone`);
  }
});

t.test('P116 P117 P122 P124 each call has its packet', async (t) => {
  const cases: ReadonlyArray<readonly [Call, Buffer]> = [
    [(m) => m.addRcpt('c@b.org'), packet('+', '<c@b.org>')],
    [(m) => m.addRcpt('<c@b.org>'), packet('+', '<c@b.org>')],
    [(m) => m.addRcpt(' <c@b.org> ', ''), packet('+', '<c@b.org>')],
    [(m) => m.addRcpt('c@b.org', []), packet('+', '<c@b.org>')],
    [(m) => m.addRcpt('c@b.org', 'NOTIFY=NEVER'), packet('2', '<c@b.org>', 'NOTIFY=NEVER')],
    [(m) => m.addRcpt('c@b.org', ['NOTIFY=NEVER', 'ORCPT=x']), packet('2', '<c@b.org>', 'NOTIFY=NEVER ORCPT=x')],
    [(m) => m.delRcpt('b@b.org'), packet('-', '<b@b.org>')],
    [(m) => m.delRcpt('<b@b.org>'), packet('-', '<b@b.org>')],
    [(m) => m.chgFrom('z@a.org'), packet('e', '<z@a.org>')],
    [(m) => m.chgFrom('<z@a.org>', ''), packet('e', '<z@a.org>')],
    [(m) => m.chgFrom(''), packet('e', '<>')],
    [(m) => m.chgFrom('<>'), packet('e', '<>')],
    [(m) => m.chgFrom('z@a.org', 'RET=HDRS'), packet('e', '<z@a.org>', 'RET=HDRS')],
    [(m) => m.chgFrom('', ['RET=HDRS', 'ENVID=1']), packet('e', '<>', 'RET=HDRS ENVID=1')],
    [(m) => m.addHeader('X-A', 'yes'), packet('h', 'X-A', 'yes')],
    [(m) => m.addHeader('X-A', ' yes'), packet('h', 'X-A', ' yes')],
    [(m) => m.addHeader('X-A:', ''), packet('h', 'X-A', '')],
    [(m) => m.addHeader('X-A', 'a\r\n b\n\tc'), packet('h', 'X-A', 'a\n b\n\tc')],
    [(m) => m.addHeader('X-A', 'caf\udce9 ü'), packet('h', 'X-A', Buffer.from('caf\xe9 \xc3\xbc\0', 'latin1'))],
    [(m) => m.insHeader(0, 'X-A', 'yes'), packet('i', u32(0), 'X-A', 'yes')],
    [(m) => m.insHeader(0x7fff_ffff, 'X-A', 'a\r\n b'), packet('i', u32(0x7fff_ffff), 'X-A', 'a\n b')],
    [(m) => m.chgHeader('Subject', 'new', 2), packet('m', u32(2), 'Subject', 'new')],
    [(m) => m.chgHeader('Subject', 'a\r\n b'), packet('m', u32(1), 'Subject', 'a\n b')],
    [(m) => m.chgHeader('Subject'), packet('m', u32(1), 'Subject', '')],
    [(m) => m.chgHeader('Subject', '', 0), packet('m', u32(0), 'Subject', '')],
    [(m) => m.quarantine('spam'), packet('q', 'spam')],
    [(m) => m.quarantine(), packet('q', 'quarantined by a milter')],
    [(m) => m.replBody('Hi\r\n'), packet('b', Buffer.from('Hi\r\n'))],
  ];
  for (const [call, bytes] of cases) {
    const [reply, more] = await edits(call);
    const sent = encodeReply(reply as Reply);
    t.ok(sent.equals(bytes), `${call.toString().slice(8)}: ${toText(sent)}`);
    t.equal(more, undefined);
  }
});

t.test('P122 a recipient without arguments goes out as `2` where that alone was agreed', async (t) => {
  const [reply] = await edits((m) => m.addRcpt('c@b.org'), { smfifOptions: 0x80 });
  t.ok(encodeReply(reply as Reply).equals(packet('2', '<c@b.org>')));
});

t.test('P117 P118 P125 a bad argument is refused when the method is called', async (t) => {
  const notText = 5 as unknown as string;
  const cases: ReadonlyArray<readonly [Call, RegExp]> = [
    [(m) => m.addRcpt(''), /^addRcpt\(\): rcpt must not be empty/],
    [(m) => m.addRcpt(' '), /^addRcpt\(\): rcpt must not be empty/],
    [(m) => m.addRcpt('<>'), /^addRcpt\(\): rcpt must not be empty/],
    [(m) => m.delRcpt('<>'), /^delRcpt\(\): rcpt must not be empty/],
    [(m) => m.addRcpt('a@b\n'), /^addRcpt\(\): rcpt must be one line, got "a@b\\n"/],
    [(m) => m.addRcpt('a@b\0'), /^addRcpt\(\): rcpt holds a NUL/],
    [(m) => m.addRcpt(notText), /^addRcpt\(\): rcpt must be a string, got 5/],
    [(m) => m.addRcpt('a@b', 'A=1\r'), /^addRcpt\(\): esmtpAdd must be one line/],
    [(m) => m.addRcpt('a@b', ['A=1', 'B\n']), /^addRcpt\(\): esmtpAdd must be one line/],
    [(m) => m.addRcpt('a@b', notText), /^addRcpt\(\): esmtpAdd must be a string or an array of them, got 5/],
    [(m) => m.chgFrom('a\r\n'), /^chgFrom\(\): frAddr must be one line/],
    [(m) => m.chgFrom(notText), /^chgFrom\(\): frAddr must be a string/],
    [(m) => m.chgFrom('a@b', [notText]), /^chgFrom\(\): esmtpAdd must be a string or an array of them, got an array/],
    [(m) => m.chgFrom('a@b', null as unknown as string), /^chgFrom\(\): esmtpAdd must be .*, got null/],
    [(m) => m.addHeader('', 'x'), /^addHeader\(\): key must be a header's name, got ""/],
    [(m) => m.addHeader(':', 'x'), /^addHeader\(\): key must be a header's name, got ":"/],
    [(m) => m.addHeader('X::', 'x'), /^addHeader\(\): key must be a header's name/],
    [(m) => m.insHeader(0, 'X:Y', 'x'), /^insHeader\(\): key must be a header's name/],
    [(m) => m.chgHeader('X\n', 'x'), /^chgHeader\(\): key must be one line/],
    [(m) => m.addHeader('X\r', 'x'), /^addHeader\(\): key must be one line/],
    [(m) => m.addHeader('X\0', 'x'), /^addHeader\(\): key holds a NUL/],
    [(m) => m.addHeader(notText, 'x'), /^addHeader\(\): key must be a string, got 5/],
    [(m) => m.addHeader('X', notText), /^addHeader\(\): val must be a string, got 5/],
    [(m) => m.addHeader('X', 'a\0b'), /^addHeader\(\): val holds a NUL/],
    [(m) => m.addHeader('X', 'a\nSubject: b'), /^addHeader\(\): val has a line that begins without space or tab/],
    [(m) => m.insHeader(0, 'X', 'a\r\nb'), /^insHeader\(\): val has a line that begins without space or tab/],
    [(m) => m.chgHeader('X', 'a\n'), /^chgHeader\(\): val has a line that begins without space or tab/],
    [(m) => m.insHeader(-1, 'X', 'x'), /^insHeader\(\): index must be a whole number from 0, got -1/],
    [(m) => m.chgHeader('X', 'x', -1), /^chgHeader\(\): index must be a whole number from 0/],
    [(m) => m.insHeader(1.5, 'X', 'x'), /^insHeader\(\): index must be/],
    [(m) => m.insHeader(2 ** 31, 'X', 'x'), /^insHeader\(\): index must be/],
    [(m) => m.insHeader('0' as unknown as number, 'X', 'x'), /^insHeader\(\): index must be .*, got "0"/],
    [(m) => m.quarantine('a\nb'), /^quarantine\(\): msg must be one line/],
    [(m) => m.quarantine(notText), /^quarantine\(\): msg must be a string/],
    [(m) => m.replBody(notText), /^replBody\(\): body must be a string, a Buffer or a stream, got 5/],
    [(m) => m.replBody(null as unknown as string), /^replBody\(\): body must be .* got null/],
    [(m) => m.replBody(undefined as unknown as string), /^replBody\(\): body must be .* got undefined/],
    [(m) => m.replBody({} as unknown as string), /^replBody\(\): body must be .* got an object \(Object\)/],
  ];
  for (const [call, message] of cases) {
    const error = await refusal(call);
    t.equal(error.code, 'ERR_MILTER_ARGUMENT', call.toString().slice(8));
    t.match(error.message, message);
    t.equal(error.stage, 'eob');
  }
});

t.test('a surrogate that stands for no byte is refused when the method is called', async (t) => {
  const calls: Call[] = [
    (m) => m.addHeader('X', '\ud800'),
    (m) => m.addHeader('X\ud800', ''),
    (m) => m.addRcpt('\ud800@b'),
    (m) => m.chgFrom('a@b', '\ud800'),
    (m) => m.quarantine('\ud800'),
    (m) => m.replBody('\ud800'),
  ];
  for (const call of calls) t.equal((await refusal(call)).code, 'ERR_MILTER_TEXT', call.toString().slice(8));
});

t.test(
  'what does not fit into one packet is refused when the method is called, before any of it is on the wire',
  async (t) => {
    // A header of X and a value is the value's length, and three bytes more.
    const fits = await edits((m) => m.addHeader('X', 'a'.repeat(65_532)));
    t.strictSame(
      fits.map((reply) => reply.type),
      ['addHeader'],
    );
    const calls: Call[] = [
      (m) => m.addHeader('X', 'a'.repeat(65_533)),
      (m) => m.insHeader(0, 'X', 'a'.repeat(65_529)),
      (m) => m.chgHeader('X', 'ü'.repeat(32_765)),
      (m) => m.quarantine('a'.repeat(65_535)),
    ];
    for (const call of calls)
      t.equal((await refusal(call)).code, 'ERR_MILTER_PACKET_TOO_LARGE', call.toString().slice(8));
    const { replies } = await atEob(
      (m) => m.addHeader('X', 'a'.repeat(262_140)),
      {},
      { protocol: 0x1fffff | 0x10000000 },
    );
    t.strictSame(
      replies.map((reply) => reply.type),
      ['addHeader', 'continue'],
      'P27 the size that was agreed counts',
    );
  },
);

t.test('maxModifications limits the edits of one message, the body not counted', async (t) => {
  // A packet of X and y is nine bytes with its length.
  const { replies } = await atEob(
    (m) => {
      m.replBody('z'.repeat(1000));
      m.addHeader('X', 'y');
      m.addHeader('X', 'y');
      const error = thrown(() => m.quarantine('x'));
      t.equal(error.code, 'ERR_MILTER_MODIFICATIONS');
      t.match(error.message, /^quarantine\(\) .* maxModifications \(18 bytes\)/);
    },
    { maxModifications: 18 },
  );
  t.strictSame(
    replies.map((reply) => reply.type),
    ['replBody', 'addHeader', 'addHeader', 'continue'],
  );
  t.equal((await refusal((m) => m.delRcpt('a@b'), { maxModifications: 0 })).code, 'ERR_MILTER_MODIFICATIONS');
  t.match((await refusal((m) => m.addRcpt('a@b', 'X=1'), { maxModifications: 0 })).message, /^addRcpt\(\) /);
});

t.test(
  'P121 the body goes first, then the edits in the order of the calls, then one verdict, in one write',
  async (t) => {
    for (const verdict of [undefined, CONTINUE, ACCEPT]) {
      const milter = withEob((m) => {
        m.addHeader('X', '1');
        m.replBody('one ');
        m.delRcpt('b@b.org');
        m.insHeader(0, 'Y', '2');
        m.replBody(Buffer.from('two'));
        m.quarantine('q');
        return verdict;
      });
      const { mta, session } = inMemory(milter, { smfifOptions: ALL_ACTIONS });
      await mta.negotiate();
      let writes = 0;
      session.on('data', () => writes++);
      mta.send(say.eob());
      const replies = await outcome(mta);
      t.strictSame(
        replies.map((reply) => reply.type),
        ['replBody', 'replBody', 'addHeader', 'delRcpt', 'insHeader', 'quarantine', verdict ?? 'continue'],
      );
      t.equal(writes, 1);
      t.strictSame(mta.replies, []);
    }
  },
);

t.test('the edits of one message are neither seen nor counted in the next', async (t) => {
  let messages = 0;
  const { mta, replies } = await atEob(
    (m) => {
      if (++messages !== 2) m.addHeader('X', String(messages));
    },
    { maxModifications: 9 },
  );
  t.match(replies, [{ value: '1' }, { type: 'continue' }]);
  t.match(await again(mta), [{ type: 'continue' }]);
  t.match(await again(mta), [{ value: '3' }, { type: 'continue' }]);
});

t.test('no edit goes out with any other verdict, nor after an error', async (t) => {
  const endings: ReadonlyArray<readonly [string, (m: MilterProtocol) => Result, string]> = [
    ['REJECT', () => REJECT, 'reject'],
    ['TEMPFAIL', () => TEMPFAIL, 'tempFail'],
    ['DISCARD', () => DISCARD, 'discard'],
    ['setReply', (m) => m.setReply(550, '5.7.1', 'no'), 'replyCode'],
    ['a promise of REJECT', () => Promise.resolve(REJECT), 'reject'],
    ['SKIP, which is no verdict here', () => SKIP, 'tempFail'],
    [
      'a throw',
      () => {
        throw new Error('oops');
      },
      'tempFail',
    ],
    ['a rejection', () => Promise.reject(new Error('oops')), 'tempFail'],
    ['a refused call', (m) => m.addRcpt(''), 'tempFail'],
  ];
  for (const [name, end, expected] of endings) {
    let messages = 0;
    const { replies, mta } = await atEob((m) => {
      if (++messages > 1) return undefined;
      for (const { call } of Object.values(METHODS)) call(m);
      return end(m);
    });
    t.strictSame(
      replies.map((reply) => reply.type),
      [expected],
      name,
    );
    t.match(await again(mta), [{ type: 'continue' }], 'nor with the next message');
  }
});

t.test('no edit goes out with a verdict of the error policy, ACCEPT included', async (t) => {
  const { replies } = await atEob(
    (m) => {
      m.addHeader('X', 'y');
      throw new Error('oops');
    },
    { errorPolicy: 'accept' },
  );
  t.strictSame(
    replies.map((reply) => reply.type),
    ['accept'],
  );
});

t.test('an eob() that waits may edit until it returns, and no longer', async (t) => {
  let later: (() => void) | undefined;
  const { replies, mta } = await atEob(async (m) => {
    later = () => m.addHeader('X', 'late');
    m.addHeader('X', '1');
    await Promise.resolve();
    m.addHeader('X', '2');
  });
  t.match(replies, [{ value: '1' }, { value: '2' }, { type: 'continue' }]);
  t.equal(thrown(later as () => void).code, 'ERR_MILTER_WRONG_STAGE');
  t.match(await again(mta), [{ value: '1' }, { value: '2' }, { type: 'continue' }]);
});

t.test('P124 brackets of addresses come off and on', async (t) => {
  for (const [address, bare] of [
    ['<a@b.org>', 'a@b.org'],
    ['a@b.org', 'a@b.org'],
    [' <a@b.org>\t', 'a@b.org'],
    ['<>', ''],
    ['', ''],
    ['<a@b.org', '<a@b.org'],
    ['a@b.org>', 'a@b.org>'],
    ['"<x>"@b.org', '"<x>"@b.org'],
  ] as const) {
    t.equal(bareAddress(address), bare, address);
    t.equal(bracketAddress(address), `<${bare}>`, address);
  }
});
