/**
 * Some tests use the package as its users do: by its name, which leads to dist/. It has to be there, and made of the
 * sources that are.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The package's folder. */
export const root = fileURLToPath(new URL('../../', import.meta.url));

/** @throws an Error that says what to do, unless dist/ is what `npm run build` would make */
export function demandBuild(): void {
  if (!existsSync(`${root}dist/index.js`)) {
    throw new Error('dist/ is missing, which this test uses as a user would: npm run build');
  }
  const built = statSync(`${root}dist/index.js`).mtimeMs;
  const newer = readdirSync(`${root}lib`, { recursive: true, encoding: 'utf8' }).filter(
    (file) => file.endsWith('.ts') && statSync(`${root}lib/${file}`).mtimeMs > built,
  );
  if (newer.length > 0) throw new Error(`dist/ is older than lib/${newer.join(', lib/')}: npm run build`);
}
