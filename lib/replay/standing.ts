/**
 * What a mail server would still tell this milter: it leaves out what was agreed not to be sent, the rest of a body after
 * `skip`, and what would come behind a verdict.
 */
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { NegotiateReply, Reply } from '../codec/replies.js';
import { protocolNames } from '../names.js';
import { isStage, STAGES, type Stage } from '../stages.js';

type Heard = Command | OddPacket;

/** Of a milter that does not want to hear of MAIL the next message may begin with anything. */
const ENDS_MESSAGE = new Set(['mailFrom', 'eob', 'helo', 'abort', 'quitNewConnection']);

export class Standing {
  #agreed: NegotiateReply | undefined;
  /** Why nothing is sent until the SMTP session is over, or the message; and no more of the body. */
  #session: string | undefined;
  #message: string | undefined;
  #body: string | undefined;
  /** Recipients of this message that were told, and those that were not refused. */
  #told = 0;
  #taken = 0;

  agree(reply: NegotiateReply): void {
    this.#agreed = reply;
  }

  /** The milter answers it. */
  isAnswered(stage: Stage): boolean {
    return ((this.#agreed?.protocol ?? 0) & STAGES[stage].nr) === 0;
  }

  /** Why a command is not sent; undefined where it is. */
  against({ type }: Heard): string | undefined {
    if (!isStage(type)) return undefined;
    const { no, rank } = STAGES[type];
    const { version, protocol } = this.#agreed ?? { version: Infinity, protocol: 0 };
    if ((protocol & no) !== 0) return `the milter asked not to get it: ${protocolNames(no).join()}`;
    if (version < (type === 'data' ? 4 : type === 'unknown' ? 3 : 2)) return `version ${version} does not have it`;
    if (this.#session !== undefined) return this.#session;
    if (type === 'body' && this.#body !== undefined) return this.#body;
    if (rank === 0 || type === 'mailFrom') return undefined;
    const noRecipient = rank > STAGES.rcpt.rank && this.#told > 0 && this.#taken === 0;
    return this.#message ?? (noRecipient ? 'every recipient was refused' : undefined);
  }

  /** The mail server has come to a command, whether it is sent or not. */
  reached({ type }: Heard): void {
    if (type === 'quitNewConnection') this.#session = undefined;
    if (ENDS_MESSAGE.has(type)) this.#over();
    if (type !== 'body') this.#body = undefined;
  }

  /** What a final answer means for what follows. */
  note(stage: Stage, { type, ...reply }: Reply): void {
    const why = `the milter has answered ${type} at ${stage}`;
    const hangsUp = type === 'shutdown' || ('text' in reply && reply.text.startsWith('421'));
    const refuses = ['reject', 'tempFail', 'replyCode', 'shutdown', 'connFail'].includes(type);
    if (stage === 'rcpt') {
      this.#told++;
      if (!refuses) this.#taken++;
    }
    if (type === 'skip' && stage === 'body') this.#body = why;
    else if (type === 'continue') return;
    else if (hangsUp || stage === 'connect' || stage === 'helo') this.#session = why;
    else if (stage !== 'unknown' && stage !== 'eob' && !(stage === 'rcpt' && refuses)) this.#message = why;
  }

  #over(): void {
    this.#message = undefined;
    this.#told = this.#taken = 0;
  }
}
