/** The commands: what a mail server sends to a milter. The table at the end is the wire format. */
import * as c from '../constants.js';
import {
  cstring,
  cstrings,
  filledCstring,
  filledRest,
  letter,
  macroPairs,
  optionalRest,
  peerAddress,
  peerPort,
  uint32,
  type MacroPair,
} from './fields.js';
import { Codec, type PacketBase, type Table } from './table.js';

/** The server's offer: its version, the actions it allows (SMFIF_), the steps it can leave out (SMFIP_). */
export interface NegotiateCommand extends PacketBase {
  readonly type: 'negotiate';
  readonly version: number;
  readonly actions: number;
  readonly protocol: number;
}

/** Macros for the command that follows. They replace all the macros of that stage. */
export interface MacroCommand extends PacketBase {
  readonly type: 'macro';
  /** The letter of the command they belong to: C H M R T L N B E U, or any other. */
  readonly stage: string;
  /** Names as sent (`j`, `{daemon_name}`), in the order of the wire. */
  readonly macros: readonly MacroPair[];
}

/** A new SMTP client. */
export interface ConnectCommand extends PacketBase {
  readonly type: 'connect';
  readonly hostname: string;
  /** SMFIA_: U, L, 4, 6. After another letter port and address are not known; `raw` has what was there. */
  readonly family: string;
  /** 0 for U and L. */
  readonly port: number;
  /** As sent: Sendmail puts `IPv6:` before an IPv6 address. Empty for U. */
  readonly address: string;
}

/** HELO or EHLO. */
export interface HeloCommand extends PacketBase {
  readonly type: 'helo';
  readonly name: string;
}

/** MAIL FROM: the address as the client wrote it, usually in angle brackets, and the ESMTP arguments. */
export interface MailFromCommand extends PacketBase {
  readonly type: 'mailFrom';
  readonly address: string;
  readonly args: readonly string[];
}

/** RCPT TO: the address as the client wrote it, usually in angle brackets, and the ESMTP arguments. */
export interface RcptCommand extends PacketBase {
  readonly type: 'rcpt';
  readonly address: string;
  readonly args: readonly string[];
}

/** DATA. */
export interface DataCommand extends PacketBase {
  readonly type: 'data';
}

/** One header. Lines of a folded value are separated by LF alone. */
export interface HeaderCommand extends PacketBase {
  readonly type: 'header';
  readonly name: string;
  readonly value: string;
}

/** The end of the headers. */
export interface EohCommand extends PacketBase {
  readonly type: 'eoh';
}

/** A piece of the body, cut anywhere. */
export interface BodyCommand extends PacketBase {
  readonly type: 'body';
  readonly chunk: Buffer;
}

/** The end of the message. */
export interface EobCommand extends PacketBase {
  readonly type: 'eob';
  /** A last piece of the body: legal, though neither Postfix nor Sendmail sends one. */
  readonly chunk?: Buffer;
}

/** An SMTP command that the server does not know: the whole line. */
export interface UnknownCommand extends PacketBase {
  readonly type: 'unknown';
  readonly line: string;
}

/** The message is cancelled. */
export interface AbortCommand extends PacketBase {
  readonly type: 'abort';
}

/** The end. */
export interface QuitCommand extends PacketBase {
  readonly type: 'quit';
}

/** The end of this SMTP session; another one follows on the same socket. */
export interface QuitNewConnectionCommand extends PacketBase {
  readonly type: 'quitNewConnection';
}

/** Everything a mail server says, told apart by `type`. */
export type Command =
  | NegotiateCommand
  | MacroCommand
  | ConnectCommand
  | HeloCommand
  | MailFromCommand
  | RcptCommand
  | DataCommand
  | HeaderCommand
  | EohCommand
  | BodyCommand
  | EobCommand
  | UnknownCommand
  | AbortCommand
  | QuitCommand
  | QuitNewConnectionCommand;

const table = {
  negotiate: {
    code: c.SMFIC_OPTNEG,
    fields: { version: uint32, actions: uint32, protocol: uint32 },
    openEnded: 'always',
  },
  macro: { code: c.SMFIC_MACRO, fields: { stage: letter, macros: macroPairs } },
  connect: {
    code: c.SMFIC_CONNECT,
    fields: { hostname: cstring, family: letter, port: peerPort, address: peerAddress },
  },
  helo: { code: c.SMFIC_HELO, fields: { name: cstring } },
  mailFrom: { code: c.SMFIC_MAIL, fields: { address: cstring, args: cstrings } },
  rcpt: { code: c.SMFIC_RCPT, fields: { address: cstring, args: cstrings } },
  data: { code: c.SMFIC_DATA, fields: {}, openEnded: 'lenient' },
  header: { code: c.SMFIC_HEADER, fields: { name: filledCstring, value: cstring } },
  eoh: { code: c.SMFIC_EOH, fields: {}, openEnded: 'lenient' },
  body: { code: c.SMFIC_BODY, fields: { chunk: filledRest } },
  eob: { code: c.SMFIC_BODYEOB, fields: { chunk: optionalRest } },
  unknown: { code: c.SMFIC_UNKNOWN, fields: { line: cstring } },
  abort: { code: c.SMFIC_ABORT, fields: {}, openEnded: 'lenient' },
  quit: { code: c.SMFIC_QUIT, fields: {}, openEnded: 'lenient' },
  quitNewConnection: { code: c.SMFIC_QUIT_NC, fields: {}, openEnded: 'lenient' },
} satisfies Table<Command>;

/** Reads and writes commands. */
export const commandCodec = new Codec<Command>(table);
