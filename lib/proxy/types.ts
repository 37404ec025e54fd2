/** What a proxy may be told, and what it tells. */
import type { CaptureEvent } from '../capture/types.js';
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import type { MilterError } from '../errors.js';

/** What a hook is told about the connection. The same object for all packets of one: notes may be kept on `state`. */
export interface ProxyContext {
  /** Counted from 1 in each proxy. */
  readonly id: string;
  /** What the milter has agreed to: SMFIF_ and SMFIP_ bits; undefined before. */
  readonly agreed: { readonly version: number; readonly actions: number; readonly protocol: number } | undefined;
  /** Aborted when the mail server says no more, or the connection is ended: what a hook waits for may be in vain. */
  readonly signal: AbortSignal;
  /** For the hooks' own use. */
  readonly state: Map<string, unknown>;
  /** Ends both connections at once. */
  destroy(reason?: Error): void;
}

/** Answers in the milter's place: nothing is forwarded. Edits may stand before the last one at the end of a message. */
export interface OwnAnswer {
  readonly answer: Reply | readonly Reply[];
}

type Sooner<T> = T | PromiseLike<T>;

/**
 * What a hook may not say is a sessionError, and the packet passes as it was: another kind of command, an answer without
 * one final reply at its end, an edit outside of the end of a message or without its flag, anything in the place of the
 * offer and its answer but another offer and another answer, and an answer where none is awaited (SMFIP_NR_ bits; clear
 * them in the answer to the offer). Where that sets such bits, the milter's answers there are kept back, verdicts as well.
 * Header values are as the side says them that speaks.
 */
export interface ProxyHooks {
  /**
   * Each command of the mail server, in order; the next one waits for a promise.
   * @returns undefined, or the same object: it is forwarded byte for byte; another command of the same kind: that one;
   *   false: it is dropped, and answered with `continue` where an answer is expected; an answer
   */
  command?(command: Command | OddPacket, context: ProxyContext): Sooner<Command | OddPacket | OwnAnswer | false | void>;
  /**
   * Each reply of the milter, in order.
   * @returns undefined, or the same object: it is forwarded byte for byte; another reply, or several: those, with a final
   *   one at their end in the place of a final one, and none elsewhere; false: it is dropped, and a final one becomes
   *   `continue`
   */
  reply?(reply: Reply | OddPacket, context: ProxyContext): Sooner<Reply | OddPacket | readonly Reply[] | false | void>;
}

export interface ProxyOptions {
  /**
   * What the mail server hears where the milter cannot be reached, or goes away: `tempfail` (default), `reject`, `accept`,
   * `shutdown` (421, which ends the SMTP session), or `close`: the connection is closed, and the mail server's own default
   * action decides. Of several milters each has it as its default action, unless it is told another.
   */
  onFailure?: 'tempfail' | 'reject' | 'accept' | 'shutdown' | 'close' | undefined;
  /** How long connecting to the milter may take, in ms. Default 10,000. */
  connectTimeout?: number | undefined;
  /**
   * How long one side may be silent before it closes its connection when the other side has, in ms; then both are
   * destroyed, with a sessionError. Default 30,000.
   */
  closeTimeout?: number | undefined;
  /** Most bytes of a packet that is looked at, the code not counted. Default 1,048,575, the most that can be agreed. */
  maxPayload?: number | undefined;
  /** Read all connections into one buffer, which saves processor time. Default true where there are no hooks. */
  sharedReads?: boolean | undefined;
  /** Write in pieces of so many bytes, each in a packet of its own, to see how the other side takes it. Default: not. */
  trickle?: number | undefined;
}

/** What a proxy tells. */
export interface ProxyEvents {
  /**
   * Everything that is said on either side, as it was said, and the beginning and end of each connection. What hooks make
   * of it, and what the proxy answers itself, is not in it.
   */
  event: [event: CaptureEvent];
  /**
   * A connection to the milter failed, or to one of several; a hook threw, or said what it may not; what came is no packet;
   * one side did not close its connection. The id is '' where a connection could not even be accepted.
   */
  sessionError: [error: MilterError, id: string];
}
