// A captured session, played to a milter again: what it is told, what is awaited, and what is found to be different.
import t, { type Test } from 'tap';
import type { CaptureEvent } from '../../lib/capture/index.js';
import {
  ACCEPT,
  DISCARD,
  REJECT,
  SKIP,
  SMFIP_HDR_LEADSPC,
  SMFIP_SKIP,
  TEMPFAIL,
  type MilterProtocol,
} from '../../lib/index.js';
import { encodeCommand, type Command } from '../../lib/codec/index.js';
import { replayCapture, type ReplayedSession, type ReplayOptions } from '../../lib/replay/index.js';
import { serving } from '../cli/milters.js';
import { answer, collect, data, OFFER, said } from '../helpers/capture.js';
import { packet } from '../helpers/bytes.js';
import { agrees, fakeMilter, silence, type Script as Says } from '../helpers/fake-milter.js';
import { STAGES, type Script, type Statics } from '../helpers/milter.js';
import { say } from '../helpers/mta.js';
import { recorded } from '../helpers/recorded.js';

const ALL: Script = Object.fromEntries(STAGES.map((stage) => [stage, () => {}]));

/** A milter that hears everything. */
const whole = (t: Test, script: Script = {}, statics: Statics = {}): Promise<string> =>
  serving(t, { ...ALL, ...script }, { statics });

async function replayed(
  events: readonly CaptureEvent[],
  target: Parameters<typeof replayCapture>[1],
  options: ReplayOptions = {},
): Promise<ReplayedSession[]> {
  return collect(replayCapture(events, target, options));
}

const differing = ({ steps }: ReplayedSession): string[] =>
  steps
    .filter(({ differs }) => differs)
    .map(
      ({ stage, was, now }) =>
        `${stage}: ${was.map(({ type }) => type).join()} → ${now.map(({ type }) => type).join()}`,
    );

/** A session of a mail server in bytes, and what a milter said, in turn. */
function capture(...turns: ReadonlyArray<Command | Buffer>): CaptureEvent[] {
  const events: CaptureEvent[] = [{ type: 'open', session: 's', time: 1000 }, data('mta', OFFER, 1000)];
  for (const turn of turns)
    events.push(Buffer.isBuffer(turn) ? data('milter', turn, 1001) : data('mta', encodeCommand(turn), 1002));
  return events;
}

const c = packet('c');
const plain = answer();
const mailTo = [say.mail(), c, say.rcpt(), c, say.data(), c] as const;
const content = [say.header(), c, say.eoh(), c, say.body(), c] as const;

t.test('the same milter: no difference, and it is told the same bytes', async (t) => {
  const milter = await whole(t, {
    rcpt: (to: string) => (to === '<no@example.com>' ? REJECT : undefined),
    eob(this: MilterProtocol) {
      this.addHeader('X-Id', String(this.macro('i')));
      this.replBody('x'.repeat(70_000));
      this.quarantine('wait');
    },
  });
  const events = await recorded(t, milter, [[{}, { to: ['<no@example.com>', '<b@example.com>'] }], [{}]]);
  const sessions = await replayed(events, milter);
  t.match(
    sessions.map(({ session, differences, notes, error }) => ({ session, differences, notes, error })),
    [
      { session: '1', differences: 0, notes: [], error: undefined },
      { session: '2', differences: 0, notes: [], error: undefined },
    ],
  );
  const [first] = sessions as [ReplayedSession];
  t.equal(first.messages.length, 2);
  const [one, two] = first.messages;
  t.match(one, { queueId: /^MS/, was: { verdict: 'accept', stage: 'eob', quarantined: 'wait' }, differences: [] });
  t.match(
    one!.now.message.toString(),
    new RegExp(`^Subject: hi\r\nFrom: a@example.org\r\nX-Id: ${one!.queueId}\r\n\r\nxxx`),
  );
  t.strictSame(two!.now.envelope, { from: '<a@example.org>', to: ['<b@example.com>'] });

  const heard: Buffer[] = [];
  await replayed(
    events,
    () => {
      const { stream } = fakeMilter();
      const write = stream._write.bind(stream);
      stream._write = (bytes: Buffer, encoding, done) => {
        heard.push(bytes);
        write(bytes, encoding, done);
      };
      return stream;
    },
    { sessions: ['2'] },
  );
  t.ok(Buffer.concat(heard).equals(said(events, 'mta', '2')));
});

