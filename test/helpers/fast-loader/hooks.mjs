// Finds the .ts of an import of .js, and strips its types with esbuild; what was made once is kept in .tap.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const cache = fileURLToPath(new URL('../../../.tap/fast-loader/', import.meta.url));
mkdirSync(cache, { recursive: true });

export async function resolve(specifier, context, next) {
  if (/^(\.|file:).*\.js$/.test(specifier)) {
    const url = new URL(specifier, context.parentURL).href;
    const source = url.replace(/\.js$/, '.ts');
    if (!existsSync(fileURLToPath(url)) && existsSync(fileURLToPath(source)))
      return { url: source, shortCircuit: true };
  }
  return next(specifier, context);
}

export async function load(url, context, next) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return next(url, context);
  const path = fileURLToPath(url);
  return { format: 'module', shortCircuit: true, source: await compiled(path, readFileSync(path, 'utf8')) };
}

async function compiled(path, text) {
  const kept = `${cache}${createHash('sha1').update(path).update(text).digest('hex')}.js`;
  if (existsSync(kept)) return readFileSync(kept, 'utf8');
  const { transform } = await import('esbuild');
  const { code } = await transform(text, {
    loader: 'ts',
    format: 'esm',
    target: 'node20',
    sourcefile: path,
    sourcemap: 'inline',
  });
  const own = `${kept}.${process.pid}.${Math.random()}`;
  writeFileSync(own, code);
  renameSync(own, kept); // whole, whoever else makes it at the same time
  return code;
}
