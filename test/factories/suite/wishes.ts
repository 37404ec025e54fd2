// What a class and the options say about a conversation, wherever the class runs.
import { ACCEPT, REJECT, SMFIF_ADDHDRS, SMFIF_ALLOPTS, SMFIP_HDR_LEADSPC, SMFIP_SKIP } from '../../../lib/index.js';
import { outcome } from '../../helpers/eob.js';
import { memoryLog } from '../../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, message, say } from '../../helpers/mta.js';
import { Decorated, Demanding } from './milters.js';
import { playing, type Part } from './puppets.js';

export const wishes: Part = (t, variant) => {
  t.test(
    'P22 P28 statics of the class reach the mail server: macros, noReply, noCallback, steps, actions',
    async (t) => {
      const script = { connect: [], header: [['call', 'macro', 'i']], rcpt: [], body: [], eob: [] } as const;
      const options = { Milter: Demanding, smfifOptions: SMFIF_ALLOPTS, smfipOptions: SMFIP_HDR_LEADSPC };
      const play = await playing(t, variant, script, options);
      const { mta } = await play.dial();
      const agreed = await mta.negotiate();
      t.match(agreed, {
        type: 'negotiate',
        version: 6,
        actions: SMFIF_ALLOPTS,
        macros: [
          { stage: 0, names: 'j' },
          { stage: 5, names: 'i {client_addr}' },
          { stage: 6, names: 'i {client_addr}' },
        ],
      });
      const { protocol } = agreed as { protocol: number };
      const has = (bits: number): boolean => (protocol & bits) === bits;
      t.ok(has(SMFIP_SKIP | SMFIP_HDR_LEADSPC), 'what the class and the option ask for');
      t.strictSame([has(0x8), has(0x80), has(0x20), has(0x1), has(0x10)], [true, true, false, false, false]);
      mta.send(say.mail());
      mta.send(say.header(), say.header(), say.body());
      t.strictSame([(await mta.reply()).type, (await mta.reply()).type], ['continue', 'continue'], 'MAIL and the body');
      t.strictSame(play.calls(), ['header', 'header', 'body']);
    },
  );

  t.test('P22 decorators say the same of a callback', async (t) => {
    const play = await playing(t, variant, { eob: [] }, { Milter: Decorated });
    const { mta } = await play.dial();
    const { protocol } = (await mta.negotiate()) as { protocol: number };
    t.strictSame(
      [0x8, 0x80, 0x20, 0x40].map((bit) => (protocol & bit) !== 0),
      [true, true, false, true],
    );
    await mta.ask(say.mail());
    mta.send(say.header());
    t.equal((await mta.ask(say.eob())).type, 'continue');
    t.strictSame(play.calls(), ['header', 'eob']);
  });

  t.test('P20 without the actions that are required the session ends unanswered, and says which', async (t) => {
    const play = await playing(t, variant, {}, { Milter: Demanding });
    const { mta } = await play.dial();
    mta.send({ type: 'negotiate', version: 6, actions: 0x2, protocol: ALL_STEPS });
    await mta.closed;
    t.strictSame(mta.replies, []);
    const told = { code: 'ERR_MILTER_NEGOTIATION', packet: 'negotiate', message: /requires SMFIF_ADDHDRS/ };
    t.match(await play.failure(), told);
    await play.alone();
    t.strictSame(play.errors, []);
  });

  t.test('P24 an older server that knows no such bits gets an answer to each of its commands', async (t) => {
    const play = await playing(t, variant, { header: [], eob: [] }, { Milter: Demanding });
    const { mta } = await play.dial();
    const agreed = await mta.negotiate({ version: 2, actions: 0x3f, protocol: 0x7f });
    t.match(agreed, { version: 2, actions: SMFIF_ADDHDRS });
    t.equal((agreed as { protocol: number }).protocol & ~0x7f, 0);
    t.strictSame(await mta.play(say.header(), say.header(), say.eob()), ['continue', 'continue', 'continue']);
    t.strictSame(play.calls(), ['header', 'header', 'eob']);
  });

  t.test('P25 nothing is said to what is not answered: its verdict is given at the next chance', async (t) => {
    const refuse = ['call', 'setReply', 550, '5.7.1', 'no'] as const;
    const script = { mailFrom: [], header: [refuse], body: [], eob: [] } as const;
    const play = await playing(t, variant, script, { Milter: Demanding });
    const { mta } = await play.agreed();
    await mta.ask(say.mail());
    mta.send(say.header());
    t.match(await mta.ask(say.body()), { type: 'replyCode', text: '550 5.7.1 no' });
    t.match(await mta.ask(say.eob()), { type: 'reject' }, 'and again, if it goes on');
    t.strictSame(play.calls(), ['mailFrom', 'header']);
  });

  t.test('P68 skip() ends the body for the milter', async (t) => {
    const play = await playing(t, variant, { body: [['call', 'skip']], eob: [] }, { smfipOptions: SMFIP_SKIP });
    const { mta } = await play.agreed();
    for (let i = 0; i < 2; i++) {
      t.strictSame(await mta.play(say.mail(), say.body(), say.eob()), ['continue', 'skip', 'continue']);
    }
    t.strictSame(play.calls(), ['body', 'eob', 'body', 'eob']);
  });

  t.test('P93 the macros of a command, and those of all stages, are there', async (t) => {
    const script = {
      connect: [['report', 'arguments']],
      mailFrom: [['report', 'arguments']],
      eob: [
        ['macro', 'j'],
        ['macro', 'i'],
        ['macro', '{mail_addr}'],
        ['macro', 'rcpt_addr'],
      ],
    } as const;
    const play = await playing(t, variant, script);
    const { mta } = await play.agreed();
    mta.send(say.macros('C', { j: 'mx', '{daemon_name}': 'd' }));
    await mta.ask(say.connect());
    mta.send(say.macros('M', { i: 'Q1' }), say.macros('M', { i: 'Q2', '{mail_addr}': 'a' }));
    await mta.ask(say.mail());
    mta.send(say.macros('R', { '{rcpt_addr}': 'b' })); // of a command that is not sent
    await mta.ask(say.eob());
    const seen = play.calls().filter((call) => Array.isArray(call));
    t.match(seen.slice(0, 2), [
      ['arguments', ['mx.example.org', '4', '192.0.2.1', 25000, { j: 'mx' }]],
      ['arguments', ['<a@example.org>', { i: 'Q2', mail_addr: 'a' }, []]],
    ]);
    t.strictSame(seen.slice(2), [
      ['j', 'mx'],
      ['i', 'Q2'],
      ['{mail_addr}', 'a'],
      ['rcpt_addr', 'b'],
    ]);
  });

  t.test('Options: with dryRun nothing is changed or refused, and the log says what would have been', async (t) => {
    const log = memoryLog();
    const script = {
      mailFrom: [['of', '<bad@example.org>', ['say', REJECT]]],
      rcpt: [['throw', 'oops']],
      eob: [
        ['call', 'addHeader', 'X', 'y'],
        ['body', 500_000],
        ['say', ACCEPT],
      ],
    } as const;
    const play = await playing(t, variant, script, { dryRun: true, smfifOptions: ALL_ACTIONS, log });
    const { mta } = await play.agreed();
    t.strictSame(
      await mta.play(...message()),
      message().map(() => 'continue'),
    );
    t.strictSame(await mta.play(say.mail('<bad@example.org>'), say.eob()), ['continue', 'continue']);
    mta.end();
    await play.factory.close();
    t.match(
      log.lines.map(({ message: text }) => text),
      [
        'rcpt() failed: oops',
        'dry run: rcpt() would have said tempFail',
        'dry run: eob() would have said accept',
        'dry run: eob() would have changed the message',
        'dry run: mailFrom() would have said reject',
      ],
    );
  });

  t.test('P126 a mail server that waits for eob() is told that there is progress', async (t) => {
    const options = { progressAfter: 20, progressEvery: 20, smfifOptions: ALL_ACTIONS };
    const play = await playing(t, variant, { eob: [['hold'], ['body', 500_000]] }, options);
    const { mta } = await play.agreed();
    await mta.ask(say.mail());
    mta.send(say.eob());
    for (let i = 0; i < 3; i++) t.equal((await mta.reply()).type, 'progress');
    (await play.held('eob'))();
    const replies = (await outcome(mta)).map(({ type }) => type);
    t.strictSame(
      replies.filter((type) => type !== 'progress'),
      [...Array.from({ length: 8 }, () => 'replBody'), 'continue'],
    );
    t.ok(replies.indexOf('replBody') > replies.lastIndexOf('progress'), 'none between the parts of the body');
    t.equal((await mta.ask(say.abort(), say.mail())).type, 'continue', 'and none behind the end');
  });

  t.test('P121 edits are given before the verdict that makes them count: the body, then the rest', async (t) => {
    const script = {
      eob: [
        ['call', 'addHeader', 'X-New', 'v'],
        ['body', 100_000],
        ['call', 'addRcpt', 'new@example.org'],
        ['call', 'chgFrom', ''],
        ['call', 'quarantine', 'why'],
      ],
    } as const;
    const play = await playing(t, variant, script, { smfifOptions: ALL_ACTIONS });
    const { mta } = await play.agreed();
    await mta.ask(say.mail());
    mta.send(say.eob());
    const types = (await outcome(mta)).map(({ type }) => type);
    const rest = ['addHeader', 'addRcpt', 'chgFrom', 'quarantine', 'continue'];
    t.strictSame(types, ['replBody', 'replBody', ...rest]);
  });
};
