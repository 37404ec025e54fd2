// Hooks: they watch, change, drop, delay and answer, and what they may not do harms nobody.
import t from 'tap';
import type { Command, Reply } from '../../lib/codec/index.js';
import {
  SMFIF_ADDHDRS,
  SMFIF_CHGBODY,
  SMFIP_HDR_LEADSPC,
  SMFIP_NOHELO,
  SMFIP_NR_BODY,
  SMFIP_NR_HDR,
  SMFIP_NR_MAIL,
  SMFIP_SKIP,
} from '../../lib/index.js';
import type { ProxyContext, ProxyHooks } from '../../lib/proxy/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import { agrees, silence, type Line } from '../helpers/fake-milter.js';
import { gate } from '../helpers/milter.js';
import { message, say } from '../helpers/mta.js';
import { connectedPair } from '../helpers/pair.js';
import { inFrontOf, proxied } from '../helpers/proxied.js';
import { settled } from '../helpers/streams.js';

const types = (heard: readonly Command[]): string[] => heard.map(({ type }) => type);

t.test('hooks see every packet of either side, in order, with what was agreed and a place for notes', async (t) => {
  const seen: string[] = [];
  const contexts = new Set<ProxyContext>();
  const { mta, milter, errors } = proxied(
    {
      negotiate: agrees(6, 1, SMFIP_NR_HDR),
      header: silence,
      eob: Buffer.concat([packet('p'), packet('h', 'X', 'y'), packet('c')]),
    },
    {
      command(command, context) {
        contexts.add(context);
        context.state.set('last', command.type);
        seen.push(`>${command.type} ${context.agreed?.protocol ?? '-'}`);
      },
      reply: (reply, context) => void seen.push(`<${reply.type} to ${String(context.state.get('last'))}`),
    },
  );
  await mta.negotiate();
  mta.send(...message());
  while ((await mta.reply()).type !== 'addHeader');
  t.equal((await mta.reply()).type, 'continue');
  t.equal(contexts.size, 1);
  t.equal([...contexts][0]?.id, '1');
  t.strictSame(seen.slice(0, 4), ['>negotiate -', '<negotiate to negotiate', '>mailFrom 128', '<continue to mailFrom']);
  t.strictSame(seen.slice(-4), ['>eob 128', '<progress to eob', '<addHeader to eob', '<continue to eob']);
  t.equal(milter.heard.length, 8);
  t.strictSame(errors, []);
});

t.test(
  'P134 what a hook leaves alone is forwarded byte for byte: the same object or nothing, odd packets too',
  async (t) => {
    for (const keep of [() => undefined, <T>(packet: T): T => packet]) {
      const { mta, milter, events } = proxied({}, { command: keep, reply: keep });
      await mta.negotiate();
      mta.bytes(
        Buffer.concat([packet('X', Buffer.from('?')), packet('D', 'C', 'odd'), packet('C', Buffer.from('no NUL'))]),
      );
      await settled();
      const sent = Buffer.concat(
        events.flatMap((event) => (event.type === 'data' && event.from === 'mta' ? [event.bytes] : [])),
      );
      t.ok(sent.includes(packet('X', Buffer.from('?'))));
      t.strictSame(types(milter.heard).slice(0, 1), ['negotiate']);
    }
  },
);

t.test('a changed command is what the milter hears, a changed reply what the mail server does', async (t) => {
  const { mta, milter } = proxied(
    { rcpt: packet('r') },
    {
      command: (command) => (command.type === 'rcpt' ? { ...command, address: '<changed@example.com>' } : undefined),
      reply: (reply) => (reply.type === 'reject' ? { type: 'replyCode', text: '450 4.2.0 later' } : undefined),
    },
  );
  await mta.negotiate();
  await mta.ask(say.mail());
  t.match(await mta.ask(say.rcpt()), { type: 'replyCode', text: '450 4.2.0 later' });
  t.match(milter.heard.at(-1), { type: 'rcpt', address: '<changed@example.com>' });
});

