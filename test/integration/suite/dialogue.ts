// One SMTP session of two messages, the first to two recipients, which goes on as far as it is let.
import type { SmtpReply } from '../../helpers/smtp.js';
import type { Rig } from '../rig.js';
import { letter } from './letters.js';

/** The commands; `second` is the whole second message. */
export type Step = 'greeting' | 'EHLO' | 'XFOO' | 'MAIL' | 'RCPT one' | 'RCPT two' | 'DATA' | 'dot' | 'second';

const GOOD: Readonly<Record<Step, number>> = {
  greeting: 220,
  EHLO: 250,
  XFOO: 500,
  MAIL: 250,
  'RCPT one': 250,
  'RCPT two': 250,
  DATA: 354,
  dot: 250,
  second: 250,
};

/** What went otherwise than without a milter: the replies, with their codes in front of each line. */
export type Outcome = Partial<Record<Step, string[]>> & { closed?: true };

/**
 * @param number of the session: it is in the client's name and in the senders' addresses
 * @param unknown whether the client says something that no server knows
 */
export async function dialogue(rig: Rig, number: number, unknown = false): Promise<Outcome> {
  const outcome: Outcome = {};
  const client = await rig.stranger();
  const good = (step: Step, reply: SmtpReply): boolean => {
    if (reply.code === GOOD[step]) return true;
    outcome[step] = reply.lines.map((line) => `${reply.code} ${line}`);
    // Who says 421 hangs up.
    if (reply.code === 421) throw HUNG_UP;
    return false;
  };
  const say = async (step: Step, line: string): Promise<boolean> => good(step, await client.command(line));
  try {
    good('greeting', client.greeting);
    await say('EHLO', `EHLO case-${number}.example.org`);
    if (unknown) await say('XFOO', 'XFOO');
    if (await say('MAIL', `MAIL FROM:<first.${number}@example.org>`)) {
      const one = await say('RCPT one', 'RCPT TO:<one@example.net>');
      const two = await say('RCPT two', 'RCPT TO:<two@example.net>');
      if ((one || two) && (await say('DATA', 'DATA'))) good('dot', await client.message(letter()));
      else await client.command('RSET');
    }
    if (await say('second', `MAIL FROM:<second.${number}@example.org>`)) {
      await client.command('RCPT TO:<one@example.net>');
      await client.command('DATA');
      good('second', await client.message(letter()));
    }
  } catch (error) {
    if (error !== HUNG_UP) throw error;
    await client.closed;
    outcome.closed = true;
  }
  return outcome;
}

const HUNG_UP = new Error('the server has said that it hangs up');
