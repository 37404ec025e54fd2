/** Makes sense of the packets of sessions: to which message each belongs, what a reply answers, what became of it all. */
import { decisionAt } from '../capture/decision.js';
import type { ConversationRecord, PacketRecord } from '../capture/types.js';
import type { Reply } from '../codec/replies.js';
import { bareAddress } from '../envelope.js';
import { STAGES, stageOfLetter, type Stage } from '../stages.js';

/** `aborted`: it did not come to its end. */
export type Verdict = 'accept' | 'reject' | 'tempfail' | 'discard' | 'aborted';

/** A message, as far as it is known. */
export interface SeenMessage {
  sender: string | undefined;
  queueId: string | undefined;
  verdict: Verdict | undefined;
  quarantined: boolean;
  /** Its end was answered. */
  ended: boolean;
}

/** A record, and where it belongs. */
export interface Seen {
  readonly record: ConversationRecord;
  /** The command's kind, and for a reply that of the command it answers. */
  readonly stage: string | undefined;
  /** undefined for what concerns the whole session. */
  readonly message: SeenMessage | undefined;
}

interface Session {
  message: SeenMessage | undefined;
  /** The number of its first packet: what answers those before is not about it. */
  since: number;
}

export class Reading {
  readonly #sessions = new Map<string, Session>();
  readonly #over: (message: SeenMessage) => void;

  /** @param over is told of each message that is over, before the record that ended it is given */
  constructor(over: (message: SeenMessage) => void) {
    this.#over = over;
  }

  take(record: ConversationRecord): Seen {
    const { session: name } = record;
    let session = this.#sessions.get(name);
    if (session === undefined) this.#sessions.set(name, (session = { message: undefined, since: 0 }));
    if (record.type === 'packet')
      return record.from === 'mta' ? this.#command(session, record) : this.#reply(session, record);
    if (record.type !== 'close') return { record, stage: undefined, message: session.message };
    this.#end(session);
    this.#sessions.delete(name);
    return { record, stage: undefined, message: undefined };
  }

  #command(session: Session, record: PacketRecord): Seen {
    const { packet, number } = record;
    if (packet.type === 'macro') {
      const stage = stageOfLetter(packet.stage);
      const message = this.#messageOf(session, stage ?? 'macro', number, false);
      const [, id] = packet.macros.find(([name]) => name === 'i' || name === '{i}') ?? [];
      if (message !== undefined && id !== undefined) message.queueId = id;
      return { record, stage: stage ?? 'macro', message };
    }
    const stage = packet.type;
    const message = this.#messageOf(session, stage, number, true);
    if (packet.type === 'mailFrom') (message as SeenMessage).sender = bareAddress(packet.address);
    if (packet.type === 'abort') this.#end(session);
    return { record, stage, message };
  }

  /** @param itself the command, not its macros */
  #messageOf(session: Session, stage: string, number: number, itself: boolean): SeenMessage | undefined {
    const rank = Object.hasOwn(STAGES, stage) ? STAGES[stage as Stage].rank : 0;
    if (rank > 0) {
      const { message } = session;
      // Macros of MAIL begin the message; MAIL itself then belongs to it.
      const isBegun = message !== undefined && !message.ended && (stage !== 'mailFrom' || (itself && isFresh(message)));
      if (!isBegun) this.#begin(session, number);
    } else if (itself && ENDS_MESSAGE.has(stage)) {
      this.#end(session);
    }
    return session.message;
  }

  #reply(session: Session, record: PacketRecord): Seen {
    const { packet, answers } = record;
    const { message, since } = session;
    if (packet.type === 'quarantine' && message !== undefined) message.quarantined = true;
    if (answers === undefined) return { record, stage: 'eob', message };
    const { stage, number } = answers;
    if (message !== undefined && number >= since) judge(message, stage, packet as Reply);
    return { record, stage, message };
  }

  #begin(session: Session, number: number): void {
    this.#end(session);
    session.since = number;
    session.message = {
      sender: undefined,
      queueId: undefined,
      verdict: undefined,
      quarantined: false,
      ended: false,
    };
  }

  #end(session: Session): void {
    const { message } = session;
    if (message === undefined) return;
    session.message = undefined;
    message.verdict ??= 'aborted';
    this.#over(message);
  }
}

const ENDS_MESSAGE = new Set(['negotiate', 'connect', 'helo', 'quit', 'quitNewConnection']);

function isFresh({ sender, verdict }: SeenMessage): boolean {
  return sender === undefined && verdict === undefined;
}

/** What a final answer says of the message. */
function judge(message: SeenMessage, stage: string, reply: Reply): void {
  const decision = decisionAt(stage, reply);
  if (decision?.of === 'message') message.verdict ??= decision.verdict.toLowerCase() as Verdict;
  if (stage === 'eob') message.ended = true;
}