t.test('what has become different is found, packet by packet and in the message', async (t) => {
  const was = await whole(t, {
    eob(this: MilterProtocol) {
      this.addHeader('X-Version', '1');
      this.addHeader('X-Time', '1');
    },
  });
  const now = await whole(t, {
    eob(this: MilterProtocol) {
      this.addHeader('X-Version', '2');
      this.addHeader('X-Time', '2');
      this.addRcpt('<new@example.com>');
      this.quarantine('hm');
    },
  });
  const events = await recorded(t, was);
  const [session] = (await replayed(events, now)) as [ReplayedSession];
  t.equal(session.differences, 2, 'a step and a message');
  t.strictSame(differing(session), [
    'eob: addHeader,addHeader,continue → addHeader,addHeader,addRcpt,quarantine,continue',
  ]);
  t.strictSame(session.messages[0]!.differences, ['quarantine', 'envelope', 'message']);

  const times = await whole(t, {
    eob(this: MilterProtocol) {
      this.addHeader('X-Version', '1');
      this.addHeader('X-Time', '3');
    },
  });
  t.equal((await replayed(events, times))[0]!.differences, 2);
  t.equal((await replayed(events, times, { ignoreHeaders: ['x-TIME'] }))[0]!.differences, 0);
  t.equal(
    (await replayed(events, times, { ignore: ['progress', 'addHeader'], ignoreHeaders: ['X-Time'] }))[0]!.differences,
    0,
  );
});

t.test('behind a verdict a mail server says no more, and neither does a replay', async (t) => {
  const events = await recorded(t, await whole(t), [[{ to: ['<b@example.com>', '<c@example.com>'] }, {}]]);
  const play = async (script: Script, options: ReplayOptions = {}): Promise<ReplayedSession> =>
    (await replayed(events, await whole(t, script), options))[0]!;
  const rejected = await play({ mailFrom: () => REJECT });
  t.strictSame(differing(rejected), ['mailFrom: continue → reject', 'mailFrom: continue → reject']);
  t.match(
    rejected.steps.filter(({ skipped }) => skipped !== undefined).map(({ stage, skipped }) => `${stage} ${skipped}`)[0],
    'rcpt the milter has answered reject at mailFrom',
  );
  t.strictSame(
    rejected.messages.map(({ differences }) => differences),
    [['verdict'], ['verdict']],
  );
  t.match(rejected.messages[0]!.now, { verdict: 'reject', stage: 'mailFrom', message: /^Subject: hi\r\n/ });

  const none = await play({ rcpt: () => TEMPFAIL });
  t.strictSame(none.steps.find(({ stage }) => stage === 'data')!.skipped, 'every recipient was refused');
  t.equal(none.messages[0]!.now.verdict, 'none');
  const one = await play({ rcpt: (to: string) => (to === '<b@example.com>' ? REJECT : undefined) });
  t.strictSame(one.messages[0]!.differences, ['envelope']);

  for (const [stage, verdict] of [
    ['connect', REJECT],
    ['helo', ACCEPT],
  ] as const) {
    const over = await play({ [stage]: () => verdict });
    t.match(over.steps.find((step) => step.stage === 'mailFrom')!.skipped, new RegExp(`at ${stage}$`));
    t.notOk(over.steps.some(({ stage: its, skipped }) => its === 'quit' && skipped !== undefined));
  }
  const hangsUp = await play({
    data(this: MilterProtocol) {
      return this.setReply('421', '4.7.0', 'bye');
    },
  });
  t.match(hangsUp.messages[0]!.now, { verdict: 'tempFail', reply: '421 4.7.0 bye' });
  t.match(hangsUp.steps.findLast(({ stage }) => stage === 'mailFrom')!.skipped, /replyCode at data/);
  t.equal((await play({ header: () => ACCEPT })).messages[0]!.now.stage, 'header');
  t.match((await play({ eob: () => DISCARD })).messages[0], {
    was: { verdict: 'accept' },
    now: { verdict: 'discard' },
  });
  t.match(
    (
      await play({
        eob(this: MilterProtocol) {
          return this.setReply('550', '', ['a', 'b']);
        },
      })
    ).messages[0]!.now.reply,
    '550 a / b',
  );
});

