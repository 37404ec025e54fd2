// Coverage is that of the library's sources: some tests use the built package besides, which is the same code again.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const sources = readdirSync('lib', { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
  .map((entry) => join(entry.parentPath, entry.name));

export default () => sources;