t.test(
  'a dropped command that expects an answer gets continue from the proxy; a dropped answer becomes one',
  async (t) => {
    const { mta, milter } = proxied(
      {
        negotiate: agrees(6, 1, SMFIP_NR_HDR),
        data: packet('r'),
        eob: Buffer.concat([packet('p'), packet('h', 'X', 'y'), packet('r')]),
      },
      {
        command: (command) =>
          command.type === 'rcpt' || command.type === 'header' || command.type === 'macro' ? false : undefined,
        reply: (reply) => (reply.type === 'negotiate' ? undefined : false),
      },
    );
    await mta.negotiate();
    t.strictSame(await mta.play(say.mail(), say.rcpt(), say.data()), ['continue', 'continue', 'continue']);
    mta.send(say.macros('L', {}), say.header());
    t.strictSame(await mta.play(say.eoh(), say.body(), say.eob()), ['continue', 'continue', 'continue']);
    t.strictSame(types(milter.heard), ['negotiate', 'mailFrom', 'data', 'eoh', 'body', 'eob']);
  },
);

t.test('a hook’s own answer is never forwarded upstream; edits before the end obey what was agreed', async (t) => {
  const answers: Record<string, Reply | Reply[]> = {
    rcpt: { type: 'replyCode', text: '550 5.1.1 nobody' },
    eob: [{ type: 'addHeader', name: 'X', value: 'y' }, { type: 'progress' }, { type: 'accept' }],
  };
  const { mta, milter, errors } = proxied(
    { negotiate: agrees(6, SMFIF_ADDHDRS) },
    { command: ({ type }) => (answers[type] === undefined ? undefined : { answer: answers[type] }) },
  );
  await mta.negotiate();
  await mta.ask(say.mail());
  t.match(await mta.ask(say.rcpt()), { type: 'replyCode', text: '550 5.1.1 nobody' });
  t.strictSame(await mta.play(say.data(), say.eob()), ['continue', 'addHeader']);
  t.strictSame([(await mta.reply()).type, (await mta.reply()).type], ['progress', 'accept']);
  t.notOk(types(milter.heard).includes('rcpt') || types(milter.heard).includes('eob'));
  t.strictSame(errors, []);
});

