// Several milters behind one mail server: who is asked when, what ends whose part, and what is left for the next.
import t from 'tap';
import type { Command, MacroCommand } from '../../lib/codec/index.js';
import { MilterChain, smtpReply, type ClientMessage, type ClientOptions } from '../../lib/client/index.js';
import { createSession, MilterProtocol, SMFIF_ALLOPTS, SMFIP_RCPT_REJ } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { agrees, fakeMilter, type Script } from '../helpers/fake-milter.js';

const mail = (more: Partial<ClientMessage> = {}): ClientMessage => ({
  from: '<a@example.org>',
  to: ['<b@example.com>', '<c@example.com>'],
  message: 'A: 1\r\n\r\nbody\r\n',
  ...more,
});

/** Commands in the order in which the milters heard them, as `name.command`. */
function heard(...scripts: Script[]) {
  const log: string[] = [];
  const fakes = scripts.map((script, i) => {
    const name = String.fromCharCode(97 + i);
    const fake = fakeMilter(script);
    const push = fake.heard.push.bind(fake.heard);
    fake.heard.push = (command: Command) => {
      if (command.type !== 'macro' && command.type !== 'negotiate') log.push(`${name}.${command.type}`);
      return push(command);
    };
    return { target: fake.stream, name, heard: fake.heard };
  });
  return { log, fakes };
}

async function chained(scripts: Script[], options: ClientOptions = {}) {
  const { log, fakes } = heard(...scripts);
  const chain = new MilterChain(
    fakes.map(({ target, name }) => ({ target, name })),
    options,
  );
  const greeting = await chain.connect();
  return { chain, log, fakes, greeting };
}

const CONTENT = ['header', 'eoh', 'body', 'eob'];

t.test('P136 command by command in the order of the milters, then milter by milter the whole content', async (t) => {
  for (const like of ['postfix', 'sendmail'] as const) {
    const { chain, log } = await chained([{}, {}, {}], { like });
    t.match(await chain.send(mail()), { verdict: 'accept', stage: 'eob', errors: [] });
    await chain.quit();
    const all = (command: string): string[] => ['a', 'b', 'c'].map((name) => `${name}.${command}`);
    t.strictSame(log, [
      ...['connect', 'helo', 'mailFrom', 'rcpt', 'rcpt', 'data'].flatMap(all),
      ...['a', 'b', 'c'].flatMap((name) => CONTENT.map((command) => `${name}.${command}`)),
      ...(like === 'postfix' ? all('abort') : []),
      ...all('quit'),
    ]);
  }
});