t.test('P36, P41 what is awaited is what this milter has agreed to', async (t) => {
  const all = await recorded(t, await whole(t));
  const quiet = await whole(t, {}, { noReply: ['header'] });
  const [session] = (await replayed(all, quiet)) as [ReplayedSession];
  t.strictSame(session.notes, ['The milter agrees to something else: new: SMFIP_NR_HDR']);
  t.strictSame(differing(session), ['negotiate: negotiate → negotiate']);
  t.equal(session.steps.find(({ stage }) => stage === 'header')!.now.length, 0);
  t.equal((await replayed(all, quiet, { ignore: ['negotiate'] }))[0]!.differences, 0);

  const [back] = (await replayed(await recorded(t, quiet), await whole(t))) as [ReplayedSession];
  t.strictSame(back.notes, ['The milter agrees to something else: not any more: SMFIP_NR_HDR']);
  t.strictSame(
    back.steps.find(({ stage }) => stage === 'header')!.now.map(({ type }) => type),
    ['continue'],
  );
  t.strictSame(differing(back), ['negotiate: negotiate → negotiate'], 'no answer is as good as continue');
});

t.test('P36 a milter that wants to hear less is told less, one that wants more is told what there is', async (t) => {
  const all = await recorded(t, await whole(t));
  const few = await serving(t, { eob() {} });
  const [less] = (await replayed(all, few, { ignore: ['negotiate'] })) as [ReplayedSession];
  t.equal(less.differences, 0);
  t.match(less.steps.find(({ stage }) => stage === 'header')!.skipped, 'the milter asked not to get it: SMFIP_NOHDRS');
  const some = await serving(t, { mailFrom() {}, rcpt() {}, eob() {} });
  const [more] = (await replayed(await recorded(t, some), await whole(t))) as [ReplayedSession];
  t.match(
    more.notes[1],
    /^The capture does not have what the milter now wants to hear: connect, helo, data, header, eoh, body, unknown$/,
  );
  t.equal(more.messages[0]!.now.verdict, 'accept');

  const heard: string[] = [];
  const said2 = (version: number): Says => ({ negotiate: agrees(version, 0, 0) });
  const milter = fakeMilter(said2(2));
  const [old] = (await replayed(all, () => milter.stream)) as [ReplayedSession];
  heard.push(...milter.heard.map(({ type }) => type));
  t.notOk(heard.includes('data'));
  t.equal(old.steps.find(({ stage }) => stage === 'data')!.skipped, 'version 2 does not have it');
  t.match(old.notes[0], /version 6 then, 2 now; not any more: SMFIF_/);
  t.equal(
    milter.heard.filter(({ type }) => type === 'macro').length,
    milter.heard.filter(({ type }) =>
      ['connect', 'helo', 'mailFrom', 'rcpt', 'header', 'eoh', 'body', 'eob'].includes(type),
    ).length,
    'nor its macros',
  );
});

t.test('P138 the space before a value is what was agreed now, and so are the macros', async (t) => {
  const spaced = await whole(
    t,
    {
      header(this: MilterProtocol, _name: string, value: string) {
        values.push(value);
      },
    },
    { smfipOptions: SMFIP_HDR_LEADSPC, macros: { eob: ['i'] } },
  );
  const bare = await whole(t, {
    header(this: MilterProtocol, _name: string, value: string) {
      values.push(value);
    },
  });
  let values: string[] = [];
  const a = await recorded(t, spaced);
  t.strictSame(values.splice(0), [' hi', ' a@example.org']);
  const [session] = (await replayed(a, bare)) as [ReplayedSession];
  t.strictSame(values.splice(0), ['hi', 'a@example.org']);
  t.match(session.notes[0], /not any more: SMFIP_HDR_LEADSPC.*; macros: .*5: i.* then, none now/);
  t.strictSame(session.messages[0]!.differences, []);
  const [again] = (await replayed(await recorded(t, bare), spaced)) as [ReplayedSession];
  t.strictSame(values.splice(values.length - 2), [' hi', ' a@example.org']);
  t.match(again.notes[0], /new: SMFIP_HDR_LEADSPC.*; macros: none then, /);
  t.match(again.messages[0]!.now.message.toString(), /^Subject: hi\r\n/);
});

