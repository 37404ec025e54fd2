/** Asks the hooks about each packet, and does what they say. What they may not say is an error, and the packet passes. */
import { encodeCommand, encodeReply } from '../codec/index.js';
import type { Command, NegotiateCommand } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { NegotiateReply, Reply } from '../codec/replies.js';
import { ACTION_OF, isModification } from '../client/modify.js';
import { MilterError } from '../errors.js';
import { actionNames } from '../names.js';
import { isStage } from '../stages.js';
import { spaced } from './agreement.js';
import type { ProxySession } from './proxy-session.js';
import type { OwnAnswer, ProxyContext, ProxyHooks } from './types.js';

/** Larger than any mail server sends: the proxy passes on what it has read. */
const ANY_SIZE = 0x3fff_ffff;

export interface Ends {
  toMta(bytes: Buffer): void;
  toMilter(bytes: Buffer): void;
  report(error: MilterError): void;
}

type Heard = Command | OddPacket;
type Said = Reply | OddPacket;

const isPromise = (value: unknown): value is PromiseLike<unknown> =>
  typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';

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
      (result) => this.#commanded(packet, result as Awaited<ReturnType<NonNullable<ProxyHooks['command']>>>),
      () => this.#commanded(packet, undefined),
    );
  }

  /** A reply of the milter's. */
  reply(packet: Said): PromiseLike<void> | void {
    return this.#ask(
      () => this.#hooks.reply?.(packet, this.#context),
      (result) => this.#replied(packet, result as Awaited<ReturnType<NonNullable<ProxyHooks['reply']>>>),
      () => this.#replied(packet, undefined),
    );
  }

  /** @param otherwise what is done where the hook throws, or wants what cannot be */
  #ask(hook: () => unknown, act: (result: unknown) => void, otherwise: () => void): PromiseLike<void> | void {
    const failed = (cause: unknown): void => {
      const wrapped =
        cause instanceof MilterError ? cause : new MilterError('ERR_MILTER_CALLBACK', words(cause), { cause });
      this.#ends.report(wrapped);
      otherwise();
    };
    const guarded = (result: unknown): void => {
      try {
        act(result);
      } catch (error) {
        failed(error);
      }
    };
    try {
      const result = hook();
      if (isPromise(result)) return result.then(guarded, failed);
      guarded(result);
    } catch (error) {
      failed(error);
    }
  }

  #commanded(packet: Heard, result: Heard | OwnAnswer | false | void): void {
    const session = this.#session;
    if (result !== undefined && result !== false && 'answer' in result) {
      this.#answer(packet, result.answer);
      return;
    }
    if (result === false) {
      if (isStage(packet.type) && session.agreement.isAwaited(packet.type))
        session.answers(packet.type, [{ type: 'continue' }]);
      return;
    }
    const changed = result ?? packet;
    const bytes = changed === packet ? this.#rawCommand(packet) : encodeCommand(changed as Command, ANY_SIZE);
    if (this.#admitted(packet, changed)) this.#ends.toMilter(bytes);
  }

  #admitted(packet: Heard, changed: Heard): boolean {
    const session = this.#session;
    if (packet.type === 'negotiate') return session.offered(packet, changed as NegotiateCommand);
    if (isStage(packet.type)) return session.asks(packet.type);
    if (packet.type === 'quit') session.quitting = true;
    return !session.lost;
  }

  /** Byte for byte, unless the two sides have agreed differently on the space before a header's value. */
  #rawCommand(packet: Heard): Buffer {
    const more = this.#session.agreement.spaceForMilter;
    if (packet.type !== 'header' || more === 0) return packet.raw as Buffer;
    const { name, value } = packet;
    return encodeCommand({ type: 'header', name, value: spaced(value, more) }, ANY_SIZE);
  }

  #answer(packet: Heard, answer: Reply | readonly Reply[]): void {
    const replies: readonly Reply[] = Array.isArray(answer) ? (answer as readonly Reply[]) : [answer as Reply];
    if (!isStage(packet.type))
      throw new MilterError('ERR_MILTER_SEQUENCE', `A hook has answered ${packet.type}, which nobody answers`, {
        packet: packet.type,
      });
    for (const edit of replies.slice(0, -1)) this.#checkEdit(edit, packet.type);
    const last = replies.at(-1);
    if (last === undefined || isModification(last) || last.type === 'progress')
      throw new MilterError('ERR_MILTER_SEQUENCE', `A hook's answer to ${packet.type} has no end`);
    // A milter that is in a message and hears no more of it is not told; its next message begins with MAIL.
    if (this.#session.agreement.isAwaited(packet.type)) this.#session.answers(packet.type, replies);
  }

  #checkEdit(edit: Reply, stage: string | undefined): void {
    if (!isModification(edit)) return;
    const flag = ACTION_OF[edit.type];
    if (stage !== 'eob')
      throw new MilterError('ERR_MILTER_WRONG_STAGE', `A hook has made an edit, ${edit.type}, at ${stage}`, {
        packet: edit.type,
      });
    if ((this.#session.agreement.mta.actions & flag) !== 0) return;
    const what = `A hook has made an edit, ${edit.type}, without ${actionNames(flag)[0]}`;
    throw new MilterError('ERR_MILTER_NOT_NEGOTIATED', what, { packet: edit.type });
  }

  #replied(packet: Said, result: Said | readonly Reply[] | false | void): void {
    const session = this.#session;
    const stage = session.asked;
    const own = result === undefined || result === packet ? undefined : result;
    const list = own === undefined ? [] : own === false ? [] : Array.isArray(own) ? own : [own];
    for (const each of list as Reply[]) this.#checkEdit(each, stage);
    if (packet.type === 'negotiate') {
      const changed = (list[0] ?? packet) as NegotiateReply;
      session.agrees(packet, changed);
      this.#ends.toMta(changed === packet ? (packet.raw as Buffer) : encodeReply(changed));
    } else if (packet.type === 'progress' || isModification(packet as Reply)) {
      if (session.says((packet.raw as Buffer)[4] as number)) this.#write(packet, own, list as Reply[]);
    } else if (session.answered((packet.raw as Buffer)[4] as number)) {
      this.#write(packet, own === false ? [] : own, own === false ? [{ type: 'continue' }] : (list as Reply[]));
    }
    session.settle();
  }

  #write(packet: Said, own: unknown, list: readonly Reply[]): void {
    if (own === undefined) this.#ends.toMta(this.#rawReply(packet));
    else for (const each of list) this.#ends.toMta(encodeReply(each, ANY_SIZE));
  }

  #rawReply(packet: Said): Buffer {
    const more = -this.#session.agreement.spaceForMilter;
    if (more === 0 || !('name' in packet) || !('value' in packet) || packet.value === '') return packet.raw as Buffer;
    return encodeReply({ ...packet, value: spaced(packet.value, more) }, ANY_SIZE);
  }
}

function words(error: unknown): string {
  return `A hook has failed: ${error instanceof Error ? error.message : String(error)}`;
}
