/** What goes into the client and what comes out. */
import type { Command } from '../codec/commands.js';
import type { Reply } from '../codec/replies.js';
import type { SmtpReply } from '../codec/smtp-reply.js';
import type { Stage } from '../stages.js';
import type { Envelope, Modification } from './modify.js';

/**
 * Macros by stage: `{ connect: { j: 'mx.example.org' }, eob: { i: '4bXYZ' } }`. A name given here takes the place of the
 * client's own of that name and stage; undefined leaves it out.
 */
export type ClientMacros = { readonly [S in Stage]?: Readonly<Record<string, string | undefined>> };

export interface ClientOptions {
  /** Protocol version to offer: 2, 3, 4 or 6. Default 6. */
  version?: number | undefined;
  /** SMFIF_ bits to offer. Default all. */
  actions?: number | undefined;
  /** SMFIP_ bits to offer. Default all that the version has. */
  protocol?: number | undefined;
  /**
   * Which mail server to behave like where they differ. Default 'postfix'. 'sendmail' refuses steps that were not
   * offered, `progress` before the end of the message, and `shutdown`; takes an empty list of macros for none instead of
   * the default; sends no header above the size agreed; sends ABORT only to cut a message short, not after each one;
   * counts removed headers; lets other edits come between the pieces of a body; drops the words of a reply to CONNECT.
   */
  like?: 'postfix' | 'sendmail' | undefined;
  /** Macros for every message; sent before the command of their stage. */
  macros?: ClientMacros | undefined;
  /** How long to wait for a connection, in ms. Default 30,000. */
  connectTimeout?: number | undefined;
  /** How long to wait for an answer before the content of a message, in ms. Default 30,000. */
  commandTimeout?: number | undefined;
  /** How long to wait for an answer to the content of a message, in ms; `progress` starts it anew. Default 300,000. */
  contentTimeout?: number | undefined;
}

/** The SMTP client that the mail server pretends to have. */
export interface ClientPeer {
  /** Default `localhost`. */
  hostname?: string;
  /** SMFIA_ letter; default by the address. */
  family?: 'U' | 'L' | '4' | '6';
  /** Default 127.0.0.1. */
  address?: string;
  /** Default 25000. */
  port?: number;
  /** Default: the hostname. */
  helo?: string;
}

export interface ClientMessage {
  /** Envelope sender, with or without brackets as the mail server would send it. */
  from: string;
  /** Envelope recipients, at least one. */
  to: readonly string[];
  /** Recipients that the mail server has refused itself: milters that ask for SMFIP_RCPT_REJ hear of them. */
  refused?: readonly string[];
  /** The message. A file with LF line ends gets CRLF: see Message.parse(). */
  message: string | Uint8Array;
  /** ESMTP arguments of MAIL. */
  fromArgs?: readonly string[];
  /** ESMTP arguments of each RCPT. */
  toArgs?: readonly string[];
  /** Macros for this message, over those of the client. */
  macros?: ClientMacros;
}

/** What became of something the milter was asked about. */
export type Outcome = 'continue' | 'accept' | 'reject' | 'tempFail' | 'discard';

/** One step of a conversation. */
export interface Step {
  readonly stage: Stage;
  /** What was sent. */
  readonly command: Command;
  /** What came back; undefined where nothing is answered. */
  readonly reply?: Reply;
}

/** What became of a message. */
export interface MessageResult {
  /** What the mail server would do: deliver (accept), refuse, refuse for now, or drop it. */
  readonly verdict: Exclude<Outcome, 'continue'>;
  /** Where it was decided. */
  readonly stage: Stage;
  /** The milter's own SMTP reply, where it sent one. */
  readonly reply?: SmtpReply;
  /** Why it was put on hold, where it was. */
  readonly quarantined?: string;
  /** What became of each recipient that the milter was asked about. */
  readonly recipients: ReadonlyArray<{ address: string; outcome: Outcome; reply?: SmtpReply }>;
  /** What the milter changed, in order; empty unless the message is accepted. */
  readonly modifications: readonly Modification[];
  /** The envelope as it would be delivered. */
  readonly envelope: Envelope;
  /** The message as it would be delivered. */
  readonly message: Buffer;
  /** Everything that was said about this message. */
  readonly steps: readonly Step[];
}
