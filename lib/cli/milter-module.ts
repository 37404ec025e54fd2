/** Finds the milter's class in a module of somebody's, and lets workers find it as well. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { show } from '../errors.js';
import { brandOf, type ProtocolClass } from '../session/protocol.js';
import { CliError, EXIT } from './exit.js';

/** A class, and where it was found. */
export interface Found {
  readonly Milter: ProtocolClass;
  /** The module's URL. */
  readonly url: string;
  /** The name of the export. */
  readonly key: string;
}

/**
 * Imports a module, and finds the milter's class in it.
 * @param module a path, or the name of a package that is installed where we are
 * @param wanted the name of the export; else the default export, or the only one that is a milter
 * @throws CliError
 */
export async function findMilter(module: string, wanted: string | undefined): Promise<Found> {
  const url = locate(module);
  const exports = await load(module, url);
  const milters = Object.keys(exports).filter((key) => brandOf(exports[key]) !== undefined);
  const key = wanted ?? (milters.includes('default') ? 'default' : sole(milters, exports));
  if (key !== undefined && milters.includes(key)) return { Milter: exports[key] as ProtocolClass, url, key };
  throw new CliError(EXIT.data, `${module}: ${none(exports, milters, wanted)}`);
}

function locate(module: string): string {
  const path = resolve(module);
  if (existsSync(path)) return pathToFileURL(path).href;
  try {
    return pathToFileURL(createRequire(join(process.cwd(), 'x')).resolve(module)).href;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const missing = code === 'MODULE_NOT_FOUND';
    const why = missing ? 'there is no such file, and no such package is installed here' : message.split('\n')[0];
    throw new CliError(EXIT.noInput, `Cannot find ${module}: ${why}`);
  }
}

async function load(module: string, url: string): Promise<Record<string, unknown>> {
  try {
    return (await import(url)) as Record<string, unknown>;
  } catch (error) {
    throw new CliError(EXIT.data, `Cannot load ${module}: ${whyNot(error)}`);
  }
}

/** What went wrong and where, without the stack. */
function whyNot(error: unknown): string {
  if (!(error instanceof Error)) return `it throws ${show(error)}`;
  const place = /(?:file:\/\/|\/)[^\s()]+:\d+(?::\d+)?/.exec(error.stack ?? '')?.[0];
  const hint = /unknown.file.extension/i.test(error.message)
    ? '; compile it, or have Node load it: node --import tsx node_modules/.bin/milter-stream serve …'
    : '';
  return `${error.name}: ${error.message.split('\n')[0]}${place === undefined ? '' : ` (${place})`}${hint}`;
}

/** Two names of one class are no choice. */
function sole(milters: readonly string[], exports: Record<string, unknown>): string | undefined {
  return new Set(milters.map((key) => exports[key])).size === 1 ? milters[0] : undefined;
}

function none(exports: Record<string, unknown>, milters: readonly string[], wanted: string | undefined): string {
  if (milters.length === 0) {
    const names = Object.keys(exports).join(', ') || 'nothing';
    return `it exports no class that extends MilterProtocol (it exports ${names})`;
  }
  const which = milters.join(', ');
  return wanted === undefined
    ? `it exports several milters: choose one of ${which} with --export`
    : `it exports no milter called ${wanted}: there is ${which}`;
}

/**
 * The workers of ThreadFactory and ForkFactory find a class by the module that it says it lives in. One that does not say
 * so gets a module made for it, whose whole text is in its URL.
 */
export function tellModule({ Milter, url, key }: Found): void {
  if (Object.hasOwn(Milter, 'module')) return;
  const text =
    `import { milterInWorker } from ${JSON.stringify(import.meta.url)};\n` +
    `export default await milterInWorker(${JSON.stringify(url)}, ${JSON.stringify(key)}, import.meta.url);\n`;
  setModule(Milter, `data:text/javascript,${encodeURIComponent(text)}`);
}

/** What that module does. */
export async function milterInWorker(url: string, key: string, module: string): Promise<unknown> {
  const Milter = ((await import(url)) as Record<string, unknown>)[key];
  setModule(Milter as ProtocolClass, module);
  return Milter;
}

function setModule(Milter: ProtocolClass, module: string): void {
  Object.defineProperty(Milter, 'module', { value: module, configurable: true });
}
