/**
 * The numbers and letters of the milter protocol, versions 2 to 6, under the names they have in
 * Sendmail's mfdef.h and in draft-adams-milter-protocol. Nothing else in the library writes them out.
 */

const letter = (character: string): number => character.charCodeAt(0);

// ---- Commands: from the mail server to the milter -------------------------------------------------------------------

/** Cancel the current message; the connection stays. Never answered. */
export const SMFIC_ABORT = letter('A');
/** A chunk of the message body. */
export const SMFIC_BODY = letter('B');
/** A new SMTP client has connected. */
export const SMFIC_CONNECT = letter('C');
/** Macro definitions for the command that follows. Never answered. */
export const SMFIC_MACRO = letter('D');
/** End of the message; the only command that modifications may answer. */
export const SMFIC_BODYEOB = letter('E');
/** HELO or EHLO. */
export const SMFIC_HELO = letter('H');
/** End this SMTP session, another one follows on the same socket (version 6). Never answered. */
export const SMFIC_QUIT_NC = letter('K');
/** One header of the message. */
export const SMFIC_HEADER = letter('L');
/** MAIL FROM. */
export const SMFIC_MAIL = letter('M');
/** End of the headers. */
export const SMFIC_EOH = letter('N');
/** Option negotiation: the first packet in both directions. */
export const SMFIC_OPTNEG = letter('O');
/** End of the conversation; both sides close. Never answered. */
export const SMFIC_QUIT = letter('Q');
/** RCPT TO. */
export const SMFIC_RCPT = letter('R');
/** DATA (version 4). */
export const SMFIC_DATA = letter('T');
/** An SMTP command the server does not know (version 3). */
export const SMFIC_UNKNOWN = letter('U');

// ---- Replies: from the milter to the mail server --------------------------------------------------------------------

/** Add a recipient (needs SMFIF_ADDRCPT). */
export const SMFIR_ADDRCPT = letter('+');
/** Remove a recipient (needs SMFIF_DELRCPT). */
export const SMFIR_DELRCPT = letter('-');
/** Add a recipient with ESMTP arguments (needs SMFIF_ADDRCPT_PAR, version 6). */
export const SMFIR_ADDRCPT_PAR = letter('2');
/** Answer 421 and close the SMTP session. Postfix knows it, Sendmail takes it for a broken filter. */
export const SMFIR_SHUTDOWN = letter('4');
/** Accept the message, or at connect and helo the whole session, and ask no more. */
export const SMFIR_ACCEPT = letter('a');
/** A chunk of the replacement body (needs SMFIF_CHGBODY). */
export const SMFIR_REPLBODY = letter('b');
/** Go on. */
export const SMFIR_CONTINUE = letter('c');
/** Accept the message and drop it silently. */
export const SMFIR_DISCARD = letter('d');
/** Change the envelope sender (needs SMFIF_CHGFROM, version 6). */
export const SMFIR_CHGFROM = letter('e');
/** Connection failure. Neither Postfix nor Sendmail accepts it. */
export const SMFIR_CONN_FAIL = letter('f');
/** Add a header (needs SMFIF_ADDHDRS). */
export const SMFIR_ADDHEADER = letter('h');
/** Insert a header at a position (needs SMFIF_ADDHDRS). */
export const SMFIR_INSHEADER = letter('i');
/** A list of macros the milter wants. Never seen alone: the lists travel in the negotiation reply. */
export const SMFIR_SETSYMLIST = letter('l');
/** Change or remove a header (needs SMFIF_CHGHDRS). */
export const SMFIR_CHGHEADER = letter('m');
/** Still working: restarts the server's reply timer. */
export const SMFIR_PROGRESS = letter('p');
/** Hold the message (needs SMFIF_QUARANTINE). */
export const SMFIR_QUARANTINE = letter('q');
/** Refuse for good (5xx). */
export const SMFIR_REJECT = letter('r');
/** Send no more of this kind (needs SMFIP_SKIP, version 6). */
export const SMFIR_SKIP = letter('s');
/** Refuse for now (4xx). */
export const SMFIR_TEMPFAIL = letter('t');
/** Refuse with an SMTP reply of the milter's own. */
export const SMFIR_REPLYCODE = letter('y');
/** The answer to option negotiation has the command's letter. */
export const SMFIR_OPTNEG = SMFIC_OPTNEG;

