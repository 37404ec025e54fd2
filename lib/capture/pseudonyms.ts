/**
 * Words that stand for others: the same for the same, so that a conversation can still be followed, and not to be turned
 * back without the key. They come from a keyed hash, so that nothing has to be remembered.
 */
import { createHmac, randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import { toBytes } from '../codec/text.js';

const LETTERS = 'abcdefghijkmnopqrstuvwxyz23456789'; // none that looks like another
/** Letters of a pseudonym: 40 bits, so that two are hardly ever the same. */
const LENGTH = 8;

export interface PseudonymOptions {
  /** Pseudonyms are the same in captures with the same key; default: one made by chance. */
  readonly key?: string | Uint8Array | undefined;
  /** Everything stays as long as it was. Default false. */
  readonly keepLength?: boolean | undefined;
}

/** Names that mean nobody in particular. */
const PLAIN_HOST = /^(localhost|unknown|)$/i;

export class Pseudonyms {
  readonly #key: Uint8Array;
  readonly #keepLength: boolean;

  constructor({ key = randomBytes(32), keepLength = false }: PseudonymOptions) {
    this.#key = typeof key === 'string' ? Buffer.from(key) : key;
    this.#keepLength = keepLength;
  }

  /** An address with or without angle brackets. The null sender stays. */
  address(text: string): string {
    const [, open, inner, close] = /^(<?)(.*?)(>?)$/s.exec(text) as unknown as [string, string, string, string];
    if (inner === '') return text;
    const at = inner.lastIndexOf('@');
    const local = at < 0 ? inner : inner.slice(0, at);
    const domain = at < 0 ? '' : `@${this.host(inner.slice(at + 1))}`;
    return `${open}${this.#word('local', local, 'user-')}${domain}${close}`;
  }

  /** A host's name, or its address in brackets. `localhost` and `unknown` stay. */
  host(text: string): string {
    if (PLAIN_HOST.test(text)) return text;
    const literal = /^\[(ipv6:)?(.*)\]$/i.exec(text);
    if (literal !== null) return `[${literal[1] ?? ''}${this.ip(literal[2] as string)}]`;
    if (isIP(text) !== 0) return this.ip(text);
    return this.#word('host', lowerCase(text), 'host-', '.example');
  }

  /** An IP address, or a path. Those of the loopback network stay. */
  ip(text: string): string {
    const [, prefix, plain] = /^(ipv6:)?(.*)$/is.exec(text) as unknown as [string, string | undefined, string];
    if (plain === '' || plain === '::1' || /^(::ffff:)?127\./i.test(plain)) return text;
    const kind = isIP(plain);
    if (kind === 0) return this.#word('path', text, '/path-');
    const hash = this.#hash('ip', plain.toLowerCase());
    if (this.#keepLength) return (prefix ?? '') + (kind === 4 ? sameDigits(plain, hash) : sameGroups(plain, hash));
    if (kind === 6) return `${prefix ?? ''}2001:db8::${hash.toString('hex', 0, 8).replace(/(.{4})(?=.)/g, '$1:')}`;
    return [240 + ((hash[0] as number) & 7), hash[1], hash[2], hash[3]].join('.');
  }

  /** Words of any kind. White space at the beginning stays, and nothing stays nothing. */
  text(text: string): string {
    const [, space, words] = /^(\s*)(.*)$/s.exec(text) as unknown as [string, string, string];
    return words === '' ? text : space + this.#word('text', words, 'text-');
  }

  /** Content. Its lines stay with keepLength alone. */
  body(bytes: Buffer): Buffer {
    if (bytes.length === 0) return bytes;
    return this.#keepLength ? blanked(bytes) : Buffer.from(`[${bytes.length} bytes]\r\n`);
  }

  #word(kind: string, text: string, before: string, behind = ''): string {
    const hash = this.#hash(kind, text);
    return this.#keepLength ? likeness(toBytes(text), hash) : before + spelled(hash, LENGTH) + behind;
  }

  #hash(kind: string, text: string): Buffer {
    return createHmac('sha256', this.#key).update(`${kind}\0`).update(toBytes(text)).digest();
  }
}

/** Of ASCII alone, as in the DNS: the length stays. */
function lowerCase(text: string): string {
  return text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}

/** Bytes with nothing left of them but their lines. */
export function blanked(bytes: Buffer): Buffer {
  return Buffer.from(bytes.map((byte) => (byte === 0x0d || byte === 0x0a ? byte : 0x78)));
}

function spelled(hash: Buffer, length: number): string {
  let text = '';
  for (let i = 0; i < length; i++) text += LETTERS[(hash[i % hash.length] as number) % LETTERS.length] as string;
  return text;
}

/** As many bytes as there were, with the signs, spaces and ends of line between the words where they were. */
function likeness(bytes: Buffer, hash: Buffer): string {
  const letters = spelled(hash, bytes.length);
  let text = '';
  for (const [i, byte] of bytes.entries()) {
    const stays = byte < 0x80 && !/[0-9A-Za-z]/.test(String.fromCharCode(byte));
    text += stays ? String.fromCharCode(byte) : (letters[i] as string);
  }
  return text;
}

/** Each number of an IPv4 address by one with as many digits. */
function sameDigits(address: string, hash: Buffer): string {
  return address
    .split('.')
    .map((number, i) => {
      const by = hash[i] as number;
      return number.length === 3 ? 100 + (by % 100) : number.length === 2 ? 10 + (by % 90) : by % 10;
    })
    .join('.');
}

/** Each digit of an IPv6 address by another. */
function sameGroups(address: string, hash: Buffer): string {
  const digits = hash.toString('hex');
  const dotted = /[\d.]+\.\d+$/.exec(address)?.[0] ?? '';
  const groups = address.slice(0, address.length - dotted.length);
  return groups.replace(/[0-9a-f]/gi, (_, i: number) => digits[i] as string) + (dotted && sameDigits(dotted, hash));
}
