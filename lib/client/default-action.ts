/** SMTP replies where a milter sends none: when it refuses without words, and when it has failed. Postfix's words. */
import type { SmtpReply } from '../codec/smtp-reply.js';
import type { Answer } from './exchange.js';
import type { ClientOptions, Outcome } from './types.js';

const reply = (code: number, enhanced: string, line: string): SmtpReply => ({
  code,
  enhanced,
  lines: [line],
  barePercent: false,
});

const UNAVAILABLE = 'Service unavailable';
const LATER = `${UNAVAILABLE} - try again later`;

type DefaultAction = Exclude<NonNullable<ClientOptions['defaultAction']>, 'throw'>;

/** What is answered for a milter that has failed: milter_default_action in Postfix's postconf(5). */
export const DEFAULT_ACTIONS: Readonly<Record<DefaultAction, Partial<Answer>>> = {
  accept: { outcome: 'accept' },
  reject: { outcome: 'reject', reply: reply(550, '5.5.0', UNAVAILABLE) },
  tempfail: { outcome: 'tempFail', reply: reply(451, '4.7.1', LATER) },
  shutdown: { outcome: 'tempFail', hangUp: true, reply: reply(421, '4.7.1', LATER) },
  quarantine: { held: 'A milter has failed' },
};

/**
 * What an SMTP server says to its client: the milter's own words where there are some, else those of Postfix. undefined
 * where it goes on as if nothing had been asked: also for `discard`, of which the client must not know.
 */
export function smtpReply(result: {
  readonly outcome?: Outcome;
  readonly verdict?: Outcome;
  readonly reply?: SmtpReply;
  readonly hangUp?: boolean;
}): SmtpReply | undefined {
  const outcome = result.outcome ?? result.verdict;
  if (outcome !== 'reject' && outcome !== 'tempFail') return undefined;
  if (result.reply !== undefined) return result.reply;
  if (result.hangUp === true) return reply(421, '4.7.0', 'Server closing connection');
  return outcome === 'reject' ? reply(550, '5.7.1', 'Command rejected') : reply(451, '4.7.1', LATER);
}
