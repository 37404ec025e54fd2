// A private OpenDMARC, which has the policies of domains from a file and asks no name server.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';

import { shortFolder } from './folder.js';
import { AUTHSERV_ID } from './opendkim.js';
import { startListener } from './private-milter.js';
import { demand } from './real.js';

/**
 * @param policies the DMARC records, by domain
 * @returns its socket
 */
export async function startOpendmarc(t: Test, policies: Readonly<Record<string, string>>): Promise<string> {
  demand('opendmarc');
  const dir = shortFolder(t);
  const place = (name: string): string => join(dir, name);
  const records = Object.entries(policies).map(([domain, policy]) => `_dmarc.${domain} ${policy}\n`);
  await writeFile(place('dns'), records.join(''));
  const settings = {
    Socket: `local:${place('s')}`,
    Syslog: 'no',
    TestDNSData: place('dns'),
    AuthservID: AUTHSERV_ID,
    TrustedAuthservIDs: AUTHSERV_ID,
    RejectFailures: 'true',
    HoldQuarantinedMessages: 'true',
  };
  const text = Object.entries(settings).map((line) => `${line.join(' ')}\n`);
  await writeFile(place('conf'), text.join(''));
  return startListener(t, place('s'), '/usr/sbin/opendmarc', ['-f', '-c', place('conf')]);
}
