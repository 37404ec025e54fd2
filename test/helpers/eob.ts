/** The end of a message: a milter whose eob() is a function of the test's, and all that it answers. */
import type { Reply } from '../../lib/codec/index.js';
import {
  MilterProtocol,
  type ProtocolClass,
  type Result,
  type SessionOptions,
  type SessionStream,
} from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { ALL_ACTIONS, inMemory, say, type Mta } from './mta.js';

const BEFORE_THE_VERDICT = new Set<Reply['type']>([
  'progress',
  'replBody',
  'addHeader',
  'insHeader',
  'chgHeader',
  'addRcpt',
  'addRcptPar',
  'delRcpt',
  'chgFrom',
  'quarantine',
]);

/** The replies to an end of message that was sent, up to the verdict. */
export async function outcome(mta: Mta): Promise<Reply[]> {
  const replies: Reply[] = [];
  do replies.push(await mta.reply());
  while (BEFORE_THE_VERDICT.has((replies.at(-1) as Reply).type));
  return replies;
}

/** A class whose only callback is this eob(). */
export function withEob(eob: (milter: MilterProtocol) => Result): ProtocolClass {
  return class OnlyEob extends MilterProtocol {
    override eob(): Result {
      return eob(this);
    }
  };
}

export interface Ended {
  readonly mta: Mta;
  readonly session: SessionStream;
  readonly errors: MilterError[];
  /** All replies to the end of the message. */
  readonly replies: Reply[];
}

/** Plays one message to a milter that may do everything, or what is said, and whose eob() is a function. */
export async function atEob(
  eob: (milter: MilterProtocol) => Result,
  options: SessionOptions = {},
  offer: { actions?: number; protocol?: number } = {},
): Promise<Ended> {
  const { mta, session, errors } = inMemory(withEob(eob), { smfifOptions: ALL_ACTIONS, ...options });
  await mta.negotiate(offer);
  mta.send(say.eob());
  return { mta, session, errors, replies: await outcome(mta) };
}

/** A second message on the same connection, after a first one that had an eob() of its own. */
export async function again(mta: Mta): Promise<Reply[]> {
  mta.send(say.eob());
  return outcome(mta);
}

/** The error that a call throws; it must throw one. */
export function thrown(call: () => unknown): MilterError {
  try {
    call();
  } catch (error) {
    return error as MilterError;
  }
  throw new Error('nothing was thrown');
}
