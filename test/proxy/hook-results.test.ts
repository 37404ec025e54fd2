// Whatever hooks return, at every stage: each command is answered once, in its turn, and the session goes on.
import * as fc from 'fast-check';
import t, { type Test } from 'tap';
import type { Command, Reply } from '../../lib/codec/index.js';
import { SMFIF_ADDHDRS, SMFIP_HDR_LEADSPC, SMFIP_NR_BODY, SMFIP_NR_HDR, SMFIP_SKIP } from '../../lib/index.js';
import { STAGE_NAMES, type Stage } from '../../lib/stages.js';
import type { ProxyHooks } from '../../lib/proxy/index.js';
import { packet } from '../helpers/bytes.js';
import { agrees, type Script } from '../helpers/fake-milter.js';
import { gate } from '../helpers/milter.js';
import { COMMANDS, say } from '../helpers/mta.js';
import { proxied } from '../helpers/proxied.js';
import { settled } from '../helpers/streams.js';

const edit: Reply = { type: 'addHeader', name: 'X', value: 'y' };
const accept: Reply = { type: 'accept' };
const odd = { type: 'unrecognized', code: 0x58, payload: Buffer.alloc(0) } as const;

/** What a hook gives back, and the code of the error that it brings; a promise of the same must do the same. */
type Row = [what: string, result: (packet: never) => unknown, code: string | undefined, heard?: string[]];

const SEQUENCE = 'ERR_MILTER_SEQUENCE';
const CALLBACK = 'ERR_MILTER_CALLBACK';

const commandRows = (stage: Stage): Row[] => [
  ['nothing', () => undefined, undefined],
  ['the same', (command) => command, undefined],
  ['a copy', (command: object) => ({ ...command }), undefined],
  ['another kind', () => (stage === 'helo' ? say.mail() : say.helo()), SEQUENCE],
  ['what nobody answers in its place', () => say.abort(), SEQUENCE],
  ['what is no packet of this direction', () => accept, SEQUENCE],
  ['an odd packet', () => odd, SEQUENCE],
  ['false', () => false, undefined, ['continue']],
  ['true', () => true, CALLBACK],
  ['null', () => null, CALLBACK],
  ['a word', () => 'accept', CALLBACK],
  ['no packets', () => [], CALLBACK],
  ['an answer', () => ({ answer: { type: 'reject' } }), undefined, ['reject']],
  ['an answer of several', () => ({ answer: [{ type: 'progress' }, accept] }), undefined, ['progress', 'accept']],
  ['an answer without end', () => ({ answer: { type: 'progress' } }), SEQUENCE],
  ['an answer with two ends', () => ({ answer: [accept, accept] }), SEQUENCE],
  ['an answer of nothing', () => ({ answer: [] }), SEQUENCE],
  ['an answer that is none', () => ({ answer: undefined }), CALLBACK],
  ['an answer with a hole', () => ({ answer: [null, accept] }), CALLBACK],
  ['an offer as an answer', () => ({ answer: { type: 'negotiate', version: 6, actions: 0, protocol: 0 } }), SEQUENCE],
  ['an answer that cannot be said', () => ({ answer: { type: 'replyCode', text: 'no\0' } }), 'ERR_MILTER_VALUE'],
  ['an answer of no known type', () => ({ answer: { type: 'cry' } }), SEQUENCE],
  stage === 'eob'
    ? ['an edit', () => ({ answer: [edit, accept] }), undefined, ['addHeader', 'accept']]
    : ['an edit', () => ({ answer: [edit, accept] }), 'ERR_MILTER_WRONG_STAGE'],
  [
    'an edit not agreed on',
    () => ({ answer: [{ type: 'delRcpt', address: 'a' }, accept] }),
    stage === 'eob' ? 'ERR_MILTER_NOT_NEGOTIATED' : 'ERR_MILTER_WRONG_STAGE',
  ],
];

