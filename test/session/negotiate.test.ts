// What is agreed at the start of a connection: versions, actions, steps, sizes, macro lists; and what must not come first.
import t from 'tap';
import type { Command, Reply } from '../../lib/codec/index.js';
import * as c from '../../lib/constants.js';
import type { Stage } from '../../lib/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import { awaken, bareSession, each, matchAll, milter, STAGES, type Statics } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, inMemory, message, say } from '../helpers/mta.js';

type Agreed = Extract<Reply, { type: 'negotiate' }>;

const offer = (version: number, actions = ALL_ACTIONS, protocol = ALL_STEPS): Command => ({
  type: 'negotiate',
  version,
  actions,
  protocol,
});

/** The bit that keeps a command away, and the one that leaves it unanswered; what Postfix and Sendmail name them. */
const BITS: Readonly<Record<Exclude<Stage, 'eob'>, readonly [no: number, nr: number]>> = {
  connect: [0x1, 0x1000],
  helo: [0x2, 0x2000],
  mailFrom: [0x4, 0x4000],
  rcpt: [0x8, 0x8000],
  data: [0x200, 0x10000],
  header: [0x20, 0x80],
  eoh: [0x40, 0x40000],
  body: [0x10, 0x80000],
  unknown: [0x100, 0x20000],
};
const ANSWERED = Object.keys(BITS) as Array<keyof typeof BITS>;
const ALL_NO = Object.values(BITS).reduce((all, [no]) => all | no, 0);

/** The command of a stage, and what must come before it. */
const COMMAND: Readonly<Record<Stage, Command[]>> = {
  connect: [say.connect()],
  helo: [say.helo()],
  mailFrom: [say.mail()],
  rcpt: [say.mail(), say.rcpt()],
  data: [say.mail(), say.data()],
  header: [say.mail(), say.header()],
  eoh: [say.mail(), say.eoh()],
  body: [say.mail(), say.body()],
  eob: [say.mail(), say.eob()],
  unknown: [say.unknown()],
};

const EVERYTHING = each(STAGES);

t.test('versions', async (t) => {
  for (const [offered, agreed] of [
    [2, 2],
    [3, 3],
    [4, 4],
    [6, 6],
    [7, 6],
    [9, 6],
    [0xffff_ffff, 6],
  ] as const) {
    await t.test(`P18 an offer of version ${offered} is answered with ${agreed}, and a message passes`, async (t) => {
      const { MyMilter, calls } = milter(EVERYTHING);
      const { mta } = inMemory(MyMilter);
      t.equal(((await mta.negotiate({ version: offered })) as Agreed).version, agreed);
      const said = await mta.play(say.connect(), say.helo(), ...message());
      t.same(said, Array(9).fill('continue'));
      t.same(calls, STAGES.slice(0, 9));
    });
  }

  for (const version of [0, 1]) {
    await t.test(`P18 an offer of version ${version} ends the session, unanswered`, async (t) => {
      const { MyMilter, calls } = milter(EVERYTHING);
      const { mta, errors } = inMemory(MyMilter);
      mta.send(offer(version));
      t.match(await mta.closed, { code: 'ERR_MILTER_NEGOTIATION', packet: 'negotiate' });
      matchAll(t, errors, [
        { message: new RegExp(`offers protocol version ${version}; the oldest one spoken here is 2`) },
      ]);
      t.same(mta.replies, []);
      t.same(calls, ['close']);
    });
  }
});

