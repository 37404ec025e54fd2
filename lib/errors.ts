/**
 * Every failure has a stable `code`: match on it, never on the text. The README's table says for each what to do.
 */

/** The codes a MilterError may have. */
export type MilterErrorCode =
  /** A packet of length 0, which has not even a code. */
  | 'ERR_MILTER_EMPTY_PACKET'
  /** A packet longer than the limit. */
  | 'ERR_MILTER_PACKET_TOO_LARGE'
  /** The bytes ended inside a packet. */
  | 'ERR_MILTER_TRUNCATED'
  /** A message larger than a proxy holds for the milters behind it: `maxMessage`. */
  | 'ERR_MILTER_MESSAGE_TOO_LARGE'
  /** A packet whose code this direction does not have. */
  | 'ERR_MILTER_UNKNOWN_CODE'
  /** A packet whose content is not what its code promises. */
  | 'ERR_MILTER_MALFORMED'
  /** A value that no packet can carry: given to an encoder. */
  | 'ERR_MILTER_VALUE'
  /** A string with a surrogate that stands for no byte. */
  | 'ERR_MILTER_TEXT'
  /** A packet, or a call of the client's, at a moment when it cannot come. */
  | 'ERR_MILTER_SEQUENCE'
  /** Mail server and milter cannot agree on version or actions. */
  | 'ERR_MILTER_NEGOTIATION'
  /** A method that does not work in this callback. */
  | 'ERR_MILTER_WRONG_STAGE'
  /** A method whose SMFIF_ flag was not agreed. */
  | 'ERR_MILTER_NOT_NEGOTIATED'
  /** A bad argument to a method. */
  | 'ERR_MILTER_ARGUMENT'
  /** A callback returned what is no verdict, or not one for its stage. */
  | 'ERR_MILTER_VERDICT'
  /** The edits of one message are more than maxModifications. */
  | 'ERR_MILTER_MODIFICATIONS'
  /** A callback failed; `cause` has what it threw. */
  | 'ERR_MILTER_CALLBACK'
  /** A callback did not end in time. */
  | 'ERR_MILTER_DEADLINE'
  /** The session has given up on this protocol object. */
  | 'ERR_MILTER_DETACHED'
  /** Nothing came for too long. */
  | 'ERR_MILTER_TIMEOUT'
  /** The message was aborted by the mail server: the reason of `signal`. The client: its caller's signal was. */
  | 'ERR_MILTER_ABORTED'
  /** The connection was lost, or closed in the middle of a message. */
  | 'ERR_MILTER_CONNECTION'
  /** The factory is closing. */
  | 'ERR_MILTER_CLOSING'
  /** A worker thread or process did not start, or died; `cause` has what it said last. */
  | 'ERR_MILTER_WORKER'
  /** Something that this factory cannot do; the message names those that can. */
  | 'ERR_MILTER_UNSUPPORTED'
  /** A bad option, found when the thing was made. */
  | 'ERR_MILTER_OPTION'
  /** A socket string that cannot be understood. */
  | 'ERR_MILTER_ADDRESS'
  /** Listening failed; `cause` has the system's error. */
  | 'ERR_MILTER_LISTEN'
  /** The milter at the other end did what it must not: the client's side. */
  | 'ERR_MILTER_FILTER'
  /** A file that is no capture, or one that is broken or cut; the message names the place. */
  | 'ERR_MILTER_CAPTURE';

/** Where something went wrong. All of it is optional; what is known is there. */
export interface MilterErrorDetails {
  /** The packet's name: the `type` of its object, or its letter. */
  readonly packet?: string;
  /** The packet's first byte, counted from the start of the stream, or an offset in the packet as the message says. */
  readonly offset?: number;
  /** The first bytes of what could not be read. */
  readonly bytes?: Buffer;
  /** The callback's name; for what a mail server sent wrong, the command before it, or `start`. */
  readonly stage?: string;
  /** What was thrown underneath. */
  readonly cause?: unknown;
}

/** The one error class of the library. */
export class MilterError extends Error {
  override readonly name = 'MilterError';
  /** Stable; see MilterErrorCode. */
  readonly code: MilterErrorCode;
  declare readonly packet?: string;
  declare readonly offset?: number;
  declare readonly bytes?: Buffer;
  declare readonly stage?: string;

  constructor(code: MilterErrorCode, message: string, details: MilterErrorDetails = {}) {
    const { cause, ...where } = details;
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    Object.assign(this, where);
  }
}

/** A short, safe picture of a value for an error message. */
export function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (typeof value === 'function') return value.name === '' ? 'a function' : `function ${value.name}`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object' && value !== null) {
    const name: unknown = value.constructor?.name;
    return typeof name === 'string' ? `an object (${name})` : 'an object';
  }
  return String(value);
}