const replyRows = (stage: Stage): Row[] => [
  ['nothing', () => undefined, undefined],
  ['the same', (reply) => reply, undefined],
  ['another', () => accept, undefined, ['accept']],
  ['false', () => false, undefined, ['continue']],
  ['true', () => true, CALLBACK],
  ['null', () => null, CALLBACK],
  ['no packets', () => [], SEQUENCE],
  ['progress alone', () => ({ type: 'progress' }), SEQUENCE],
  ['progress, and an end', () => [{ type: 'progress' }, accept], undefined, ['progress', 'accept']],
  ['two ends', () => [accept, accept], SEQUENCE],
  ['an offer', () => ({ type: 'negotiate', version: 6, actions: 0, protocol: 0 }), SEQUENCE],
  ['an odd packet', () => odd, SEQUENCE],
  ['the same behind progress', (reply) => [{ type: 'progress' }, reply], undefined, ['progress', 'tempFail']],
  ['what cannot be said', () => ({ type: 'replyCode', text: 'no\0' }), 'ERR_MILTER_VALUE'],
  stage === 'eob'
    ? ['an edit before it', (reply) => [edit, reply], undefined, ['addHeader', 'tempFail']]
    : ['an edit before it', (reply) => [edit, reply], 'ERR_MILTER_WRONG_STAGE'],
];

/** The milter answers everything with tempFail: what comes from it can be told from what does not. */
const SCRIPT: Script = {
  negotiate: agrees(6, SMFIF_ADDHDRS),
  ...Object.fromEntries(STAGE_NAMES.map((stage) => [stage, packet('t')])),
};

async function holds(t: Test, side: 'command' | 'reply', stage: Stage, row: Row, later: boolean): Promise<void> {
  const [what, result, code, heard = ['tempFail']] = row;
  let armed = true;
  const hook = (packet: { type: string }): unknown => {
    const mine = side === 'command' ? packet.type === stage : packet.type === 'tempFail';
    if (!mine || !armed) return undefined;
    armed = false;
    return later ? Promise.resolve().then(() => result(packet as never)) : result(packet as never);
  };
  const { mta, milter, errors, proxy } = proxied(SCRIPT, { [side]: hook });
  await mta.negotiate();
  const types = [(await mta.ask(COMMANDS[stage])).type];
  while (types.length < heard.length) types.push((await mta.reply()).type);
  const where = `${side} ${stage}: ${what}${later ? ', later' : ''}`;
  t.strictSame(types, heard, where);
  t.strictSame(
    errors.map((error) => error.code),
    code === undefined ? [] : [code],
    where,
  );
  const other = stage === 'unknown' ? 'helo' : 'unknown';
  t.match(await mta.ask(COMMANDS[other]), { type: 'tempFail' }, `${where}: and the next one has its own answer`);
  t.equal(milter.heard.at(-1)?.type, other);
  t.equal(mta.replies.length, 0, `${where}: nothing too much`);
  await proxy.destroy();
}

t.test('P41 P134 whatever a hook makes of a command, it is answered once', async (t) => {
  for (const stage of STAGE_NAMES)
    for (const row of commandRows(stage))
      for (const later of [false, true]) await holds(t, 'command', stage, row, later);
});

t.test('P41 P134 whatever a hook makes of a final reply, there is one', async (t) => {
  for (const stage of STAGE_NAMES)
    for (const row of replyRows(stage)) for (const later of [false, true]) await holds(t, 'reply', stage, row, later);
});

