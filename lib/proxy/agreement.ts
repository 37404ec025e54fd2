/**
 * What the two sides have agreed on. Without hooks that touch the negotiation both have heard the same; where they have
 * not, the proxy stands in: it answers what the milter does not, keeps back what the mail server has not asked for, and
 * puts the leading space of header values right (P39, P40, P138).
 */
import type { NegotiateReply } from '../codec/replies.js';
import { SMFIP_HDR_LEADSPC, SMFIP_SKIP } from '../constants.js';
import { MilterError } from '../errors.js';
import { actionNames, protocolNames } from '../names.js';
import { STAGES, type Stage } from '../stages.js';

export type Bits = Pick<NegotiateReply, 'version' | 'actions' | 'protocol'>;

const NOTHING: Bits = { version: 6, actions: 0, protocol: 0 };

/** Of an offer, or an answer to one, that cannot be read to its end: what is at its beginning (P34). */
export function bitsIn(packet: Buffer): Bits {
  if (packet.length < 17) return NOTHING;
  return { version: packet.readUInt32BE(5), actions: packet.readUInt32BE(9), protocol: packet.readUInt32BE(13) };
}

/** Refuses bits that are not in the offer. */
function within(who: string, bits: Bits, offer: Bits): void {
  const actions = bits.actions & ~offer.actions;
  const protocol = bits.protocol & ~offer.protocol;
  const names = [...actionNames(actions), ...protocolNames(protocol)];
  if (names.length > 0 || bits.version > offer.version) {
    const what = bits.version > offer.version ? `version ${bits.version}` : names.join(', ');
    throw new MilterError('ERR_MILTER_NEGOTIATION', `${who} has ${what}, which the mail server has not offered`, {
      packet: 'negotiate',
    });
  }
}

export class Agreement {
  /** What the mail server has offered. */
  #offer: Bits = NOTHING;
  /** What each side takes for agreed. */
  #mta: Bits = NOTHING;
  #milter: Bits | undefined;

  /** What the milter has agreed to. */
  get milter(): Bits | undefined {
    return this.#milter;
  }

  /** What the mail server has been told. */
  get mta(): Bits {
    return this.#mta;
  }

  get offer(): Bits {
    return this.#offer;
  }

  /** @param changed what a hook has made of it. @throws MilterError ERR_MILTER_NEGOTIATION */
  offered(command: Bits, changed: Bits): void {
    this.#offer = command;
    if (changed !== command) within('The offer of the hook', changed, command);
  }

  /** @param changed what a hook has made of it. @throws MilterError ERR_MILTER_NEGOTIATION */
  agreed(reply: Bits, changed: Bits): void {
    this.#milter = reply;
    this.#mta = reply;
    if (changed === reply) return;
    within('The answer of the hook', changed, this.#offer);
    this.#mta = changed;
  }

  /** The mail server waits for an answer. */
  isAwaited(stage: Stage): boolean {
    return (this.#mta.protocol & STAGES[stage].nr) === 0;
  }

  /** The milter gives one. */
  isAnswered(stage: Stage): boolean {
    return ((this.#milter ?? this.#mta).protocol & STAGES[stage].nr) === 0;
  }

  /** The milter wants to hear of it. Where both sides agree it gets what comes: that is theirs to judge. */
  isWanted(stage: Stage): boolean {
    return this.#same || ((this.#milter as Bits).protocol & STAGES[stage].no) === 0;
  }

  /** What the header's value lacks (1) or has too much (-1) for the milter: a leading space. */
  get spaceForMilter(): number {
    const has = ({ protocol }: Bits): number => ((protocol & SMFIP_HDR_LEADSPC) === 0 ? 0 : 1);
    return this.#same ? 0 : has(this.#milter as Bits) - has(this.#mta);
  }

  get mtaKnowsSkip(): boolean {
    return this.#same || (this.#mta.protocol & SMFIP_SKIP) !== 0;
  }

  get #same(): boolean {
    return this.#milter === undefined || this.#milter === this.#mta;
  }
}

/** A header's value with a space more, or one less where there is one. */
export function spaced(value: string, more: number): string {
  if (more === 0) return value;
  return more > 0 ? ` ${value}` : value.replace(/^ /, '');
}
