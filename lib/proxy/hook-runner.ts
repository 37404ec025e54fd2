/** Asks the hooks about each packet, and does what they say. What they may not say is an error, and the packet passes. */
import { encodeCommand, encodeReply } from '../codec/index.js';
import type { Command, NegotiateCommand } from '../codec/commands.js';
import type { NegotiateReply, Reply } from '../codec/replies.js';
import { isModification } from '../client/modify.js';
import { MilterError } from '../errors.js';
import { isStage } from '../stages.js';
import { isThenable } from '../thenable.js';
import { bitsIn, spaced, type Bits } from './agreement.js';
import {
  answerOf,
  checkEdit,
  commandResult,
  kindOfCommand,
  kindOfReply,
  replyResult,
  type Heard,
  type Said,
} from './hook-results.js';
import { CONTINUE, type ProxySession } from './proxy-session.js';
import type { OwnAnswer, ProxyContext, ProxyHooks } from './types.js';

/** Larger than any mail server sends: the proxy passes on what it has read. */
const ANY_SIZE = 0x3fff_ffff;

export interface Ends {
  toMta(bytes: Buffer): void;
  toMilter(bytes: Buffer): void;
  report(error: MilterError): void;
}

export class HookRunner {
  readonly #session: ProxySession;
  readonly #hooks: ProxyHooks;
  readonly #context: ProxyContext;
  readonly #ends: Ends;

  constructor(session: ProxySession, hooks: ProxyHooks, context: ProxyContext, ends: Ends) {
    this.#session = session;
    this.#hooks = hooks;
    this.#context = context;
    this.#ends = ends;
  }

  /** A command of the mail server's. */
  command(packet: Heard): PromiseLike<void> | void {
    return this.#ask(
      () => this.#hooks.command?.(packet, this.#context),
      (result) => this.#commanded(packet, result),
    );
  }

  /** A reply of the milter's. */
  reply(packet: Said): PromiseLike<void> | void {
    return this.#ask(
      () => this.#hooks.reply?.(packet, this.#context),
      (result) => this.#replied(packet, result),
    );
  }

  /** @param act does nothing yet when it throws; of undefined it does not throw */
  #ask(hook: () => unknown, act: (result: unknown) => void): PromiseLike<void> | void {
    const failed = (cause: unknown): void => {
      const wrapped =
        cause instanceof MilterError ? cause : new MilterError('ERR_MILTER_CALLBACK', words(cause), { cause });
      this.#ends.report(wrapped);
      act(undefined);
    };
    const guarded = (result: unknown): void => {
      try {
        act(result);
      } catch (error) {
        failed(error);
      }
    };
    let result: unknown;
    try {
      result = hook();
      if (isThenable(result)) return result.then(guarded, failed);
    } catch (error) {
      return failed(error);
    }
    guarded(result);
  }

  #commanded(packet: Heard, result: unknown): void {
    const session = this.#session;
    const outcome = commandResult(packet, result);
    const kind = kindOfCommand(packet);
    if (outcome === false) {
      if (isStage(kind) && session.agreement.isAwaited(kind)) session.answers(kind, [{ type: 'continue' }]);
    } else if ('answer' in outcome) this.#answer(packet, outcome);
    else {
      const bytes = this.#bytesOfCommand(packet, outcome);
      if (this.#admitted(packet, outcome)) this.#ends.toMilter(bytes);
    }
  }

  #admitted(packet: Heard, changed: Heard): boolean {
    const session = this.#session;
    const kind = kindOfCommand(packet);
    if (kind === 'negotiate') {
      const offer = bitsOf(packet);
      return session.offered(offer, changed === packet ? offer : (changed as NegotiateCommand));
    }
    if (isStage(kind)) return session.asks(kind);
    return kind === 'quit' ? session.quits() : !session.lost;
  }

  /** Byte for byte, unless the two sides have agreed differently on the space before a header's value. */
  #bytesOfCommand(packet: Heard, changed: Heard): Buffer {
    const more = this.#session.agreement.spaceForMilter;
    if (changed.type === 'header' && more !== 0)
      return encodeCommand({ type: 'header', name: changed.name, value: spaced(changed.value, more) }, ANY_SIZE);
    return changed === packet ? (packet.raw as Buffer) : encodeCommand(changed as Command, ANY_SIZE);
  }

  #answer(packet: Heard, answer: OwnAnswer): void {
    const session = this.#session;
    const kind = kindOfCommand(packet);
    if (!isStage(kind))
      throw new MilterError('ERR_MILTER_SEQUENCE', `A hook has answered ${packet.type}, which nobody answers`, {
        packet: packet.type,
      });
    // What was agreed not to be answered has no place for it: the reply hook can change that, in the answer to the offer.
    if (!session.agreement.isAwaited(kind))
      throw new MilterError(
        'ERR_MILTER_NOT_NEGOTIATED',
        `A hook has answered ${kind}, but no answer is awaited there`,
        {
          packet: kind,
        },
      );
    const replies = answerOf(packet, answer);
    for (const reply of replies) checkEdit(reply, kind, session.agreement.mta.actions);
    // A milter that is in a message and hears no more of it is not told; its next message begins with MAIL.
    session.answers(kind, replies);
  }

  #replied(packet: Said, result: unknown): void {
    const session = this.#session;
    const asked = session.asked;
    const own = replyResult(packet, result, asked);
    if (asked === 'negotiate' && kindOfReply(packet) === 'negotiate') {
      const agreed = bitsOf(packet);
      const [changed = packet] = own ?? [];
      const bytes = changed === packet ? (packet.raw as Buffer) : encodeReply(changed as NegotiateReply);
      session.agrees(agreed, changed === packet ? agreed : (changed as NegotiateReply));
      this.#ends.toMta(bytes);
    } else {
      for (const each of own ?? []) if (each !== packet) checkEdit(each, asked, session.agreement.mta.actions);
      const bytes =
        own === undefined
          ? this.#bytesOfReply(packet, packet)
          : Buffer.concat(own.map((each) => this.#bytesOfReply(packet, each)));
      const isEdit = own === undefined ? isModification(packet as Reply) : own.some(isModification);
      const heard = session.takes((packet.raw as Buffer)[4] as number, isEdit);
      if (heard === 'it' || (heard === 'continue' && own !== undefined)) this.#ends.toMta(bytes);
      else if (heard === 'continue') this.#ends.toMta(CONTINUE);
    }
    session.settle();
  }

  /** As `#bytesOfCommand`, the other way round. */
  #bytesOfReply(packet: Said, said: Said): Buffer {
    const more = -this.#session.agreement.spaceForMilter;
    if (more !== 0 && 'name' in said && 'value' in said && said.value !== '')
      return encodeReply({ ...said, value: spaced(said.value, more) }, ANY_SIZE);
    return said === packet ? (packet.raw as Buffer) : encodeReply(said as Reply, ANY_SIZE);
  }
}

function bitsOf(packet: Heard | Said): Bits {
  return packet.type === 'negotiate' ? packet : bitsIn(packet.raw as Buffer);
}

function words(error: unknown): string {
  return `A hook has failed: ${error instanceof Error ? error.message : String(error)}`;
}
