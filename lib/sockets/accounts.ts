/** Users and groups by name, as far as the local files know them: Node has no call for it. */
import { readFile } from 'node:fs/promises';
import { MilterError } from '../errors.js';

/**
 * The number of a user or group.
 * @param file /etc/passwd or /etc/group
 * @throws MilterError ERR_MILTER_OPTION for a name that is not in the file
 */
export async function accountId(option: string, account: string | number, file: string): Promise<number> {
  if (typeof account === 'number') return account;
  const lines = (await readFile(file, 'utf8')).split('\n');
  const entry = lines.map((line) => line.split(':')).find(([name]) => name === account);
  if (entry !== undefined) return Number(entry[2]);
  throw new MilterError('ERR_MILTER_OPTION', `${option}: ${file} has no '${account}'; a number works for any account`);
}
