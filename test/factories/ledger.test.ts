/** "When a worker dies", cell by cell: what the factory knows of a conversation, and what follows from it. */
import t, { type Test } from 'tap';
import type { Command, Reply } from '../../lib/codec/index.js';
import { Ledger, type Sent } from '../../lib/factories/ledger.js';
import { STAGES, type Stage } from '../../lib/stages.js';
import { times } from '../helpers/milter.js';

const GO: Reply = { type: 'continue' };
const T: Reply = { type: 'tempFail' };
const LATER: Reply = { type: 'replyCode', text: '421 4.3.2 Service not available, closing transmission channel' };
const OFFER: Extract<Command, { type: 'negotiate' }> = {
  type: 'negotiate',
  version: 6,
  actions: 0,
  protocol: 0x1fffff,
};

/** A ledger, and what a relay does with it. */
class Talk {
  readonly ledger: Ledger;
  /** There is a worker that knows the conversation. */
  attached = true;
  /** There is one that could take over. */
  spare = true;
  /** What the mail server heard. */
  readonly heard: Reply[] = [];

  constructor(dryRun = false) {
    this.ledger = new Ledger(dryRun);
  }

  /** The mail server sends commands. */
  sends(...types: Array<Sent | undefined>): this {
    for (const type of types) {
      const fate = this.ledger.command(type, this.attached);
      if (fate === 'worker') this.#give(type);
      else if (fate !== undefined) this.heard.push(fate);
    }
    return this;
  }

  #give(type: Sent | undefined): void {
    if (!this.attached && !this.spare) {
      const fate = this.ledger.unserved(type as Stage);
      if (fate !== undefined) this.heard.push(fate as Reply);
      return;
    }
    this.attached = true;
    this.ledger.given(type);
  }

  /** The worker answers. */
  answers(...replies: Array<Reply | Reply['type']>): this {
    for (const each of replies) {
      const reply = typeof each === 'string' ? ({ type: each } as Reply) : each;
      if (this.ledger.reply(reply.type, () => reply) !== 'repeated') this.heard.push(reply);
    }
    return this;
  }

  /** The worker dies, and no other takes over until somebody says so. */
  dies(): this {
    this.attached = false;
    const due = this.ledger.died();
    if (due !== 'negotiate') this.heard.push(...due);
    return this;
  }

  /** The replies since the last time, by type. */
  take(): string[] {
    return this.heard.splice(0).map(({ type }) => type);
  }
}

/** What was agreed, and nothing else. */
function agreed(protocol = 0, dryRun = false): Talk {
  const talk = new Talk(dryRun);
  talk.sends('negotiate').answers({ type: 'negotiate', version: 6, actions: 0, protocol });
  talk.take();
  return talk;
}

/** Commands that a worker lets pass. */
function passed(talk: Talk, ...types: Stage[]): Talk {
  for (const type of types) {
    talk.sends(type);
    if ((STAGES[type].nr & (talk.ledger.agreement?.protocol ?? 0)) === 0) talk.answers('continue');
  }
  talk.take();
  return talk;
}

const MESSAGE: readonly Stage[] = ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob'];

/** What must come before a command. */
const before = (stage: Stage): Stage[] => {
  if (stage === 'connect') return [];
  if (stage === 'helo') return ['connect'];
  return ['connect', 'helo', ...MESSAGE.slice(0, MESSAGE.indexOf(stage))];
};

t.test('OPTNEG: another worker must negotiate, with what came behind it', (t) => {
  const talk = new Talk().sends('negotiate', 'connect', 'helo');
  t.equal(talk.ledger.atStake, 'negotiate');
  t.equal(talk.ledger.died(), 'negotiate');
  talk.ledger.given('negotiate');
  talk.answers({ type: 'negotiate', version: 6, actions: 0, protocol: STAGES.connect.nr });
  t.strictSame(
    talk.ledger.waiting.map(({ stage }) => stage),
    ['helo'],
    'which of it waits is known only now',
  );
  t.equal(talk.ledger.agreement?.version, 6);
  t.end();
});

t.test('before OPTNEG nothing is due', (t) => {
  const talk = new Talk();
  t.equal(talk.ledger.atStake, undefined);
  t.strictSame(talk.dies().take(), []);
  t.end();
});

