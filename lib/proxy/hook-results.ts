/**
 * What hooks may say of a packet. The rule behind all of it: a command that is answered gets one final reply, and both
 * sides know of the same conversation. What breaks it is an error, and the packet passes as it was.
 */
import { ACTION_OF, isModification } from '../client/modify.js';
import { commandCodec, type Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import { replyCodec, type Reply } from '../codec/replies.js';
import { MilterError, show } from '../errors.js';
import { FINAL_REPLIES } from '../final-replies.js';
import { actionNames } from '../names.js';
import type { Due } from './due.js';
import type { OwnAnswer } from './types.js';

export type Heard = Command | OddPacket;
export type Said = Reply | OddPacket;

/** What a packet stands for, also where it cannot be read. */
export function kindOfCommand(packet: Heard): string {
  return (isOdd(packet) ? commandCodec.typeOf(packet.code) : undefined) ?? packet.type;
}

export function kindOfReply(packet: Said): string {
  return (isOdd(packet) ? replyCodec.typeOf(packet.code) : undefined) ?? packet.type;
}

function isOdd(packet: Heard | Said): packet is OddPacket {
  return packet.type === 'malformed' || packet.type === 'unrecognized';
}

/** @throws MilterError ERR_MILTER_CALLBACK, ERR_MILTER_SEQUENCE */
export function commandResult(packet: Heard, result: unknown): Heard | OwnAnswer | false {
  if (result === undefined || result === packet) return packet;
  const kind = kindOfCommand(packet);
  const isAnswer = typeof result === 'object' && result !== null && 'answer' in result;
  if (result === false || isAnswer) {
    if (kind === 'negotiate') throw misled('has kept the offer from the milter, without which nobody can go on', kind);
    return result as OwnAnswer | false;
  }
  if (!isPacket(result)) throw nonsense(result, kind);
  if (result.type !== kind) throw misled(`has made ${show(result.type)} of it`, kind);
  return result as Command;
}

/** @throws MilterError ERR_MILTER_CALLBACK, ERR_MILTER_SEQUENCE */
export function answerOf(packet: Heard, { answer }: OwnAnswer): readonly Reply[] {
  const kind = kindOfCommand(packet);
  const replies = listOf(answer, kind);
  checkEnd(replies, kind, true);
  return replies;
}

/**
 * @returns what is said in the reply's place; undefined: the reply itself
 * @throws MilterError ERR_MILTER_CALLBACK, ERR_MILTER_SEQUENCE
 */
export function replyResult(
  packet: Said,
  result: unknown,
  asked: Due['stage'] | undefined,
): readonly Reply[] | undefined {
  if (result === undefined || result === packet) return undefined;
  const kind = kindOfReply(packet);
  if (kind === 'negotiate') {
    const [reply, ...more] = listOf(result === false ? [] : result, kind);
    if (reply?.type !== 'negotiate' || more.length > 0)
      throw misled('has put something else in the place of the answer to the offer', kind);
    return [reply];
  }
  const isFinal = FINAL_REPLIES.has(kind);
  if (result === false) return isFinal ? [{ type: 'continue' }] : [];
  const replies = listOf(result, kind);
  checkEnd(replies, asked ?? kind, isFinal);
  return replies;
}

function listOf(result: unknown, kind: string): readonly Reply[] {
  const list: readonly unknown[] = Array.isArray(result) ? result : [result];
  const odd = list.findIndex((each) => !isPacket(each));
  if (odd >= 0) throw nonsense(list[odd], kind);
  return list as readonly Reply[];
}

/** One final reply, at the end of what takes the place of one; none in what does not. */
function checkEnd(replies: readonly Reply[], place: string, isFinal: boolean): void {
  const end = isFinal ? replies.length - 1 : replies.length;
  const bad = replies.findIndex((reply, i) => (i < end ? !isPartial(reply) : !FINAL_REPLIES.has(reply.type)));
  if (end < 0 || (bad === end && isPartial(replies[bad] as Reply)))
    throw misled('has given an answer that has no end', place);
  if (bad >= 0) throw misled(`has put ${show(replies[bad]?.type)} into an answer`, place);
}

function isPartial(reply: Reply): boolean {
  return reply.type === 'progress' || isModification(reply);
}

/**
 * An edit of the hooks'.
 * @param actions SMFIF_ bits that the mail server has been told
 * @throws MilterError ERR_MILTER_WRONG_STAGE, ERR_MILTER_NOT_NEGOTIATED
 */
export function checkEdit(edit: Reply, stage: string | undefined, actions: number): void {
  if (!isModification(edit)) return;
  const flag = ACTION_OF[edit.type];
  const details = { packet: edit.type };
  if (stage !== 'eob')
    throw new MilterError('ERR_MILTER_WRONG_STAGE', `A hook has made an edit, ${edit.type}, at ${stage}`, details);
  if ((actions & flag) !== 0) return;
  const what = `A hook has made an edit, ${edit.type}, without ${actionNames(flag)[0]}`;
  throw new MilterError('ERR_MILTER_NOT_NEGOTIATED', what, details);
}

function isPacket(value: unknown): value is { readonly type: unknown } {
  return typeof value === 'object' && value !== null && 'type' in value;
}

function misled(what: string, packet: string): MilterError {
  return new MilterError('ERR_MILTER_SEQUENCE', `A hook ${what}, at ${packet}`, { packet });
}

function nonsense(value: unknown, packet: string): MilterError {
  const what = `A hook has returned ${show(value)} for ${packet}, which is no packet`;
  return new MilterError('ERR_MILTER_CALLBACK', what, { packet });
}