t.test('actions', async (t) => {
  await t.test('P19 zeros in the offer mean what version 1 had', async (t) => {
    const { MyMilter } = milter({ eob() {} });
    const { mta } = inMemory(MyMilter, { smfifOptions: ALL_ACTIONS });
    t.match(await mta.negotiate({ version: 2, actions: 0, protocol: 0 }), { actions: 0xf, protocol: 0x3f });
  });

  await t.test('P20 what is wanted and not offered is left out, bit by bit', async (t) => {
    for (let bit = 1; bit <= 0x100; bit *= 2) {
      const one = inMemory(milter().MyMilter, { smfifOptions: ALL_ACTIONS });
      t.match(await one.mta.negotiate({ actions: bit }), { actions: bit });
      const rest = inMemory(milter().MyMilter, { smfifOptions: ALL_ACTIONS });
      t.match(await rest.mta.negotiate({ actions: ALL_ACTIONS & ~bit }), { actions: ALL_ACTIONS & ~bit });
    }
  });

  await t.test('P20 what is offered and not wanted is not asked for', async (t) => {
    const { mta } = inMemory(milter().MyMilter, { smfifOptions: c.SMFIF_CHGBODY });
    t.match(await mta.negotiate({ actions: 0xffff_ffff }), { actions: c.SMFIF_CHGBODY });
  });

  for (const [where, options, statics] of [
    ['the option', { required: c.SMFIF_ADDHDRS | c.SMFIF_QUARANTINE }, {}],
    ['the class', {}, { required: c.SMFIF_ADDHDRS | c.SMFIF_QUARANTINE }],
    ['both together', { required: c.SMFIF_ADDHDRS }, { required: c.SMFIF_QUARANTINE }],
  ] as const) {
    await t.test(`P20 what ${where} requires is asked for; without it the session ends, unanswered`, async (t) => {
      const willing = inMemory(milter({}, statics).MyMilter, options);
      t.match(await willing.mta.negotiate(), { actions: c.SMFIF_ADDHDRS | c.SMFIF_QUARANTINE });

      const { MyMilter, calls } = milter({}, statics);
      const { mta } = inMemory(MyMilter, options);
      mta.send(offer(6, c.SMFIF_ADDHDRS | c.SMFIF_CHGBODY));
      const says = /the milter requires SMFIF_QUARANTINE, and it offers SMFIF_ADDHDRS, SMFIF_CHGBODY/;
      t.match(await mta.closed, { code: 'ERR_MILTER_NEGOTIATION', message: says });
      t.same(mta.replies, []);
      t.same(calls, ['close']);
    });
  }
});

t.test('steps', async (t) => {
  await t.test('P21 every bit is left out where it is not offered, and none comes that was not', async (t) => {
    const statics = { noReply: ANSWERED };
    for (let bit = 1; bit <= 0x100000; bit *= 2) {
      const all = { smfipOptions: c.SMFIP_ALLPROTOS };
      const one = inMemory(milter(EVERYTHING, statics).MyMilter, all);
      t.match(await one.mta.negotiate({ protocol: bit }), { protocol: bit });
      const rest = inMemory(milter(EVERYTHING, statics).MyMilter, all);
      t.match(await rest.mta.negotiate({ protocol: ALL_STEPS & ~bit }), { protocol: ALL_STEPS & ~bit });
    }
  });

  for (const stage of ANSWERED) {
    const [no, nr] = BITS[stage];

    await t.test(`P22 NO bits: ${stage}() alone is missing, or alone is there`, async (t) => {
      const without = inMemory(milter(each(STAGES.filter((other) => other !== stage))).MyMilter);
      t.match(await without.mta.negotiate(), { protocol: no });
      const alone = inMemory(milter(each([stage])).MyMilter);
      t.match(await alone.mta.negotiate(), { protocol: ALL_NO & ~no });
    });

    await t.test(
      `P22, P57 a server that cannot keep ${stage} away gets it answered, and it passes unseen`,
      async (t) => {
        const { MyMilter, calls } = milter(each(STAGES.filter((other) => other !== stage)));
        const { mta } = inMemory(MyMilter);
        t.match(await mta.negotiate({ protocol: ALL_STEPS & ~no }), { protocol: 0 });
        for (const type of await mta.play(...COMMAND[stage])) t.equal(type, 'continue');
        t.notOk(calls.includes(stage));
      },
    );

    await t.test(`P25 ${stage} alone is not answered, and it alone is said so`, async (t) => {
      const { MyMilter, calls } = milter(EVERYTHING, { noReply: [stage] });
      const { mta } = inMemory(MyMilter);
      t.match(await mta.negotiate(), { protocol: nr });
      const commands = COMMAND[stage];
      await mta.play(...commands.slice(0, -1));
      mta.send(...commands.slice(-1));
      mta.send({ type: 'eob' }, say.abort());
      if (stage === 'connect' || stage === 'helo' || stage === 'unknown') {
        t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE' }, 'no message to end');
        t.same(mta.replies, []);
      } else {
        t.match(await mta.reply(), { type: 'continue' });
        mta.send(say.quit());
        await mta.closed;
        t.same(mta.replies, [], 'one reply: that of eob');
      }
      t.ok(calls.includes(stage));
    });

    await t.test(`P24 a server that waits for the answer to ${stage} in any case gets one`, async (t) => {
      const { MyMilter, calls } = milter(EVERYTHING, { noReply: [stage] });
      const { mta } = inMemory(MyMilter);
      t.match(await mta.negotiate({ protocol: ALL_STEPS & ~nr }), { protocol: 0 });
      for (const type of await mta.play(...COMMAND[stage])) t.equal(type, 'continue');
      t.ok(calls.includes(stage));
    });
  }

  for (const [name, bit] of [
    ['SKIP', c.SMFIP_SKIP],
    ['RCPT_REJ', c.SMFIP_RCPT_REJ],
    ['HDR_LEADSPC', c.SMFIP_HDR_LEADSPC],
  ] as const) {
    await t.test(`P23 ${name} is asked for only when it is wanted, and only where it is offered`, async (t) => {
      const unasked = inMemory(milter(EVERYTHING).MyMilter);
      t.match(await unasked.mta.negotiate(), { protocol: 0 });
      const option = inMemory(milter(EVERYTHING).MyMilter, { smfipOptions: bit });
      t.match(await option.mta.negotiate(), { protocol: bit });
      const statics = inMemory(milter(EVERYTHING, { smfipOptions: bit }).MyMilter);
      t.match(await statics.mta.negotiate(), { protocol: bit });
      const unoffered = inMemory(milter(EVERYTHING).MyMilter, { smfipOptions: bit });
      t.match(await unoffered.mta.negotiate({ protocol: ALL_STEPS & ~bit }), { protocol: 0 });
    });
  }
});