t.test('OPTNEG, and no worker: everything is refused for now', (t) => {
  const talk = new Talk().sends('negotiate', 'connect', 'helo');
  t.equal(talk.ledger.died(), 'negotiate');
  t.match(talk.ledger.turnAway(OFFER), [{ type: 'negotiate', protocol: 0 }, LATER, LATER]);
  talk.attached = false;
  talk.sends('mailFrom', 'rcpt', 'unknown', 'helo', 'abort', 'mailFrom', 'eob');
  t.strictSame(talk.heard, times(6, LATER));
  talk.take();
  talk.sends('quitNewConnection', 'connect').answers('continue');
  t.strictSame(talk.take(), ['continue'], 'until another SMTP session');
  t.throws(() => new Ledger(false).turnAway({ ...OFFER, version: 1 }), { code: 'ERR_MILTER_NEGOTIATION' });
  t.end();
});

t.test('a second offer: a session says so, or who has none', (t) => {
  const talk = agreed();
  t.equal(talk.ledger.command('negotiate', true), 'worker');
  t.throws(() => talk.ledger.command('negotiate', false), { code: 'ERR_MILTER_SEQUENCE' });
  t.end();
});

/** The table: what comes when the worker dies at a stage, what the next commands get, and when it is over. */
const TABLE: ReadonlyArray<{ stage: Stage; refused: Stage[]; later: Sent[]; next: Stage[] }> = [
  {
    stage: 'connect',
    refused: ['helo', 'mailFrom', 'rcpt', 'eob', 'helo', 'unknown'],
    later: ['quitNewConnection'],
    next: ['connect'],
  },
  { stage: 'helo', refused: ['mailFrom', 'rcpt', 'mailFrom'], later: [], next: ['helo', 'mailFrom'] },
  { stage: 'mailFrom', refused: ['rcpt', 'data'], later: [], next: ['mailFrom', 'rcpt'] },
  { stage: 'rcpt', refused: ['rcpt', 'unknown', 'data', 'header', 'eob'], later: ['abort'], next: ['mailFrom'] },
  { stage: 'data', refused: ['header', 'eob'], later: ['abort'], next: ['mailFrom'] },
  { stage: 'header', refused: ['eob'], later: [], next: ['mailFrom'] },
  { stage: 'eoh', refused: ['body', 'eob'], later: ['abort'], next: ['unknown', 'mailFrom'] },
  { stage: 'body', refused: ['body', 'eob'], later: ['abort'], next: ['helo', 'mailFrom'] },
  { stage: 'eob', refused: [], later: ['abort'], next: ['mailFrom', 'rcpt', 'eob'] },
];

for (const dryRun of [false, true]) {
  t.test(dryRun ? 'dryRun: what would be refused goes on' : 'who waits is refused for now, and what follows', (t) => {
    const refusal = dryRun ? 'continue' : 'tempFail';
    for (const { stage, refused, later, next } of TABLE) {
      const talk = passed(agreed(0, dryRun), ...before(stage)).sends(stage);
      t.equal(talk.ledger.atStake, stage);
      t.strictSame(talk.dies().take(), [refusal], stage);
      t.strictSame(talk.dies().take(), [], 'once');
      t.strictSame(talk.sends(...refused).take(), times(refused.length, refusal), `${stage}: ${refused.join(' ')}`);
      t.notOk(talk.attached, 'without a worker');
      talk.sends(...later);
      t.strictSame(talk.take(), []);
      for (const each of next) {
        t.strictSame(talk.sends(each).answers('continue').take(), ['continue'], `${stage}: then ${each}`);
      }
      t.ok(talk.attached);
    }
    t.end();
  });
}

t.test('an unknown command is refused alone; in a message the message is lost', (t) => {
  const talk = passed(agreed(), 'connect', 'helo').sends('unknown').dies();
  t.strictSame(talk.take(), ['tempFail']);
  t.strictSame(talk.sends('mailFrom').answers('continue').take(), ['continue']);
  talk.sends('unknown').dies();
  t.strictSame(talk.sends('unknown', 'rcpt', 'eob').take(), times(4, 'tempFail'));
  t.end();
});

t.test('nothing waits: outside of a message nothing is lost, in one it is poisoned', (t) => {
  const talk = passed(agreed(), 'connect', 'helo');
  t.equal(talk.ledger.atStake, undefined);
  t.strictSame(talk.dies().take(), []);
  passed(talk, 'mailFrom', 'rcpt');
  for (const end of ['abort', 'eob', 'helo', 'mailFrom', 'quitNewConnection'] as const) {
    t.equal(talk.ledger.atStake, 'message');
    t.strictSame(talk.dies().take(), []);
    t.equal(talk.ledger.atStake, undefined, 'there is no more to lose');
    t.strictSame(talk.sends('rcpt', 'unknown', 'rcpt').take(), times(3, 'tempFail'));
    t.ok(talk.ledger.inMessage);
    talk.sends(end);
    if (end === 'eob') t.strictSame(talk.take(), ['tempFail']);
    if (end === 'helo' || end === 'mailFrom') t.strictSame(talk.answers('continue').take(), ['continue']);
    if (end === 'quitNewConnection') passed(talk, 'connect');
    passed(talk, 'mailFrom', 'rcpt');
  }
  t.end();
});

