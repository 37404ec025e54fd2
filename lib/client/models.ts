/**
 * What Postfix and Sendmail make of a milter's edits, where they differ. Both count in lists that hold more than the
 * milter has heard of, so those headers are in the message, too: hidden, and without bytes unless the mail server's own
 * ones were given (`ownHeaders`).
 *
 * | | Postfix (cleanup_milter.c) | Sendmail (headers.c, milter.c) |
 * |---|---|---|
 * | stands above the message | its Received | Return-Path, its Received, and seven defaults that it fills in where missing |
 * | insHeader(index) | before the header of that place | behind the header of that place |
 * | addHeader | at the end | in the place of a default, or of one that an earlier milter has removed; else before the first of that name; else at the end |
 * | chgHeader, counting | only what milters hear of | the same, and what this milter has removed |
 * | chgHeader, nothing there | as addHeader | the same; removing one takes away a default |
 * | chgHeader, the name | the milter's | the one that is there |
 * | a header that was removed | is gone | holds its place |
 * | Return-Path, Content-Length, Bcc, Full-Name | the first three are taken out before milters hear of them; new ones are sent on | are heard, but not sent on, nor are new ones; Bcc goes out empty where there is no To and no Cc |
 * | Resent- | nothing special | new ones are sent on only in a message that came with one |
 * | a new body without a line end at its end | gets one at once | gets one when it is sent on, no milter hears it |
 * | Date:, From: … without a value | nothing special | as if it were not there |
 * | a space before the colon | is dropped | is dropped |
 *
 * Not done here: Sendmail writes address headers (From, To, Cc, Sender, Reply-To …) anew, one space behind each comma;
 * both break lines of more than 990 bytes, Sendmail also headers of more than 2,000 in a line; for Sendmail a header
 * Message or Text is the end of the headers. Test test/integration/models.test.ts compares the rest with the real ones.
 */
import { toBytes } from '../codec/text.js';
import { bareAddress } from '../envelope.js';
import { crlf } from './message-source.js';
import { Message, makeHeader, type MessageHeader } from './message.js';

/** Which mail server to behave like. */
export type MailServerName = 'postfix' | 'sendmail';

export interface Model {
  /** The last line of a new body ends before the next milter hears it; else when it is sent on. */
  readonly endsBodies: boolean;
  /** The headers that the mail server puts above a message; milters do not hear of them. */
  ownHeaders(given: Message): MessageHeader[];
  /** The headers of a message as the mail server takes them in. */
  taken(headers: readonly MessageHeader[]): MessageHeader[];
  insert(message: Message, index: number, header: MessageHeader): void;
  add(message: Message, header: MessageHeader): void;
  /** @param make makes the header with the name it is to have */
  change(message: Message, name: string, index: number, make: ((name: string) => MessageHeader) | undefined): void;
}

const NOTHING = Buffer.alloc(0);

/** Holds the place of a header that is not there. */
function place(name: string): MessageHeader {
  return { name, value: '', bytes: NOTHING, hidden: true };
}

function hide(header: MessageHeader): MessageHeader {
  return { ...header, hidden: true };
}

/** message_drop_headers in Postfix's postconf(5). */
const DROPPED = /^(bcc|content-length|resent-bcc|return-path)$/i;

const postfix: Model = {
  endsBodies: true,
  ownHeaders: ({ headers }) => (headers.length === 0 ? [place('Received')] : headers.map(hide)),
  taken: (headers) => headers.filter(({ name }) => !DROPPED.test(name)),
  insert: ({ headers }, index, header) => void headers.splice(index, 0, header),
  add: ({ headers }, header) => void headers.push(header),
  change(message, name, index, make) {
    const at = message.find(name, index);
    if (at < 0) {
      if (make !== undefined) message.headers.push(make(name));
    } else {
      message.headers.splice(at, 1, ...(make === undefined ? [] : [make(name)]));
    }
  },
};

/** In the order of Sendmail's configuration; what stands in the message has precedence over them. */
const SENDMAIL_OWN = [
  'Return-Path',
  'Received',
  'Resent-Date',
  'Date',
  'Resent-From',
  'From',
  'Full-Name',
  'Resent-Message-Id',
  'Message-Id',
];

const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();

/** Its H_TRACE: there may be any number of them, so none takes the place of another. */
const TRACE = /^(received|x400-received|via|mail-from)$/i;

/** Its H_ACHECK: in the message, but kept by mailers that do not ask for them. */
const KEPT = /^(return-path|full-name|content-length)$/i;

/** Its H_BCC. */
const BCC = /^(resent-)?bcc$/i;

/** Its H_RCPT: who reads one of these knows that the message has recipients. */
const RECIPIENTS = /^((resent-)?(to|cc)|apparently-to)$/i;

/** Its H_RESENT: sent on only in a message that came with one of them. */
const RESENT = /^resent-(sender|from|reply-to|to|cc|bcc|message-id|date)$/i;

/** Whatever is treated in a way of its own. */
const SPECIAL = /^(return-path|full-name|content-length|bcc|resent-.*)$/i;

interface Known {
  /** The message came with a Resent- header. */
  readonly wasResent: boolean;
  /** It has a header with recipients. */
  readonly named: boolean;
}