// ---- Actions: what the milter may do to a message -------------------------------------------------------------------

/** May add headers: addHeader(), insHeader(). */
export const SMFIF_ADDHDRS = 0x001;
/** May replace the body: replBody(). */
export const SMFIF_CHGBODY = 0x002;
/** The older name of SMFIF_CHGBODY. */
export const SMFIF_MODBODY = SMFIF_CHGBODY;
/** May add recipients: addRcpt(). */
export const SMFIF_ADDRCPT = 0x004;
/** May remove recipients: delRcpt(). */
export const SMFIF_DELRCPT = 0x008;
/** May change or remove headers: chgHeader(). */
export const SMFIF_CHGHDRS = 0x010;
/** May hold the message: quarantine(). */
export const SMFIF_QUARANTINE = 0x020;
/** May change the envelope sender: chgFrom() (version 6). */
export const SMFIF_CHGFROM = 0x040;
/** May add recipients with ESMTP arguments: addRcpt(rcpt, args) (version 6). */
export const SMFIF_ADDRCPT_PAR = 0x080;
/** May ask for macros by name: `static macros` (version 6). */
export const SMFIF_SETSYMLIST = 0x100;

/** Every action of protocol version 1. A server that offers no action at all means these. */
export const SMFIF_ALLOPTS_V1 = 0x0f;
/** Every action that version 2 knows. */
export const SMFIF_ALLOPTS_V2 = 0x3f;
/** The actions that version 6 added. */
export const SMFIF_ALLOPTS_V6 = 0x1c0;
/** Every action. */
export const SMFIF_ALLOPTS = 0x1ff;
/** Every action, in the documentation's other spelling. */
export const ALLOPTS = SMFIF_ALLOPTS;

// ---- Protocol: which steps are sent, which are answered -------------------------------------------------------------

/** Do not send CONNECT. */
export const SMFIP_NOCONNECT = 0x000001;
/** Do not send HELO. */
export const SMFIP_NOHELO = 0x000002;
/** Do not send MAIL. */
export const SMFIP_NOMAIL = 0x000004;
/** Do not send RCPT. */
export const SMFIP_NORCPT = 0x000008;
/** Do not send the body; its end still comes. */
export const SMFIP_NOBODY = 0x000010;
/** Do not send the headers. */
export const SMFIP_NOHDRS = 0x000020;
/** Do not send the end of the headers. */
export const SMFIP_NOEOH = 0x000040;
/** Headers are not answered. */
export const SMFIP_NR_HDR = 0x000080;
/** The older name of SMFIP_NR_HDR. */
export const SMFIP_NOHREPL = SMFIP_NR_HDR;
/** Do not send unknown SMTP commands (version 3). */
export const SMFIP_NOUNKNOWN = 0x000100;
/** Do not send DATA (version 4). */
export const SMFIP_NODATA = 0x000200;
/** The server understands the reply SKIP. */
export const SMFIP_SKIP = 0x000400;
/** Send the recipients, too, that the server has refused already. */
export const SMFIP_RCPT_REJ = 0x000800;
/** CONNECT is not answered. */
export const SMFIP_NR_CONN = 0x001000;
/** HELO is not answered. */
export const SMFIP_NR_HELO = 0x002000;
/** MAIL is not answered. */
export const SMFIP_NR_MAIL = 0x004000;
/** RCPT is not answered. */
export const SMFIP_NR_RCPT = 0x008000;
/** DATA is not answered. */
export const SMFIP_NR_DATA = 0x010000;
/** Unknown commands are not answered. */
export const SMFIP_NR_UNKN = 0x020000;
/** The end of the headers is not answered. */
export const SMFIP_NR_EOH = 0x040000;
/** Body chunks are not answered. */
export const SMFIP_NR_BODY = 0x080000;
/** Header values come with their leading space, and none is added to the milter's. */
export const SMFIP_HDR_LEADSPC = 0x100000;
/** Payloads up to 262,143 bytes: an extension of some Sendmail builds. */
export const SMFIP_MDS_256K = 0x10000000;
/** Payloads up to 1,048,575 bytes: an extension of some Sendmail builds. */
export const SMFIP_MDS_1M = 0x20000000;

