// Options, and what a class says about itself: checked when the session is made, in words that name what is wrong.
import t from 'tap';
import * as milter from '../../lib/index.js';
import {
  createSession,
  MilterProtocol,
  SMFIM_EOM,
  SMFIP_RCPT_REJ,
  SMFIP_SKIP,
  type Logger,
  type ProtocolClass,
  type SessionOptions,
} from '../../lib/index.js';
import type { NegotiateReply } from '../../lib/codec/index.js';
import { checkOptions } from '../../lib/session/options.js';
import { packet, u32 } from '../helpers/bytes.js';
import { thrown } from '../helpers/eob.js';
import { encodeReply } from '../../lib/codec/index.js';
import { ALL_ACTIONS, ALL_STEPS, inMemory, say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

const made = (options: object, Milter: unknown) => createSession(Milter as ProtocolClass, options as SessionOptions);

/** What an attempt to make a session is refused with. */
const refusal = (options: object, Milter: unknown): string => {
  const { code, message } = thrown(() => made(options, Milter));
  return code === 'ERR_MILTER_OPTION' ? message : `${code}: ${message}`;
};
const badOption = (options: object): string => refusal(options, MilterProtocol);

t.test('a bad option is refused with its name and what it got', async (t) => {
  const whole = (name: string, min: number, max: number): Array<readonly [string, unknown, string]> =>
    [min - 1, max + 1, min + 0.5, NaN, Infinity, '1M', null, false].map((bad) => [
      name,
      bad,
      `must be a whole number from ${min} to ${max}`,
    ]);
  const bits = (name: string, prefix: string, all: number): Array<readonly [string, unknown, string]> =>
    [-1, all + 1, 2 ** 32, 2 ** 32 + 1, 0.5, '1', null].map((bad) => [name, bad, `must be ${prefix} bits`]);
  const flag = (name: string): Array<readonly [string, unknown, string]> =>
    [0, 'yes', null].map((bad) => [name, bad, 'must be true or false']);
  const max = 0x7fff_ffff;
  const cases = [
    ...bits('smfifOptions', 'SMFIF_', 0x1ff),
    ...bits('smfipOptions', 'SMFIP_', 0x1fffff),
    ...bits('required', 'SMFIF_', 0x1ff),
    ...whole('maxPayload', 1, 0x3fff_ffff),
    ...['idleTimeout', 'negotiationTimeout', 'callbackDeadline', 'eobDeadline'].flatMap((name) => whole(name, 1, max)),
    ...['progressAfter', 'progressEvery'].flatMap((name) => whole(name, 1, max)),
    ...['maxModifications', 'spoolMemory'].flatMap((name) => whole(name, 0, 0x3fff_ffff)),
    ...['dryRun', 'bareReplies', 'logMessages'].flatMap(flag),
    ...['discard', 1, null, ['accept']].map(
      (bad) => ['errorPolicy', bad, "must be 'tempfail', 'accept', 'reject' or a function"] as const,
    ),
    ...[null, {}, { info() {}, warn() {} }, 'console', { info() {}, warn() {}, error: 1 }].map(
      (bad) => ['log', bad, 'must have the methods info, warn and error'] as const,
    ),
    ...[1, undefined].map((bad) => ['maxpayload', bad, 'is no option'] as const),
    ['toString', 1, 'is no option'] as const,
  ];
  for (const [name, bad, rule] of cases) {
    const got = badOption({ [name]: bad });
    t.ok(got.startsWith(`${name} ${rule}, got `), got);
  }
  t.equal(badOption({ dryRun: 'yes' }), 'dryRun must be true or false, got "yes"');
  t.equal(badOption({ smfifOptions: 512 }), 'smfifOptions must be SMFIF_ bits, got 512');
  t.equal(badOption({ log: {} }), 'log must have the methods info, warn and error, got an object (Object)');
  const notObjects = [null, 5, 'fast'].map(
    (bad) => thrown(() => checkOptions(bad as unknown as SessionOptions)).message,
  );
  t.strictSame(
    notObjects,
    ['null', '5', '"fast"'].map((got) => `options must be an object, got ${got}`),
  );
});

t.test('good options are taken as they are', async (t) => {
  const good: Required<SessionOptions> = {
    smfifOptions: 0x1ff,
    smfipOptions: 0x1fffff,
    required: 0x1ff,
    context: null,
    maxPayload: 1,
    idleTimeout: 1,
    negotiationTimeout: 0x7fff_ffff,
    callbackDeadline: 1,
    eobDeadline: 1,
    progressAfter: 1,
    progressEvery: 1,
    maxModifications: 0,
    spoolMemory: 0,
    errorPolicy: () => 'accept',
    dryRun: true,
    bareReplies: true,
    log: console,
    logMessages: true,
  };
  t.strictSame(checkOptions(good), good);
  for (const errorPolicy of ['tempfail', 'accept', 'reject'] as const) made({ errorPolicy }, MilterProtocol);
});

t.test('what is not there, or undefined, has its default', async (t) => {
  const { log, context, ...defaults } = checkOptions({});
  t.strictSame(defaults, {
    smfifOptions: 0,
    smfipOptions: 0,
    required: 0,
    maxPayload: 1_048_575,
    idleTimeout: 7_210_000,
    negotiationTimeout: 30_000,
    callbackDeadline: 8_000,
    eobDeadline: 270_000,
    progressAfter: 3_000,
    progressEvery: 3_000,
    maxModifications: 1_048_576,
    spoolMemory: 262_144,
    errorPolicy: undefined, // what the class says, else 'tempfail'
    dryRun: false,
    bareReplies: false,
    logMessages: false,
  });
  t.equal(context, undefined);
  for (const level of ['info', 'warn', 'error'] as const) t.equal(log[level]({}, ''), undefined, 'nobody is told');
  const nothingSaid = Object.fromEntries(Object.keys(defaults).map((name) => [name, undefined]));
  t.strictSame(checkOptions({ ...nothingSaid, log: undefined }), checkOptions({}));
  t.strictSame(
    checkOptions({ backlog: 'whatever' } as SessionOptions, ['backlog']),
    checkOptions({}),
    'but others may',
  );
});

t.test('a class must extend MilterProtocol, of this copy of the package or another', async (t) => {
  for (const [bad, got] of [
    [
      class Alone {
        header() {}
      },
      'function Alone',
    ],
    [undefined, 'undefined'],
    [{}, 'an object (Object)'],
    ['MyMilter', '"MyMilter"'],
    [() => {}, 'a function'],
  ] as const) {
    const message = refusal({}, bad);
    t.ok(message.startsWith(`MyMilter must be a class that extends MilterProtocol, got ${got}`), message);
  }
  made({}, MilterProtocol);
  const other = await t.mockImport<typeof milter>('../../lib/session/protocol.js', {
    '../../lib/errors.js': await import('../../lib/errors.js'),
  });
  t.not(other.MilterProtocol, MilterProtocol);
  class Foreign extends other.MilterProtocol {
    override mailFrom() {
      return this.setReply(550, '5.7.1', 'from another copy');
    }
  }
  const { mta } = inMemory(Foreign);
  await mta.negotiate();
  t.match(await mta.ask(say.mail()), { type: 'replyCode', text: '550 5.7.1 from another copy' });
});

t.test('a bad static is refused with its name and what it got', async (t) => {
  const cases: ReadonlyArray<readonly [object, string | RegExp]> = [
    [{ smfipOptions: -1 }, 'static smfipOptions must be SMFIP_ bits, got -1'],
    [{ smfipOptions: '1' }, 'static smfipOptions must be SMFIP_ bits, got "1"'],
    [{ required: 0x200 }, 'static required must be SMFIF_ bits, got 512'],
    [{ noReply: 'header' }, 'static noReply must be an array of callback names, got "header"'],
    [{ noCallback: { 0: 'header' } }, 'static noCallback must be an array of callback names, got an object (Object)'],
    [{ noReply: ['headers'] }, /^noReply works on the callbacks connect, .*, unknown; it cannot be used on headers$/],
    [{ noReply: ['eob'] }, /it cannot be used on eob$/],
    [{ noCallback: ['close'] }, /^noCallback works on .* it cannot be used on close$/],
    [{ noCallback: [null] }, /it cannot be used on null$/],
    [{ callInThread: ['eom'] }, /^callInThread works on .*, abort, close; it cannot be used on eom$/],
    [
      { errorPolicy: 'ignore' },
      "static errorPolicy must be 'tempfail', 'accept', 'reject' or a function, got \"ignore\"",
    ],
    [{ macros: null }, 'static macros must be an object of arrays, got null'],
    [{ macros: 'j' }, 'static macros must be an object of arrays, got "j"'],
    [{ macros: { mail: ['i'] } }, 'static macros: mail is none of connect, helo, mailFrom, rcpt, data, eoh, eob'],
    [{ macros: { toString: ['i'] } }, /^static macros: toString is none of connect/],
    [{ macros: { header: ['i'] } }, /^static macros: header is none of connect/],
    [{ macros: ['i'] }, /^static macros: 0 is none of connect/],
    [{ macros: { connect: 'j' } }, 'static macros: connect must be an array of names, got "j"'],
    [{ macros: { connect: [5] } }, "static macros: connect has 5, which is no macro's name"],
    [{ macros: { connect: [''] } }, /has "", which is no macro's name$/],
    [{ macros: { connect: ['a b'] } }, /has "a b", which is no macro's name$/],
    [{ macros: { connect: ['a,b'] } }, /which is no macro's name$/],
    [{ macros: { connect: ['{a'] } }, /which is no macro's name$/],
    [{ macros: { connect: ['a}'] } }, /which is no macro's name$/],
    [{ macros: { connect: ['{a\0}'] } }, /which is no macro's name$/],
    [{ macros: { eob: Array.from({ length: 51 }, (_, i) => `m${i}`) } }, 'static macros: eob has 51 names; at most 50'],
  ];
  for (const [statics, expected] of cases) {
    const Milter = Object.assign(class extends MilterProtocol {}, statics);
    const got = refusal({}, Milter);
    if (typeof expected === 'string') t.equal(got, expected);
    else t.match(got, expected);
  }
  const nothingSaid = { smfipOptions: undefined, required: undefined, macros: undefined, noReply: undefined };
  made({}, Object.assign(class extends MilterProtocol {}, nothingSaid));
});

/** What a class asks of a mail server that offers everything, or what is said; and what it was warned of. */
async function asked(Milter: ProtocolClass, options: SessionOptions = {}, offer = {}) {
  const warnings: string[] = [];
  const log: Logger = { info() {}, warn: (_details, message) => void warnings.push(message), error() {} };
  const { mta } = inMemory(Milter, { log, ...options });
  return { reply: (await mta.negotiate(offer)) as NegotiateReply, warnings, mta };
}

t.test('P20 required flags are asked for, from the option and the class, wanted or not', async (t) => {
  class Needing extends MilterProtocol {
    static readonly required = 0x01;
  }
  const { reply } = await asked(Needing, { required: 0x02, smfifOptions: 0x10 });
  t.equal(reply.actions, 0x13);
});

t.test('P23 smfipOptions of the option, the class and the callbacks that are not there are one set', async (t) => {
  class Asking extends MilterProtocol {
    static readonly smfipOptions = SMFIP_SKIP;
    override rcpt() {}
  }
  const { reply, warnings } = await asked(Asking, { smfipOptions: SMFIP_RCPT_REJ });
  // Everything but RCPT is left out, and nothing is left unanswered.
  t.equal(reply.protocol, 0x037f - 0x08 + SMFIP_SKIP + SMFIP_RCPT_REJ);
  t.strictSame(warnings, []);
});

t.test('a NO or NR bit wins over the callback that is there, with one warning that names both', async (t) => {
  let called = 0;
  class Overruled extends MilterProtocol {
    static readonly smfipOptions =
      milter.SMFIP_NOHDRS | milter.SMFIP_NR_RCPT | milter.SMFIP_NOHELO | milter.SMFIP_NR_EOH;
    override header() {
      called++;
    }
    override rcpt() {}
  }
  const { reply, warnings, mta } = await asked(Overruled);
  t.equal(reply.protocol, 0x037f - 0x08 + milter.SMFIP_NR_RCPT + milter.SMFIP_NR_EOH);
  t.strictSame(warnings, [
    "smfipOptions has SMFIP_NR_RCPT, which wins over Overruled's own rcpt()",
    "smfipOptions has SMFIP_NOHDRS, which wins over Overruled's own header()",
  ]);
  await mta.ask(say.header());
  t.equal(called, 0, 'also where it comes all the same');
});

t.test('the warning comes once for all the connections of a class', async (t) => {
  const { MilterClass } = await import('../../lib/session/milter-class.js');
  const warnings: string[] = [];
  const log: Logger = { info() {}, warn: (_details, message) => void warnings.push(message), error() {} };
  class Overruled extends MilterProtocol {
    override header() {}
  }
  const of = new MilterClass(Overruled, checkOptions({ log, smfipOptions: milter.SMFIP_NOHDRS }));
  of.wants(new Overruled());
  of.wants(new Overruled());
  t.equal(warnings.length, 1);
});

t.test('a callback that is marked as not to be called needs no warning', async (t) => {
  class Agreeing extends MilterProtocol {
    static readonly noCallback = ['header'];
    override header() {}
  }
  const { warnings } = await asked(Agreeing, { smfipOptions: milter.SMFIP_NOHDRS });
  t.strictSame(warnings, []);
});

t.test('P28 macros are asked for in the order of the wire, spelled as servers do', async (t) => {
  class Asking extends MilterProtocol {
    static readonly macros = {
      eob: ['i', 'msg_id'],
      eoh: ['{auth_type}'],
      connect: ['j', '{daemon_name}', '_'],
      rcpt: ['{rcpt_addr}'],
      helo: ['tls_version'],
      data: ['v'],
      mailFrom: Array.from({ length: 50 }, (_, i) => `m${i}`),
    };
  }
  const { reply, warnings } = await asked(Asking);
  const fifty = Asking.macros.mailFrom.map((name) => `{${name}}`).join(' ');
  const bytes = packet(
    'O',
    Buffer.concat([u32(6), u32(0x100), u32(0x37f)]),
    u32(0),
    'j {daemon_name} _',
    u32(1),
    '{tls_version}',
    u32(2),
    fifty,
    u32(3),
    '{rcpt_addr}',
    u32(4),
    'v',
    u32(5),
    'i {msg_id}',
    u32(6),
    '{auth_type}',
  );
  t.ok(encodeReply(reply).equals(bytes), encodeReply(reply).toString('latin1'));
  t.strictSame(warnings, []);
});

t.test('P28 they are asked for only of a server that takes lists', async (t) => {
  class Asking extends MilterProtocol {
    static readonly macros = { connect: ['j'] };
  }
  for (const offer of [
    { version: 6, actions: ALL_ACTIONS & ~milter.SMFIF_SETSYMLIST },
    { version: 4, actions: ALL_ACTIONS },
    { version: 2, actions: 0, protocol: 0 },
  ]) {
    const { reply } = await asked(Asking, {}, { protocol: ALL_STEPS, ...offer });
    t.strictSame([reply.macros, reply.actions], [undefined, 0]);
  }
});

t.test('P28 with a list for the end of the message one for the end of headers is sent too, for Sendmail', async (t) => {
  class Asking extends MilterProtocol {
    static readonly macros = { eob: ['i'] };
  }
  const { reply } = await asked(Asking);
  t.strictSame(reply.macros, [
    { stage: SMFIM_EOM, names: 'i' },
    { stage: milter.SMFIM_EOH, names: 'i' },
  ]);
});

t.test('an empty list is sent, with a warning that servers differ about it', async (t) => {
  class Asking extends MilterProtocol {
    static readonly macros = { connect: [] };
  }
  const { reply, warnings } = await asked(Asking);
  t.strictSame(reply.macros, [{ stage: 0, names: '' }]);
  t.strictSame(warnings, [
    'static macros: an empty list for connect means none to Sendmail and the default to Postfix',
  ]);
});

t.test('context and shared reach the milter', async (t) => {
  const context = { pool: 1 };
  const shared = { cache: 2 };
  let seen: unknown;
  class Curious extends MilterProtocol<typeof context, typeof shared> {
    readonly early = [this.context, this.shared];
    override mailFrom() {
      seen = [...this.early, this.context, this.shared];
    }
  }
  const { mta } = inMemory(Curious, { context, shared });
  await mta.negotiate();
  await mta.ask(say.mail());
  t.strictSame(seen, [context, shared, context, shared]);
});

t.test('only the object that a session makes is joined to it', async (t) => {
  let helper: MilterProtocol | undefined;
  class Composed extends MilterProtocol {
    readonly helper = (helper = new MilterProtocol());
  }
  inMemory(Composed);
  t.equal(thrown(() => helper?.macro('i')).code, 'ERR_MILTER_DETACHED');
  class Failing extends MilterProtocol {
    constructor() {
      if (helper !== undefined) throw new Error('before anything was made');
      super();
    }
  }
  const { errors } = inMemory(Failing);
  await settled();
  t.match(errors, [{ message: 'The constructor failed: before anything was made' }]);
  t.equal(thrown(() => new MilterProtocol().macro('i')).code, 'ERR_MILTER_DETACHED');
});