t.test('sizes', async (t) => {
  for (const [offered, agreed, chunks] of [
    [0x5000_0000, 0x1000_0000, [262_143, 262_143, 75_714]],
    [0x7000_0000, 0x2000_0000, [600_000]],
    [0xf000_0000, 0x2000_0000, [600_000]],
    [0xc000_0000, 0, [...Array(9).fill(65_535), 10_185]],
  ] as const) {
    const hex = (bits: number): string => `0x${bits.toString(16)}`;
    await t.test(`P26, P27 ${hex(offered)} is answered with ${hex(agreed)}, and packets may be so large`, async (t) => {
      const { MyMilter } = milter({
        eob() {
          this.replBody(Buffer.alloc(600_000, 'x'));
        },
      });
      const { mta } = inMemory(MyMilter, { smfifOptions: c.SMFIF_CHGBODY });
      const steps = (ALL_STEPS | offered) >>> 0;
      const { protocol } = (await mta.negotiate({ protocol: steps })) as Agreed;
      t.equal((protocol & ~ALL_STEPS) >>> 0, agreed);
      mta.send(say.eob());
      for (const size of chunks) t.equal(((await mta.reply()) as { chunk: Buffer }).chunk.length, size);
      t.match(await mta.reply(), { type: 'continue' });
    });
  }
});

