/**
 * What became of the messages of a session, as it goes: each record may tell something new of one of them. Message 0 is
 * the session itself, which may be refused or let pass before any message.
 */
import { isModification } from '../client/modify.js';
import type { Reply } from '../codec/replies.js';
import type { ConversationRecord, PacketRecord } from '../capture/types.js';
import { STAGES, type Stage } from '../stages.js';

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

/** Commands that are remembered by their numbers until they are answered: far more than ever wait. */
const REMEMBERED = 1024;

export class Messages {
  #count = 0;
  #open = false;
  #verdict: Verdict | undefined;
  #quarantined = false;
  #bodyReplaced = false;
  /** Macros come before their command: this is the queue id of a message that has not begun. */
  #nextId: string | undefined;
  readonly #stages: Stage[] = [];

  take(record: ConversationRecord): MessageNews | undefined {
    if (record.type === 'close') return this.#end();
    if (record.type !== 'packet') return undefined;
    return record.from === 'mta' ? this.#command(record) : this.#reply(record);
  }

  #command({ packet, number }: PacketRecord): MessageNews | undefined {
    if (Object.hasOwn(STAGES, packet.type)) this.#stages[number % REMEMBERED] = packet.type as Stage;
    switch (packet.type) {
      case 'macro':
        return this.#macros(packet.stage, packet.macros);
      case 'mailFrom':
        return { ...this.#begin(), sender: packet.address };
      case 'rcpt':
        return { ...this.#begun(), recipient: packet.address };
      case 'data':
      case 'header':
      case 'eoh':
      case 'body':
      case 'eob':
        return this.#open ? undefined : this.#begin();
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

  #begin(): MessageNews {
    const queueId = this.#nextId;
    this.#nextId = undefined;
    this.#open = true;
    this.#verdict = undefined;
    this.#quarantined = this.#bodyReplaced = false;
    return { n: ++this.#count, ...(queueId !== undefined && { queueId }) };
  }

  /** The message that goes on, or begins here: its sender may have been kept away from the milter. */
  #begun(): MessageNews {
    return this.#open ? { n: this.#count } : this.#begin();
  }

  #end(): MessageNews | undefined {
    const isNews = this.#open && this.#verdict === undefined;
    this.#open = false;
    return isNews ? { n: this.#count, verdict: 'aborted' } : undefined;
  }

  #reply({ packet, answers }: PacketRecord): MessageNews | undefined {
    if (answers === undefined) return this.#edit(packet as Reply);
    const stage = this.#stages[answers.number % REMEMBERED];
    if (stage === undefined || stage === 'unknown') return undefined;
    const verdict = this.#verdictOf(packet as Reply, stage);
    if (verdict === undefined) return undefined;
    if (stage === 'connect' || stage === 'helo') return { n: 0, verdict };
    const n = this.#count;
    if (stage === 'rcpt' && (verdict === 'reject' || verdict === 'tempfail')) return { n, refused: true };
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

  #verdictOf(reply: Reply, stage: Stage): Verdict | undefined {
    const passes = this.#quarantined ? 'quarantine' : 'accept';
    switch (reply.type) {
      case 'continue':
        return stage === 'eob' ? passes : undefined;
      case 'accept':
        return passes;
      case 'reject':
      case 'discard':
        return reply.type;
      case 'tempFail':
      case 'shutdown':
      case 'connFail':
        return 'tempfail';
      case 'replyCode':
        return reply.text.startsWith('4') ? 'tempfail' : 'reject';
      default:
        return undefined;
    }
  }
}
