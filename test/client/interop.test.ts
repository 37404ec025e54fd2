// P147: the client against the library's own sessions, over every command, version and bit.
import t, { type Test } from 'tap';
import { MilterClient, type ClientOptions } from '../../lib/client/index.js';
import {
  createSession,
  MilterProtocol,
  SMFIF_ALLOPTS,
  SMFIP_ALLPROTOS,
  SMFIP_HDR_LEADSPC,
  SMFIP_RCPT_REJ,
  SMFIP_SKIP,
  protocolNames,
  type MilterError,
} from '../../lib/index.js';
import { STAGES, type Stage } from '../../lib/stages.js';

/** Overrides every callback, notes it, and makes one edit of each kind. */
function everything(space: string) {
  const calls: string[] = [];
  class Everything extends MilterProtocol {
    override connect(hostname: string, family: string, ip: string, port: number) {
      calls.push(`connect ${hostname} ${family} ${ip} ${port}`);
    }
    override helo(name: string) {
      calls.push(`helo ${name}`);
    }
    override mailFrom(address: string, _macros: unknown, args: readonly string[]) {
      calls.push(`mailFrom ${address} ${args.join(' ')}`);
    }
    override rcpt(address: string, _macros: unknown, args: readonly string[]) {
      calls.push(`rcpt ${address} ${args.join(' ')}`);
    }
    override data() {
      calls.push('data');
    }
    override header(key: string, value: string) {
      calls.push(`header ${key}:${value}`);
    }
    override eoh() {
      calls.push('eoh');
    }
    override body(chunk: Buffer) {
      calls.push(`body ${chunk.toString('latin1')}`);
    }
    override eob() {
      calls.push('eob');
      this.addHeader('X-Added', `${space}yes`);
      this.insHeader(0, 'X-First', `${space}yes`);
      this.chgHeader('subject', `${space}changed\n\ttwice`);
      this.chgHeader('X-Gone', '');
      this.replBody('new body\r\n');
      this.addRcpt('added@example.com');
      this.addRcpt('more@example.com', 'NOTIFY=NEVER');
      this.delRcpt('<gone@example.com>');
      this.chgFrom('changed@example.org', 'RET=HDRS');
      this.quarantine('for a look');
    }
    override unknown(line: string) {
      calls.push(`unknown ${line}`);
    }
    override abort(interrupted: boolean) {
      calls.push(`abort ${interrupted}`);
    }
    override close() {
      calls.push('close');
    }
  }
  return { Everything, calls };
}

const BEFORE = 'Subject: old\r\nX-Gone: soon\r\nx-folded:\r\n  one\r\n\ttwo\r\n\r\nold body\r\n';
const AFTER =
  'X-First: yes\r\nsubject: changed\r\n\ttwice\r\nx-folded:\r\n  one\r\n\ttwo\r\nX-Added: yes\r\n\r\nnew body\r\n';

const mail = {
  from: '<a@example.org>',
  fromArgs: ['SIZE=100', 'BODY=8BITMIME'],
  to: ['<b@example.com>', '<gone@example.com>'],
  toArgs: ['NOTIFY=NEVER'],
  message: BEFORE,
};

/** The callbacks of one message, in order, by stage. */
function messageCalls(space: string): Array<[Stage, string]> {
  return [
    ['mailFrom', 'mailFrom <a@example.org> SIZE=100 BODY=8BITMIME'],
    ['rcpt', 'rcpt <b@example.com> NOTIFY=NEVER'],
    ['rcpt', 'rcpt <gone@example.com> NOTIFY=NEVER'],
    ['data', 'data'],
    ['header', `header Subject:${space}old`],
    ['header', `header X-Gone:${space}soon`],
    ['header', 'header x-folded:\n  one\n\ttwo'],
    ['eoh', 'eoh'],
    ['body', 'body old body\r\n'],
    ['eob', 'eob'],
  ];
}

