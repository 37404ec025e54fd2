// A certificate of its own for a server that speaks TLS. Nobody checks who signed it.

import { join } from 'node:path';

import { demand } from './real.js';
import { run } from './run.js';

export interface Certificate {
  certFile: string;
  keyFile: string;
}

/** Writes a fresh key and a certificate for `name` into the folder. */
export async function makeCertificate(dir: string, name: string): Promise<Certificate> {
  demand('openssl');
  const [certFile, keyFile] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', keyFile];
  await run('openssl', ['req', '-x509', ...key, '-out', certFile, '-days', '2', '-subj', `/CN=${name}`]);
  return { certFile, keyFile };
}