t.test('SKIP ends the body, where the capture goes on', async (t) => {
  const chunk = 'x'.repeat(65_534);
  const events = await recorded(t, await whole(t), [[{ message: `A: b\r\n\r\n${chunk}\r\n${chunk}\r\n` }]]);
  const [session] = (await replayed(events, await whole(t, { body: () => SKIP }, { smfipOptions: SMFIP_SKIP }))) as [
    ReplayedSession,
  ];
  const bodies = session.steps.filter(({ stage }) => stage === 'body');
  t.strictSame(
    bodies.map(({ skipped }) => skipped),
    [undefined, ...bodies.slice(1).map(() => 'the milter has answered skip at body')],
  );
  t.ok(bodies.length > 1);
  t.equal(session.messages[0]!.now.verdict, 'accept');
});

t.test(
  'QUIT_NC begins anew, ABORT and HELO end a message, and a milter that hears no MAIL has messages too',
  async (t) => {
    const events = capture(
      plain,
      say.connect(),
      c,
      ...mailTo,
      say.abort(),
      ...mailTo,
      say.helo(),
      c,
      say.unknown(),
      c,
      say.mail(),
      c,
      say.unknown(),
      c,
      say.quitNewConnection(),
      say.connect(),
      c,
      say.macros('E', { i: 'Q1' }),
      say.rcpt(),
      c,
      say.header(),
      c,
      say.eob(),
      packet('a'),
      say.header(),
      c,
      say.eob(),
      c,
      say.quit(),
    );
    const milter = fakeMilter({ connect: [packet('r'), c] });
    const [session] = (await replayed(events, () => milter.stream)) as [ReplayedSession];
    t.strictSame(
      session.messages.map(({ was, now, queueId }) => [was.verdict, now.verdict, queueId]),
      [
        ['none', 'none', undefined],
        ['none', 'none', undefined],
        ['none', 'none', undefined],
        ['accept', 'accept', 'Q1'],
        ['accept', 'accept', undefined],
      ],
    );
    t.match(session.steps.find(({ stage }) => stage === 'rcpt')!.skipped, /reject at connect/);
    t.notOk(session.steps.findLast(({ stage }) => stage === 'rcpt')!.skipped, 'another SMTP session');
    t.strictSame(differing(session), ['connect: continue → reject', 'eob: accept → continue']);
  },
);

t.test('what is no packet, or nothing at all, is not replayed, and it says so', async (t) => {
  const garbage = capture(plain, say.connect(), c, ...mailTo);
  garbage.push(data('mta', Buffer.from('GET / HTTP/1.0\r\n\r\n')));
  const milter = fakeMilter();
  const [session] = (await replayed(garbage, () => milter.stream)) as [ReplayedSession];
  t.match(session.notes, [/^Not replayed: Not synchronised from here on/]);
  t.equal(session.steps.length, 5);
  t.equal(milter.heard.length, 5);
  const late = [{ type: 'open', session: 's', time: 0, late: true }, data('mta', Buffer.from('GET /'))] as const;
  const [nothing] = (await replayed(late, () => fakeMilter().stream)) as [ReplayedSession];
  t.match(nothing, { steps: [], messages: [], differences: 0, notes: [/^Not replayed/, /nothing in it/] });
  const odd = capture(plain, say.connect(), c);
  odd.push(data('mta', packet('z', Buffer.from('x'))), data('mta', packet('H', Buffer.from('no end'))));
  const [strange] = (await replayed(odd, await whole(t))) as [ReplayedSession];
  t.match(strange.steps.slice(2), [
    { stage: 'unrecognized', command: { type: 'unrecognized' }, differs: false },
    { stage: 'unrecognized', command: { type: 'malformed' }, differs: false },
  ]);
  t.match(strange.error, { code: 'ERR_MILTER_CONNECTION' });
  const told: CaptureEvent[] = [
    ...capture(plain, say.connect(), c),
    { type: 'problem', session: 's', time: 1, text: 'Line 3: broken' },
  ];
  t.strictSame((await replayed(told, () => fakeMilter().stream))[0]!.notes, ['The capture says: Line 3: broken']);
});

t.test('one side alone is replayed, and nothing is compared', async (t) => {
  const events = (await recorded(t, await whole(t))).filter((event) => event.type !== 'data' || event.from === 'mta');
  const [session] = (await replayed(events, await whole(t, { eob: () => REJECT }))) as [ReplayedSession];
  t.match(session, { differences: 0, messages: [], notes: [] });
  t.equal(session.steps.at(-3)!.now[0]!.type, 'reject');
  const milters = (await recorded(t, await whole(t))).filter((event) => event.type !== 'data' || event.from !== 'mta');
  t.equal(
    (await replayed([{ type: 'open', session: '1', time: 0, only: 'milter' }, ...milters.slice(1)], 'inet:1'))[0]!.steps
      .length,
    0,
  );
});

