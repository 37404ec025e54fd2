/** The two sides of a session: what it writes to, and what it is told about the connection. */
import type { Reply } from '../codec/replies.js';
import type { MilterError } from '../errors.js';
import type { Elsewhere } from './elsewhere.js';
import type { Agreement } from './negotiate.js';

/** Where a session's replies go, and what it tells its owner. */
export interface SessionPort {
  /** Takes a reply; it is written with the next flush. */
  reply(reply: Reply): void;
  /** Writes what was taken. False: enough is waiting, the session goes on when `drained()` is called. */
  flush(): boolean;
  /** The largest payload was agreed, in bytes. */
  agreed(maxPayload: number): void;
  /** Input is welcome again after `feed()` or `receive()` returned false. */
  resume(): void;
  /** Something went wrong that somebody should know of; the session goes on unless `close` follows. */
  report(error: MilterError): void;
  /** The session is over, its last callback has ended. With an error the connection is of no more use. */
  close(error?: MilterError): void;
}

/** What holds for a connection beside the class and its options. */
export interface SessionExtras {
  /** What `static setup()` returned. */
  readonly shared?: unknown;
  /** Too many connections: negotiate, then refuse for now, without an object of the milter's. */
  readonly overloaded?: boolean;
  /** Where the callbacks run that are marked with callInThread; missing: in place. */
  readonly elsewhere?: Elsewhere;
  /** What an earlier session on the same connection has agreed on: the offer that comes is only repeated. */
  readonly agreement?: Agreement;
  /** The memory of what is fed is used again. */
  readonly reusedChunks?: boolean;
}