t.test('ABORT, QUIT and QUIT_NC go to the worker if there is one', (t) => {
  const talk = agreed();
  for (const type of ['abort', 'quitNewConnection', 'quit'] as const) {
    t.equal(talk.ledger.command(type, true), 'worker');
    talk.ledger.given(type);
    t.equal(talk.ledger.command(type, false), undefined);
  }
  t.equal(talk.ledger.head, undefined);
  t.ok(talk.ledger.quit);
  t.equal(talk.ledger.command(undefined, true), 'worker', 'what nobody knows: a session says so best');
  t.end();
});

t.test('NR bits: nothing waits, so nothing is written; what is answered is refused', (t) => {
  const nr = STAGES.mailFrom.nr | STAGES.rcpt.nr | STAGES.data.nr | STAGES.header.nr;
  const talk = passed(agreed(nr), 'connect', 'helo').sends('mailFrom', 'rcpt', 'data', 'header');
  t.strictSame(talk.dies().take(), []);
  t.strictSame(talk.sends('rcpt', 'data', 'header', 'header').take(), []);
  t.strictSame(talk.sends('eoh', 'body', 'eob').take(), times(3, 'tempFail'));
  t.strictSame(talk.sends('rcpt').take(), [], 'a stray one is not answered either');
  talk.spare = false;
  t.strictSame(talk.sends('mailFrom', 'rcpt', 'data', 'eoh').take(), ['tempFail']);
  t.end();
});

t.test('NO bits: a milter that sees no MAIL', (t) => {
  const only = (...stages: Stage[]): number =>
    Object.entries(STAGES).reduce((bits, [stage, { no }]) => bits | (stages.includes(stage as Stage) ? 0 : no), 0);
  const last = agreed(only());
  for (let i = 0; i < 2; i++) {
    last.sends('eob').dies();
    t.strictSame(last.take(), ['tempFail']);
    t.strictSame(last.sends('eob').answers('accept').take(), ['accept'], 'the next end is that of the next message');
  }
  const first = agreed(only('rcpt', 'header'));
  passed(first, 'rcpt').dies();
  t.strictSame(first.sends('rcpt', 'header').take(), ['tempFail', 'tempFail']);
  t.strictSame(first.sends('rcpt').answers('continue').take(), ['continue'], 'the message had its verdict');
  first.dies();
  first.ledger.draining = true;
  t.strictSame(first.sends('rcpt').take(), ['tempFail'], 'draining: the message in progress');
  t.strictSame(first.sends('abort', 'rcpt', 'eob').heard, [LATER, LATER], 'and the next one');
  t.end();
});

t.test('a verdict that stands holds without a worker', (t) => {
  const cases: Array<[at: Stage, reply: Reply, later: Sent[], answers: string[]]> = [
    ['connect', { type: 'accept' }, ['helo', 'mailFrom', 'eob'], times(3, 'continue')],
    ['connect', { type: 'reject' }, ['helo', 'mailFrom'], times(2, 'tempFail')],
    ['helo', { type: 'reject' }, ['mailFrom'], ['tempFail']],
    ['mailFrom', { type: 'accept' }, ['rcpt', 'eob'], times(2, 'continue')],
    ['mailFrom', { type: 'discard' }, ['rcpt', 'eob'], times(2, 'tempFail')],
    ['data', { type: 'replyCode', text: '550 no' }, ['header', 'eob'], times(2, 'tempFail')],
    ['rcpt', { type: 'replyCode', text: '421 later' }, ['rcpt', 'abort', 'mailFrom'], times(2, 'tempFail')],
    ['eob', { type: 'connFail' }, ['abort', 'mailFrom'], ['tempFail']],
    ['eob', { type: 'continue' }, ['rcpt'], ['tempFail']],
    ['eob', { type: 'accept' }, ['rcpt'], ['continue']],
  ];
  for (const [at, reply, then, answers] of cases) {
    const talk = passed(agreed(), ...before(at))
      .sends(at)
      .answers(reply);
    talk.take();
    t.strictSame(talk.dies().take(), []);
    t.strictSame(talk.sends(...then).take(), answers, `${at}: ${reply.type}, then ${then.join(' ')}`);
    t.notOk(talk.attached);
  }
  for (const type of ['reject', 'continue', 'skip'] as const) {
    const talk = passed(agreed(), ...before('body'))
      .sends('body')
      .answers(type)
      .dies();
    t.ok(talk.ledger.inMessage === (type !== 'reject'));
  }
  const talk = passed(agreed(), ...before('rcpt'))
    .sends('rcpt')
    .answers('reject');
  t.ok(talk.ledger.inMessage, 'a recipient is refused alone');
  t.end();
});

