/** Exit statuses: small ones say what became of the mail, those from 64 on are of sysexits(3). */
import { MilterError, type MilterErrorCode } from '../errors.js';

export const EXIT = {
  ok: 0,
  rejected: 1,
  tempFailed: 2,
  discarded: 3,
  /** Wrong command line. */
  usage: 64,
  /** Wrong data in a file. */
  data: 65,
  /** A file cannot be read. */
  noInput: 66,
  /** The other side cannot be reached, is lost, or is silent. */
  unavailable: 69,
  /** A program fails: the milter's, or this one. */
  software: 70,
  /** A file cannot be written. */
  cannotWrite: 73,
  /** The other side does not keep to the protocol. */
  protocol: 76,
  /** Ended by Ctrl-C: what a shell says of SIGINT. */
  interrupted: 130,
} as const;

/** A failure that the user is told of in one line. */
export class CliError extends Error {
  /** The exit status. */
  readonly exit: number;

  constructor(exit: number, message: string) {
    super(message);
    this.exit = exit;
  }
}

export function usageError(message: string): CliError {
  return new CliError(EXIT.usage, message);
}

export function cannotWrite(what: string, why: string): CliError {
  return new CliError(EXIT.cannotWrite, `Cannot write ${what}: ${why}`);
}

const BY_CODE: Partial<Record<MilterErrorCode, number>> = {
  ERR_MILTER_OPTION: EXIT.usage,
  ERR_MILTER_ADDRESS: EXIT.usage,
  ERR_MILTER_UNSUPPORTED: EXIT.usage,
  ERR_MILTER_ARGUMENT: EXIT.data,
  ERR_MILTER_TEXT: EXIT.data,
  ERR_MILTER_VALUE: EXIT.data,
  ERR_MILTER_CAPTURE: EXIT.data,
  ERR_MILTER_CONNECTION: EXIT.unavailable,
  ERR_MILTER_TIMEOUT: EXIT.unavailable,
  ERR_MILTER_ABORTED: EXIT.unavailable,
  ERR_MILTER_LISTEN: EXIT.unavailable,
  ERR_MILTER_CALLBACK: EXIT.software,
  ERR_MILTER_WORKER: EXIT.software,
};

/** The status for an error of the library: what it does not name is the protocol, not kept to. */
export function exitOf({ code }: MilterError): number {
  return BY_CODE[code] ?? EXIT.protocol;
}

/** An error of the library. @throws any other: it is the program's own */
export function milterError(error: unknown): MilterError {
  if (error instanceof MilterError) return error;
  throw error;
}

/** An error that the user can do something about; undefined for one of the program's own. */
export function asCliError(error: unknown): CliError | undefined {
  if (error instanceof CliError) return error;
  return error instanceof MilterError ? new CliError(exitOf(error), error.message) : undefined;
}