t.test('what a hook may not: the error says it, the packet passes as it was', async (t) => {
  const edit: Reply = { type: 'addHeader', name: 'X', value: 'y' };
  const cases: Array<[string, ProxyHooks, Command, RegExp]> = [
    [
      'throws',
      {
        command: () => {
          throw new Error('boom');
        },
      },
      say.mail(),
      /ERR_MILTER_CALLBACK A hook has failed: boom/,
    ],
    [
      'throws nonsense',
      {
        reply: () => {
          throw 'x';
        },
      },
      say.mail(),
      /ERR_MILTER_CALLBACK A hook has failed: x/,
    ],
    [
      'rejects',
      { command: () => Promise.reject(new Error('later')) },
      say.mail(),
      /ERR_MILTER_CALLBACK A hook has failed: later/,
    ],
    ['rejects a reply', { reply: () => Promise.reject(new Error('later')) }, say.mail(), /ERR_MILTER_CALLBACK/],
    [
      'edits too early',
      { command: () => ({ answer: [edit, { type: 'accept' }] }) },
      say.mail(),
      /ERR_MILTER_WRONG_STAGE .* addHeader, at mailFrom/,
    ],
    [
      'edits without leave',
      { command: () => ({ answer: [edit, { type: 'accept' }] }) },
      say.eob(),
      /ERR_MILTER_NOT_NEGOTIATED .*SMFIF_ADDHDRS/,
    ],
    [
      'edits without leave, in a reply',
      { reply: () => [edit, { type: 'accept' }] },
      say.eob(),
      /ERR_MILTER_NOT_NEGOTIATED/,
    ],
    ['does not finish', { command: () => ({ answer: [edit] }) }, say.eob(), /ERR_MILTER_SEQUENCE .*has no end/],
    ['says nothing', { command: () => ({ answer: [] }) }, say.eob(), /ERR_MILTER_SEQUENCE .*has no end/],
    [
      'answers what nobody answers',
      { command: ({ type }) => (type === 'abort' ? { answer: { type: 'accept' } } : undefined) },
      say.abort(),
      /ERR_MILTER_SEQUENCE .*answered abort/,
    ],
    [
      'says what no packet can',
      { command: (command) => ({ ...command, address: 'a\0b' }) as never },
      say.mail(),
      /ERR_MILTER_VALUE/,
    ],
  ];
  for (const [what, hooks, command, words] of cases) {
    let armed = false;
    const { mta, milter, errors } = proxied(
      { negotiate: agrees(6, SMFIF_CHGBODY), mailFrom: packet('c') },
      {
        command: (...args) => (armed ? hooks.command?.(...args) : undefined),
        reply: (...args) => (armed ? hooks.reply?.(...args) : undefined),
      },
    );
    await mta.negotiate();
    armed = true;
    if (command.type === 'abort') mta.send(command);
    else t.match(await mta.ask(command), { type: 'continue' }, what);
    await settled();
    t.equal(milter.heard.at(-1)?.type, command.type);
    t.match(`${errors[0]?.code} ${errors[0]?.message}`, words, what);
    armed = false;
    t.match(await mta.ask(say.helo()), { type: 'continue' }, 'and the session goes on');
  }
});

t.test('P15 a promise delays its packet and those behind it, and the source is not read meanwhile', async (t) => {
  const { promise, open } = gate();
  const order: string[] = [];
  const { mta, milter, stream } = proxied(
    { negotiate: agrees(6, 0, SMFIP_NR_BODY), body: silence },
    {
      async command({ type }) {
        order.push(type);
        if (type === 'helo') await promise;
      },
    },
  );
  await mta.negotiate();
  mta.send(say.helo(), say.mail());
  await settled();
  t.strictSame(order, ['negotiate', 'helo']);
  t.strictSame(types(milter.heard), ['negotiate']);
  let taken = 0;
  while (stream.write(packet('B', Buffer.alloc(60_000))) && taken < 100) {
    taken++;
    await settled();
  }
  t.ok(taken < 10, `${taken} pieces were taken`);
  open();
  t.strictSame([(await mta.reply()).type, (await mta.reply()).type], ['continue', 'continue']);
  await settled();
  t.equal(types(milter.heard).filter((type) => type === 'body').length, taken + 1);
});

t.test('garbage waits for the packets before it that a hook holds; so does the end of the milter', async (t) => {
  const { promise, open } = gate();
  const [milter, upstream] = connectedPair();
  const { stream, proxy } = inFrontOf(() => upstream, {
    command: ({ type }) => (type === 'helo' ? promise : undefined),
  });
  const heard: Buffer[] = [];
  milter.on('data', (bytes: Buffer) => heard.push(bytes));
  stream.write(Buffer.concat([packet('H', 'x'), Buffer.from('HTTP')]));
  await settled();
  t.equal(heard.length, 0);
  open();
  await settled();
  t.ok(Buffer.concat(heard).equals(Buffer.concat([packet('H', 'x'), Buffer.from('HTTP')])));
  await proxy.destroy();
  const late = gate();
  const other = proxied(
    { helo: (line: Line) => (line.write(packet('r')), line.end()) },
    { reply: ({ type }) => (type === 'reject' ? late.promise : undefined) },
  );
  await other.mta.negotiate();
  const answer = other.mta.ask(say.helo());
  await settled();
  late.open();
  t.match(await answer, { type: 'reject' }, 'what it said last is still said');
  t.match(await other.mta.ask(say.mail()), { type: 'replyCode' });
});

