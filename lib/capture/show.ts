/** What is in a capture, as text and JSON for people. */
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import { toText } from '../codec/text.js';
import { MilterError } from '../errors.js';
import type { Endpoint, Side } from './types.js';

export const nameOf = (side: Side): string => (side === 'mta' ? 'the mail server' : 'the milter');

export const otherSide = (side: Side): Side => (side === 'mta' ? 'milter' : 'mta');

/** `192.0.2.1:25`, `[2001:db8::1]:25`, a path. */
export function showEndpoint(endpoint: Endpoint | undefined): string {
  if (endpoint === undefined || endpoint.address === '') return 'an unknown address';
  if (endpoint.port === 0) return endpoint.address;
  return endpoint.address.includes(':')
    ? `[${endpoint.address}]:${endpoint.port}`
    : `${endpoint.address}:${endpoint.port}`;
}

/** A code byte: `'H' (0x48)`. */
export function showLetter(code: number): string {
  const hex = `0x${code.toString(16).padStart(2, '0')}`;
  return code > 0x20 && code < 0x7f ? `'${String.fromCharCode(code)}' (${hex})` : hex;
}

/** A packet as an object that JSON can hold: bytes as text (toBytes() gives them back), an error as its words. */
export function packetToJson(packet: Command | Reply | OddPacket): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(packet).map(([name, value]: [string, unknown]) => [
      name,
      Buffer.isBuffer(value) ? toText(value) : value instanceof MilterError ? value.message : value,
    ]),
  );
}