function knowing(headers: readonly MessageHeader[]): Known {
  return {
    wasResent: headers.some((each) => RESENT.test(each.name) && each.bytes.length > 0),
    named: headers.some((each) => RECIPIENTS.test(each.name)),
  };
}

/** A header as Sendmail holds it: without bytes if it is not sent on. */
function held(headers: readonly MessageHeader[] | Known, header: MessageHeader): MessageHeader {
  const { name } = header;
  if (!SPECIAL.test(name)) return header;
  const { wasResent, named } = 'named' in headers ? headers : knowing(headers);
  if (KEPT.test(name) || (RESENT.test(name) && !wasResent)) return { ...header, bytes: NOTHING };
  if (!BCC.test(name)) return header;
  return { ...header, bytes: named ? NOTHING : toBytes(`${name}:\r\n`) };
}

/** One that a milter may fill in again: a default, or what an earlier milter has removed. */
const isVacant = ({ name, hidden }: MessageHeader): boolean => hidden === true && !TRACE.test(name);

const sendmail: Model = {
  endsBodies: false,
  ownHeaders({ headers }) {
    const own = SENDMAIL_OWN.map((name) => headers.find((each) => same(each.name, name)) ?? place(name)).map(hide);
    return [...own, ...headers.filter(({ name }) => !SENDMAIL_OWN.some((each) => same(each, name))).map(hide)];
  },
  taken(headers) {
    const hasDefault = (name: string): boolean => SENDMAIL_OWN.slice(2).some((each) => same(each, name));
    const all = headers.filter(({ name, value }) => value.trim() !== '' || !hasDefault(name));
    const known = knowing(all);
    return all.map((header) => held(known, header));
  },
  insert: ({ headers }, index, header) => void headers.splice(index + 1, 0, held(headers, header)),
  add({ headers }, header) {
    const at = headers.findIndex((each) => isVacant(each) && same(each.name, header.name));
    const vacant = headers[at];
    if (vacant === undefined) addBefore(headers, header);
    else headers[at] = held(headers, makeHeader(vacant.name, header.value));
  },
  change({ headers }, name, index, make) {
    let left = Math.max(1, index);
    let at = headers.findIndex((each) => !each.hidden && same(each.name, name) && --left === 0);
    if (at < 0) at = headers.findLastIndex((each) => isVacant(each) && same(each.name, name));
    const found = headers[at];
    if (found !== undefined) {
      const removed = { ...place(found.name), hidden: found.hidden === true };
      headers[at] = make === undefined ? removed : held(headers, make(found.name));
    } else if (make !== undefined) {
      addBefore(headers, make(name));
    }
  },
};

/** Above the first of that name, or at the end. */
function addBefore(headers: MessageHeader[], header: MessageHeader): void {
  const at = headers.findIndex(({ name }) => same(name, header.name));
  headers.splice(at < 0 ? headers.length : at, 0, held(headers, header));
}

export const MODELS: Readonly<Record<MailServerName, Model>> = { postfix, sendmail };

/** Between two milters: what was removed does not count any more. */
export function settle(message: Message): void {
  message.headers = message.headers.map((header) =>
    header.bytes.length === 0 && header.value === '' ? hide(header) : header,
  );
}

/**
 * Has the mail server take a message in: its own headers stand above it.
 * @param text header lines; '' for ones without bytes
 */
export function wear(message: Message, model: Model, text: string | Uint8Array): void {
  const headers = message.headers.map(closed);
  message.headers = [...model.ownHeaders(Message.parse(text)), ...model.taken(headers)];
}

/** Without space before the colon: both mail servers drop it. */
function closed(header: MessageHeader): MessageHeader {
  const { name, bytes } = header;
  const colon = bytes.indexOf(0x3a);
  const last = bytes[colon - 1];
  if (last !== 0x20 && last !== 0x09) return header;
  return { ...header, bytes: Buffer.concat([toBytes(name), bytes.subarray(colon)]) };
}

/** The header that a milter means: without SMFIP_HDR_LEADSPC the mail server puts a space before the value. */
export function milterHeader(name: string, value: string, leadingSpace: boolean): MessageHeader {
  return makeHeader(name, leadingSpace ? value : ` ${value}`);
}

/** A new body as the next milter hears it: each line ends in CRLF, in Postfix the last one as well. */
export function settledBody(pieces: readonly Buffer[], model: Model): readonly Buffer[] {
  const whole = Buffer.concat(pieces);
  const settled = [hasBareLf(whole) ? crlf(whole) : whole];
  return model.endsBodies ? endedBody(settled) : settled;
}

function hasBareLf(bytes: Buffer): boolean {
  for (let at = bytes.indexOf(0x0a); at >= 0; at = bytes.indexOf(0x0a, at + 1)) {
    if (bytes[at - 1] !== 0x0d) return true;
  }
  return false;
}

/** A new body as it is sent on. */
export function endedBody(pieces: readonly Buffer[]): readonly Buffer[] {
  const last = pieces.at(-1)?.at(-1);
  return last === undefined || last === 0x0a ? pieces : [...pieces, Buffer.from('\r\n')];
}

/** Nobody gets a message twice, whatever letters the address is written in. */
export function recipientKey(address: string): string {
  return bareAddress(address).toLowerCase();
}
