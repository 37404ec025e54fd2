/** Option negotiation from the mail server's side: what it offers, and what it does not take for an answer. */
import type { NegotiateReply } from '../codec/replies.js';
import { SMFI_VERSION_MIN } from '../constants.js';
import { actionNames, protocolNames } from '../names.js';
import type { Conversation } from './conversation.js';
import type { CheckedClientOptions } from './options.js';

/**
 * Offers, and gives what the milter answered.
 * @throws MilterError ERR_MILTER_NEGOTIATION, and those of Conversation.reply()
 */
export async function negotiate(conversation: Conversation, options: CheckedClientOptions): Promise<NegotiateReply> {
  const { version, actions, protocol, commandTimeout, like } = options;
  await conversation.send('negotiate', commandTimeout, [{ type: 'negotiate', version, actions, protocol }]);
  const reply = await conversation.reply('negotiate', commandTimeout);
  const failure = (what: string): Error =>
    conversation.fail('negotiate', 'ERR_MILTER_NEGOTIATION', what, { packet: reply.type });
  if (reply.type !== 'negotiate') throw failure(`It answered the offer with ${reply.type}`);
  if (reply.version > version || reply.version < SMFI_VERSION_MIN) {
    throw failure(`It wants protocol version ${reply.version}, offered was ${version}`);
  }
  const surplus = reply.actions & ~actions;
  if (surplus !== 0) throw failure(`It wants ${actionNames(surplus).join(', ')}, which was not offered`);
  const odd = reply.protocol & ~protocol; // Postfix does without what it did not offer, Sendmail without the milter
  if (odd !== 0 && like === 'sendmail') {
    throw failure(`It wants ${protocolNames(odd).join(', ')}, which was not offered`);
  }
  return reply;
}
