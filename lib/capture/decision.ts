/** What an answer decides, and of what. */
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';

export type Verdict = 'accept' | 'reject' | 'tempFail' | 'discard';

export interface Decision {
  readonly verdict: Verdict;
  /** A recipient that is refused leaves the message alone; an unknown command everything. */
  readonly of: 'session' | 'message' | 'recipient' | 'command';
}

const VERDICTS: Readonly<Record<string, Verdict>> = {
  accept: 'accept',
  reject: 'reject',
  tempFail: 'tempFail',
  shutdown: 'tempFail',
  connFail: 'tempFail',
  discard: 'discard',
};

/** @returns undefined where the answer is that all goes on, or there is none, or one to the offer */
export function decisionAt(stage: string, reply: Reply | OddPacket | undefined): Decision | undefined {
  const verdict = verdictAt(stage, reply);
  if (verdict === undefined || stage === 'negotiate') return undefined;
  if (stage === 'connect' || stage === 'helo') return { verdict, of: 'session' };
  if (stage === 'unknown') return { verdict, of: 'command' };
  const isRefusal = verdict === 'reject' || verdict === 'tempFail';
  return { verdict, of: stage === 'rcpt' && isRefusal ? 'recipient' : 'message' };
}

function verdictAt(stage: string, reply: Reply | OddPacket | undefined): Verdict | undefined {
  if (reply?.type === 'replyCode') return reply.text.startsWith('4') ? 'tempFail' : 'reject';
  if (reply?.type === 'continue') return stage === 'eob' ? 'accept' : undefined;
  return reply && VERDICTS[reply.type];
}
