/**
 * Which reply answers which command. A packet says nothing of that: it follows from the order, from what was agreed in
 * the exchange of offers (SMFIP_NR_ leaves a command unanswered), and from what is no final reply: progress and edits.
 * What somebody did against the rules is told, and the counting goes on as a mail server's would.
 */
import { ACTION_OF, isModification } from '../client/modify.js';
import type { Command, NegotiateCommand } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import { replyCodec, type NegotiateReply, type Reply } from '../codec/replies.js';
import { parseSmtpReply } from '../codec/smtp-reply.js';
import { SMFI_VERSION_MIN, SMFIF_ALLOPTS_V1, SMFIP_ALLPROTOS_V1, SMFIP_SKIP } from '../constants.js';
import type { MilterError } from '../errors.js';
import { actionNames, protocolNames } from '../names.js';
import { FINAL_REPLIES } from '../final-replies.js';
import { STAGES, type Stage } from '../stages.js';
import { showLetter } from './show.js';
import type { PacketRecord } from './types.js';

/** A command that waits for its answer. */
interface Question {
  readonly number: number;
  readonly time: number;
  readonly stage: Stage | 'negotiate';
}

type Bits = Pick<NegotiateReply, 'version' | 'actions' | 'protocol'>;

/** What is known of a packet by its place. */
export type Place = Pick<PacketRecord, 'answers' | 'problem'>;

/**
 * Most commands that wait at once. A mail server goes on when it has its answer, or when none was to come: of more than a
 * few that wait nobody knows what became.
 */
const MOST_WAITING = 10_000;

export class Dialogue {
  #known = true;
  /** Not the packets themselves, which would keep the bytes that they came in. */
  #offer: Bits | undefined;
  #agreed: Bits | undefined;
  #questions: Question[] = [];
  #skipped = false;
  /** Of the message whose end is being answered: whether a new body has come, and something else behind it. */
  #newBody: 'none' | 'begun' | 'over' = 'none';

  /** Something is missing: from here on nobody can tell what answers what. */
  lose(): void {
    this.#known = false;
    this.#questions = [];
  }

  /** The commands that were not answered. */
  get unanswered(): readonly Question[] {
    return this.#questions;
  }

