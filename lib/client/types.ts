/** What goes into the client and what comes out. */
import type { Readable } from 'node:stream';
import type { Command } from '../codec/commands.js';
import type { Reply } from '../codec/replies.js';
import type { SmtpReply } from '../codec/smtp-reply.js';
import type { MilterError } from '../errors.js';
import type { Stage } from '../stages.js';
import type { ByteSource } from './message-source.js';
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
  /**
   * Macros that are made up: a host name, a queue id, the addresses. Default true; false: none but those that are given,
   * for whoever has a real mail server's.
   */
  ownMacros?: boolean | undefined;
  /** How long to wait for a connection, in ms. Default 30,000; like Sendmail 300,000. */
  connectTimeout?: number | undefined;
  /** How long to wait for an answer before the content of a message, in ms. Default 30,000; like Sendmail 10,000. */
  commandTimeout?: number | undefined;
  /**
   * How long to wait for an answer to the content of a message, in ms; `progress` starts it anew. Default 300,000; like
   * Sendmail 10,000.
   */
  contentTimeout?: number | undefined;
  /** How long the end of a message may take altogether, in ms. Default: no limit; like Sendmail 300,000. */
  eobTimeout?: number | undefined;
  /**
   * What becomes of mail where a milter fails: goes away, answers too late or wrong. From then on it is not asked any
   * more until the SMTP session is over. 'accept' does without it, 'reject' and 'tempfail' refuse everything, 'shutdown'
   * is a 421 that ends the SMTP session, 'quarantine' holds each message; the error is in the result. 'throw' rejects
   * with the error: what becomes of the mail is for the caller to say. Default 'throw' for MilterClient, 'tempfail' for
   * MilterChain. Postfix calls it milter_default_action, Sendmail has flags for it (F=).
   */
  defaultAction?: 'throw' | 'accept' | 'reject' | 'tempfail' | 'shutdown' | 'quarantine' | undefined;
  /**
   * An edit whose flag the milter has not asked for: 'refuse' takes it for a failure, 'apply' makes it, as both mail
   * servers do. Default 'refuse'.
   */
  unagreedEdits?: 'refuse' | 'apply' | undefined;
  /**
   * Header lines that the mail server puts above a message itself, its Received for one: milters do not hear of them,
   * insHeader() counts them, and they are in the resulting message. Default none; then they are counted as if they were
   * there, but do not appear.
   */
  ownHeaders?: string | Uint8Array | undefined;
  /** Aborted: whatever is at work rejects with ERR_MILTER_ABORTED, and the connection is closed. */
  signal?: AbortSignal | undefined;
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
  /** Default: the hostname. false: helo() comes later, or never. */
  helo?: string | false;
}

export interface ClientMessage {
  /** Envelope sender, with or without brackets as the mail server would send it. */
  from: string;
  /** Envelope recipients, at least one. */
  to: readonly string[];
  /** Recipients that the mail server has refused itself: milters that ask for SMFIP_RCPT_REJ hear of them. */
  refused?: readonly string[];
  /**
   * The message. A file with LF line ends gets CRLF: see Message.parse(). A stream is read as fast as the first milter
   * takes it; where the message is refused before its content it is left alone.
   */
  message: MessageSource;
  /** ESMTP arguments of MAIL. */
  fromArgs?: readonly string[];
  /** ESMTP arguments of each RCPT. */
  toArgs?: readonly string[];
  /** Macros for this message, over those of the client. */
  macros?: ClientMacros;
  /** Aborted: send() rejects with ERR_MILTER_ABORTED, and the connections are closed. */
  signal?: AbortSignal;
}

/** A message: text, bytes, or a stream of either. */
export type MessageSource = string | Uint8Array | ByteSource;

/** What a milter may be told besides. */
export interface StageExtras {
  /** Macros, over those of the client. */
  macros?: ClientMacros;
}

/** What may be said of a message besides. */
export interface MessageExtras extends StageExtras {
  /** Header lines that the mail server puts above this message: see ClientOptions. */
  ownHeaders?: string | Uint8Array | undefined;
}

/** What became of something the milter was asked about. */
export type Outcome = 'continue' | 'accept' | 'reject' | 'tempFail' | 'discard';

/** What the SMTP client hears as a refusal, and what ends a message quietly. */
export const ENDS: ReadonlySet<string> = new Set<Outcome>(['reject', 'tempFail', 'discard']);

/** One step of a conversation. */
export interface Step {
  readonly stage: Stage;
  /** What was sent. */
  readonly command: Command;
  /** What came back; undefined where nothing is answered. */
  readonly reply?: Reply;
  /** The milter's name: its address, unless it was given one. */
  readonly milter: string;
  /** From the command to its answer, in ms. */
  readonly ms: number;
}

/** What became of a command. */
export interface StageResult {
  readonly outcome: Outcome;
  /** The SMTP reply that came with a refusal; smtpReply() has one for all. */
  readonly reply?: SmtpReply;
  /** The mail server is to end the SMTP session with that reply. */
  readonly hangUp: boolean;
  /** Which milter it was. */
  readonly milter?: string;
  /** Why the default action stood in for an answer. */
  readonly error?: MilterError;
}

/** What became of a message. */
export interface MessageResult {
  /** What the mail server would do: deliver (accept), refuse, refuse for now, or drop it. */
  readonly verdict: Exclude<Outcome, 'continue'>;
  /** Where it was decided. */
  readonly stage: Stage;
  /** The milter's own SMTP reply, where it sent one, or that of the default action. */
  readonly reply?: SmtpReply;
  /** The mail server is to end the SMTP session with that reply. */
  readonly hangUp: boolean;
  /** Which milter has refused the message. */
  readonly milter?: string;
  /** Why it was put on hold, where it was. */
  readonly quarantined?: string;
  /** What became of each recipient that a milter was asked about. */
  readonly recipients: ReadonlyArray<{ address: string; outcome: Outcome; reply?: SmtpReply }>;
  /** What the milters changed, in order; empty unless the message is accepted. */
  readonly modifications: readonly Modification[];
  /**
   * The same, milter by milter: `leadingSpace` says whether header values have all that follows the colon
   * (SMFIP_HDR_LEADSPC).
   */
  readonly changes: ReadonlyArray<{
    readonly milter: string;
    readonly leadingSpace: boolean;
    readonly modifications: readonly Modification[];
  }>;
  /** The envelope as it would be delivered. */
  readonly envelope: Envelope;
  /** The message as it would be delivered, in one piece that is made when it is asked for. */
  readonly message: Buffer;
  /** The message as it would be delivered, as a stream of what is there already. */
  stream(): Readable;
  /** Everything that was said about this message. */
  readonly steps: readonly Step[];
  /** The failures that a default action stood in for. */
  readonly errors: readonly MilterError[];
}
