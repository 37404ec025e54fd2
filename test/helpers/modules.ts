/** Modules that tests write, for workers to load. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const library = new URL('../../lib/index.js', import.meta.url).href;

/** Writes a module that has the library at hand; gives its URL. */
export function writeModule(folder: string, name: string, code: string): string {
  const file = join(folder, name);
  writeFileSync(
    file,
    `import { AsyncFactory, ForkFactory, isMilterWorker, MilterProtocol, ThreadFactory } from '${library}';\n${code}`,
  );
  return pathToFileURL(file).href;
}
