/**
 * What became of the messages of a session, as it goes: each record may tell something new of one of them. Message 0 is
 * the session itself, which may be refused or let pass before any message.
 */
import { isModification } from '../client/modify.js';
import type { Reply } from '../codec/replies.js';
import { decisionAt, type Verdict as Decided } from '../capture/decision.js';
import type { ConversationRecord, PacketRecord } from '../capture/types.js';
import { STAGES } from '../stages.js';

/** What became of a message; `aborted`: it did not come to its end. */
export const VERDICTS = ['accept', 'reject', 'tempfail', 'discard', 'quarantine', 'aborted'] as const;

export type Verdict = (typeof VERDICTS)[number];

/** What a record tells of a message: what isn't there stays as it was. */
export interface MessageNews {
  /** Counted from 1 within the session. */
  readonly n: number;
  readonly queueId?: string;
  readonly sender?: string;
  /** One more. */
  readonly recipient?: string;
  /** One recipient was refused. */
  readonly refused?: true;
  readonly verdict?: Verdict;
  /** One more edit. */
  readonly edit?: true;
}

export class Messages {
  #count = 0;
  #open = false;
  #verdict: Verdict | undefined;
  #quarantined = false;
  #bodyReplaced = false;
  /** Macros come before their command: this is the queue id of a message that has not begun. */
  #nextId: string | undefined;
  /** Its first command: what answers those before is not about it. */
  #since = 0;

  take(record: ConversationRecord): MessageNews | undefined {
    if (record.type === 'close') return this.#end();
    if (record.type !== 'packet') return undefined;
    return record.from === 'mta' ? this.#command(record) : this.#reply(record);
  }

  #command({ packet, number }: PacketRecord): MessageNews | undefined {
    switch (packet.type) {
      case 'macro':
        return this.#macros(packet.stage, packet.macros);
      case 'mailFrom':
        return { ...this.#begin(number), sender: packet.address };
      case 'rcpt':
        return { ...this.#begun(number), recipient: packet.address };
      case 'data':
      case 'header':
      case 'eoh':
      case 'body':
      case 'eob':
        return this.#open ? undefined : this.#begin(number);
      case 'abort':
      case 'connect':
      case 'helo':
      case 'quit':
      case 'quitNewConnection':
        return this.#end();
      default:
        return undefined;
    }
  }

  #macros(stage: string, macros: ReadonlyArray<readonly [string, string]>): MessageNews | undefined {
    const id = macros.find(([name]) => name === 'i' || name === '{i}')?.[1];
    if (id === undefined || id === '') return undefined;
    if (this.#open && stage !== STAGES.mailFrom.letter) return { n: this.#count, queueId: id };
    this.#nextId = id;
    return undefined;
  }

  #begin(number: number): MessageNews {
    this.#since = number;
    const queueId = this.#nextId;
    this.#nextId = undefined;
    this.#open = true;
    this.#verdict = undefined;
    this.#quarantined = this.#bodyReplaced = false;
    return { n: ++this.#count, ...(queueId !== undefined && { queueId }) };
  }

  /** The message that goes on, or begins here: its sender may have been kept away from the milter. */
  #begun(number: number): MessageNews {
    return this.#open ? { n: this.#count } : this.#begin(number);
  }

  #end(): MessageNews | undefined {
    const isNews = this.#open && this.#verdict === undefined;
    this.#open = false;
    return isNews ? { n: this.#count, verdict: 'aborted' } : undefined;
  }

  #reply({ packet, answers }: PacketRecord): MessageNews | undefined {
    if (answers === undefined) return this.#edit(packet as Reply);
    const { stage, number } = answers;
    const decision = decisionAt(stage, packet as Reply);
    if (decision === undefined || decision.of === 'command') return undefined;
    const verdict = this.#shown(decision.verdict);
    if (decision.of === 'session') return { n: 0, verdict };
    if (number < this.#since) return undefined;
    const n = this.#count;
    if (decision.of === 'recipient') return { n, refused: true };
    if (this.#verdict !== undefined) return undefined;
    this.#verdict = verdict;
    this.#open &&= stage !== 'eob';
    return { n, verdict };
  }

  /** A new body in pieces is one edit. */
  #edit(reply: Reply): MessageNews | undefined {
    if (!this.#open || !isModification(reply)) return undefined;
    if (reply.type === 'quarantine') this.#quarantined = true;
    const again = reply.type === 'replBody' && this.#bodyReplaced;
    if (reply.type === 'replBody') this.#bodyReplaced = true;
    return again ? undefined : { n: this.#count, edit: true };
  }

  #shown(verdict: Decided): Verdict {
    if (verdict === 'accept' && this.#quarantined) return 'quarantine';
    return verdict === 'tempFail' ? 'tempfail' : verdict;
  }
}