  command(packet: Command | OddPacket, number: number, time: number): Place {
    const odd = againstOdd(packet, 'mail server');
    if (odd !== undefined || !this.#known) return place(odd);
    if (packet.type === 'negotiate') return this.#offers(packet, number, time);
    if (!Object.hasOwn(STAGES, packet.type)) return {};
    const stage = packet.type as Stage;
    const { no, nr } = STAGES[stage];
    const { version, protocol } = this.#agreed ?? { version: Infinity, protocol: 0 };
    if ((protocol & nr) === 0) this.#questions.push({ number, time, stage });
    if (this.#questions.length > MOST_WAITING) {
      this.lose();
      return place(`More than ${MOST_WAITING} commands wait: from here on nobody is said to answer anything`);
    }
    if (stage === 'eob') this.#newBody = 'none';
    const wasSkipped = this.#skipped;
    this.#skipped = wasSkipped && stage === 'body';
    if (this.#agreed === undefined) return place('It was sent before the offer was answered');
    if ((protocol & no) !== 0) return place(`The milter asked not to get it: ${protocolNames(no).join()}`);
    const needed = stage === 'data' ? 4 : stage === 'unknown' ? 3 : 2;
    if (version < needed) return place(`It came with protocol version ${needed}; agreed was ${version}`);
    return place(wasSkipped && stage === 'body' ? 'The milter asked for no more of the body' : undefined);
  }

  reply(packet: Reply | OddPacket, time: number): Place {
    const odd = againstOdd(packet, 'milter');
    if (!this.#known) return place(odd);
    const question = this.#questions[0];
    if (question === undefined) return place(odd ?? 'Nobody has asked for it');
    const type = packet.type === 'malformed' ? replyCodec.typeOf(packet.code) : packet.type;
    const isFinal = FINAL_REPLIES.has(type) || (type === 'negotiate' && question.stage === 'negotiate');
    const { number, stage } = question;
    const answers = { number, stage, ms: Math.max(0, time - question.time) };
    if (isFinal) this.#questions.shift();
    const problem = odd ?? this.#against(packet as Reply, stage);
    return { ...(isFinal && { answers }), ...place(problem) };
  }

  #offers(packet: NegotiateCommand, number: number, time: number): Place {
    if (this.#offer !== undefined) return place('A second offer: nobody answers that');
    this.#offer = bitsOf(packet);
    this.#questions.push({ number, time, stage: 'negotiate' });
    return {};
  }

  /** What speaks against a reply to a command. */
  #against(reply: Reply, stage: Stage | 'negotiate'): string | undefined {
    const bodyWasOver = this.#newBody === 'over';
    if (reply.type === 'replBody') this.#newBody = 'begun';
    else if (this.#newBody === 'begun') this.#newBody = 'over';
    if (stage === 'negotiate') {
      if (reply.type !== 'negotiate') return 'The offer is answered with something else';
      this.#agreed = bitsOf(reply);
      return surplusOf(reply, this.#offer as Bits);
    }
    if (isModification(reply)) {
      if (stage !== 'eob') return `An edit outside of the end of the message: in the answer to ${stage}`;
      const flag = ACTION_OF[reply.type];
      if (!this.#agrees('actions', flag)) return `An edit that was not agreed: ${actionNames(flag).join()}`;
      return reply.type === 'replBody' && bodyWasOver
        ? 'More of the body after something else: an error to Postfix'
        : undefined;
    }
    if (reply.type === 'skip') this.#skipped = true;
    return this.#againstAnswer(reply, stage);
  }

  #againstAnswer(reply: Reply, stage: Stage): string | undefined {
    switch (reply.type) {
      case 'negotiate':
      case 'setSymList':
        return `It is no answer to ${stage}`;
      case 'progress':
        return stage === 'eob' ? undefined : 'Progress before the end of the message: Sendmail takes it for a failure';
      case 'discard':
        return stage === 'connect' || stage === 'helo' ? `It is no answer to ${stage}` : undefined;
      case 'skip':
        if (stage !== 'body') return `It is an answer to body, not to ${stage}`;
        return this.#agrees('protocol', SMFIP_SKIP) ? undefined : 'SMFIP_SKIP was not agreed';
      case 'connFail':
        return 'Neither Sendmail nor Postfix takes it';
      case 'shutdown':
        return 'Sendmail takes it for a failure';
      case 'replyCode':
        return againstText(reply.text);
      default:
        return undefined;
    }
  }

  /** Before the offer is answered nothing is. */
  #agrees(what: 'actions' | 'protocol', bit: number): boolean {
    return ((this.#agreed?.[what] ?? 0) & bit) !== 0;
  }
}

function bitsOf({ version, actions, protocol }: Bits): Bits {
  return { version, actions, protocol };
}

/** What a milter wants that was not offered; zeros mean what version 1 had. */
function surplusOf(reply: Bits, offer: Bits): string | undefined {
  if (reply.version > offer.version || reply.version < SMFI_VERSION_MIN) {
    return `It wants protocol version ${reply.version}; offered was ${offer.version}`;
  }
  const names = [
    ...actionNames(reply.actions & ~(offer.actions || SMFIF_ALLOPTS_V1)),
    ...protocolNames(reply.protocol & ~(offer.protocol || SMFIP_ALLPROTOS_V1)),
  ];
  return names.length > 0 ? `It wants what was not offered: ${names.join(', ')}` : undefined;
}

function againstText(text: string): string | undefined {
  try {
    return parseSmtpReply(text).barePercent ? 'A % in it is not doubled' : undefined;
  } catch (error) {
    return (error as MilterError).message;
  }
}

function againstOdd(packet: Command | Reply | OddPacket, whose: string): string | undefined {
  if (packet.type === 'malformed') return packet.error.message;
  if (packet.type !== 'unrecognized') return undefined;
  return `${showLetter(packet.code)} is no letter of a ${whose}'s`;
}

function place(problem: string | undefined): Place {
  return problem === undefined ? {} : { problem };
}
