// Several milters behind one proxy: the client's chain, seen from the mail server.
import { join } from 'node:path';
import t from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import {
  AsyncFactory,
  createSession,
  formatAddress,
  MilterProtocol,
  SMFIF_ADDHDRS,
  SMFIF_ALLOPTS,
  SMFIF_CHGBODY,
  SMFIF_QUARANTINE,
  SMFIP_ALLPROTOS,
  SMFIP_HDR_LEADSPC,
  SMFIP_NR_BODY,
  SMFIP_NR_EOH,
  SMFIP_NR_HDR,
  SMFIP_NR_MAIL,
  SMFIP_NOBODY,
  SMFIP_NOHELO,
  SMFIP_RCPT_REJ,
  type ProtocolClass,
  type Verdict,
} from '../../lib/index.js';
import { createProxy } from '../../lib/proxy/index.js';
import { chainMilter } from '../../lib/proxy/chain-milter.js';
import { packet } from '../helpers/bytes.js';
import { chained } from '../helpers/chained.js';
import { stopClock } from '../helpers/clock.js';
import { agrees, fakeMilter, list, type Line } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { message, Mta, say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

const GATHERED = SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_BODY;
const MESSAGE = 'A: 1\r\n\r\nbody\r\n';
const mail = { from: '<a@example.org>', to: ['<b@example.com>'], message: MESSAGE };

t.test(
  'P40 what all want together: kept away if nobody wants it, unanswered if nobody answers, allowed if anybody asks',
  async (t) => {
    const one = SMFIP_NOHELO | SMFIP_NOBODY | SMFIP_NR_MAIL | SMFIP_RCPT_REJ | SMFIP_HDR_LEADSPC;
    const two = SMFIP_NOHELO | SMFIP_NR_MAIL | SMFIP_HDR_LEADSPC;
    const lists = [list(0, 'j {daemon_name}'), list(5, 'i')];
    const { mta, fakes } = chained([
      { negotiate: agrees(6, SMFIF_ADDHDRS, one, ...lists) },
      { negotiate: agrees(6, SMFIF_CHGBODY, two, list(0, 'j,v')) },
    ]);
    const reply = await mta.negotiate({ actions: 0x1ff, protocol: SMFIP_ALLPROTOS });
    t.match(reply, {
      version: 6,
      actions: SMFIF_ADDHDRS | SMFIF_CHGBODY,
      protocol: two | SMFIP_RCPT_REJ | GATHERED,
      macros: [
        { stage: 0, names: 'j {daemon_name} v' },
        { stage: 5, names: 'i' },
      ],
    });
    t.match(fakes[0]!.heard[0], { version: 6, actions: 0x1ff, protocol: SMFIP_ALLPROTOS });
    const less = chained([{ negotiate: agrees(2, 1) }, { negotiate: agrees(2, 1, 0) }]);
    t.match(await less.mta.negotiate({ version: 2, actions: 3, protocol: 0x3f }), {
      version: 2,
      actions: 1,
      protocol: 0,
    });
    t.match(less.fakes[1]!.heard[0], { version: 2, actions: 3, protocol: 0x3f }, 'P39 no more is offered than was');
    for (const version of [3, 4, 5]) {
      const older = chained([{}]);
      t.match(await older.mta.negotiate({ version }), { version: Math.min(version, 6) });
      t.match(older.fakes[0]!.heard[0], { version: version === 5 ? 4 : version });
    }
    const old = chained([{}]);
    await t.rejects(old.mta.negotiate({ version: 1 }));
  },
);

t.test(
  'P136 P137 a whole session: each milter sees what the one before has left, the mail server all edits',
  async (t) => {
    const heard: string[][] = [[], []];
    const milter = (i: number): ProtocolClass =>
      class extends MilterProtocol {
        override connect(hostname: string) {
          heard[i]!.push(`connect ${hostname} ${this.macro('j')}`);
        }
        override helo(name: string) {
          heard[i]!.push(`helo ${name}`);
        }
        override mailFrom(address: string) {
          heard[i]!.push(`mail ${address} ${this.macro('i')}`);
        }
        override rcpt(address: string): Verdict | undefined {
          heard[i]!.push(`rcpt ${address}`);
          return address.includes('nobody') ? this.setReply(550, '5.1.1', 'nobody') : undefined;
        }
        override data() {
          heard[i]!.push('data');
        }
        override header(name: string, value: string) {
          heard[i]!.push(`${name}:${value}`);
        }
        override body(chunk: Buffer) {
          heard[i]!.push(chunk.toString());
        }
        override eob() {
          this.addHeader(`X-${i}`, 'yes');
          this.chgHeader('A', `changed by ${i}`);
          this.replBody(`body of ${i}\r\n`);
          if (i === 1) this.quarantine('look');
        }
        override unknown(line: string) {
          heard[i]!.push(line);
        }
      };
    const factories = [0, 1].map(
      (i) =>
        new AsyncFactory('inet:0', milter(i), {
          smfifOptions: SMFIF_ALLOPTS,
          smfipOptions: i === 0 ? SMFIP_HDR_LEADSPC : 0,
        }),
    );
    for (const factory of factories) await factory.run();
    const folder = shortFolder(t);
    for (const hooks of [undefined, {}]) {
      for (const protocol of [SMFIP_ALLPROTOS, 0x3f]) {
        const proxy = createProxy(
          factories.map((factory) => formatAddress(factory.address!)),
          hooks,
        );
        const address = await proxy.listen(`unix:${join(folder, 's')}`);
        const client = new MilterClient(formatAddress(address), { protocol });
        t.match(await client.connect({ hostname: 'mx' }), { outcome: 'continue' });
        for (let round = 0; round < 2; round++) {
          for (const list of heard) list.length = 0;
          const result = await client.send({ ...mail, to: ['<b@example.com>', '<nobody@example.com>'] });
          t.match(result, {
            verdict: 'accept',
            quarantined: 'look',
            recipients: [{ outcome: 'continue' }, { reply: { enhanced: '5.1.1' } }],
          });
          t.equal(String(result.message), 'A: changed by 1\r\nX-0: yes\r\nX-1: yes\r\n\r\nbody of 1\r\n');
          t.match(heard[0], [
            /^mail <a@example.org> MS/,
            'rcpt <b@example.com>',
            'rcpt <nobody@example.com>',
            'data',
            /^A: ?1$/,
            'body\r\n',
          ]);
          t.match(heard[1], [/^mail/, 'rcpt <b@example.com>', 'data', 'A:changed by 0', 'X-0:yes', 'body of 0\r\n']);
        }
        t.match(await client.unknown('FOO'), { outcome: 'continue' });
        t.match(await client.nextSession({ hostname: 'other' }), { outcome: 'continue' });
        t.match(heard[1]!.at(-1), 'helo other');
        await client.quit();
        await proxy.close();
      }
    }
    for (const factory of factories) await factory.close();
  },
);

t.test('verdicts: the first one that does not go on is the mail server’s; discard, 421, and words', async (t) => {
  const cases: Array<[string, Buffer, object]> = [
    ['connect', packet('y', '554 5.7.1 not you'), { type: 'replyCode', text: '554 5.7.1 not you' }],
    ['connect', packet('a'), { type: 'continue' }],
    ['helo', packet('4'), { type: 'replyCode', text: /^421 4\.7\.0/ }],
    ['mailFrom', packet('d'), { type: 'discard' }],
    ['rcpt', packet('t'), { type: 'tempFail' }],
    ['data', packet('r'), { type: 'reject' }],
    [
      'eob',
      packet('y', '550-5.7.1 two\r\n550 5.7.1 lines'),
      { type: 'replyCode', text: '550-5.7.1 two\r\n550 5.7.1 lines' },
    ],
    ['eob', packet('d'), { type: 'discard' }],
    ['header', packet('r'), { type: 'reject' }],
  ];
  for (const [stage, bytes, expected] of cases) {
    const { mta } = chained([{}, { [stage]: bytes }]);
    await mta.negotiate({ protocol: 0 });
    const all = [say.connect(), say.helo(), ...message()];
    const asked = stage === 'header' ? 'eob' : stage;
    for (const command of all) {
      const reply = await mta.ask(command);
      if (command.type === asked) t.match(reply, expected, stage);
      if (command.type === asked) break;
    }
    mta.send({ type: 'quit' });
    await mta.closed;
  }
});

t.test('what nobody wants to hear of does not come, and a message is still one', async (t) => {
  const { mta, fakes } = chained([{ negotiate: agrees(6, 0x1ff, 0x3ff) }]);
  await mta.negotiate();
  t.match(await mta.ask(say.macros('E', { i: 'ID' }), say.eob()), { type: 'accept' });
  t.strictSame(
    fakes[0]!.heard.map(({ type }) => type).filter((type) => type !== 'macro' && type !== 'abort'),
    ['negotiate', 'eob'],
  );
  t.match(
    fakes[0]!.heard.findLast(({ type }) => type === 'macro'),
    { stage: 'E', macros: [['i', 'ID']] },
  );
  mta.send(say.abort(), { type: 'quitNewConnection' });
  t.match(await mta.ask(say.unknown()), { type: 'continue' });
  t.match(await mta.ask(say.rcpt()), { type: 'continue' });
  mta.send(say.macros('X', {}));
  t.match(await mta.ask({ type: 'eob', chunk: Buffer.from('last') }), { type: 'accept' });
});

t.test('P138 where all want the space before a header’s value, it comes and goes as it is', async (t) => {
  const edit = Buffer.concat([packet('h', 'X', ' v'), packet('c')]);
  const { mta, fakes } = chained([{ negotiate: agrees(6, 1, SMFIP_HDR_LEADSPC), eob: edit }]);
  t.match(await mta.negotiate(), { protocol: SMFIP_HDR_LEADSPC | GATHERED });
  await mta.ask(say.mail());
  mta.send(say.header('A', '  1'));
  t.match(await mta.ask(say.eob()), { type: 'addHeader', value: ' v' });
  t.match(
    fakes[0]!.heard.find(({ type }) => type === 'header'),
    { value: '  1' },
  );
});

t.test('P89 a recipient that the mail server refuses is told to those who asked', async (t) => {
  const { mta, fakes } = chained([{ negotiate: agrees(6, 0, SMFIP_RCPT_REJ) }, {}]);
  await mta.negotiate();
  await mta.ask(say.mail());
  const why = say.macros('R', { '{rcpt_mailer}': 'error', '{rcpt_host}': '5.1.1', '{rcpt_addr}': 'no such user' });
  t.match(await mta.ask(why, say.rcpt('<x@example.com>')), { type: 'continue' });
  t.match(await mta.ask(say.macros('R', { '{rcpt_mailer}': 'error' }), say.rcpt('<y@example.com>')), {
    type: 'continue',
  });
  t.equal(fakes[0]!.heard.filter(({ type }) => type === 'rcpt').length, 2);
  t.equal(fakes[1]!.heard.filter(({ type }) => type === 'rcpt').length, 0);
});

t.test('macros of a message are gone when it is, those of the session stay', async (t) => {
  const { mta, fakes } = chained([{}]);
  await mta.negotiate();
  await mta.ask(say.macros('C', { j: 'mx' }), say.connect());
  await mta.ask(say.macros('M', { i: 'ONE' }), say.mail());
  mta.send(say.abort());
  await mta.ask(say.mail());
  const macros = fakes[0]!.heard.flatMap((each) => (each.type === 'macro' && each.stage === 'M' ? [each.macros] : []));
  t.strictSame(macros, [[['i', 'ONE']], []]);
});

t.test('progress is told while the milters work; a default action that holds a message is a quarantine', async (t) => {
  const talk: { line?: Line } = {};
  const { mta } = chained([{ eob: (line) => (talk.line = line) }, { data: (line) => line.end() }], {
    defaultAction: 'quarantine',
  });
  await mta.negotiate();
  for (const command of [say.mail(), say.rcpt(), say.data()]) await mta.ask(command);
  const clock = stopClock(t);
  const intervals: Array<() => void> = [];
  t.intercept(globalThis, 'setInterval', { value: (fire: () => void) => intervals.push(fire) });
  mta.send(say.eob());
  await settled();
  intervals[0]!();
  t.match(await mta.reply(), { type: 'progress' });
  talk.line!.write(packet('c'));
  t.match(await mta.reply(), { type: 'quarantine', reason: 'A milter has failed' });
  t.match(await mta.reply(), { type: 'accept' });
  await clock.pass(0);
  const own = chained([{ eob: Buffer.concat([packet('q', 'odd'), packet('c')]) }]);
  await own.mta.negotiate({ actions: SMFIF_QUARANTINE });
  await own.mta.ask(say.mail());
  t.match(await own.mta.ask(say.eob()), { type: 'quarantine', reason: 'odd' });
});

t.test('none of them is there: the default action answers; garbage from the mail server ends it', async (t) => {
  const mta = new Mta(chainMilter(['unix:/no/such/socket'])());
  t.match(await mta.negotiate(), { actions: 0, protocol: GATHERED });
  t.match(await mta.ask(say.connect()), { type: 'replyCode', text: /^451/ });
  const odd = new Mta(chainMilter([fakeMilter().stream] as never)());
  odd.bytes(Buffer.from('HTTP/1.1 200 OK\r\n'));
  await t.resolveMatch(odd.closed, { code: 'ERR_MILTER_PACKET_TOO_LARGE' });
  const gone = fakeMilter();
  const left = new Mta(chainMilter([gone.stream] as never)());
  await left.negotiate();
  left.end();
  await left.closed;
  await settled();
  t.ok(gone.stream.destroyed);
  t.ok(createSession(MilterProtocol).writable);
});