t.test('the connection is over while a hook is at work: nothing comes of it', async (t) => {
  const { promise, open } = gate();
  const { mta, stream, milter, proxy, errors } = proxied(
    {},
    { command: ({ type }) => (type === 'helo' ? promise : undefined) },
  );
  await mta.negotiate();
  mta.send(say.helo());
  await settled();
  stream.destroy();
  await settled();
  open();
  await settled();
  t.equal(milter.heard.at(-1)?.type, 'helo', 'what was said is still passed on');
  t.strictSame(errors, []);
  t.equal(proxy.connections, 0);
  await proxy.close();
});

t.test('a connection that is destroyed while a hook is at work', async (t) => {
  const { promise, open } = gate();
  const { mta, milter, proxy } = proxied({}, { command: ({ type }) => (type === 'helo' ? promise : undefined) });
  await mta.negotiate();
  mta.send(say.helo(), say.mail());
  await settled();
  await proxy.destroy();
  open();
  await settled();
  t.strictSame(types(milter.heard), ['negotiate']);
});

t.test('a hook may end the connection, and say why', async (t) => {
  const { mta, errors, proxy } = proxied(
    {},
    {
      command({ type }, context) {
        if (type === 'helo') context.destroy(new Error('enough'));
        if (type === 'mailFrom') context.destroy();
      },
    },
  );
  await mta.negotiate();
  mta.send(say.helo());
  await mta.closed;
  await settled();
  t.match(errors, [{ code: 'ERR_MILTER_CONNECTION', message: 'enough' }]);
  t.equal(errors.length, 1, 'that neither connection is there any more is no failure');
  await proxy.close();
});

// Negotiation that the two sides have heard differently.

const answering = (change: (protocol: number) => number): ProxyHooks => ({
  reply: (reply) => (reply.type === 'negotiate' ? { ...reply, protocol: change(reply.protocol) } : undefined),
});

t.test('P41 a changed answer to the offer is derived again: who is answered, and by whom', async (t) => {
  const bits = SMFIP_NR_MAIL | SMFIP_NR_HDR;
  const taken = proxied(
    { negotiate: agrees(6, 0, bits), mailFrom: silence, header: silence },
    answering(() => 0),
  );
  t.match(await taken.mta.negotiate(), { protocol: 0 });
  t.strictSame(
    await taken.mta.play(...message()),
    message().map(() => 'continue'),
    'the proxy answers what the milter does not',
  );
  t.equal(taken.milter.heard.length, 1 + message().length);

  const given = proxied(
    { negotiate: agrees(6, 0, 0) },
    answering(() => bits),
  );
  t.match(await given.mta.negotiate(), { protocol: bits });
  given.mta.send(say.mail());
  t.strictSame(await given.mta.play(say.rcpt(), say.data()), ['continue', 'continue']);
  given.mta.send(say.header());
  t.match(await given.mta.ask(say.eoh()), { type: 'continue' });
  await settled();
  t.equal(given.mta.replies.length, 0, 'what the milter answered for itself is kept back');
  const slow = proxied(
    { negotiate: agrees(6, 0, 0), mailFrom: silence, rcpt: (line) => line.end() },
    answering(() => bits),
  );
  await slow.mta.negotiate();
  t.match(await slow.mta.ask(say.mail(), say.rcpt()), { type: 'replyCode' }, 'nor is it missed when the milter goes');

  const wanted = proxied(
    { negotiate: agrees(6, 0, SMFIP_NOHELO) },
    answering(() => 0),
  );
  await wanted.mta.negotiate();
  t.match(await wanted.mta.ask(say.helo()), { type: 'continue' });
  t.strictSame(types(wanted.milter.heard), ['negotiate'], 'the milter does not hear what it did not want');
});

