/** Who a message is from and for, as the command line says it or else the message's own headers; and who brings it. */
import { isIP } from 'node:net';
import type { ClientMacros, ClientPeer, MessageHeader } from '../client/index.js';
import { bracketAddress } from '../envelope.js';
import { STAGE_NAMES, type Stage } from '../stages.js';
import { usageError } from './exit.js';
import type { Values } from './values.js';

/** An address of the envelope with its ESMTP arguments. */
export interface Party {
  readonly address: string;
  readonly args: readonly string[];
}

/**
 * Reads `<a@example.org> SIZE=100` or `a@example.org`.
 * @param option for the error
 * @throws CliError naming the option and what is wrong
 */
export function party(option: string, text: string): Party {
  const bad = (what: string): Error => usageError(`--${option} ${JSON.stringify(text)}: ${what}`);
  // oxlint-disable-next-line no-control-regex -- they would be commands of their own in SMTP
  if (/[\0-\x1f\x7f]/.test(text)) throw bad('an address holds no control characters');
  const [, given = '', rest = ''] = /^\s*(<(?:"[^"]*"|[^">])*>|(?:"[^"]*"|[^\s"<>])*)(.*)$/s.exec(
    text,
  ) as RegExpExecArray;
  if (given === '' && rest.startsWith('<')) throw bad('its bracket is not closed');
  if (rest !== '' && !/^\s/.test(rest)) throw bad(`${JSON.stringify(rest)} does not belong behind an address`);
  if (given === '') throw bad('there is no address in it');
  const address = bracketAddress(given);
  if (address === '<>' && option === 'rcpt') throw bad('there is no address in it');
  if (/[\s<>]/.test(address.slice(1, -1).replace(/"[^"]*"/g, ''))) throw bad('an address holds no spaces and brackets');
  if (/^<@|@>$/.test(address)) throw bad('a part of the address is missing');
  const args = rest.split(/\s+/).filter(Boolean);
  const odd = args.find((arg) => !/^[a-z\d][a-z\d-]*(=[^=]+)?$/i.test(arg));
  if (odd !== undefined) throw bad(`${JSON.stringify(odd)} is no ESMTP argument like SIZE=100`);
  return { address, args };
}

/** The SMTP client. @throws CliError */
export function peerOf(values: Values): ClientPeer {
  const [hostname, address, helo] = ['hostname', 'address', 'helo'].map((name) => values.line(name));
  const port = values.whole('port', 0, 65_535);
  if (address !== undefined && isIP(address) === 0 && !address.startsWith('/')) {
    throw values.bad('address', 'must be an IP address, or the path of a Unix socket from / on');
  }
  return {
    ...(hostname !== undefined && { hostname }),
    ...(address !== undefined && { address }),
    ...(port !== undefined && { port }),
    ...(helo !== undefined && { helo }),
  };
}

const MACRO_STAGES = STAGE_NAMES.filter((stage) => stage !== 'unknown');

/**
 * Reads `STAGE:NAME=VALUE`, any number of them.
 * @throws CliError naming the bad one
 */
export function macrosOf(texts: readonly string[]): ClientMacros {
  const all: Partial<Record<Stage, Record<string, string>>> = {};
  for (const text of texts) {
    const bad = (what: string): Error => usageError(`--macro ${JSON.stringify(text)}: ${what}`);
    const [, word, name, value] = /^([^:=]*):([^=]*)=(.*)$/s.exec(text) ?? [];
    if (word === undefined || name === undefined || value === undefined) {
      throw bad('must be STAGE:NAME=VALUE, like rcpt:{rcpt_mailer}=local');
    }
    const stage = MACRO_STAGES.find((each) => each.toLowerCase() === word.toLowerCase());
    if (stage === undefined) throw bad(`the stage must be one of ${MACRO_STAGES.join(', ')}`);
    if (!/^(\{[^\s{},\0]+\}|[^\s{},\0]+)$/.test(name)) throw bad(`${JSON.stringify(name)} is no name of a macro`);
    if (value.includes('\0')) throw bad('the value holds a NUL');
    const spelled = name.length > 1 && !name.startsWith('{') ? `{${name}}` : name;
    (all[stage] ??= {})[spelled] = value;
  }
  return all;
}

/** What a message without addresses gets. */
const NOBODY = { from: '<sender@example.org>', to: '<recipient@example.com>' };

/** From: Return-Path, or else the first address of From. */
export function senderIn(headers: readonly MessageHeader[]): string {
  const path = valuesOf(headers, 'return-path')[0];
  if (path !== undefined && /^\s*<[^\s<>]*>\s*$/.test(path)) return path.trim();
  return addressesIn(valuesOf(headers, 'from'))[0] ?? NOBODY.from;
}

/** To: all addresses of To, Cc and Bcc, each once. */
export function recipientsIn(headers: readonly MessageHeader[]): string[] {
  const found = addressesIn(['to', 'cc', 'bcc'].flatMap((name) => valuesOf(headers, name)));
  return found.length > 0 ? [...new Set(found)] : [NOBODY.to];
}

function valuesOf(headers: readonly MessageHeader[], name: string): string[] {
  return headers.filter((header) => header.name.toLowerCase() === name).map(({ value }) => value);
}

/** The pieces that tell where an address ends: quoted text, comments, brackets, what separates, and the rest. */
const PIECES = /"(?:\\.|[^"\\])*"|\((?:\\.|[^()\\])*\)|<[^>]*>|[,;:]|[^"(<,;:]+|./gs;

/** The addresses in header values (RFC 5322, section 3.4), in brackets: what is no address is left out. */
function addressesIn(values: readonly string[]): string[] {
  const found: string[] = [];
  for (const value of values) {
    let plain = '';
    let bracketed: string | undefined;
    const over = (): void => {
      const address = (bracketed ?? plain).trim();
      if (/^[^@\s]+@[^@\s]+$/.test(address) && !/\p{C}/u.test(address)) found.push(`<${address}>`);
      plain = '';
      bracketed = undefined;
    };
    for (const [piece] of value.matchAll(PIECES)) {
      if (piece === ':') plain = '';
      else if (piece === ',' || piece === ';') over();
      else if (piece.startsWith('<')) bracketed = piece.slice(1, -1);
      else if (!piece.startsWith('(')) plain += piece;
    }
    over();
  }
  return found;
}