t.test('a capture that is cut is replayed up to there, and then its error comes', async (t) => {
  const events = capture(plain, say.connect(), c, ...mailTo, say.eob(), packet('h', Buffer.from('A\0b\0')));
  const boom = new Error('line 9');
  const cut = async function* (): AsyncGenerator<CaptureEvent> {
    yield* events;
    throw boom;
  };
  const sessions: ReplayedSession[] = [];
  await t.rejects(async () => {
    for await (const session of replayCapture(cut(), () => fakeMilter().stream)) sessions.push(session);
  }, boom);
  t.match(sessions, [
    { differences: 0, messages: [{ was: { verdict: 'none' }, now: { verdict: 'accept' }, differences: [] }] },
  ]);
});

t.test('replies that nobody asked for, then and now, are told', async (t) => {
  const then = capture(plain, say.connect(), c, c, say.helo(), c, say.quit());
  const [was] = (await replayed(then, () => fakeMilter().stream)) as [ReplayedSession];
  t.match(was, { differences: 0, notes: ['Packet 5, continue, was said unasked, and is not compared'] });
  const events = capture(plain, say.connect(), c, say.helo(), c, say.mail(), c);
  const [now] = (await replayed(events, () => fakeMilter({ helo: Buffer.concat([c, packet('a')]) }).stream)) as [
    ReplayedSession,
  ];
  t.match(now, { differences: 1, notes: ['The milter said unasked: accept'] });
  t.strictSame(differing(now), ['helo: continue → continue,accept']);
});

t.test(
  'a milter that fails: the place is told, nothing waits for ever, and the other sessions are played',
  async (t) => {
    const events = capture(plain, say.connect(), c, ...mailTo, ...content, say.eob(), c, say.quit());
    const failing = async (script: Says, options: ReplayOptions = {}): Promise<ReplayedSession> =>
      (await replayed(events, () => fakeMilter(script).stream, options))[0]!;
    t.match((await failing({ data: silence }, { timeout: 20 })).error, {
      code: 'ERR_MILTER_TIMEOUT',
      stage: 'data',
      message: /^The milter failed at data \(packet 9\): It does not answer, and 20 ms are over$/,
    });
    let progress: NodeJS.Timeout | undefined;
    t.teardown(() => clearInterval(progress));
    const endless = await failing(
      { eob: (line) => void (progress = setInterval(() => line.write(packet('p')), 5)) },
      { timeout: 1000, eobTimeout: 40 },
    );
    t.match(endless.error, { code: 'ERR_MILTER_TIMEOUT', message: /not come to an end within 40 ms/ });
    t.match((await failing({ data: (line) => line.end() })).error, { code: 'ERR_MILTER_CONNECTION', stage: 'data' });
    t.match((await failing({ data: (line) => line.break(new Error('boom')) })).error, { message: /lost: boom/ });
    t.match((await failing({ data: packet('?') })).error, { code: 'ERR_MILTER_UNKNOWN_CODE', stage: 'data' });
    t.match(
      (
        await failing({
          data: (line) => {
            line.write(Buffer.from([0, 0]));
            line.end();
          },
        })
      ).error,
      { code: 'ERR_MILTER_TRUNCATED' },
    );
    t.match((await failing({ negotiate: c })).error, { code: 'ERR_MILTER_NEGOTIATION', stage: 'negotiate' });
    t.equal(
      (await failing({ eob: Buffer.concat([packet('p'), packet('p'), c]) })).differences,
      0,
      'progress does not count',
    );
    t.equal(
      (await failing({ eob: Buffer.concat([packet('p'), c]) }, { ignore: [] })).differences,
      1,
      'unless it is to',
    );
    const both = [...events, ...events.map((event) => ({ ...event, session: 'other' }))];
    let first = true;
    const sessions = await replayed(both, () => {
      const script = first ? { helo: silence, data: (line: { end(): void }) => line.end() } : {};
      first = false;
      return fakeMilter(script).stream;
    });
    t.match(sessions, [
      { session: 's', error: { stage: 'data' } },
      { session: 'other', differences: 0 },
    ]);
    t.match((await replayed(events, 'unix:/nowhere/at.all'))[0]!.error, { code: 'ERR_MILTER_CONNECTION' });
  },
);
