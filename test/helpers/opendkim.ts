// Private OpenDKIMs: one that signs with a key of its own, one that verifies and has the public key from a file.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';

import { shortFolder } from './folder.js';
import { startListener } from './private-milter.js';
import { demand } from './real.js';
import { run } from './run.js';

/** Who the results are by: other milters have to trust it. */
export const AUTHSERV_ID = 'mx.example.org';

/** The domain that is signed for. */
export const DOMAIN = 'example.org';

export interface Opendkim {
  /** Signs what comes from this machine. */
  readonly signer: string;
  /** Verifies, and puts an Authentication-Results header on top of everything. */
  readonly verifier: string;
}

/** @param signedHeaders names of the headers to sign, where there are any */
export async function startOpendkim(t: Test, signedHeaders: readonly string[]): Promise<Opendkim> {
  demand('opendkim');
  const dir = shortFolder(t);
  const place = (name: string): string => join(dir, name);
  await run('/usr/bin/openssl', ['genrsa', '-out', place('key'), '2048']);
  const pem = await run('/usr/bin/openssl', ['rsa', '-in', place('key'), '-pubout']);
  const base64 = pem.replaceAll(/-----.*-----|\n/g, '');
  await writeFile(place('public'), `test._domainkey.${DOMAIN} v=DKIM1; k=rsa; p=${base64}\n`);

  const start = async (name: string, settings: Record<string, string>): Promise<string> => {
    const lines = { Socket: `local:${place(name)}`, Syslog: 'no', ...settings };
    const text = Object.entries(lines).map((line) => `${line.join(' ')}\n`);
    await writeFile(place(`${name}.conf`), text.join(''));
    return startListener(t, place(name), '/usr/sbin/opendkim', ['-f', '-x', place(`${name}.conf`)]);
  };
  const signer = await start('s', {
    Mode: 's',
    Domain: DOMAIN,
    Selector: 'test',
    KeyFile: place('key'),
    // It does not like keys below a folder that everybody may write to, as the one for temporary files.
    RequireSafeKeys: 'no',
    // Not a blank may change.
    Canonicalization: 'simple/simple',
    SignHeaders: signedHeaders.join(','),
    // There may not be a second one.
    OversignHeaders: 'From',
  });
  const verifier = await start('v', {
    Mode: 'v',
    AuthservID: AUTHSERV_ID,
    AlwaysAddARHeader: 'yes',
    TestPublicKeys: place('public'),
  });
  return { signer, verifier };
}