t.test('replies: what has been heard before, progress, edits, and how a message ends', (t) => {
  const talk = passed(agreed(), ...MESSAGE);
  talk.ledger.repeat(['negotiate', 'connect', 'helo']);
  talk.sends('mailFrom');
  t.equal(talk.ledger.atStake, 'mailFrom');
  const kinds = (...types: Array<Reply['type']>): string[] =>
    types.map((type) => talk.ledger.reply(type, () => ({ type }) as Reply));
  t.strictSame(kinds('negotiate', 'reject', 'continue', 'continue'), ['repeated', 'repeated', 'repeated', 'final']);
  t.strictSame(kinds('continue'), ['repeated'], 'one too many');
  talk.sends('eob');
  t.strictSame(kinds('progress', 'replBody', 'addHeader', 'quarantine', 'accept'), [
    'progress',
    'edit',
    'edit',
    'edit',
    'final',
  ]);
  talk.sends('mailFrom', 'eob');
  t.strictSame(kinds('continue', 'discard'), ['final', 'refusal']);
  const silent = agreed(STAGES.helo.nr);
  silent.ledger.repeat(['negotiate', 'helo', 'connect']);
  t.strictSame(
    silent.ledger.waiting.map(({ stage }) => stage),
    ['negotiate', 'connect'],
    'what is not answered',
  );
  silent.sends('mailFrom');
  t.strictSame(silent.dies().take(), ['tempFail'], 'what is repeated is not answered a second time');
  t.end();
});

t.test('a mail server that does not wait: a reply ends its own message, not the next', (t) => {
  const talk = passed(agreed(), ...before('eob'))
    .sends('eob', 'abort', 'mailFrom', 'rcpt')
    .answers('accept', 'continue');
  t.ok(talk.ledger.inMessage);
  talk.take();
  t.strictSame(talk.dies().take(), ['tempFail']);
  t.strictSame(talk.sends('data', 'eob').take(), ['tempFail', 'tempFail'], 'nothing of it is accepted');
  const other = passed(agreed(), ...before('eob'))
    .sends('eob', 'mailFrom', 'rcpt')
    .dies();
  t.strictSame(other.sends('eob').take(), times(4, 'tempFail'));
  t.end();
});

t.test('draining without a worker: the message in progress is refused, the next one turned away', (t) => {
  const talk = passed(agreed(), 'connect', 'helo', 'mailFrom').dies();
  talk.ledger.draining = true;
  t.strictSame(talk.sends('rcpt', 'abort', 'mailFrom', 'rcpt', 'helo').heard, [T, LATER, LATER, LATER]);
  const attached = passed(agreed(), 'connect', 'helo');
  attached.ledger.draining = true;
  t.strictSame(attached.sends('mailFrom').answers(LATER).heard, [LATER], 'a worker says so itself');
  t.end();
});

function noWorker(t: Test, talk: Talk, type: Sent, expected: Reply[]): void {
  talk.heard.length = 0;
  talk.spare = false;
  t.strictSame(talk.sends(type).heard, expected, type);
}

t.test('no worker takes over', (t) => {
  const talk = passed(agreed(), 'connect', 'helo').dies();
  noWorker(t, talk, 'unknown', [T]);
  noWorker(t, talk, 'mailFrom', [T]);
  noWorker(t, talk, 'rcpt', [T]);
  noWorker(t, talk, 'abort', []);
  talk.spare = true;
  passed(talk, 'mailFrom').dies();
  noWorker(t, talk, 'rcpt', [T]);
  noWorker(t, talk, 'helo', [T]);
  t.strictSame(talk.sends('mailFrom').heard, [T, T], 'and so until the next HELO');
  const dry = agreed(0, true).dies();
  noWorker(t, dry, 'mailFrom', [GO]);
  t.end();
});
