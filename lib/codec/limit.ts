/** The largest payload that anything reads or writes: an option wherever there is one. */
import { MilterError, show } from '../errors.js';

/** Above this Postfix refuses a packet whatever was agreed; the length would still fit into its four bytes. */
const MAX = 0x3fff_ffff;

/**
 * The value, if it can be a maxPayload.
 * @throws MilterError ERR_MILTER_OPTION
 */
export function checkMaxPayload(value: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= MAX) return value;
  throw new MilterError('ERR_MILTER_OPTION', `maxPayload must be a whole number from 0 to ${MAX}, got ${show(value)}`);
}