/** Plays everything a mail server can say, and holds what comes of it against what must. */
async function conversation(t: Test, offer: ClientOptions, bit: number): Promise<void> {
  const { version = 6, protocol = SMFIP_ALLPROTOS } = offer;
  const offered = protocol & { 2: 0x7f, 3: 0x17f, 4: 0x37f, 6: SMFIP_ALLPROTOS }[version]!;
  const agreed = bit & offered;
  const space = (agreed & SMFIP_HDR_LEADSPC) !== 0 ? ' ' : '';
  const { Everything, calls } = everything(space);
  const session = createSession(Everything, { smfifOptions: SMFIF_ALLOPTS, smfipOptions: bit });
  const errors: MilterError[] = [];
  session.on('sessionError', (error: MilterError) => errors.push(error));
  const client = new MilterClient(session, { ...offer, protocol: offered });

  const known = (stage: Stage): boolean => version >= 4 || (stage !== 'data' && (version === 3 || stage !== 'unknown'));
  // A callback whose NO bit the milter wants is not called, whether the mail server can do the bit or not.
  const called = (stage: Stage): boolean => known(stage) && (bit & STAGES[stage].no) === 0;
  const only = (expected: ReadonlyArray<[Stage, string]>): string[] =>
    expected.filter(([stage]) => called(stage)).map(([, call]) => call);
  const hello = (host: string, address: string): Array<[Stage, string]> => [
    ['connect', `connect ${host} ${address} 25000`],
    ['helo', `helo ${host}`],
  ];
  const expected: string[] = [];
  const heard = (what: string, ...more: string[]): void => {
    expected.push(...more);
    t.strictSame(calls, expected, what);
  };

  t.equal((await client.connect({ hostname: 'one.example.org', address: '192.0.2.1' })).outcome, 'continue');
  t.match(client.agreed, { version, actions: SMFIF_ALLOPTS, protocol: agreed });
  heard('the connection', ...only(hello('one.example.org', '4 192.0.2.1')));
  t.equal((await client.unknown('FOO bar')).outcome, 'continue');
  heard('an unknown command', ...only([['unknown', 'unknown FOO bar']]));
  for (const round of ['first', 'second']) {
    const result = await client.send(mail);
    t.equal(result.verdict, 'accept', `the ${round} message is accepted`);
    t.equal(result.stage, 'eob');
    t.equal(result.message.toString('latin1'), AFTER, `the ${round} message is changed as asked, byte for byte`);
    t.strictSame(result.envelope, {
      from: '<changed@example.org>',
      to: ['<b@example.com>', '<added@example.com>', '<more@example.com>'],
    });
    t.equal(result.quarantined, 'for a look');
    const unanswered = result.steps.filter(({ reply }) => reply === undefined).map(({ stage }) => stage);
    t.ok(
      unanswered.every((stage) => (agreed & STAGES[stage].nr) !== 0),
      'what needs an answer has one',
    );
    t.ok(
      result.steps.every(({ stage, reply }) => reply === undefined || (agreed & STAGES[stage].nr) === 0),
      'what needs none has none',
    );
    await client.unknown('BAR'); // answered after the ABORT, which is not
    heard(`the ${round} message`, ...only(messageCalls(space)), 'abort false', ...only([['unknown', 'unknown BAR']]));
  }
  if (version === 6) {
    t.equal((await client.nextSession({ hostname: 'two.example.org', address: '2001:db8::1' })).outcome, 'continue');
    heard('the next SMTP session', 'close', ...only(hello('two.example.org', '6 2001:db8::1')));
    const { message } = await client.send(mail);
    t.equal(message.toString('latin1'), AFTER, 'QUIT_NC leaves what was agreed');
    expected.push(...only(messageCalls(space)), 'abort false');
  } else {
    await t.rejects(client.nextSession(), { code: 'ERR_MILTER_NEGOTIATION', stage: 'quitNewConnection' });
  }
  await client.quit();
  heard('the end', 'close');
  t.strictSame(errors, []);
}

/** Every bit of the version 6, one by one. */
const BITS = Array.from({ length: 21 }, (_, i) => 1 << i);
const name = (bit: number): string => (bit === 0 ? 'no bit' : protocolNames(bit)[0]!);

for (const version of [2, 3, 4, 6]) {
  for (const bit of [0, ...BITS]) {
    t.test(`P147 P34 P35 P36 version ${version}, the milter wants ${name(bit)} alone`, (t) =>
      conversation(t, { version }, bit),
    );
  }
}

for (const bit of BITS) {
  t.test(`P147 P24 the milter wants ${name(bit)}, which is not offered`, (t) =>
    conversation(t, { protocol: SMFIP_ALLPROTOS & ~bit }, bit),
  );
}

t.test('P147 the milter wants every NR bit at once', (t) =>
  conversation(
    t,
    {},
    BITS.filter((bit) => name(bit).includes('_NR_')).reduce((all, bit) => all | bit),
  ),
);

t.test('P147 the milter wants every NO bit at once, and gets the end of the message alone', (t) =>
  conversation(
    t,
    {},
    BITS.filter((bit) => /_NO/.test(name(bit))).reduce((all, bit) => all | bit),
  ),
);

t.test('P147 the milter wants every mode at once', (t) =>
  conversation(t, {}, SMFIP_HDR_LEADSPC | SMFIP_SKIP | SMFIP_RCPT_REJ),
);
