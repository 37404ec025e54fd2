/**
 * The SMTP reply inside a REPLYCODE packet, both ways. Servers print it through a format string (so each `%` is
 * doubled) and send it to the SMTP client as it is (so no line end may hide in it): a reply that breaks a rule is
 * replaced by the server's own text, or costs the whole filter, and in 2026 it made Postfix read past its buffer.
 * The rules are those of smfi_setmlreply() and of Postfix's check on what it receives.
 */
import { MilterError, show } from '../errors.js';
import { toBytes } from './text.js';

/** Most lines of one reply (libmilter's MAXREPLIES). */
const MAX_LINES = 32;
/** Most bytes of one line, code and enhanced code not counted (libmilter's MAXREPLYLEN). */
const MAX_LINE_BYTES = 980;

/** An SMTP reply, taken apart. */
export interface SmtpReply {
  /** 400 to 599. */
  readonly code: number;
  /** Like `5.7.1`; empty where there is none. */
  readonly enhanced: string;
  /** At least one; each without code, enhanced code and line end, with single `%`. */
  readonly lines: readonly string[];
  /** Whether the wire had a `%` that was not doubled: Sendmail then uses its own text, Postfix drops the `%`. */
  readonly barePercent: boolean;
}

/**
 * The text of a REPLYCODE packet.
 * @param rcode 400 to 599, a number or a string
 * @param xcode enhanced status code like `5.7.1`, of the same class as rcode; '' for none
 * @param message a line, or up to 32; each at most 980 bytes, without CR, LF and NUL
 * @throws MilterError ERR_MILTER_ARGUMENT, ERR_MILTER_TEXT
 */
export function formatSmtpReply(rcode: number | string, xcode: string, message: string | readonly string[]): string {
  const code = String(rcode);
  if (/^2\d\d$/.test(code)) throw bad(`${code} is no refusal; to let a message pass, return ACCEPT`);
  if (!/^[45]\d\d$/.test(code)) throw bad(`the code must be 400 to 599, got ${show(rcode)}`);
  if (xcode !== '' && !/^[245]\.\d{1,3}\.\d{1,3}$/.test(xcode)) {
    throw bad(`the enhanced code must be like 5.7.1, got ${show(xcode)}`);
  }
  if (xcode !== '' && xcode[0] !== code[0]) throw bad(`the enhanced code ${xcode} is of another class than ${code}`);
  const lines = typeof message === 'string' ? [message] : message;
  if (!Array.isArray(lines) || lines.length === 0) throw bad('the message must be a string or an array of lines');
  if (lines.length > MAX_LINES) throw bad(`the message has ${lines.length} lines; at most ${MAX_LINES} may be sent`);
  for (const line of lines) checkLine(line);
  // Postfix takes a digit behind the code for an enhanced one and refuses it when the class is another.
  const mistakable = xcode === '' && lines.some((line: string) => /^\d/.test(line));
  const enhanced = mistakable ? `${code[0]}.0.0 ` : xcode === '' ? '' : `${xcode} `;
  const last = lines.length - 1;
  return lines
    .map((line: string, i) => `${code}${i < last ? '-' : ' '}${enhanced}${line.replaceAll('%', '%%')}`)
    .join('\r\n');
}

function checkLine(line: unknown): void {
  if (typeof line !== 'string') throw bad(`each line must be a string, got ${typeof line}`);
  const forbidden = /[\r\n\0]/.exec(line);
  if (forbidden !== null) {
    throw bad(`a line holds ${JSON.stringify(forbidden[0])} at ${forbidden.index}; give several lines as an array`);
  }
  const size = toBytes(line).length;
  if (size > MAX_LINE_BYTES) throw bad(`a line has ${size} bytes; at most ${MAX_LINE_BYTES} may be sent`);
}

function bad(what: string): MilterError {
  return new MilterError('ERR_MILTER_ARGUMENT', `Bad SMTP reply: ${what}`);
}

/**
 * Takes the text of a REPLYCODE packet apart, as strictly as Postfix.
 * @throws MilterError ERR_MILTER_MALFORMED
 */
export function parseSmtpReply(text: string): SmtpReply {
  const raw = text.split('\r\n');
  const first = /^([45]\d\d)[ -]([245]\.\d{1,3}\.\d{1,3}(?= |$))?/.exec(raw[0] as string);
  if (first === null) throw malformed(text, 'it does not begin with a code from 400 to 599');
  const code = first[1] as string;
  const enhanced = first[2] ?? '';
  const lines = raw.map((line, i) => {
    if (!line.startsWith(code)) throw malformed(text, `line ${i + 1} has another code than ${code}`);
    const separator = i < raw.length - 1 ? '-' : ' ';
    if (line[3] !== separator) {
      throw malformed(text, `line ${i + 1} needs ${JSON.stringify(separator)} behind the code`);
    }
    if (/^\d/.test(line.slice(4)) && line[4] !== code[0]) {
      throw malformed(text, `line ${i + 1} has an enhanced code of another class`);
    }
    if (/[\r\n\0]/.test(line)) throw malformed(text, `line ${i + 1} holds a bare CR or LF or a NUL`);
    const words = line.slice(4);
    if (enhanced === '') return words;
    return words === enhanced ? '' : words.startsWith(`${enhanced} `) ? words.slice(enhanced.length + 1) : words;
  });
  return {
    code: Number(code),
    enhanced,
    lines: lines.map((line) => line.replace(/%(%?)/g, '$1')),
    barePercent: lines.some((line) => /%/.test(line.replaceAll('%%', ''))),
  };
}

function malformed(text: string, what: string): MilterError {
  return new MilterError('ERR_MILTER_MALFORMED', `Malformed SMTP reply ${JSON.stringify(text.slice(0, 80))}: ${what}`, {
    packet: 'replyCode',
  });
}
