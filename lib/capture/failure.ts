/** What the readers of captures throw. */
import { MilterError } from '../errors.js';

/** @param place where in the file: a frame, a line, an offset */
export function broken(what: string, place: string, offset?: number): MilterError {
  return new MilterError('ERR_MILTER_CAPTURE', `${what} (${place})`, offset === undefined ? {} : { offset });
}
