/** Sees what only the inside of a milter's session knows: its failures, and what it would log. */
import type { MilterError } from '../errors.js';
import type { Logger } from '../session/options.js';

/** A line that a session has logged. */
export interface LogLine {
  readonly level: keyof Logger;
  readonly message: string;
  readonly details: object;
}

export class Witness {
  /** What callbacks have failed with, in order. */
  readonly sessionErrors: MilterError[] = [];
  readonly logs: LogLine[] = [];
  /** How many of the failures somebody has been told of. */
  #told = 0;

  /** Takes down lines on their way to the logger, if there is one. */
  logger(log: Logger | undefined): Logger {
    const level =
      (name: keyof Logger) =>
      (details: object, message: string): void => {
        this.logs.push({ level: name, message, details });
        log?.[name](details, message);
      };
    return { info: level('info'), warn: level('warn'), error: level('error') };
  }

  readonly saw = (error: MilterError): void => void this.sessionErrors.push(error);

  /** The first failure that nobody has been told of; from now on somebody has been told of all. */
  news(): MilterError | undefined {
    const error = this.sessionErrors[this.#told];
    this.#told = this.sessionErrors.length;
    return error;
  }
}
