// What the client makes of a milter's answers at each stage, and what it then sends or leaves.
import t from 'tap';
import type { Command } from '../../lib/codec/index.js';
import { MilterClient, type ClientMessage } from '../../lib/client/index.js';
import { createSession, SMFIP_RCPT_REJ, SMFIP_SKIP, type Stage, type Verdict } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { stopClock } from '../helpers/clock.js';
import { agrees, fakeMilter, type Line, type Script } from '../helpers/fake-milter.js';
import { each, milter, STAGES } from '../helpers/milter.js';

const BODY = 'x'.repeat(100_000);
const BEFORE = `Subject: hi\r\n\r\n${BODY}`;

const mail = (more: Partial<ClientMessage> = {}): ClientMessage => ({
  from: '<a@example.org>',
  to: ['<b@example.com>', '<c@example.com>'],
  message: BEFORE,
  ...more,
});

/** A client in front of a milter whose callbacks are those of a script. */
async function connected(script: Parameters<typeof milter>[0], options = {}) {
  const { MyMilter, calls } = milter(script);
  const session = createSession(MyMilter, options);
  const client = new MilterClient(session);
  const greeting = await client.connect();
  return { client, calls, greeting };
}

/** A client in front of a milter of bytes. */
async function faked(script: Script) {
  const fake = fakeMilter(script);
  const client = new MilterClient(fake.stream);
  const greeting = await client.connect();
  const types = (): Array<Command['type']> => fake.heard.map(({ type }) => type);
  return { client, fake, types, greeting };
}

const CONTENT = ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob'] as const;

t.test('P84 after a verdict the milter hears no more of this message, and all of the next one', async (t) => {
  for (const stage of CONTENT) {
    for (const verdict of ['accept', 'discard', 'reject', 'tempFail'] as const) {
      if (stage === 'rcpt' && (verdict === 'reject' || verdict === 'tempFail')) continue; // concern a recipient alone
      let first = true;
      const once = (): Verdict | undefined => {
        const now = first ? verdict : undefined;
        first = false;
        return now;
      };
      const { client, calls } = await connected({ ...each(STAGES), [stage]: once });
      calls.length = 0;
      const result = await client.send(mail());
      t.equal(result.verdict, verdict, `${verdict} at ${stage}`);
      t.equal(result.stage, stage);
      t.equal(result.message.toString(), BEFORE);
      t.strictSame(calls, [
        ...CONTENT.slice(0, CONTENT.indexOf(stage)).flatMap((each) =>
          each === 'rcpt' ? ['rcpt', 'rcpt'] : each === 'body' ? ['body', 'body'] : [each],
        ),
        stage,
        'abort false',
      ]);
      const next = await client.send(mail());
      t.match(next, { verdict: 'accept', stage: 'eob' }, 'the next message goes through');
      await client.quit();
    }
  }
});

t.test('P84 recipients of a message that is accepted early are those that were not refused', async (t) => {
  const { client } = await faked({
    mailFrom: [packet('a'), packet('c')],
    rcpt: [packet('r'), packet('a'), packet('c')],
  });
  const atMail = await client.send(mail());
  t.strictSame(atMail.envelope.to, ['<b@example.com>', '<c@example.com>'], 'all of them, when it was at MAIL');
  t.strictSame(atMail.recipients, []);
  const atRcpt = await client.send(mail({ to: ['<1@example.com>', '<2@example.com>', '<3@example.com>'] }));
  t.match(atRcpt, { verdict: 'accept', stage: 'rcpt' });
  t.strictSame(atRcpt.envelope.to, ['<2@example.com>', '<3@example.com>'], 'this one and those not asked about');
  t.strictSame(atRcpt.recipients, [
    { address: '<1@example.com>', outcome: 'reject' },
    { address: '<2@example.com>', outcome: 'accept' },
  ]);
});

t.test('P85 a recipient is refused alone, with its own words', async (t) => {
  const { client } = await connected({
    rcpt(this: { setReply(...args: unknown[]): Verdict }, address: string) {
      if (address.startsWith('<b')) return this.setReply(550, '5.1.1', ['nobody of', 'that name']);
      return address.startsWith('<t') ? 'tempFail' : undefined;
    },
    eob() {},
  });
  const to = ['<b@example.com>', '<c@example.com>', '<t@example.com>'];
  const result = await client.send(mail({ to }));
  t.match(result, { verdict: 'accept', stage: 'eob' });
  t.strictSame(result.envelope.to, ['<c@example.com>']);
  const reply = { code: 550, enhanced: '5.1.1', lines: ['nobody of', 'that name'], barePercent: false };
  t.strictSame(result.recipients, [
    { address: '<b@example.com>', outcome: 'reject', reply },
    { address: '<c@example.com>', outcome: 'continue' },
    { address: '<t@example.com>', outcome: 'tempFail' },
  ]);
});

