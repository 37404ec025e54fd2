/**
 * One connection of a mail server, and the one to the milter behind it. Packets go on as they came; what is known about
 * them is which of them are answered (P41), so that somebody answers when the milter is gone.
 */
import { decodeCommand, decodeReply, encodeReply } from '../codec/index.js';
import type { NegotiateCommand } from '../codec/commands.js';
import { replyCodec, type NegotiateReply, type Reply } from '../codec/replies.js';
import { SMFI_VERSION } from '../constants.js';
import type { MilterError } from '../errors.js';
import { FINAL_REPLIES } from '../final-replies.js';
import { stageOfLetter, type Stage } from '../stages.js';
import { Agreement, bitsIn, type Bits } from './agreement.js';
import { DueAnswers, type Due } from './due.js';
import { failureReply, type FailureAction } from './failure.js';
import type { ProxyOptions } from './types.js';

const CODE = {
  negotiate: 0x4f, // O
  quit: 0x51, // Q
  progress: 0x70, // p
  skip: 0x73, // s
};

/** Whether a reply ends the waiting, by its code. */
const IS_FINAL = Array.from({ length: 256 }, (_, code) => FINAL_REPLIES.has(replyCodec.typeOf(code)));

export const CONTINUE = encodeReply({ type: 'continue' });

/** The stages by the code of their commands. */
const STAGE_OF: ReadonlyArray<Stage | undefined> = Array.from({ length: 256 }, (_, code) =>
  stageOfLetter(String.fromCharCode(code)),
);

/** What the transport does for a session. */
export interface Port {
  /** To the mail server. */
  toMta(bytes: Buffer): void;
  /** A failure that the session goes on after, or its last one. */
  report(error: MilterError): void;
  /** The mail server has nothing more to hear. */
  endMta(): void;
  /** Ends both connections at once. */
  destroy(error?: MilterError): void;
}

export class ProxySession {
  readonly agreement = new Agreement();
  /** QUIT has been said, or the mail server has gone. */
  quitting = false;
  readonly #port: Port;
  readonly #onFailure: NonNullable<ProxyOptions['onFailure']>;
  readonly #due: DueAnswers;
  /** The milter is gone. */
  #lost: MilterError | undefined;
  /** The milter wants no more of this body, which the mail server does not know. */
  #skipping = false;

  constructor(port: Port, onFailure: NonNullable<ProxyOptions['onFailure']>) {
    this.#port = port;
    this.#onFailure = onFailure;
    this.#due = new DueAnswers((bytes) => port.toMta(bytes));
  }

  get lost(): boolean {
    return this.#lost !== undefined;
  }

  /** The command whose answer the milter owes first. */
  get asked(): Due['stage'] | undefined {
    return this.#due.first?.stage;
  }

  /** A command of the mail server's. @returns whether the milter is to hear it */
  heard(buffer: Buffer, start: number, end: number): boolean {
    const code = buffer[start + 4] as number;
    if (code === CODE.negotiate) {
      const packet = buffer.subarray(start, end);
      const offer = understood(() => decodeCommand(packet) as NegotiateCommand) ?? bitsIn(packet);
      return this.offered(offer, offer);
    }
    const stage = STAGE_OF[code];
    if (stage !== undefined) return this.asks(stage);
    if (code === CODE.quit) return this.quits();
    return !this.lost;
  }

  /** QUIT, after which a milter closes the connection. @returns whether the milter is to hear it */
  quits(): boolean {
    this.quitting = true;
    if (this.lost) this.#port.endMta();
    return !this.lost;
  }

  /** @returns whether the milter is to hear it */
  offered(offer: Bits, changed: Bits): boolean {
    this.agreement.offered(offer, changed);
    this.#expect('negotiate', true);
    return !this.lost;
  }

  /** A command that is answered, unless it was agreed otherwise. @returns whether the milter is to hear it */
  asks(stage: Stage): boolean {
    if (stage !== 'body') this.#skipping = false;
    const { agreement } = this;
    const awaited = agreement.isAwaited(stage);
    const wanted = this.lost || (agreement.isWanted(stage) && !this.#skipping);
    if (wanted && (this.lost ? awaited : agreement.isAnswered(stage))) this.#expect(stage, awaited);
    else if (awaited) this.answers(stage, [{ type: 'continue' }]);
    return wanted && !this.lost;
  }

  #expect(stage: Due['stage'], awaited: boolean): void {
    if (this.lost) this.#due.give(stage, this.#inItsPlace(stage));
    else this.#due.expect(stage, awaited);
  }

  /** The proxy answers, when it is its turn. */
  answers(stage: Stage | 'negotiate', replies: readonly Reply[]): void {
    this.#due.give(stage, Buffer.concat(replies.map((reply) => encodeReply(reply))));
  }

  /** What has been said is on its way: now what the proxy has to say behind it. */
  settle(): void {
    this.#due.settle();
  }

  /** A reply of the milter's. @returns whether the mail server is to hear it as it is */
  said(buffer: Buffer, start: number, end: number): boolean {
    const code = buffer[start + 4] as number;
    if (code === CODE.negotiate && this.asked === 'negotiate') {
      const packet = buffer.subarray(start, end);
      const reply = understood(() => decodeReply(packet) as NegotiateReply) ?? bitsIn(packet);
      this.agrees(reply, reply);
      return true;
    }
    return this.takes(code, code !== CODE.progress) === 'it'; // without hooks both sides know of a skip, or neither
  }

  /** The answer to the offer. @param changed what the mail server is to hear */
  agrees(reply: Bits, changed: Bits): void {
    this.agreement.agreed(reply, changed);
    this.#due.done();
  }

  /**
   * Any other reply, by its code. One that nobody asked for is for the mail server to judge, too.
   * @param edit whether it asks for a change of the message
   * @returns what the mail server is to hear
   */
  takes(code: number, edit: boolean): 'it' | 'continue' | 'nothing' {
    const due = this.#due.first;
    if (due === undefined) return 'it';
    const heard = due.awaited ? 'it' : 'nothing';
    if (IS_FINAL[code] !== true) {
      due.edited ||= edit;
      return heard;
    }
    this.#due.done();
    if (code !== CODE.skip || this.agreement.mtaKnowsSkip) return heard;
    this.#skipping = true;
    return due.awaited ? 'continue' : 'nothing';
  }

  /** The milter cannot be reached, or has gone. */
  fail(error: MilterError): void {
    this.#lost = error;
    this.#port.report(error);
    if (this.#onFailure === 'close') this.#port.destroy(error);
    else this.#due.replace((due) => this.#inItsPlace(due.stage, due.edited));
  }

  /** What is said for a milter that is gone. It has agreed to nothing, so it is asked about everything. */
  #inItsPlace(stage: Due['stage'], edited = false): Buffer {
    if (stage !== 'negotiate') return encodeReply(failureReply(this.#onFailure as FailureAction, stage, edited));
    const version = Math.min(SMFI_VERSION, this.agreement.offer.version);
    const agreed = { type: 'negotiate', version, actions: 0, protocol: 0 } as const;
    this.agreement.agreed(agreed, agreed); // a milter before it may have agreed to something else
    return encodeReply(agreed);
  }
}

/** A packet that cannot be read passes like any other: whom it is for has to judge it. */
function understood<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch {
    return undefined;
  }
}