/** Every step of protocol version 1. A server that offers no step at all means these. */
export const SMFIP_ALLPROTOS_V1 = 0x3f;
/** Every step that version 2 knows. */
export const SMFIP_ALLPROTOS_V2 = 0x7f;
/** The steps that came after version 2. */
export const SMFIP_ALLPROTOS_V6 = 0x1fff80;
/** Every step. The size bits (SMFIP_MDS_*) are no steps. */
export const SMFIP_ALLPROTOS = 0x1fffff;
/** Every step, in the documentation's other spelling. */
export const ALLPROTOS = SMFIP_ALLPROTOS;

// ---- Address families of CONNECT ------------------------------------------------------------------------------------

/** The client's address is not known. */
export const SMFIA_UNKNOWN = 'U';
/** A Unix socket. */
export const SMFIA_UNIX = 'L';
/** IPv4. */
export const SMFIA_INET = '4';
/** IPv6. */
export const SMFIA_INET6 = '6';

// ---- Stages of macro lists (note the order: EOM is numbered before EOH) ---------------------------------------------

/** Macros for CONNECT. */
export const SMFIM_CONNECT = 0;
/** Macros for HELO. */
export const SMFIM_HELO = 1;
/** Macros for MAIL. */
export const SMFIM_ENVFROM = 2;
/** Macros for RCPT. */
export const SMFIM_ENVRCPT = 3;
/** Macros for DATA. */
export const SMFIM_DATA = 4;
/** Macros for the end of the message. */
export const SMFIM_EOM = 5;
/** Macros for the end of the headers. */
export const SMFIM_EOH = 6;

// ---- Sizes ----------------------------------------------------------------------------------------------------------

/** The newest protocol version, and the one offered by default. */
export const SMFI_VERSION = 6;
/** The oldest protocol version still spoken. */
export const SMFI_VERSION_MIN = 2;
/** The largest payload, in bytes and without the code byte, where nothing else was agreed. */
export const MILTER_MDS_64K = 65_535;
/** The largest payload with SMFIP_MDS_256K. */
export const MILTER_MDS_256K = 262_143;
/** The largest payload with SMFIP_MDS_1M, and what this library reads at most unless told otherwise. */
export const MILTER_MDS_1M = 1_048_575;
/** The largest body chunk where nothing else was agreed. */
export const MILTER_CHUNK_SIZE = 65_535;

// ---- Verdicts: what a callback returns ------------------------------------------------------------------------------

// Not widened to string (`as const`): a callback that returns one of them needs no type of its own.

/** Go on. What a callback that returns nothing means; from eob() the same as ACCEPT. */
export const CONTINUE = 'continue' as const;
/** Accept the message and ask no more about it; from connect() and helo(), about the whole SMTP session. */
export const ACCEPT = 'accept' as const;
/** Refuse for good: the message; from rcpt() that recipient; from unknown() that command. */
export const REJECT = 'reject' as const;
/** Refuse for now: the message; from rcpt() that recipient; from unknown() that command. */
export const TEMPFAIL = 'tempFail' as const;
/** Take the message and drop it. Not from connect(), helo() and unknown(). */
export const DISCARD = 'discard' as const;
/** Refuse the connection for now: 421 4.3.2. */
export const CONN_FAIL = 'connFail' as const;
/** Close the SMTP session: 421 4.7.0. */
export const SHUTDOWN = 'shutdown' as const;
/** No more body chunks, from body() alone; skip() returns it. */
export const SKIP = 'skip' as const;

/** What a callback may return. Each is the `type` of the reply of that name. */
export type Verdict =
  | typeof CONTINUE
  | typeof ACCEPT
  | typeof REJECT
  | typeof TEMPFAIL
  | typeof DISCARD
  | typeof CONN_FAIL
  | typeof SHUTDOWN
  | typeof SKIP;