t.test('P85 P82 when every recipient is refused there is no DATA: the message is aborted', async (t) => {
  const { client, calls } = await connected({ ...each(STAGES), rcpt: () => 'reject' });
  const result = await client.send(mail());
  t.match(result, { verdict: 'reject', stage: 'rcpt' });
  t.strictSame(result.envelope.to, []);
  t.strictSame(calls.slice(2), ['mailFrom', 'rcpt', 'rcpt', 'abort true']);
});

t.test('P82 like Postfix, ABORT follows each message; like Sendmail, only one that is cut short', async (t) => {
  const refuseFirst: Script = { rcpt: [packet('t'), packet('c')], data: [packet('c'), packet('r')] };
  const aborts = async (like: 'postfix' | 'sendmail'): Promise<boolean[]> => {
    const { stream, heard } = fakeMilter(refuseFirst);
    const client = new MilterClient(stream, { like });
    await client.connect();
    const after: boolean[] = [];
    for (let i = 0; i < 3; i++) {
      await client.send(mail({ to: ['<b@example.com>'] }));
      after.push(heard.at(-1)?.type === 'abort');
    }
    await client.quit();
    return after;
  };
  t.strictSame(await aborts('postfix'), [true, true, true]);
  t.strictSame(await aborts('sendmail'), [true, false, false], 'refused, accepted, rejected at DATA');
});

t.test('P83 a verdict at CONNECT or HELO holds for the whole SMTP session', async (t) => {
  for (const stage of ['connect', 'helo'] as const) {
    for (const [bytes, outcome] of [
      ['a', 'accept'],
      ['r', 'reject'],
      ['t', 'tempFail'],
    ] as const) {
      const { client, types, greeting } = await faked({ [stage]: packet(bytes) });
      t.equal(greeting.outcome, outcome, `${outcome} at ${stage}`);
      const result = await client.send(mail());
      t.match(result, { verdict: outcome, stage, recipients: [], steps: [] });
      t.equal(result.message.toString(), BEFORE);
      t.equal((await client.unknown('FOO')).outcome, outcome);
      t.equal(types().at(-1), stage, 'nothing more is said');
      await client.quit();
      t.equal(types().at(-1), 'quit');
    }
  }
});

t.test('P83 P111 a reply of the milter’s own at HELO is kept with its words', async (t) => {
  const { client, greeting } = await faked({ helo: packet('y', '450 4.7.1 100%% later') });
  t.equal(greeting.outcome, 'tempFail');
  t.strictSame((await client.send(mail())).reply, {
    code: 450,
    enhanced: '4.7.1',
    lines: ['100% later'],
    barePercent: false,
  });
});

t.test('P113 the words of a refusal at CONNECT are kept like Postfix does, dropped like Sendmail does', async (t) => {
  for (const text of ['554 5.7.1 no', '450 4.7.1 later', '421 4.7.0 go away']) {
    for (const like of ['postfix', 'sendmail'] as const) {
      for (const stage of ['connect', 'helo'] as const) {
        const client = new MilterClient(fakeMilter({ [stage]: packet('y', text) }).stream, { like });
        t.equal((await client.connect()).outcome, text.startsWith('5') ? 'reject' : 'tempFail');
        const dropped = like === 'sendmail' && stage === 'connect';
        t.equal((await client.send(mail())).reply?.lines.join(), dropped ? undefined : text.slice(10));
      }
    }
  }
});

t.test('P111 421 and shutdown end the SMTP session at any stage', async (t) => {
  for (const bytes of [packet('y', '421 4.7.0 go away'), packet('4')]) {
    for (const stage of CONTENT) {
      const { client, types } = await faked({ [stage]: bytes });
      const result = await client.send(mail());
      t.match(result, { verdict: 'tempFail', stage }, `${bytes.toString('latin1', 4)} at ${stage}`);
      const said = types().length;
      t.match(await client.send(mail()), { verdict: 'tempFail', stage }, 'the next message is not asked about');
      t.equal(types().length, said);
    }
    const { client, types } = await faked({ unknown: bytes });
    t.equal((await client.unknown('FOO')).outcome, 'tempFail');
    t.match(await client.send(mail()), { verdict: 'tempFail', stage: 'unknown' });
    t.equal(types().at(-1), 'unknown');
  }
});

