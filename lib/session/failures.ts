/** The errors that a session makes, in one place so that they read alike. */
import { MilterError, show } from '../errors.js';

/** The mail server has cancelled the message. */
export function aborted(): MilterError {
  return new MilterError('ERR_MILTER_ABORTED', 'The mail server has aborted the message');
}

/** A packet came when it cannot come. */
export function outOfOrder(packet: string, what: string): MilterError {
  return new MilterError('ERR_MILTER_SEQUENCE', `The mail server sent ${packet} out of order: ${what}`, { packet });
}

/** Nothing came. */
export function timeout(what: string, ms: number): MilterError {
  return new MilterError('ERR_MILTER_TIMEOUT', `${what} within ${ms} ms`);
}

/** A callback took too long. */
export function tooLong(stage: string, ms: number): MilterError {
  return new MilterError('ERR_MILTER_DEADLINE', `${stage}() did not end within ${ms} ms`, { stage });
}

/** What a milter's code threw: a MilterError stays what it is, anything else becomes the cause of one. */
export function thrownBy(stage: string, cause: unknown, what = `${stage}() failed`): MilterError {
  if (cause instanceof MilterError) return cause;
  const message = cause instanceof Error ? cause.message : show(cause);
  return new MilterError('ERR_MILTER_CALLBACK', `${what}: ${message}`, { stage, cause });
}
