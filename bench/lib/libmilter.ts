/** Makes the peer that needs a C compiler and libmilter (Debian: gcc, libmilter-dev), where both are there. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('../peers/libmilter.c', import.meta.url));

/** The path of the program, or why there is none. */
export function compileLibmilter(folder: string): { readonly program: string } | { readonly missing: string } {
  const program = join(folder, 'libmilter');
  const made = spawnSync('gcc', ['-O2', '-o', program, source, '-lmilter', '-lpthread'], { encoding: 'utf8' });
  if (made.error !== undefined) return { missing: 'there is no gcc' };
  if (made.status === 0) return { program };
  if (/mfapi\.h|-lmilter/.test(made.stderr)) return { missing: 'there is no libmilter/mfapi.h (libmilter-dev)' };
  return { missing: `libmilter.c does not compile: ${made.stderr.split('\n')[0]}` };
}
