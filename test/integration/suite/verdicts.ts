// Every verdict at every stage where it is legal, as the SMTP client sees it, and what becomes of the mail.
import type { Test } from 'tap';
import { ACCEPT, CONN_FAIL, DISCARD, REJECT, SHUTDOWN, TEMPFAIL, type Stage } from '../../../lib/index.js';
import { Judge, type Say } from '../milters.js';
import type { Rig, ServerName } from '../rig.js';
import { dialogue, type Outcome, type Step } from './dialogue.js';
import { STAGES } from '../../helpers/milter.js';

/** What both servers make of an answer. */
type Effect = 'accept' | 'discard' | 'refuse' | 'close';

const SAYS: ReadonlyArray<Say & { effect: Effect }> = [
  { verdict: ACCEPT, effect: 'accept' },
  { verdict: DISCARD, effect: 'discard' },
  { verdict: REJECT, effect: 'refuse' },
  { verdict: TEMPFAIL, effect: 'refuse' },
  { verdict: SHUTDOWN, effect: 'close' },
  { verdict: CONN_FAIL, effect: 'close' },
  { reply: [550, '5.7.9', '100% no'], effect: 'refuse' },
  { reply: [550, '5.7.9', ['50% no', 'and 50% never']], effect: 'refuse' },
  { reply: [550, '', 'plainly no'], effect: 'refuse' },
  { reply: [450, '4.7.9', 'later'], effect: 'refuse' },
  { reply: [450, '4.7.9', ['later', 'much']], effect: 'refuse' },
  { reply: [421, '4.7.9', 'bye'], effect: 'close' },
  { reply: [421, '4.7.9', ['bye', 'bye']], effect: 'close' },
  { failure: 'throws', effect: 'refuse' },
  { failure: 'rejects', effect: 'refuse' },
];

/** The command that the answer of a callback goes to: the content is looked at after the final dot. */
const ANSWERS: Readonly<Record<Stage, Step>> = {
  connect: 'greeting',
  helo: 'EHLO',
  mailFrom: 'MAIL',
  rcpt: 'RCPT one',
  data: 'DATA',
  header: 'dot',
  eoh: 'dot',
  body: 'dot',
  eob: 'dot',
  unknown: 'XFOO',
};

/** What a server says in reply to a refusal. */
interface Voice {
  /** The lines for REJECT and TEMPFAIL without a text. */
  [REJECT](stage: Stage): string;
  [TEMPFAIL]: string;
  /** For SHUTDOWN, CONN_FAIL and 421 at connect(). */
  hangingUp: string;
  /** The greeting that is a refusal for good. */
  refusingGreeting: string;
  /** The lines for what setReply() was given. */
  reply(stage: Stage, code: number, xcode: string, lines: readonly string[]): string[];
}

const VOICES: Readonly<Record<ServerName, Voice>> = {
  postfix: {
    [REJECT]: () => '550 5.7.1 Command rejected',
    [TEMPFAIL]: '451 4.7.1 Service unavailable - try again later',
    hangingUp: '421 postfix.example.test Service unavailable - try again later',
    refusingGreeting: '554 postfix.example.test ESMTP not accepting connections',
    reply: (_stage, code, xcode, lines) => lines.map((line) => [code, xcode, line].filter(Boolean).join(' ')),
  },
  sendmail: {
    [REJECT](stage) {
      if (stage === 'connect' || stage === 'helo') return '550 5.0.0 Command rejected';
      return `${ANSWERS[stage] === 'dot' ? 554 : 550} 5.7.1 ${about(stage)}Command rejected`;
    },
    [TEMPFAIL]: '451 4.3.2 Please try again later',
    hangingUp: '421 4.7.0 sendmail.example.test closing connection',
    refusingGreeting: '554 sendmail.example.test ESMTP not accepting messages',
    reply(stage, code, xcode, lines) {
      // What was said of the connection is forgotten, but for its class.
      if (stage === 'connect') return [code < 500 ? this[TEMPFAIL] : this[REJECT](stage)];
      const extra = code === 421 ? '' : about(stage);
      return lines.map((line, i) => `${code} ${xcode || '5.0.0'} ${i === 0 ? extra : ''}${line}`);
    },
  },
};

/** Sendmail names the address that it refuses. */
function about(stage: Stage): string {
  if (stage === 'mailFrom') return '<first.N@example.org>... ';
  return stage === 'rcpt' ? '<one@example.net>... ' : '';
}

