/** Option negotiation from the milter's side: what the server offers, what the milter wants, what comes of it. */
import type { NegotiateCommand } from '../codec/commands.js';
import type { SymbolList } from '../codec/fields.js';
import type { NegotiateReply } from '../codec/replies.js';
import * as c from '../constants.js';
import { MilterError } from '../errors.js';
import { actionNames } from '../names.js';

/** What a milter wants of a connection. */
export interface Wants {
  /** SMFIF_: what it would like to do. What the server does not offer is left out. */
  readonly actions: number;
  /** SMFIF_: what it cannot do without. */
  readonly required: number;
  /** SMFIP_: steps to leave out, replies to leave out, modes. What the server does not offer is left out. */
  readonly protocol: number;
  /** The macros it asks for. */
  readonly macros: readonly SymbolList[];
}

/** For a mail server that is to be told to come back later, whatever it says. */
export const NOTHING_WANTED: Wants = { actions: 0, required: 0, protocol: 0, macros: [] };

/** What was agreed. */
export interface Agreement {
  readonly version: number;
  readonly actions: number;
  readonly protocol: number;
  /** Largest payload either side may send, in bytes. */
  readonly maxPayload: number;
}

/**
 * The reply to an offer.
 * @throws MilterError ERR_MILTER_NEGOTIATION where nothing can be agreed: the session ends without a reply
 */
export function negotiate(offer: NegotiateCommand, wants: Wants): { agreement: Agreement; reply: NegotiateReply } {
  if (offer.version < c.SMFI_VERSION_MIN) {
    throw failure(`it offers protocol version ${offer.version}; the oldest one spoken here is ${c.SMFI_VERSION_MIN}`);
  }
  const version = Math.min(c.SMFI_VERSION, offer.version);
  // Servers from before negotiation was complete send zeros and mean everything that version 1 had.
  const offeredActions = offer.actions === 0 ? c.SMFIF_ALLOPTS_V1 : offer.actions;
  const offeredSteps = offer.protocol === 0 ? c.SMFIP_ALLPROTOS_V1 : offer.protocol;
  const missing = wants.required & ~offeredActions;
  if (missing !== 0) {
    throw failure(
      `the milter requires ${actionNames(missing).join(', ')}, and it offers ${actionNames(offeredActions).join(', ')}`,
    );
  }
  const lists = version >= 6 && (offeredActions & c.SMFIF_SETSYMLIST) !== 0 ? wants.macros : [];
  const asked = wants.actions | wants.required | (lists.length > 0 ? c.SMFIF_SETSYMLIST : 0);
  const actions = asked & offeredActions & c.SMFIF_ALLOPTS;
  const protocol = ((wants.protocol & offeredSteps & c.SMFIP_ALLPROTOS) | largestSize(offeredSteps)) >>> 0;
  const reply: NegotiateReply = { type: 'negotiate', version, actions, protocol };
  return { agreement: agreementOf(reply), reply: lists.length > 0 ? { ...reply, macros: lists } : reply };
}

/** What a reply to an offer agrees to. */
export function agreementOf({ version, actions, protocol }: NegotiateReply): Agreement {
  return { version, actions, protocol, maxPayload: payloadOf(largestSize(protocol)) };
}

/** A size is agreed by echoing one of the bits that were offered; the larger one serves better. */
function largestSize(offered: number): number {
  return (offered & c.SMFIP_MDS_1M) !== 0 ? c.SMFIP_MDS_1M : offered & c.SMFIP_MDS_256K;
}

function payloadOf(bit: number): number {
  if (bit === c.SMFIP_MDS_1M) return c.MILTER_MDS_1M;
  return bit === c.SMFIP_MDS_256K ? c.MILTER_MDS_256K : c.MILTER_MDS_64K;
}

function failure(what: string): MilterError {
  return new MilterError('ERR_MILTER_NEGOTIATION', `Cannot agree with the mail server: ${what}`, {
    packet: 'negotiate',
  });
}
