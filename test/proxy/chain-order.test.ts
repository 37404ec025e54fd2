// Several milters behind one mail server that says things out of order, too much, or too fast.
import t from 'tap';
import { encodeCommand, replyParser, type Command } from '../../lib/codec/index.js';
import {
  createSession,
  MilterProtocol,
  SMFIP_NOMAIL,
  SMFIP_NR_BODY,
  SMFIP_NR_EOH,
  SMFIP_NR_HDR,
} from '../../lib/index.js';
import { chainMilter } from '../../lib/proxy/chain-milter.js';
import { packet } from '../helpers/bytes.js';
import { chained, typesOf } from '../helpers/chained.js';
import { agrees, fakeMilter, type Line } from '../helpers/fake-milter.js';
import { gate } from '../helpers/milter.js';
import { message, say } from '../helpers/mta.js';
import { inFrontOf } from '../helpers/proxied.js';
import { settled } from '../helpers/streams.js';

const CONTENT = [say.rcpt(), say.data(), say.header(), say.eoh(), say.body()];
const OFFER: Command = { type: 'negotiate', version: 6, actions: 0x1ff, protocol: 0 };

t.test('P29 P100 before the negotiation come macros and QUIT alone; anything else ends it', async (t) => {
  for (const command of [
    say.connect(),
    say.helo(),
    say.unknown(),
    ...message(),
    say.abort(),
    say.quitNewConnection(),
  ]) {
    const { mta, errors } = chained([{}]);
    mta.send(say.macros('C', { j: 'mx' }), command);
    t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE', packet: command.type, message: /before the negotiation/ });
    t.strictSame(errors, []);
    const { mta: front, errors: told } = inFrontOf([fakeMilter().stream] as never);
    front.send(command);
    if (command.type !== 'abort' && command.type !== 'quitNewConnection')
      t.match(await front.reply(), { type: 'replyCode', text: /^451/ }, 'behind a proxy it is answered');
    await settled();
    t.match(told, [{ code: 'ERR_MILTER_CONNECTION', message: /before the negotiation/ }]);
    front.end();
    await front.closed;
  }
  const { mta, fakes } = chained([{}]);
  mta.send(say.macros('C', { j: 'mx' }));
  await mta.negotiate();
  await mta.ask(say.connect());
  t.match(fakes[0]!.heard.at(-2), { type: 'macro', macros: [['j', 'mx']] });
  const early = chained([{}]);
  early.mta.send(say.quit());
  t.equal(await early.mta.closed, undefined);
});

t.test('P30 a second offer ends it, and so does a second CONNECT, or a late one', async (t) => {
  for (const [first, again] of [
    [[], OFFER],
    [message(), OFFER],
    [[say.connect()], say.connect()],
    [[say.helo()], say.connect()],
    [message(), say.connect()],
  ] as const) {
    const { mta, fakes } = chained([{}]);
    await mta.negotiate({ protocol: 0 });
    await mta.play(...first);
    mta.send(again);
    t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE', packet: again.type });
    t.ok(fakes[0]!.stream.destroyed);
  }
  const { mta } = chained([{}]);
  await mta.negotiate();
  await mta.ask(say.connect());
  t.equal((await mta.ask(say.quitNewConnection(), say.connect())).type, 'continue', 'P71 after QUIT_NC it may come');
});

t.test('a command of a message where there is none is refused for now; an end of message ends it', async (t) => {
  const { mta, fakes } = chained([{}]);
  await mta.negotiate({ protocol: 0 });
  for (const before of [say.connect(), say.helo(), say.mail()]) {
    const told = before.type === 'mailFrom' ? [before, say.abort()] : [before];
    await mta.ask(...told);
    for (const command of CONTENT) t.equal((await mta.ask(command)).type, 'tempFail', command.type);
  }
  t.strictSame(typesOf(fakes[0]!.heard), ['negotiate', 'connect', 'helo', 'mailFrom', 'abort'], 'no milter is asked');
  t.equal((await mta.ask(say.unknown())).type, 'continue', 'P72');
  t.equal((await mta.ask(say.mail())).type, 'continue');
  mta.send(say.abort(), say.eob());
  t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE', packet: 'eob', message: /no message to end/ });
  const quiet = chained([{}]);
  await quiet.mta.negotiate();
  quiet.mta.send(say.header(), say.eoh(), say.body());
  t.equal((await quiet.mta.ask(say.mail())).type, 'continue', 'what is not answered is not answered');
  t.equal((await quiet.mta.ask(say.rcpt())).type, 'continue');
  t.equal((await quiet.mta.ask(say.eob())).type, 'accept');
  const heard = typesOf(quiet.fakes[0]!.heard);
  t.strictSame(heard.slice(heard.indexOf('rcpt')), ['rcpt', 'data', 'eoh', 'eob', 'abort'], 'nothing of it is kept');
});