t.test('P137 each milter sees what the one before has left, and edits that', async (t) => {
  const seen: string[][] = [];
  const editor = (name: string) =>
    class extends MilterProtocol {
      #seen: string[] = [];
      override header(key: string, value: string) {
        this.#seen.push(`${key}:${value}`);
      }
      override body(chunk: Buffer) {
        this.#seen.push(chunk.toString());
      }
      override eob() {
        seen.push(this.#seen);
        this.#seen = [];
        this.addHeader(`X-${name}`, 'yes');
        this.chgHeader('A', `${name} was here`);
        this.chgHeader('B', '');
        this.replBody(`body of ${name}\r\n`);
        this.delRcpt(name === 'one' ? 'b@example.com' : 'added@example.com');
        this.addRcpt(`added@example.com`);
        this.chgFrom(`${name}@example.org`);
      }
    };
  const targets = ['one', 'two'].map((name) => createSession(editor(name), { smfifOptions: SMFIF_ALLOPTS }));
  const chain = new MilterChain(targets);
  await chain.connect();
  for (let round = 0; round < 2; round++) {
    seen.length = 0;
    const result = await chain.send(mail({ message: 'A: 1\r\nB: 2\r\n\r\nbody\r\n' }));
    t.strictSame(seen, [
      ['A:1', 'B:2', 'body\r\n'],
      ['A:one was here', 'X-one:yes', 'body of one\r\n'],
    ]);
    t.equal(String(result.message), 'A: two was here\r\nX-one: yes\r\nX-two: yes\r\n\r\nbody of two\r\n');
    t.strictSame(result.envelope, { from: '<two@example.org>', to: ['<c@example.com>', '<added@example.com>'] });
    t.equal(result.modifications.length, 14);
  }
});

t.test('P136 a refusal at any stage is the answer; those who have not been asked yet are not', async (t) => {
  const r = packet('y', '550 5.7.1 no');
  for (const stage of ['mailFrom', 'data', 'header', 'eoh', 'body', 'eob'] as const) {
    for (const like of ['postfix', 'sendmail'] as const) {
      const { chain, log } = await chained([{}, { [stage]: [r, packet('c')] }, {}], { like });
      log.length = 0;
      const result = await chain.send(mail());
      t.match(result, { verdict: 'reject', stage, milter: 'b', reply: { code: 550 }, modifications: [] });
      const early = stage === 'mailFrom' || stage === 'data';
      const [first, second, third] = ['a', 'b', 'c'].map((name) => log.filter((each) => each.startsWith(name)));
      t.equal(third?.includes('c.eob'), false, 'the third one sees no content');
      t.equal(third?.includes(`c.${stage}`), false);
      t.equal(second?.includes('b.abort'), like === 'postfix');
      t.equal(first?.includes('a.abort'), early || like === 'postfix', 'who was cut short hears of it');
      t.equal(third?.includes('c.abort'), like === 'postfix' ? stage !== 'mailFrom' : stage !== 'mailFrom');
      t.match(await chain.send(mail()), { verdict: 'accept', stage: 'eob' }, 'the next message is asked about');
    }
  }
});

t.test('P130 edits of one milter are undone when a later one refuses', async (t) => {
  const edit = Buffer.concat([
    packet('h', 'X', 'y'),
    packet('b', Buffer.from('new')),
    packet('-', 'b@example.com'),
    packet('e', 'x@example.org'),
    packet('q', 'odd'),
    packet('c'),
  ]);
  for (const [letter, verdict] of [
    ['r', 'reject'],
    ['t', 'tempFail'],
    ['d', 'discard'],
  ] as const) {
    const { chain } = await chained([{ eob: edit }, { eob: packet(letter) }]);
    const result = await chain.send(mail());
    t.match(result, { verdict, milter: 'b', modifications: [] });
    t.equal(String(result.message), 'A: 1\r\n\r\nbody\r\n');
    t.strictSame(result.envelope, { from: '<a@example.org>', to: ['<b@example.com>', '<c@example.com>'] });
    t.notOk('quarantined' in result);
  }
});

t.test('accept ends that milter’s part only; discard ends all; quarantine holds and goes on', async (t) => {
  for (const stage of ['mailFrom', 'rcpt', 'data', 'header', 'body', 'eob'] as const) {
    const { chain, log } = await chained([{ [stage]: packet('a') }, {}]);
    log.length = 0;
    t.match(await chain.send(mail()), { verdict: 'accept', stage: 'eob' });
    const first = log.filter((each) => each.startsWith('a.'));
    t.strictSame(first.at(-2), `a.${stage}`, 'nothing but ABORT comes behind it');
    t.strictSame(
      log.filter((each) => each.startsWith('b.')).map((each) => each.slice(2)),
      ['mailFrom', 'rcpt', 'rcpt', 'data', ...CONTENT, 'abort'],
    );
  }
  const { chain, log } = await chained([{ rcpt: packet('d') }, {}]);
  log.length = 0;
  t.match(await chain.send(mail()), { verdict: 'discard', stage: 'rcpt', milter: 'a' });
  t.strictSame(log, ['a.mailFrom', 'b.mailFrom', 'a.rcpt', 'a.abort', 'b.abort']);

  const held = Buffer.concat([packet('q', 'for a look'), packet('c')]);
  const holding = await chained([{ eob: held }, { eob: [packet('c'), packet('r')] }]);
  t.match(await holding.chain.send(mail()), { verdict: 'accept', quarantined: 'for a look' });
  t.ok(holding.log.includes('b.eob'));
  t.match(await holding.chain.send(mail()), { verdict: 'reject', milter: 'b' });
});

t.test('accept at CONNECT ends the session for that milter; the chain accepts when all have', async (t) => {
  const one = await chained([{ connect: packet('a') }, {}]);
  t.match(one.greeting, { outcome: 'continue' });
  t.match(await one.chain.send(mail()), { verdict: 'accept', stage: 'eob' });
  t.strictSame(
    one.log.filter((each) => each.startsWith('a.')),
    ['a.connect'],
  );
  const both = await chained([{ connect: packet('a') }, { helo: packet('a') }]);
  t.match(both.greeting, { outcome: 'accept' });
  t.match(await both.chain.send(mail()), { verdict: 'accept', stage: 'helo', recipients: [] });
});

t.test('P83 a refusal at CONNECT or HELO refuses every message, with its words', async (t) => {
  for (const stage of ['connect', 'helo'] as const) {
    const { chain, greeting, log } = await chained([{}, { [stage]: packet('y', '550 5.7.1 not you') }, {}]);
    t.match(greeting, { outcome: 'reject', milter: 'b', reply: { code: 550, lines: ['not you'] }, hangUp: false });
    t.notOk(log.includes(`c.${stage}`));
    t.match(await chain.send(mail()), { verdict: 'reject', stage, milter: 'b', reply: { lines: ['not you'] } });
    t.match(await chain.nextSession(), { outcome: 'reject' });
  }
});

t.test('P89 P85 a recipient that one refuses is told to later ones only where they ask for it', async (t) => {
  const refuse = [packet('y', '550 5.1.1 nobody here'), packet('c')];
  const wants = { negotiate: agrees(6, 0, SMFIP_RCPT_REJ) };
  const { chain, log, fakes } = await chained([{ rcpt: refuse }, {}, { ...wants, rcpt: [packet('r'), packet('c')] }]);
  log.length = 0;
  const result = await chain.send(mail());
  t.match(result, { verdict: 'accept', recipients: [{ outcome: 'reject' }, { outcome: 'continue' }] });
  t.equal(result.recipients.length, 2);
  t.strictSame(result.envelope.to, ['<c@example.com>']);
  t.strictSame(log.slice(3, 8), ['a.rcpt', 'c.rcpt', 'a.rcpt', 'b.rcpt', 'c.rcpt']);
  const macros = fakes[2]!.heard.flatMap((each) => (each.type === 'macro' && each.stage === 'R' ? [each.macros] : []));
  t.match(Object.fromEntries(macros[0]!), {
    '{rcpt_mailer}': 'error',
    '{rcpt_host}': '5.1.1',
    '{rcpt_addr}': 'nobody here',
  });
  t.match(Object.fromEntries(macros[1]!), { '{rcpt_addr}': 'c@example.com' });

  const plain = await chained([{ rcpt: [packet('t'), packet('c')] }, wants]);
  await plain.chain.send(mail());
  const why = plain.fakes[1]!.heard.find((each) => each.type === 'macro' && each.stage === 'R');
  t.match(Object.fromEntries((why as MacroCommand).macros), {
    '{rcpt_host}': '4.7.1',
    '{rcpt_addr}': /try again later/,
  });
});

t.test('P92 each milter has a default action of its own', async (t) => {
  const dead = (): Script => ({ mailFrom: (line) => line.end() });
  const { fakes } = heard(dead(), dead(), {});
  const actions = ['accept', 'quarantine', 'tempfail'] as const;
  const chain = new MilterChain(fakes.map(({ target, name }, i) => ({ target, name, defaultAction: actions[i]! })));
  await chain.connect();
  for (let round = 0; round < 2; round++) {
    const result = await chain.send(mail());
    t.match(result, { verdict: 'accept', stage: 'eob', quarantined: 'A milter has failed' });
    t.match(
      result.errors.map(({ code, stage }) => [code, stage]),
      [
        ['ERR_MILTER_CONNECTION', 'mailFrom'],
        ['ERR_MILTER_CONNECTION', 'mailFrom'],
      ],
      'said with each message that it concerns',
    );
    t.equal(result.errors.length, 2);
  }
  const usual = new MilterChain([fakeMilter(dead()).stream, fakeMilter().stream]);
  await usual.connect();
  const refused = await usual.send(mail());
  t.match(refused, { verdict: 'tempFail', stage: 'mailFrom', milter: 'stream', reply: { code: 451 } });
  t.match(refused.errors, [{ code: 'ERR_MILTER_CONNECTION' }]);
});

t.test('milters that are not there, behind a milter that is', async (t) => {
  const chain = new MilterChain([fakeMilter().stream, { target: 'unix:/no/such/socket', name: 'gone' }]);
  const greeting = await chain.connect();
  t.match(greeting, { outcome: 'tempFail', milter: 'gone', error: { code: 'ERR_MILTER_CONNECTION' } });
  t.match(smtpReply(greeting), { code: 451, enhanced: '4.7.1' });
  t.match(chain.milters, [
    { name: 'stream', agreed: { version: 6 } },
    { name: 'gone', agreed: undefined },
  ]);
  await chain.quit();
  const without = new MilterChain(['unix:/no/such/socket', fakeMilter().stream], { defaultAction: 'accept' });
  t.match(await without.connect(), { outcome: 'continue' });
  const result = await without.send(mail());
  t.match(result, { verdict: 'accept', stage: 'eob', errors: [{ message: /no\/such\/socket/ }] });
  await without.quit();
});

t.test('options of a chain are checked, those of its milters too', async (t) => {
  const bad = (milters: unknown, options: unknown, message: RegExp): void =>
    void t.throws(() => new MilterChain(milters as string[], options as ClientOptions), {
      code: /ERR_MILTER_(OPTION|ADDRESS)/,
      message,
    });
  bad([], {}, /milters must be a list of at least one, got an array of 0/);
  bad('inet:1', {}, /milters must be a list of at least one, got "inet:1"/);
  bad(['inet:0'], {}, /port 0/);
  bad([{ target: 'inet:1', defaultAction: 'ignore' }], {}, /defaultAction must be 'throw' or .*, got "ignore"/);
  bad([{ target: 'inet:1', like: 'postfix' }], {}, /like is for the whole chain/);
  bad([{ target: 7 }], {}, /target must be a socket string or a stream, got 7/);
  bad(['inet:1'], { unagreedEdits: 1 }, /unagreedEdits must be 'refuse' or 'apply', got 1/);
  bad(['inet:1'], { ownHeaders: 1 }, /ownHeaders must be a string or a Buffer of header lines, got 1/);
  bad(['inet:1'], { ownHeaders: 'no header' }, /ownHeaders must be .*, got "no header"/);
  bad(['inet:1'], { signal: {} }, /signal must be an AbortSignal, got an object/);
});
