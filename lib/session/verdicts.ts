/**
 * Which verdict is legal at which stage, and what it ends. The order of the columns is that of `stages` below.
 *
 *   go    nothing ends
 *   own   concerns this recipient, or this command, alone
 *   msg   ends the message
 *   helo  ends everything up to the next HELO
 *   all   ends the SMTP session
 *   -     is the author's error
 *
 * DISCARD before MAIL has nothing to discard: Postfix warns, Sendmail's documentation forbids it. SKIP outside body()
 * makes Sendmail leave the milter out for the rest of the SMTP session.
 */
import type { Reply } from '../codec/replies.js';
import { ACCEPT, CONN_FAIL, CONTINUE, DISCARD, REJECT, SHUTDOWN, SKIP, TEMPFAIL, type Verdict } from '../constants.js';
import { MilterError, show } from '../errors.js';
import type { Stage } from '../stages.js';
import type { Answer } from './host.js';

/** What is over after a verdict. */
export type Scope = 'go' | 'own' | 'msg' | 'helo' | 'all';

const stages: readonly Stage[] = [
  'connect',
  'helo',
  'mailFrom',
  'rcpt',
  'data',
  'header',
  'eoh',
  'body',
  'eob',
  'unknown',
];

// prettier-ignore
const table: Readonly<Record<Verdict, ReadonlyArray<Scope | '-'>>> = {
  //           connect helo    mailFrom rcpt   data   header eoh    body   eob    unknown
  [CONTINUE]:  ['go',  'go',   'go',   'go',  'go',  'go',  'go',  'go',  'msg', 'go'],
  [ACCEPT]:    ['all', 'all',  'msg',  'msg', 'msg', 'msg', 'msg', 'msg', 'msg', 'own'],
  [REJECT]:    ['all', 'helo', 'msg',  'own', 'msg', 'msg', 'msg', 'msg', 'msg', 'own'],
  [TEMPFAIL]:  ['all', 'helo', 'msg',  'own', 'msg', 'msg', 'msg', 'msg', 'msg', 'own'],
  [DISCARD]:   ['-',   '-',    'msg',  'msg', 'msg', 'msg', 'msg', 'msg', 'msg', '-'],
  [SKIP]:      ['-',   '-',    '-',    '-',   '-',   '-',   '-',   'go',  '-',   '-'],
  [CONN_FAIL]: ['all', 'all',  'all',  'all', 'all', 'all', 'all', 'all', 'all', 'all'],
  [SHUTDOWN]:  ['all', 'all',  'all',  'all', 'all', 'all', 'all', 'all', 'all', 'all'],
};

/** The same table by columns, as it is looked up. */
const scopes = Object.fromEntries(stages.map((stage, i) => [stage, column(i)])) as Readonly<
  Record<Stage, Readonly<Partial<Record<string, Scope | '-'>>>>
>;

function column(i: number): Partial<Record<string, Scope | '-'>> {
  const rows = Object.entries(table).map(([verdict, row]) => [verdict, row[i]]);
  return Object.setPrototypeOf(Object.fromEntries(rows), null);
}

/**
 * What a verdict ends at a stage.
 * @throws MilterError ERR_MILTER_VERDICT where it is not legal, or no verdict at all
 */
export function scopeOf(verdict: Verdict, stage: Stage): Scope {
  const scope = typeof verdict === 'string' ? scopes[stage][verdict] : undefined;
  if (scope === undefined) {
    throw new MilterError('ERR_MILTER_VERDICT', `${stage}() returned ${show(verdict)}, which is no verdict`, { stage });
  }
  if (scope === '-') {
    const hint = verdict === SKIP ? 'it works in body() alone' : 'there is no message yet to be discarded';
    throw new MilterError('ERR_MILTER_VERDICT', `${stage}() must not return '${verdict}': ${hint}`, { stage });
  }
  return scope;
}

/**
 * What an answer ends at a stage. On a 421 of the milter's own both Postfix and Sendmail close the SMTP session.
 * @throws MilterError ERR_MILTER_VERDICT
 */
export function scopeOfAnswer({ verdict, text }: Answer, stage: Stage): Scope {
  const scope = scopeOf(verdict, stage);
  return text?.startsWith('421') === true ? 'all' : scope;
}

/** Both Postfix and Sendmail close the SMTP session on a 421; the bare replies for it are refused by one or both. */
const SHUTDOWN_TEXT = '421 4.7.0 Server closing connection';
const CONN_FAIL_TEXT = '421 4.3.2 Service not available, closing transmission channel';

/**
 * The reply that says a verdict at a stage. With `bare`, SHUTDOWN and CONN_FAIL are the packets of these names.
 * ACCEPT from unknown() concerns the command, so it goes out as `continue`: Postfix would take `accept` for leave to
 * skip the milter for the next message.
 */
export function replyOf(verdict: Verdict, stage: Stage, bare: boolean): Reply {
  if (stage === 'unknown' && verdict === ACCEPT) return BARE[CONTINUE];
  if (!bare && verdict === SHUTDOWN) return { type: 'replyCode', text: SHUTDOWN_TEXT };
  if (!bare && verdict === CONN_FAIL) return { type: 'replyCode', text: CONN_FAIL_TEXT };
  return BARE[verdict];
}

const BARE: Readonly<Record<Verdict, Reply>> = {
  [CONTINUE]: { type: CONTINUE },
  [ACCEPT]: { type: ACCEPT },
  [REJECT]: { type: REJECT },
  [TEMPFAIL]: { type: TEMPFAIL },
  [DISCARD]: { type: DISCARD },
  [SKIP]: { type: SKIP },
  [CONN_FAIL]: { type: CONN_FAIL },
  [SHUTDOWN]: { type: SHUTDOWN },
};

/** The verdict without a text of its own: what a stray command is told after it. */
export function plainly(verdict: Verdict): Verdict {
  return verdict === SHUTDOWN || verdict === CONN_FAIL ? TEMPFAIL : verdict;
}
