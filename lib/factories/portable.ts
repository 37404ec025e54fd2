/** Errors and details of log lines on their way to another thread or process, which takes neither classes nor functions. */
import { MilterError, show, type MilterErrorCode } from '../errors.js';

/** An error as plain data. */
export interface PackedError {
  readonly name: string;
  readonly message: string;
  readonly stack?: string | undefined;
  readonly code?: unknown;
  readonly packet?: unknown;
  readonly offset?: unknown;
  readonly stage?: unknown;
  readonly bytes?: Uint8Array;
  readonly cause?: PackedError;
}

/** How deep causes are followed: they may go in a circle. */
const DEPTH = 8;

const PLAIN = ['code', 'packet', 'offset', 'stage'] as const;

/** Whatever was thrown, as data. */
export function packError(thrown: unknown, depth = 0): PackedError {
  if (!(thrown instanceof Error)) return { name: '', message: typeof thrown === 'string' ? thrown : show(thrown) };
  const packed: Record<string, unknown> = {
    name: text(thrown.name) || 'Error',
    message: text(thrown.message),
    stack: text(thrown.stack),
  };
  const details = thrown as { [K in (typeof PLAIN)[number]]?: unknown } & { bytes?: unknown };
  for (const key of PLAIN) {
    const value = details[key];
    if (typeof value === 'string' || typeof value === 'number') packed[key] = value;
  }
  if (details.bytes instanceof Uint8Array) packed['bytes'] = Uint8Array.from(details.bytes);
  if (thrown.cause !== undefined && depth < DEPTH) packed['cause'] = packError(thrown.cause, depth + 1);
  return packed as unknown as PackedError;
}

/** Errors are made by anybody, of anything. */
function text(value: unknown): string {
  return typeof value === 'string' ? value : show(value);
}

/** The error again: a MilterError where it was one, else an Error of the same name; what was no error, itself. */
export function unpackError(packed: PackedError): unknown {
  const { name, message, stack, cause, bytes, ...details } = packed;
  if (name === '') return message;
  const inner = cause === undefined ? {} : { cause: unpackError(cause) };
  const error =
    name === 'MilterError'
      ? new MilterError(details.code as MilterErrorCode, message, inner)
      : Object.defineProperty(new Error(message, inner), 'name', { value: name, configurable: true });
  Object.assign(error, details, bytes === undefined ? {} : { bytes: Buffer.from(bytes) });
  if (stack !== undefined) error.stack = stack;
  return error;
}

/** An error that the library reports: one of another kind becomes the cause of a MilterError. */
export function unpackMilterError(packed: PackedError, code: MilterErrorCode, what: string): MilterError {
  const error = unpackError(packed);
  if (error instanceof MilterError) return error;
  return new MilterError(code, `${what}: ${packed.message}`, { cause: error });
}

/** An error among the details of a log line. */
interface PackedDetail {
  readonly error?: PackedError;
  readonly value?: unknown;
}

export type PackedDetails = Readonly<Record<string, PackedDetail>>;

/** The details of a log line: what cannot travel goes as its picture. */
export function packDetails(details: object): PackedDetails {
  return Object.fromEntries(Object.entries(details).map(([key, value]) => [key, packDetail(value)]));
}

function packDetail(value: unknown): PackedDetail {
  if (value instanceof Error) return { error: packError(value) };
  try {
    return { value: structuredClone(value) };
  } catch {
    return { value: show(value) };
  }
}

export function unpackDetails(packed: PackedDetails): object {
  const entries = Object.entries(packed);
  return Object.fromEntries(
    entries.map(([key, { error, value }]) => [key, error === undefined ? value : unpackError(error)]),
  );
}