/** What the client is told, at the step that says so. */
function told(server: ServerName, stage: Stage, { verdict, reply, effect }: Say & { effect: Effect }): string[] {
  const voice = VOICES[server];
  if (effect === 'close' && stage === 'connect') return [voice.hangingUp];
  if (verdict === SHUTDOWN) return ['421 4.7.0 Server closing connection'];
  if (verdict === CONN_FAIL) return ['421 4.3.2 Service not available, closing transmission channel'];
  if (reply !== undefined) return voice.reply(stage, reply[0], reply[1], [reply[2]].flat());
  return [verdict === REJECT ? voice[REJECT](stage) : voice[TEMPFAIL]];
}

function expected(server: ServerName, stage: Stage, say: Say & { effect: Effect }): Outcome {
  const { effect, reply } = say;
  const lines = told(server, stage, say);
  if (effect === 'accept' || effect === 'discard') return {};
  if (effect === 'close') {
    // Sendmail looks for "421 " here, with a space.
    const missed = server === 'sendmail' && stage === 'connect' && Array.isArray(reply?.[2]);
    if (missed) return expected(server, stage, { verdict: TEMPFAIL, effect: 'refuse' });
    return { [ANSWERS[stage]]: lines, closed: true };
  }
  if (stage !== 'connect' && stage !== 'helo') return { [ANSWERS[stage]]: lines };
  // Both servers greet all the same, take EHLO, and refuse each message.
  const greeting =
    stage === 'connect' && lines[0]?.startsWith('5') ? { greeting: [VOICES[server].refusingGreeting] } : {};
  return { ...greeting, MAIL: lines, second: lines };
}

/** The mail that arrives, as 'sender to recipients'. */
function arriving(stage: Stage, effect: Effect, closed: boolean): string[] {
  const whole = 'first to one,two';
  if (effect === 'accept') return [whole, 'second to one'];
  if (closed) return [];
  if (effect === 'discard') return ['second to one'];
  switch (stage) {
    case 'connect':
    case 'helo':
      return [];
    case 'rcpt':
      return ['first to two', 'second to one'];
    case 'unknown':
      return [whole, 'second to one'];
    default:
      return ['second to one'];
  }
}

const titleOf = ({ verdict, reply, failure }: Say): string =>
  verdict ?? (reply === undefined ? `a callback that ${failure}` : `setReply(${JSON.stringify(reply).slice(1, -1)})`);

/** Runs the dialogue for each of the answers, all at the same time, and compares everything. */
async function compare(t: Test, rig: Rig, stage: Stage, says: typeof SAYS): Promise<void> {
  const errors = says.filter(({ failure }) => failure !== undefined).map(() => 'ERR_MILTER_CALLBACK');
  let outcomes: Outcome[] = [];
  const arrived = says.map((): string[] => []);
  const expectations = says.map((say) => expected(rig.server, stage, say));
  const arrivals = says.map(({ effect }, i) => arriving(stage, effect, expectations[i]?.closed === true));
  await rig.milter(Judge, { context: { stage, says }, errors, workers: 2 }, async () => {
    outcomes = await Promise.all(says.map((_, i) => dialogue(rig, i, stage === 'unknown')));
    for (const { mailFrom, rcptTo } of await rig.arrivals(arrivals.flat().length)) {
      const [, name, number] = /^(\w+)\.(\d+)@/.exec(mailFrom) as unknown as [string, string, string];
      const to = rcptTo.map((address) => address.replace(/@.*/, '')).sort();
      arrived[Number(number)]?.push(`${name} to ${to.join()}`);
    }
  });
  for (const [i, say] of says.entries()) {
    const outcome = JSON.parse(JSON.stringify(outcomes[i]).replaceAll(`first.${i}@`, 'first.N@')) as Outcome;
    t.strictSame(outcome, expectations[i], titleOf(say));
    t.strictSame(arrived[i]?.sort(), arrivals[i], `${titleOf(say)}: what arrives`);
  }
}

export function verdicts(t: Test, rig: Rig): void {
  for (const stage of STAGES) {
    const early = stage === 'connect' || stage === 'helo' || stage === 'unknown';
    const says = early ? SAYS.filter(({ effect }) => effect !== 'discard') : SAYS;
    t.test(`P63 P64 P65 P75 P107 P108 P111 what the client hears of ${stage}()`, rig.needs, async (t) => {
      // Nothing tells connect() which case it is.
      if (stage === 'connect') for (const say of says) await compare(t, rig, stage, [say]);
      else await compare(t, rig, stage, says);
    });
  }
}