t.test('P83 nextSession() begins anew after a verdict on the session', async (t) => {
  const { client, types } = await faked({ connect: [packet('r'), packet('c')] });
  t.equal((await client.nextSession({ hostname: 'other.example.org' })).outcome, 'continue');
  t.match(await client.send(mail()), { verdict: 'accept', stage: 'eob' });
  t.strictSame(
    types()
      .filter((type) => type !== 'macro')
      .slice(0, 5),
    ['negotiate', 'connect', 'quitNewConnection', 'connect', 'helo'],
  );
});

t.test('an answer to an unknown command concerns that command alone', async (t) => {
  const { client } = await faked({ unknown: [packet('r'), packet('t'), packet('d'), packet('a')] });
  for (const outcome of ['reject', 'tempFail', 'discard', 'accept'])
    t.equal((await client.unknown('FOO')).outcome, outcome);
  t.match(await client.send(mail()), { verdict: 'accept', stage: 'eob' });
  t.strictSame(
    client.steps.map(({ stage, reply }) => [stage, reply?.type]),
    [
      ['connect', 'continue'],
      ['helo', 'continue'],
      ['unknown', 'reject'],
      ['unknown', 'tempFail'],
      ['unknown', 'discard'],
      ['unknown', 'accept'],
    ],
  );
});

t.test('P88 after skip no more of the body is sent, and the end still is', async (t) => {
  for (const agreed of [SMFIP_SKIP, 0]) {
    const { client, calls } = await connected({ body: () => 'skip', eob() {} }, { smfipOptions: agreed });
    const result = await client.send(mail());
    t.match(result, { verdict: 'accept', stage: 'eob' });
    const bodies = result.steps.filter(({ stage }) => stage === 'body').map(({ reply }) => reply?.type);
    t.strictSame(bodies, agreed === 0 ? ['continue', 'continue'] : ['skip']);
    t.strictSame(calls, ['body', 'eob', 'abort false']);
    t.strictSame((await client.send(mail())).steps.length, result.steps.length, 'the next message has its body again');
  }
});

t.test('P90 progress may come before any answer, as often as it likes', async (t) => {
  const patience = Buffer.concat([packet('p'), packet('p'), packet('c')]);
  const script = Object.fromEntries(STAGES.map((stage) => [stage, patience]));
  const { client, greeting } = await faked(script);
  t.equal(greeting.outcome, 'continue');
  t.equal((await client.unknown('FOO')).outcome, 'continue');
  t.match(await client.send(mail()), { verdict: 'accept', stage: 'eob' });
});

t.test('P90 progress starts the timeout anew', async (t) => {
  const talk: { line?: Line } = {};
  const { stream } = fakeMilter({ eob: (line) => (talk.line = line) });
  const client = new MilterClient(stream, { contentTimeout: 40 });
  await client.connect();
  const clock = stopClock(t);
  const result = client.send(mail());
  for (const answer of ['p', 'p', 'p', 'c']) {
    await clock.pass(39);
    talk.line?.write(packet(answer));
  }
  t.match(await result, { verdict: 'accept', stage: 'eob' }, 'after four times almost the timeout');
});

t.test('P89 recipients that the mail server has refused are told of where the milter asks for it', async (t) => {
  const refused = ['<x@example.com>', '<y@example.com>'];
  const rcpt = [packet('c'), packet('c'), packet('r'), packet('a')];
  for (const protocol of [SMFIP_RCPT_REJ, 0]) {
    const { client, fake } = await faked({ negotiate: agrees(6, 0, protocol), rcpt });
    const result = await client.send(mail({ refused }));
    t.match(result, { verdict: 'accept', stage: 'eob' }, 'the answer does not count');
    t.strictSame(result.envelope.to, ['<b@example.com>', '<c@example.com>']);
    t.equal(result.recipients.length, 2);
    const told = fake.heard.flatMap((command) => (command.type === 'rcpt' ? [command.address] : []));
    t.strictSame(told, ['<b@example.com>', '<c@example.com>', ...(protocol === 0 ? [] : refused)]);
    const mailers = fake.heard.filter(
      (command) =>
        command.type === 'macro' &&
        command.macros.some(([name, value]) => name === '{rcpt_mailer}' && value === 'error'),
    );
    t.equal(mailers.length, protocol === 0 ? 0 : 2);
  }
});

t.test('P56 each stage that is answered appears in the steps with its answer', async (t) => {
  const { client } = await faked({});
  const { steps } = await client.send(mail());
  t.strictSame(
    steps.map(({ stage }) => stage),
    ['mailFrom', 'rcpt', 'rcpt', 'data', 'header', 'eoh', 'body', 'body', 'eob'] satisfies Stage[],
  );
  t.ok(steps.every(({ stage, command, reply }) => command.type === stage && reply?.type === 'continue'));
});
