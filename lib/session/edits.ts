/**
 * The modifications of one message: checked when the method is called, gathered while eob() runs, written by the session
 * when it is known that the message is accepted. A part of them is never sent.
 */
import { replyCodec, type Reply } from '../codec/replies.js';
import { toBytes } from '../codec/text.js';
import * as c from '../constants.js';
import { MilterError, show } from '../errors.js';
import { actionNames } from '../names.js';
import { bracketAddress } from '../envelope.js';
import type { Lines } from './protocol.js';
import { destroyStream, Spool, type ByteStream, type SpoolOptions } from './spool.js';

/** A body: text, bytes, or a stream of either. */
export type BodySource = string | Uint8Array | ByteStream;

export interface BodyOptions {
  /** Send a stream as it comes instead of reading it whole first. */
  readonly stream?: boolean;
}

/** A part of the new body. */
export type BodyPart = Buffer | Spool | { readonly live: ByteStream };

export interface EditsOptions extends SpoolOptions {
  /** SMFIF_: what was agreed. */
  readonly actions: number;
  /** Largest payload that may be written, in bytes. */
  readonly maxPayload: number;
  /** Most bytes of all edits together, the body not counted. */
  readonly maxModifications: number;
}

/** How many edits of each kind. */
export type EditCounts = Readonly<Record<string, number>>;

export class Edits {
  /** Everything but the body, in the order of the calls. */
  readonly replies: Reply[] = [];
  /** The new body; undefined while it is not replaced. */
  body: BodyPart[] | undefined;

  readonly #options: EditsOptions;
  #bytes = 0;

  constructor(options: EditsOptions) {
    this.#options = options;
  }

  get empty(): boolean {
    return this.replies.length === 0 && this.body === undefined;
  }

  /** For the log. */
  counts(): EditCounts {
    const counts: Record<string, number> = this.body === undefined ? {} : { replBody: 1 };
    for (const { type } of this.replies) counts[type] = (counts[type] ?? 0) + 1;
    return counts;
  }