t.test('the offer and its answer cannot be dropped, or become something else', async (t) => {
  const offer = { type: 'negotiate', version: 6, actions: 0, protocol: 0 } as const;
  const rows: Array<[side: 'command' | 'reply', result: unknown, code: string]> = [
    ['command', false, SEQUENCE],
    ['command', { answer: offer }, SEQUENCE],
    ['command', { answer: accept }, SEQUENCE],
    ['command', say.helo(), SEQUENCE],
    ['command', null, CALLBACK],
    ['reply', false, SEQUENCE],
    ['reply', [], SEQUENCE],
    ['reply', accept, SEQUENCE],
    ['reply', [offer, offer], SEQUENCE],
    ['reply', 7, CALLBACK],
  ];
  for (const [side, result, code] of rows) {
    const hook = ({ type }: { type: string }): unknown => (type === 'negotiate' ? result : undefined);
    const { mta, milter, errors, proxy } = proxied({}, { [side]: hook });
    t.match(await mta.negotiate(), { type: 'negotiate', actions: 0x1ff });
    t.match(await mta.ask(say.helo()), { type: 'continue' });
    t.strictSame(
      milter.heard.map(({ type }) => type),
      ['negotiate', 'helo'],
    );
    t.match(errors, [{ code, message: /^A hook has / }]);
    await proxy.destroy();
  }
});

t.test('progress and edits can become others, or nothing, but never an end', async (t) => {
  const eob = Buffer.concat([packet('p'), packet('h', 'X', 'y'), packet('X', Buffer.from('?')), packet('c')]);
  const rows: Array<[result: (reply: Reply) => unknown, heard: string[], codes: string[]]> = [
    [() => undefined, ['progress', 'addHeader', 'unrecognized', 'continue'], []],
    [() => false, ['continue'], []],
    [() => [], ['continue'], []],
    [
      (reply) => [reply, { type: 'progress' }],
      ['progress', 'progress', 'addHeader', 'progress', 'unrecognized', 'continue'],
      [SEQUENCE],
    ],
    [() => edit, ['addHeader', 'addHeader', 'addHeader', 'continue'], []],
    [() => accept, ['progress', 'addHeader', 'unrecognized', 'continue'], [SEQUENCE, SEQUENCE, SEQUENCE]],
    [() => [edit, accept], ['progress', 'addHeader', 'unrecognized', 'continue'], [SEQUENCE, SEQUENCE, SEQUENCE]],
  ];
  for (const [result, heard, codes] of rows) {
    const { mta, errors, proxy } = proxied(
      { eob },
      {
        reply: (reply) =>
          ['negotiate', 'continue'].includes(reply.type) ? undefined : (result(reply as Reply) as Reply),
      },
    );
    await mta.negotiate();
    const types = [(await mta.ask(say.eob())).type as string];
    while (types.at(-1) !== 'continue') types.push((await mta.reply()).type);
    t.strictSame(types, heard);
    t.strictSame(
      errors.map(({ code }) => code),
      codes,
    );
    t.match(await mta.ask(say.helo()), { type: 'continue' });
    await proxy.destroy();
  }
});

t.test('an edit of a hook is an edit: the milter is lost, and nothing that accepts follows it', async (t) => {
  const cases: Array<[said: Buffer, hook: NonNullable<ProxyHooks['reply']>, heard: string[]]> = [
    [packet('h', 'A', 'b'), () => undefined, ['addHeader', 'tempFail']],
    [packet('h', 'A', 'b'), ({ type }) => (type === 'addHeader' ? false : undefined), ['accept']],
    [packet('p'), ({ type }) => (type === 'progress' ? edit : undefined), ['addHeader', 'tempFail']],
  ];
  for (const [said, reply, heard] of cases) {
    const { mta, proxy } = proxied(
      { eob: (line) => (line.write(said), line.end()) },
      { reply },
      { onFailure: 'accept' },
    );
    await mta.negotiate();
    mta.send(say.eob());
    for (const type of heard) t.match(await mta.reply(), { type });
    await proxy.destroy();
  }
});

t.test(
  'P134 with hooks, too, a reply that nobody knows is no answer, and one that cannot be read is the one it should be',
  async (t) => {
    for (const hooks of [undefined, {}, { reply: <T>(reply: T): T => reply }]) {
      const { mta } = proxied(
        {
          helo: Buffer.concat([packet('X'), packet('r')]),
          mailFrom: packet('y', Buffer.from('junk')),
          data: (line) => line.end(),
        },
        hooks,
      );
      await mta.negotiate();
      t.match(await mta.ask(say.helo()), { type: 'unrecognized' });
      t.match(await mta.reply(), { type: 'reject' });
      t.match(await mta.ask(say.mail()), { type: 'malformed' });
      t.match(await mta.ask(say.rcpt()), { type: 'continue' });
      t.match(await mta.ask(say.data()), { type: 'replyCode' }, 'the lost milter owes this one answer');
      t.equal(mta.replies.length, 0);
    }
  },
);

