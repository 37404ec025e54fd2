// A private clamd, which knows one virus, the test's own; and private clamav-milters in front of it.

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';

import { MilterClient } from '../../lib/client/index.js';
import { shortFolder } from './folder.js';
import { startListener } from './private-milter.js';
import { demand } from './real.js';
import { until } from './until.js';

/** What clamd finds, wherever in a file. */
export const VIRUS = 'this-is-what-the-tests-of-milter-stream-call-a-virus';
/** What it calls that. */
export const VIRUS_NAME = 'Test.Ours.UNOFFICIAL';

export interface Clamav {
  /** Starts a clamav-milter with these settings; resolves with its socket. */
  milter(settings: Readonly<Record<string, string>>): Promise<string>;
}

export async function startClamav(t: Test, { clamd = true } = {}): Promise<Clamav> {
  demand('clamav');
  const dir = shortFolder(t);
  const place = (name: string): string => join(dir, name);
  const configure = async (name: string, settings: Readonly<Record<string, string>>): Promise<string> => {
    const common = { Foreground: 'yes', TemporaryDirectory: place('tmp'), LogSyslog: 'no' };
    const text = Object.entries({ ...common, ...settings }).map((line) => `${line.join(' ')}\n`);
    await writeFile(place(name), text.join(''));
    return place(name);
  };
  for (const name of ['tmp', 'db']) await mkdir(place(name));
  // Name, any type of file, any offset, the bytes. It puts .UNOFFICIAL behind the name.
  const signature = `${VIRUS_NAME.replace('.UNOFFICIAL', '')}:0:*:${Buffer.from(VIRUS).toString('hex')}\n`;
  await writeFile(place('db/ours.ndb'), signature);
  if (clamd) {
    const settings = { DatabaseDirectory: place('db'), LocalSocket: place('d'), MaxThreads: '2' };
    const conf = await configure('clamd.conf', settings);
    await startListener(t, place('d'), '/usr/sbin/clamd', ['-c', conf]);
  }

  let milters = 0;
  return {
    async milter(settings) {
      const name = `m${(milters += 1)}`;
      const own = { MilterSocket: `unix:${place(name)}`, ClamdSocket: `unix:${place('d')}`, OnFail: 'Defer' };
      const conf = await configure(`${name}.conf`, { ...own, ...settings });
      const address = await startListener(t, place(name), '/usr/sbin/clamav-milter', ['-c', conf]);
      // It takes mail before it has looked whether there is a clamd; until then, there is none to it.
      if (clamd) await until('clamav-milter to know of clamd', async () => !(await defers(address)));
      return address;
    },
  };
}

async function defers(address: string): Promise<boolean> {
  const client = new MilterClient(address);
  await client.connect();
  const mail = { from: '<a@example.org>', to: ['<b@example.com>'], message: 'Subject: are you there?\r\n\r\n' };
  const { verdict } = await client.send(mail);
  await client.quit();
  return verdict === 'tempFail';
}