t.test('P138 the space before a header’s value is put right for both sides', async (t) => {
  const edits = Buffer.concat([packet('h', 'X', ' v'), packet('m', u32(1), 'Y', ''), packet('c')]);
  const less = proxied(
    { negotiate: agrees(6, 0x1ff, SMFIP_HDR_LEADSPC), eob: edits },
    answering(() => 0),
  );
  await less.mta.negotiate();
  await less.mta.ask(say.header('A', 'v'));
  t.match(less.milter.heard.at(-1), { value: ' v' });
  t.match(await less.mta.ask(say.eob()), { type: 'addHeader', value: 'v' });
  t.match(await less.mta.reply(), { type: 'chgHeader', value: '' });

  const more = proxied(
    { negotiate: agrees(6, 0x1ff, 0), eob: edits },
    answering(() => SMFIP_HDR_LEADSPC),
  );
  await more.mta.negotiate();
  await more.mta.ask(say.header('A', ' v'));
  t.match(more.milter.heard.at(-1), { value: 'v' });
  t.match(await more.mta.ask(say.eob()), { type: 'addHeader', value: '  v' });
});

t.test('a skip that the mail server does not know stops the body at the proxy', async (t) => {
  const { mta, milter } = proxied(
    { negotiate: agrees(6, 0, SMFIP_SKIP), body: packet('s') },
    answering(() => 0),
  );
  await mta.negotiate();
  t.strictSame(await mta.play(say.body(), say.body(), say.body(), say.eob()), [
    'continue',
    'continue',
    'continue',
    'continue',
  ]);
  t.strictSame(types(milter.heard), ['negotiate', 'body', 'eob']);
  t.match(await mta.ask(say.body()), { type: 'continue' });
  t.equal(milter.heard.length, 4, 'the next message has its body again');
});

t.test('P39 nobody is offered, or answered, what the mail server has not offered', async (t) => {
  const wide: ProxyHooks = {
    command: (command) =>
      command.type === 'negotiate' ? { ...command, protocol: 0x1fffff, actions: 0x1ff } : undefined,
  };
  const offer = proxied({}, wide);
  await offer.mta.negotiate({ protocol: 0, actions: 1 });
  t.match(offer.milter.heard[0], { protocol: 0, actions: 1 }, 'the offer passes as it was');
  t.match(offer.errors, [
    { code: 'ERR_MILTER_NEGOTIATION', message: /The offer of the hook has SMFIF_CHGBODY, .*not offered/ },
  ]);
  const answer = proxied(
    {},
    answering(() => SMFIP_SKIP),
  );
  t.match(await answer.mta.negotiate({ protocol: 0 }), { protocol: 0 });
  t.match(answer.errors, [{ code: 'ERR_MILTER_NEGOTIATION', message: /The answer of the hook has SMFIP_SKIP/ }]);
  const version = proxied(
    {},
    { reply: (reply) => (reply.type === 'negotiate' ? { ...reply, version: 6 } : undefined) },
  );
  t.match(await version.mta.negotiate({ version: 2 }), { version: 2 });
  t.match(version.errors, [{ message: /has version 6/ }]);
  const narrow = proxied(
    {},
    { command: (command) => (command.type === 'negotiate' ? { ...command, actions: 1 } : undefined) },
  );
  t.match(await narrow.mta.negotiate(), { actions: 1 });
  t.match(narrow.milter.heard[0], { actions: 1 });
  t.strictSame(narrow.errors, []);
});

t.test('after a failure hooks still see the commands, and the configured reply is given', async (t) => {
  const seen: string[] = [];
  const { mta } = proxied({ helo: (line) => line.end() }, { command: ({ type }) => void seen.push(type) });
  await mta.negotiate();
  t.strictSame(await mta.play(say.helo(), say.mail()), ['replyCode', 'replyCode']);
  t.strictSame(seen, ['negotiate', 'helo', 'mailFrom']);
  mta.send({ type: 'quit' });
  mta.end();
  await mta.closed;
});
