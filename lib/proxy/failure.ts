/** What a mail server hears in the place of a milter that is not there. */
import { formatSmtpReply } from '../codec/smtp-reply.js';
import type { Reply } from '../codec/replies.js';
import { DEFAULT_ACTIONS } from '../client/default-action.js';
import type { SmtpReply } from '../codec/smtp-reply.js';
import type { Stage } from '../stages.js';
import type { ProxyOptions } from './types.js';

export type FailureAction = Exclude<NonNullable<ProxyOptions['onFailure']>, 'close'>;

/** @param edited edits have been forwarded that no accepting answer must follow */
export function failureReply(action: FailureAction, stage: Stage, edited: boolean): Reply {
  if (action === 'accept') {
    if (edited) return { type: 'tempFail' };
    return stage === 'unknown' ? { type: 'continue' } : { type: 'accept' };
  }
  const { code, enhanced, lines } = DEFAULT_ACTIONS[action].reply as SmtpReply;
  return { type: 'replyCode', text: formatSmtpReply(code, enhanced, lines) };
}