t.test(
  'P63 P66 after a verdict on the message every command of it gets that again, and no milter is asked',
  async (t) => {
    for (const [at, says, first, again] of [
      ['mailFrom', packet('y', '550 5.7.1 no'), 'replyCode', 'reject'],
      ['mailFrom', packet('d'), 'discard', 'discard'],
      ['mailFrom', packet('a'), 'accept', 'accept'],
      ['rcpt', packet('a'), 'accept', 'accept'],
      ['rcpt', packet('d'), 'discard', 'discard'],
      ['data', packet('y', '451 4.7.1 later'), 'replyCode', 'tempFail'],
      ['eob', packet('y', '550 5.7.1 no'), 'replyCode', 'reject'],
      ['eob', packet('c'), 'accept', 'accept'],
    ] as const) {
      const { mta, fakes } = chained([{ [at]: [says, packet('c')] }]);
      await mta.negotiate({ protocol: 0 });
      for (const command of message()) {
        const { type } = await mta.ask(command);
        if (command.type !== at) continue;
        t.equal(type, first, at);
        break;
      }
      const before = fakes[0]!.heard.length;
      for (const command of CONTENT) t.equal((await mta.ask(command)).type, again, `${command.type} after ${at}`);
      if (at !== 'eob') t.equal((await mta.ask(say.eob())).type, again);
      t.equal(fakes[0]!.heard.length, before);
      if (again !== 'discard') t.equal((await mta.ask(say.unknown())).type, 'continue', 'P72');
      t.strictSame(
        await mta.play(...message()),
        ['continue', 'continue', 'continue', 'continue', 'continue', 'continue', 'accept'],
        'P69 the next message is another one',
      );
      mta.send(say.eob());
      t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE', packet: 'eob' }, 'there is one end to a message');
    }
  },
);

t.test('P64 a refused recipient leaves the message alone; where none is left its end is refused', async (t) => {
  const refusal = packet('y', '550 5.1.1 nobody');
  const { mta, fakes } = chained([{ rcpt: [refusal, packet('c'), packet('t'), refusal] }, {}]);
  await mta.negotiate();
  const all = [say.mail(), say.rcpt(), say.rcpt(), say.data(), say.eob()];
  t.strictSame(await mta.play(...all), ['continue', 'replyCode', 'continue', 'continue', 'accept']);
  t.strictSame(await mta.play(...all.slice(0, 4)), ['continue', 'tempFail', 'replyCode', 'continue']);
  t.match(await mta.ask(say.eob()), { type: 'replyCode', text: '550 5.1.1 nobody' });
  t.strictSame(typesOf(fakes[1]!.heard).slice(-3), ['mailFrom', 'data', 'abort'], 'P136 and the milters hear of it');
  const why = say.macros('R', { '{rcpt_mailer}': 'error' });
  t.strictSame(await mta.play(say.mail()), ['continue']);
  t.strictSame((await mta.ask(why, say.rcpt())).type, 'continue');
  t.equal((await mta.ask(say.eob())).type, 'tempFail', 'also where the mail server has refused them all');
  t.equal((await mta.ask(say.mail())).type, 'continue');
  mta.send(say.macros('R', {}));
  t.match(await mta.ask(say.eob()), { text: '550 5.1.1 nobody' }, 'one that is made up may be refused, too');
});

t.test('P58 P59 HELO and MAIL in the middle of a message end it', async (t) => {
  const { mta, fakes } = chained([{}]);
  await mta.negotiate({ protocol: 0 });
  await mta.play(say.mail('<1@example.org>'), say.rcpt(), say.data(), say.header('A', '1'), say.body('one'));
  await mta.play(say.mail('<2@example.org>'), say.rcpt(), say.header('B', '2'), say.helo());
  t.equal((await mta.ask(say.rcpt())).type, 'tempFail');
  await mta.play(say.mail('<3@example.org>'), say.rcpt(), say.data(), say.header('C', '3'), say.eoh());
  t.equal((await mta.ask(say.eob())).type, 'accept');
  const said = fakes[0]!.heard.flatMap((each) =>
    each.type === 'mailFrom' ? each.address : each.type === 'header' ? each.name : each.type === 'abort' ? 'abort' : [],
  );
  t.strictSame(said, ['<1@example.org>', 'abort', '<2@example.org>', 'abort', '<3@example.org>', 'C', 'abort']);
});

t.test('where MAIL does not come, a message begins with what comes of it, also after a verdict', async (t) => {
  const rcpt = [packet('d'), packet('c')];
  const { mta, fakes, errors } = chained([{ negotiate: agrees(6, 0x1ff, SMFIP_NOMAIL), rcpt }], { maxMessage: 40_000 });
  await mta.negotiate({ protocol: SMFIP_NOMAIL });
  t.strictSame(await mta.play(say.rcpt('<1@example.com>')), ['discard']);
  t.strictSame(await mta.play(say.rcpt('<2@example.com>'), say.eob()), ['continue', 'accept']);
  t.strictSame(await mta.play(say.header(), say.eob()), ['continue', 'accept']);
  t.strictSame(await mta.play(say.eob()), ['accept']);
  const ends = typesOf(fakes[0]!.heard).filter((type) => type === 'eob' || type === 'abort');
  t.strictSame(ends, ['abort', 'eob', 'abort', 'eob', 'abort', 'eob', 'abort']);
  // A verdict that the mail server has not heard yet is still that of the message.
  const quiet = chained([{ negotiate: agrees(6, 0, SMFIP_NOMAIL) }], { maxMessage: 20_000 });
  await quiet.mta.negotiate({ protocol: SMFIP_NOMAIL | SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_BODY });
  quiet.mta.send(say.body('x'.repeat(30_000)), say.body('more'));
  t.match(await quiet.mta.ask(say.eob()), { type: 'replyCode', text: /^451/ });
  t.strictSame([errors.length, quiet.errors.length], [0, 1]);
});

