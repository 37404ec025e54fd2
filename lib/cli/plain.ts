/** Packets and results as plain data for JSON. */
import { isUint8Array } from 'node:util/types';
import { toText } from '../codec/text.js';

/** Bytes become text, of which toBytes() makes the same bytes again; a packet's own bytes are left out. */
export function plain(value: unknown): unknown {
  if (isUint8Array(value)) return toText(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).filter(([key]) => key !== 'raw');
  return Object.fromEntries(entries.map(([key, inner]) => [key, plain(inner)]));
}

/** An error of the library. */
export function plainError(error: Error): object {
  const { code, stage } = error as { code?: unknown; stage?: unknown };
  return { code, message: error.message, stage };
}