t.test('P134 a command that cannot be read is asked like any other, and may be put right by a hook', async (t) => {
  const bad = packet('H', Buffer.from('no NUL'));
  for (const hooks of [undefined, {}]) {
    const { mta, errors } = proxied({ malformed: (line) => line.end() }, hooks);
    await mta.negotiate();
    mta.bytes(bad);
    t.match(await mta.reply(), { type: 'replyCode' }, 'the milter has gone instead');
    t.equal(errors.length, 1);
  }
  const mended = proxied({}, { command: (command) => (command.type === 'malformed' ? say.helo('mended') : undefined) });
  await mended.mta.negotiate();
  mended.mta.bytes(bad);
  t.match(await mended.mta.reply(), { type: 'continue' });
  t.match(mended.milter.heard.at(-1), { type: 'helo', name: 'mended' });
  for (const result of [false, { answer: accept }] as const) {
    const kept = proxied({}, { command: (command) => (command.type === 'malformed' ? result : undefined) });
    await kept.mta.negotiate();
    kept.mta.bytes(bad);
    t.match(await kept.mta.reply(), { type: result === false ? 'continue' : 'accept' });
    t.equal(kept.milter.heard.length, 1);
  }
});

t.test('a reply that nobody asked for can become another one, or nothing', async (t) => {
  const { mta, errors } = proxied(
    { helo: Buffer.concat([packet('c'), packet('r'), packet('t'), packet('d')]) },
    {
      reply: ({ type }) =>
        type === 'reject' ? accept : type === 'tempFail' ? [] : type === 'discard' ? [edit, accept] : undefined,
    },
  );
  await mta.negotiate();
  t.match(await mta.ask(say.helo()), { type: 'continue' });
  t.strictSame(
    [(await mta.reply()).type, (await mta.reply()).type, (await mta.reply()).type],
    ['accept', 'tempFail', 'discard'],
  );
  t.match(errors, [
    { code: SEQUENCE, message: 'A hook has given an answer that has no end, at tempFail' },
    { code: 'ERR_MILTER_WRONG_STAGE' },
  ]);
});

t.test('a command that nobody knows can be dropped, and become nothing else', async (t) => {
  for (const [result, code] of [
    [false, undefined],
    [say.helo(), SEQUENCE],
    [{ ...odd }, 'ERR_MILTER_VALUE'],
    [{ answer: accept }, SEQUENCE],
  ] as const) {
    const { mta, milter, errors } = proxied(
      {},
      { command: (command) => (command.type === 'unrecognized' ? result : undefined) },
    );
    await mta.negotiate();
    mta.bytes(packet('X'));
    t.match(await mta.ask(say.helo()), { type: 'continue' });
    t.equal(milter.heard.length, code === undefined ? 2 : 3);
    t.strictSame(
      errors.map((error) => error.code),
      code === undefined ? [] : [code],
    );
  }
});

t.test('an answer to an offer that nobody made, or that cannot be read, is nobody’s answer', async (t) => {
  for (const hooks of [undefined, {}]) {
    const { mta } = proxied({ helo: Buffer.concat([agrees(6, 0, SMFIP_NR_HDR), packet('r')]) }, hooks);
    await mta.negotiate();
    t.match(await mta.ask(say.helo()), { type: 'negotiate' });
    t.match(await mta.reply(), { type: 'reject' });
    t.match(await mta.ask(say.header()), { type: 'continue' }, 'nor does it change what was agreed');
    const torn = proxied({ negotiate: packet('O', Buffer.alloc(3)), helo: (line) => line.end() }, hooks);
    t.match(await torn.mta.negotiate(), { type: 'malformed' });
    t.match(await torn.mta.ask(say.helo()), { type: 'replyCode' });
    t.equal(torn.mta.replies.length, 0);
  }
});

