/** What goes into a replay and what comes out. */
import type { Envelope } from '../client/modify.js';
import type { MailServerName } from '../client/models.js';
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import type { MilterError } from '../errors.js';

export interface ReplayOptions {
  /** The sessions that are replayed, by name. Default all. */
  readonly sessions?: readonly string[] | undefined;
  /** How many at once. Default 1: one after the other, in the order in which they ended. */
  readonly connections?: number | undefined;
  /** 1: each command comes no sooner than it came then; 2: twice as fast … Default: as fast as the milter answers. */
  readonly speed?: number | undefined;
  /** Kinds of replies that are not compared. Default `progress`, of which nobody knows how many there are. */
  readonly ignore?: ReadonlyArray<Reply['type']> | undefined;
  /** Names of headers whose values are not compared: those that have a date, a signature, a number of a process. */
  readonly ignoreHeaders?: readonly string[] | undefined;
  /** Which mail server's list of headers the edits are applied to. Default `postfix`. */
  readonly like?: MailServerName | undefined;
  /** How long to wait for a connection and for each answer, in ms; `progress` begins anew. Default 30,000. */
  readonly timeout?: number | undefined;
  /** How long the end of a message may take altogether, in ms. Default 300,000. */
  readonly eobTimeout?: number | undefined;
  /** Aborted: what is at work ends with ERR_MILTER_ABORTED, and no further session begins. */
  readonly signal?: AbortSignal | undefined;
}

/** A command, and what was said to it then and now. */
export interface ReplayStep {
  /** The command's number in the capture. */
  readonly number: number;
  /** The command's kind; `macro` never. */
  readonly stage: Exclude<Command['type'], 'macro'> | 'unrecognized';
  readonly command: Command | OddPacket;
  /** Edits and the like first, then the answer. */
  readonly was: ReadonlyArray<Reply | OddPacket>;
  readonly now: readonly Reply[];
  /** Why it was not sent. */
  readonly skipped?: string;
  /** The two can be compared, and differ. */
  readonly differs: boolean;
  /** How long the answer took, in ms. */
  readonly ms?: number;
}

/** What a message came to. */
export interface MessageOutcome {
  /** `none`: it did not come to its end. */
  readonly verdict: 'accept' | 'reject' | 'tempFail' | 'discard' | 'none';
  /** Where it was decided. */
  readonly stage?: string;
  /** The milter's own SMTP reply. */
  readonly reply?: string;
  readonly quarantined?: string;
  readonly envelope: Envelope;
  /** As it would be delivered; as it came where it is not accepted. */
  readonly message: Buffer;
}

/** A message, and what came of it then and now. */
export interface ReplayedMessage {
  /** The macro `i`, where there is one. */
  readonly queueId?: string;
  readonly was: MessageOutcome;
  readonly now: MessageOutcome;
  /** What differs: `verdict`, `reply`, `quarantine`, `envelope`, `message`. */
  readonly differences: readonly string[];
}

/** A session that was replayed. */
export interface ReplayedSession {
  readonly session: string;
  readonly steps: readonly ReplayStep[];
  readonly messages: readonly ReplayedMessage[];
  /** What cannot be compared, and why: things agreed on otherwise, a capture that lacks something. */
  readonly notes: readonly string[];
  /** How many steps and messages differ, and 1 for the error. */
  readonly differences: number;
  /** What went wrong: the rest was not replayed. */
  readonly error?: MilterError;
  readonly ms: number;
}
