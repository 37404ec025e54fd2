/** The replies: what a milter answers. The table at the end is the wire format. */
import * as c from '../constants.js';
import { cstring, filledCstring, optionalCstring, rest, symbolLists, uint32, type SymbolList } from './fields.js';
import { Codec, type PacketBase, type Table } from './table.js';

/** The answer to an offer: what the milter will do, which steps it does without, and the macros it asks for. */
export interface NegotiateReply extends PacketBase {
  readonly type: 'negotiate';
  readonly version: number;
  readonly actions: number;
  readonly protocol: number;
  readonly macros?: readonly SymbolList[];
}

/** Go on. */
export interface ContinueReply extends PacketBase {
  readonly type: 'continue';
}

/** Accept, and ask no more. */
export interface AcceptReply extends PacketBase {
  readonly type: 'accept';
}

/** Refuse for good. */
export interface RejectReply extends PacketBase {
  readonly type: 'reject';
}

/** Refuse for now. */
export interface TempFailReply extends PacketBase {
  readonly type: 'tempFail';
}

/** Accept and drop. */
export interface DiscardReply extends PacketBase {
  readonly type: 'discard';
}

/** Connection failure: refused by both Postfix and Sendmail. */
export interface ConnFailReply extends PacketBase {
  readonly type: 'connFail';
}

/** Close the SMTP session with a 421: known to Postfix alone. */
export interface ShutdownReply extends PacketBase {
  readonly type: 'shutdown';
}

/** Send no more of this kind. */
export interface SkipReply extends PacketBase {
  readonly type: 'skip';
}

/** Still at work. */
export interface ProgressReply extends PacketBase {
  readonly type: 'progress';
}

/** Refuse with this SMTP reply: its lines separated by CRLF, each `%` doubled. */
export interface ReplyCodeReply extends PacketBase {
  readonly type: 'replyCode';
  readonly text: string;
}

/** Add a header at the end. */
export interface AddHeaderReply extends PacketBase {
  readonly type: 'addHeader';
  readonly name: string;
  readonly value: string;
}

/** Insert a header before the one with this index, counted from 0. */
export interface InsHeaderReply extends PacketBase {
  readonly type: 'insHeader';
  readonly index: number;
  readonly name: string;
  readonly value: string;
}

/** Change the index-th header of this name, counted from 1; an empty value removes it. */
export interface ChgHeaderReply extends PacketBase {
  readonly type: 'chgHeader';
  readonly index: number;
  readonly name: string;
  readonly value: string;
}

/** Add a recipient. */
export interface AddRcptReply extends PacketBase {
  readonly type: 'addRcpt';
  readonly address: string;
}

/** Add a recipient with ESMTP arguments. */
export interface AddRcptParReply extends PacketBase {
  readonly type: 'addRcptPar';
  readonly address: string;
  /** Missing and empty differ on the wire; servers accept both. */
  readonly args?: string;
}

/** Remove a recipient. */
export interface DelRcptReply extends PacketBase {
  readonly type: 'delRcpt';
  readonly address: string;
}

/** Change the envelope sender. */
export interface ChgFromReply extends PacketBase {
  readonly type: 'chgFrom';
  readonly address: string;
  /** Missing and empty differ on the wire; servers accept both. */
  readonly args?: string;
}

/** A piece of the new body; the first one discards the old body. */
export interface ReplBodyReply extends PacketBase {
  readonly type: 'replBody';
  readonly chunk: Buffer;
}

/** Hold the message. */
export interface QuarantineReply extends PacketBase {
  readonly type: 'quarantine';
  readonly reason: string;
}

/** A list of macros. It has a letter, but the lists are only ever seen inside the negotiation reply. */
export interface SetSymListReply extends PacketBase, SymbolList {
  readonly type: 'setSymList';
}

/** Everything a milter says, told apart by `type`. */
export type Reply =
  | NegotiateReply
  | ContinueReply
  | AcceptReply
  | RejectReply
  | TempFailReply
  | DiscardReply
  | ConnFailReply
  | ShutdownReply
  | SkipReply
  | ProgressReply
  | ReplyCodeReply
  | AddHeaderReply
  | InsHeaderReply
  | ChgHeaderReply
  | AddRcptReply
  | AddRcptParReply
  | DelRcptReply
  | ChgFromReply
  | ReplBodyReply
  | QuarantineReply
  | SetSymListReply;

const table = {
  negotiate: {
    code: c.SMFIR_OPTNEG,
    fields: { version: uint32, actions: uint32, protocol: uint32, macros: symbolLists },
  },
  continue: { code: c.SMFIR_CONTINUE, fields: {} },
  accept: { code: c.SMFIR_ACCEPT, fields: {} },
  reject: { code: c.SMFIR_REJECT, fields: {} },
  tempFail: { code: c.SMFIR_TEMPFAIL, fields: {} },
  discard: { code: c.SMFIR_DISCARD, fields: {} },
  connFail: { code: c.SMFIR_CONN_FAIL, fields: {} },
  shutdown: { code: c.SMFIR_SHUTDOWN, fields: {} },
  skip: { code: c.SMFIR_SKIP, fields: {} },
  progress: { code: c.SMFIR_PROGRESS, fields: {} },
  replyCode: { code: c.SMFIR_REPLYCODE, fields: { text: cstring } },
  addHeader: { code: c.SMFIR_ADDHEADER, fields: { name: filledCstring, value: cstring } },
  insHeader: { code: c.SMFIR_INSHEADER, fields: { index: uint32, name: filledCstring, value: cstring } },
  chgHeader: { code: c.SMFIR_CHGHEADER, fields: { index: uint32, name: filledCstring, value: cstring } },
  addRcpt: { code: c.SMFIR_ADDRCPT, fields: { address: cstring } },
  addRcptPar: { code: c.SMFIR_ADDRCPT_PAR, fields: { address: cstring, args: optionalCstring } },
  delRcpt: { code: c.SMFIR_DELRCPT, fields: { address: cstring } },
  chgFrom: { code: c.SMFIR_CHGFROM, fields: { address: cstring, args: optionalCstring } },
  replBody: { code: c.SMFIR_REPLBODY, fields: { chunk: rest } },
  quarantine: { code: c.SMFIR_QUARANTINE, fields: { reason: cstring } },
  setSymList: { code: c.SMFIR_SETSYMLIST, fields: { stage: uint32, names: cstring } },
} satisfies Table<Reply>;

/** Reads and writes replies. */
export const replyCodec = new Codec<Reply>(table);
