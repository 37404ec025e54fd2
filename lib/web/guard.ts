/**
 * Who is answered: whoever knows the token, by a name that is this server's, from the page itself. A page of somebody else
 * in the same browser knows the port at most; where its name is made to mean this machine (DNS rebinding), its name is
 * what the browser says in Host.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';

/** What a request is refused with; undefined: it is answered. */
export type Refusal = { readonly status: 403 | 404 | 405; readonly text: string } | undefined;

export class Guard {
  readonly #token: Buffer;
  readonly #host: string;

  /** @param host what the server listens on */
  constructor(token: string, host: string) {
    this.#token = digest(token);
    this.#host = host.toLowerCase();
  }

  refusal({ method, headers }: IncomingMessage, token: string): Refusal {
    const { host, origin } = headers;
    // Headers that are missing are those of tools, which know the token.
    if (host === undefined || !this.#isOwn(host))
      return { status: 403, text: 'This name is not the one of this server' };
    if (origin !== undefined && origin !== `http://${host}`) return { status: 403, text: 'From another page' };
    if (!isFetchedByItself(headers)) return { status: 403, text: 'From another page' };
    if (!timingSafeEqual(digest(token), this.#token)) return { status: 404, text: 'Not found' };
    return method === 'GET' ? undefined : { status: 405, text: 'Only GET' };
  }

  /** An IP address cannot be rebound. The port is left open: it may be forwarded. */
  #isOwn(host: string): boolean {
    const [, bracketed, plain] = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::\d+)?$/.exec(host) ?? [];
    if (bracketed !== undefined) return isIP(bracketed) === 6;
    const name = plain?.toLowerCase();
    return name === 'localhost' || (name !== undefined && (name === this.#host || isIP(name) === 4));
  }
}

/** Browsers say where a request comes from. A link elsewhere may lead here: the token is in it. */
function isFetchedByItself(headers: IncomingMessage['headers']): boolean {
  const site = headers['sec-fetch-site'];
  if (site === undefined || site === 'same-origin' || site === 'none') return true;
  return headers['sec-fetch-mode'] === 'navigate' && headers['sec-fetch-dest'] === 'document';
}

/** All of one length, so that comparing them takes one time. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
