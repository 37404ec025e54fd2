/** Where the page is served: `PORT`, `HOST:PORT`, `[::1]:PORT`. */
import { isIP } from 'node:net';
import { MilterError, show } from '../errors.js';

export interface WebPlace {
  readonly host: string;
  readonly port: number;
}

/** @throws MilterError ERR_MILTER_ADDRESS */
export function parseWebPlace(text: string): WebPlace {
  const [, bracketed, plain, port] = /^(?:(?:\[([^\]]+)\]|([^:[\]/\s]+)):)?(\d{1,5})$/.exec(text) ?? [];
  const isWrong = bracketed !== undefined && isIP(bracketed) !== 6;
  if (port === undefined || Number(port) > 65_535 || isWrong) {
    throw new MilterError('ERR_MILTER_ADDRESS', `A port, or HOST:PORT, is needed for the web page, got ${show(text)}`);
  }
  return { host: bracketed ?? plain ?? '127.0.0.1', port: Number(port) };
}

/** Nobody on another machine gets there. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

/** An address of IPv6 has brackets in a URL. */
export function inUrl(host: string): string {
  return isIP(host) === 6 ? `[${host}]` : host;
}