t.test('macro lists', async (t) => {
  const macros = {
    eob: ['i', '{msg_id}'],
    connect: ['j', 'daemon_name'],
    eoh: ['i'],
    data: ['v'],
    rcpt: ['rcpt_addr'],
    helo: ['{tls_version}'],
    mailFrom: ['mail_addr', 'i'],
  };
  const raw = async (statics: Statics, options: object, command: Command): Promise<Buffer[]> => {
    const { mta, session } = inMemory(milter({ eob() {} }, statics).MyMilter, options);
    const written: Buffer[] = [];
    session.on('data', (bytes: Buffer) => written.push(bytes));
    await mta.ask(command);
    return written;
  };
  const steps = ALL_NO;

  await t.test(
    'P28 the lists follow in the order of their numbers, end of message before end of headers',
    async (t) => {
      const lists: ReadonlyArray<readonly [number, string]> = [
        [0, 'j {daemon_name}'],
        [1, '{tls_version}'],
        [2, '{mail_addr} i'],
        [3, '{rcpt_addr}'],
        [4, 'v'],
        [5, 'i {msg_id}'],
        [6, 'i'],
      ];
      t.same(await raw({ macros }, {}, offer(6)), [
        packet(
          'O',
          u32(6),
          u32(c.SMFIF_SETSYMLIST),
          u32(steps),
          ...lists.flatMap(([stage, names]) => [u32(stage), names]),
        ),
      ]);
    },
  );

  await t.test('P28 a list for eob alone is sent for eoh too: Sendmail looks there', async (t) => {
    t.same(await raw({ macros: { eob: ['i'] } }, {}, offer(6)), [
      packet('O', u32(6), u32(c.SMFIF_SETSYMLIST), u32(steps), u32(5), 'i', u32(6), 'i'),
    ]);
  });

  await t.test('P28 without SETSYMLIST in the offer, or in an older version, there are none', async (t) => {
    const plain = (version: number): Buffer[] => [packet('O', u32(version), u32(0), u32(steps))];
    t.same(await raw({ macros }, {}, offer(6, 0xff)), plain(6));
    t.same(await raw({ macros }, {}, offer(4)), plain(4));
    t.same(await raw({ macros }, {}, offer(6, 0)), plain(6));
  });

  await t.test('P28 a milter without lists may ask for the flag, and sends none', async (t) => {
    t.same(await raw({}, { smfifOptions: c.SMFIF_SETSYMLIST }, offer(6)), [
      packet('O', u32(6), u32(c.SMFIF_SETSYMLIST), u32(steps)),
    ]);
    const { session, replies } = bareSession(milter().MyMilter);
    session.receive(offer(6));
    t.notOk('macros' in (replies[0] as Reply));
  });
});

t.test('first things first', async (t) => {
  const outOfOrder = [...STAGES.map((stage) => COMMAND[stage].at(-1) as Command), say.abort(), say.quitNewConnection()];
  for (const command of outOfOrder) {
    await t.test(`P29 ${command.type} before the offer ends the session, unanswered and unheard`, async (t) => {
      const { MyMilter, calls } = milter(EVERYTHING);
      const { mta } = inMemory(MyMilter);
      mta.send(command);
      t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE', packet: command.type });
      t.same(mta.replies, []);
      t.same(calls, ['close']);
    });
  }

  await t.test('P29, P100 macros may come before the offer, are not answered, and are found later', async (t) => {
    const found: unknown[] = [];
    const { MyMilter } = milter({
      connect(_host: string, _family: string, _ip: string, _port: number, cmdDict: unknown) {
        found.push({ ...(cmdDict as object) }, this.macro('j'));
      },
    });
    const { mta } = inMemory(MyMilter);
    t.match(await mta.ask(say.macros('C', { j: 'mx' }), offer(6)), { type: 'negotiate' });
    t.match(await mta.ask(say.connect()), { type: 'continue' });
    t.same(found, [{ j: 'mx' }, 'mx']);
  });

  await t.test('P29, P70 QUIT before the offer is an end like any other', async (t) => {
    const { MyMilter, calls } = milter(EVERYTHING);
    const { mta, errors } = inMemory(MyMilter);
    mta.send(say.quit());
    t.equal(await mta.closed, undefined);
    t.same(errors, []);
    t.same(calls, ['close']);
  });

  await t.test('P30 a second offer: nothing is agreed again, the session ends', async (t) => {
    const { MyMilter, calls } = milter(EVERYTHING);
    const { mta } = inMemory(MyMilter);
    await mta.negotiate();
    mta.send(offer(6));
    t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE', message: /a second offer/ });
    t.same(mta.replies, []);
    t.same(calls, ['close']);
  });

  await t.test('P79 an offer that does not come in time ends the session', async (t) => {
    const { MyMilter, calls } = milter(EVERYTHING);
    const { mta } = inMemory(MyMilter, { negotiationTimeout: 20 });
    t.match(await awaken(mta.closed), { code: 'ERR_MILTER_TIMEOUT', message: /No negotiation came within 20 ms/ });
    t.same(calls, ['close']);
  });
});