t.test('P138 a changed header has its space put right, too; any header passes', async (t) => {
  const hooks = (leads: boolean): ProxyHooks => ({
    command: (command) => (command.type === 'header' ? { ...command, value: `${command.value}!` } : undefined),
    reply: (reply) => {
      if (reply.type === 'negotiate') return { ...reply, protocol: leads ? SMFIP_HDR_LEADSPC : 0 };
      return reply.type === 'addHeader' ? { ...reply, value: `${reply.value}!` } : undefined;
    },
  });
  const less = proxied(
    { negotiate: agrees(6, 1, SMFIP_HDR_LEADSPC), eob: Buffer.concat([packet('h', 'X', ' v'), packet('c')]) },
    hooks(false),
  );
  await less.mta.negotiate();
  await less.mta.ask(say.header('A', 'v'));
  t.match(less.milter.heard.at(-1), { value: ' v!' });
  t.match(await less.mta.ask(say.eob()), { type: 'addHeader', value: 'v!' });
  const text = fc
    .string({ unit: 'binary-ascii', minLength: 1, maxLength: 8 })
    .map((word) => word.replaceAll('\0', ' '));
  await fc.assert(
    fc.asyncProperty(text, text, async (name, value) => {
      const { mta, milter, errors, proxy } = proxied(
        { negotiate: agrees(6, 0, 0) },
        { reply: (reply) => (reply.type === 'negotiate' ? { ...reply, protocol: SMFIP_HDR_LEADSPC } : undefined) },
      );
      await mta.negotiate();
      mta.bytes(packet('L', name, value));
      t.match(await mta.reply(), { type: 'continue' });
      t.match(milter.heard.at(-1), { type: 'header', name, value: value.replace(/^ /, '') });
      t.strictSame(errors, []);
      await proxy.destroy();
    }),
    { numRuns: 50 },
  );
});

t.test('a skip that the mail server does not know may become something else', async (t) => {
  const { mta, milter } = proxied(
    { negotiate: agrees(6, 0, SMFIP_SKIP), body: packet('s') },
    {
      reply: (reply) => {
        if (reply.type === 'negotiate') return { ...reply, protocol: 0 };
        return reply.type === 'skip' ? { type: 'reject' } : undefined;
      },
    },
  );
  await mta.negotiate();
  t.match(await mta.ask(say.body()), { type: 'reject' });
  t.match(await mta.ask(say.body()), { type: 'continue' });
  t.equal(milter.heard.length, 2, 'and still the milter hears no more of this body');
  const unasked = proxied(
    { negotiate: agrees(6, 0, SMFIP_SKIP), body: packet('s') },
    { reply: (reply) => (reply.type === 'negotiate' ? { ...reply, protocol: SMFIP_NR_BODY } : undefined) },
  );
  await unasked.mta.negotiate();
  unasked.mta.send(say.body(), say.body());
  t.match(await unasked.mta.ask(say.eob()), { type: 'continue' });
  t.strictSame(
    unasked.milter.heard.map(({ type }) => type),
    ['negotiate', 'body', 'eob'],
  );
});

t.test('what a hook waits for, it need not when the mail server leaves', async (t) => {
  const { promise, open } = gate();
  const aborted: boolean[] = [];
  const { mta, milter, proxy } = proxied(
    {},
    {
      async command({ type }: Command | { type: string }, { signal }) {
        if (type !== 'helo') return;
        signal.addEventListener('abort', () => aborted.push(true));
        await promise;
      },
    },
  );
  await mta.negotiate();
  mta.send(say.helo());
  await settled();
  t.strictSame(aborted, []);
  mta.end();
  await settled();
  t.strictSame(aborted, [true], 'it is told while it holds the packet');
  open();
  await mta.closed;
  t.match(milter.heard.at(-1), { type: 'helo' });
  await proxy.close();
});