  addRcpt(rcpt: string, esmtpAdd: Lines): void {
    const args = esmtpArgs('addRcpt', esmtpAdd);
    const either = args === undefined ? c.SMFIF_ADDRCPT | c.SMFIF_ADDRCPT_PAR : c.SMFIF_ADDRCPT_PAR;
    this.#allow('addRcpt', args === undefined ? c.SMFIF_ADDRCPT : c.SMFIF_ADDRCPT_PAR, either);
    const address = recipient('addRcpt', rcpt);
    if (args !== undefined) this.#add({ type: 'addRcptPar', address, args });
    else if ((this.#options.actions & c.SMFIF_ADDRCPT) !== 0) this.#add({ type: 'addRcpt', address });
    else this.#add({ type: 'addRcptPar', address });
  }

  delRcpt(rcpt: string): void {
    this.#allow('delRcpt', c.SMFIF_DELRCPT);
    this.#add({ type: 'delRcpt', address: recipient('delRcpt', rcpt) });
  }

  chgFrom(frAddr: string, esmtpAdd: Lines): void {
    this.#allow('chgFrom', c.SMFIF_CHGFROM);
    const args = esmtpArgs('chgFrom', esmtpAdd);
    const address = bracketAddress(oneLine('chgFrom', 'frAddr', frAddr));
    this.#add(args === undefined ? { type: 'chgFrom', address } : { type: 'chgFrom', address, args });
  }

  addHeader(key: string, val: string): void {
    this.#allow('addHeader', c.SMFIF_ADDHDRS);
    this.#add({ type: 'addHeader', name: headerName('addHeader', key), value: headerValue('addHeader', val) });
  }

  insHeader(index: number, key: string, val: string): void {
    this.#allow('insHeader', c.SMFIF_ADDHDRS);
    const name = headerName('insHeader', key);
    this.#add({ type: 'insHeader', index: position('insHeader', index), name, value: headerValue('insHeader', val) });
  }

  chgHeader(key: string, val: string, index: number): void {
    this.#allow('chgHeader', c.SMFIF_CHGHDRS);
    const name = headerName('chgHeader', key);
    this.#add({ type: 'chgHeader', index: position('chgHeader', index), name, value: headerValue('chgHeader', val) });
  }

  quarantine(msg: string): void {
    this.#allow('quarantine', c.SMFIF_QUARANTINE);
    this.#add({ type: 'quarantine', reason: oneLine('quarantine', 'msg', msg) || 'quarantined by a milter' });
  }

  replBody(body: BodySource, options: BodyOptions): void {
    this.#allow('replBody', c.SMFIF_CHGBODY);
    const part = this.#bodyPart(body, options);
    (this.body ??= []).push(part);
  }

  /** Takes what another thread has gathered, and checked. */
  adopt(replies: readonly Reply[], body: BodyPart[] | undefined): void {
    for (const reply of replies) this.#add(reply);
    this.body = body;
  }

  /** Lets go of everything that was gathered: streams are destroyed, files closed. */
  discard(): void {
    for (const part of this.body ?? []) {
      if (part instanceof Spool) part.discard();
      else if (!Buffer.isBuffer(part)) destroyStream(part.live);
    }
  }

  #bodyPart(body: BodySource, options: BodyOptions): BodyPart {
    if (typeof body === 'string') return toBytes(body);
    if (body instanceof Uint8Array) return Buffer.from(body.buffer, body.byteOffset, body.byteLength);
    if (typeof body?.[Symbol.asyncIterator] !== 'function') {
      throw bad('replBody', `body must be a string, a Buffer or a stream, got ${show(body)}`);
    }
    if (options.stream !== true) return new Spool(body, this.#options);
    // Nobody may be listening yet when a stream fails, and an 'error' that nobody hears ends the process.
    (body as { on?(event: string, listener: () => void): void }).on?.('error', () => {});
    return { live: body };
  }

  /** @param either more than one flag may allow it */
  #allow(method: string, flag: number, either: number = flag): void {
    if ((this.#options.actions & either) !== 0) return;
    const name = actionNames(flag)[0];
    throw new MilterError(
      'ERR_MILTER_NOT_NEGOTIATED',
      `${method}() needs ${name}, which was not agreed with the mail server: ask for it in smfifOptions` +
        ` (and if you did, the mail server does not offer it)`,
      { stage: 'eob' },
    );
  }

  /** What no packet can carry must be found now: later a part of the edits may be on the wire. */
  #add(reply: Reply): void {
    const { maxPayload, maxModifications } = this.#options;
    const size = replyCodec.write(reply, maxPayload).length;
    if (this.#bytes + size > maxModifications) {
      const method = reply.type === 'addRcptPar' ? 'addRcpt' : reply.type;
      throw new MilterError(
        'ERR_MILTER_MODIFICATIONS',
        `${method}() would make the edits of this message larger than maxModifications (${maxModifications} bytes)`,
        { stage: 'eob' },
      );
    }
    this.#bytes += size;
    this.replies.push(reply);
  }
}

function bad(method: string, what: string): MilterError {
  return new MilterError('ERR_MILTER_ARGUMENT', `${method}(): ${what}`, { stage: 'eob' });
}

function text(method: string, name: string, value: string): string {
  if (typeof value !== 'string') throw bad(method, `${name} must be a string, got ${show(value)}`);
  if (value.includes('\0')) throw bad(method, `${name} holds a NUL, which ends a string in this protocol`);
  return value;
}

function oneLine(method: string, name: string, value: string): string {
  if (/[\r\n]/.test(text(method, name, value))) throw bad(method, `${name} must be one line, got ${show(value)}`);
  return value;
}

function recipient(method: string, rcpt: string): string {
  const address = bracketAddress(oneLine(method, 'rcpt', rcpt));
  if (address === '<>') throw bad(method, 'rcpt must not be empty');
  return address;
}

function esmtpArgs(method: string, value: Lines): string | undefined {
  const list: unknown = typeof value === 'string' ? [value] : value;
  if (!Array.isArray(list) || list.some((arg) => typeof arg !== 'string')) {
    throw bad(method, `esmtpAdd must be a string or an array of them, got ${show(value)}`);
  }
  const joined = list.join(' ');
  return oneLine(method, 'esmtpAdd', joined) === '' ? undefined : joined;
}

function headerName(method: string, key: string): string {
  const name = oneLine(method, 'key', key).replace(/:$/, '');
  if (name === '' || name.includes(':')) throw bad(method, `key must be a header's name, got ${show(key)}`);
  return name;
}

/** On the wire the lines of a header end in LF alone (CRLF would leave a CR in Postfix's header). */
function headerValue(method: string, val: string): string {
  const value = text(method, 'val', val).replaceAll('\r\n', '\n');
  if (/\n(?![ \t])/.test(value)) {
    throw bad(
      method,
      `val has a line that begins without space or tab, and so would be a header of its own: ${show(val)}`,
    );
  }
  return value;
}

function position(method: string, index: number): number {
  if (Number.isInteger(index) && index >= 0 && index <= 0x7fff_ffff) return index;
  throw bad(method, `index must be a whole number from 0, got ${show(index)}`);
}
