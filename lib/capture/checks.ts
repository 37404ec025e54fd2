/** What a file may claim, and what is taken for granted nowhere else. */
import type { Endpoint, Side } from './types.js';

/** Most sessions that are open at once: all ports that a mail server has on one address. */
export const MAX_OPEN = 65_536;

/** Date knows no other times (ECMA-262, Time Values and Time Range). */
const LATEST = 8.64e15;

export function isTime(value: unknown): value is number {
  return typeof value === 'number' && Math.abs(value) <= LATEST;
}

export function isSide(value: unknown): value is Side {
  return value === 'mta' || value === 'milter';
}

/** A number of bytes, a port. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The end of a connection in an object; what is none is left out. */
export function endpointOf(fields: Readonly<Record<string, unknown>>, side: Side): Partial<Record<Side, Endpoint>> {
  const end = fields[side] as Partial<Endpoint> | null | undefined;
  if (typeof end?.address !== 'string' || !isCount(end.port)) return {};
  return { [side]: { address: end.address, port: end.port } };
}