t.test(
  'no milter is offered larger pieces than the mail server takes; what one sends anyway goes on as it is',
  async (t) => {
    const large = packet('b', Buffer.alloc(200_000, 'x').toString());
    const { mta, fakes } = chained([{ eob: Buffer.concat([large, packet('c')]), unknown: packet('a') }]);
    t.match(await mta.negotiate({ protocol: 0x301f_ffff }), { type: 'negotiate' });
    t.match(fakes[0]!.heard[0], { protocol: 0x1f_ffff });
    t.equal((await mta.ask(say.unknown())).type, 'continue', 'which would let a message pass in Postfix');
    await mta.play(say.mail(), say.rcpt());
    const edit = await mta.ask(say.eob());
    t.equal(edit.type === 'replBody' && edit.chunk.length, 200_001, 'with the NUL of the helper');
    t.equal((await mta.reply()).type, 'accept');
  },
);

t.test('P145 QUIT closes all; what follows is nobody’s', async (t) => {
  const { stream, mta, fakes } = chained([{}, {}]);
  await mta.negotiate();
  mta.send(say.connect(), say.quit(), say.mail());
  mta.bytes(Buffer.from('no packet'));
  t.equal((await mta.reply()).type, 'continue');
  t.equal(await mta.closed, undefined);
  t.ok(fakes.every(({ stream, heard }) => stream.destroyed && heard.at(-1)!.type === 'quit'));
  mta.bytes(Buffer.from('nor is this'));
  mta.end();
  await settled();
  t.ok(stream.destroyed);
  t.strictSame(mta.replies, []);
});

t.test('the end comes behind what is due: every answer is given before', async (t) => {
  const talk: { line?: Line } = {};
  const { mta, fakes } = chained([{ rcpt: (line) => (talk.line = line) }]);
  await mta.negotiate();
  mta.send(say.mail(), say.rcpt(), say.data(), say.unknown());
  mta.end();
  await settled();
  talk.line!.write(packet('c'));
  for (let i = 0; i < 4; i++) t.equal((await mta.reply()).type, 'continue');
  t.equal(await mta.closed, undefined);
  t.ok(fakes[0]!.stream.destroyed);
});

t.test('P15 while a milter is at work so much is read ahead and no more; every command gets its answer', async (t) => {
  const asked = gate<Line>();
  const { stream, mta, fakes } = chained([{ rcpt: [(line) => asked.open(line), packet('c')] }]);
  await mta.negotiate();
  mta.send(say.mail());
  for (let i = 0; i < 300; i++) mta.send(say.rcpt(`<${'x'.repeat(1000)}@example.com>`));
  const line = await asked.promise;
  await settled();
  t.ok(stream.writableLength > 200_000, 'it takes no more');
  t.equal(typesOf(fakes[0]!.heard).at(-1), 'rcpt');
  line.write(packet('c'));
  for (let i = 0; i < 301; i++) t.equal((await mta.reply()).type, 'continue');
  t.equal(stream.writableLength, 0);
});

t.test('P15 while nobody takes the answers no more milters are asked', async (t) => {
  let asked = 0;
  class Counting extends MilterProtocol {
    override unknown() {
      asked++;
    }
  }
  const chain = chainMilter([createSession(Counting)] as never)();
  const count = 30_000;
  chain.write(encodeCommand({ ...OFFER, protocol: 0 }));
  chain.write(Buffer.concat(Array.from({ length: count }, () => encodeCommand(say.unknown()))));
  await settled();
  let before = -1;
  while (asked > before) {
    before = asked;
    await settled();
  }
  t.ok(asked < count, `${asked}`);
  let answers = 0;
  const parser = replyParser();
  const all = gate();
  chain.on('data', (bytes: Buffer) =>
    parser.parse(bytes, { packet: () => (++answers === count + 1 ? all.open() : undefined) }),
  );
  await all.promise;
  t.equal(asked, count);
  chain.destroy();
});

t.test('destroy() while nobody takes the answers', async (t) => {
  const { stream, heard } = fakeMilter({ eob: Buffer.concat([packet('b', 'x'.repeat(200_000)), packet('c')]) });
  const chain = chainMilter([stream] as never)();
  for (const command of [OFFER, say.mail(), say.eob(), say.unknown()]) chain.write(encodeCommand(command));
  await settled();
  t.equal(heard.at(-1)!.type, 'abort', 'what is behind the answer waits');
  chain.destroy();
  t.ok(stream.destroyed);
  await settled();
});
