/** Where a milter's class lives, and everything else that a worker must know to run it. */
import { existsSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { MilterError } from '../errors.js';
import { MAX_MS, optionError } from '../option-rules.js';
import type { MilterClass } from '../session/milter-class.js';
import type { ProtocolClass } from '../session/protocol.js';
import type { WorkerStart } from './messages.js';
import type { CheckedFactoryOptions } from './options.js';

/**
 * The URL of the module that a class says it lives in.
 * @param who what needs to know it, for the error
 * @throws MilterError ERR_MILTER_OPTION that shows the line to add
 */
export function moduleOf(Milter: ProtocolClass, who: string): string {
  const name = Milter.name || 'the class';
  const line = `add \`static module = import.meta.url;\` to ${name}`;
  // An inherited one would name the module of the class that it extends.
  const module: unknown = Object.hasOwn(Milter, 'module') ? Milter.module : undefined;
  if (module === undefined)
    throw optionError('static module', `is needed by ${who}, whose workers load it: ${line}`, module);
  if (typeof module !== 'string') throw optionError('static module', `must be a URL: ${line}`, module);
  const url = urlOf(module);
  if (!URL.canParse(url)) throw optionError('static module', `must be a URL: ${line}`, module);
  if (url.startsWith('file:') && !isThere(url)) {
    throw optionError('static module', `must be that of a file that is there: ${line}`, module);
  }
  return url;
}

/** A file's URL may name another host: Node has no path for it. */
function isThere(url: string): boolean {
  try {
    return existsSync(fileURLToPath(url));
  } catch {
    return false;
  }
}

/** The URL of a module that may be given as a path. */
export function urlOf(module: string): string {
  return isAbsolute(module) ? pathToFileURL(module).href : module;
}

/** @throws MilterError ERR_MILTER_OPTION for a context that workers cannot get a copy of */
export function checkCloneable(
  context: unknown,
  who: string,
  clone: (value: unknown) => unknown = structuredClone,
): void {
  try {
    clone(context);
  } catch (cause) {
    const why = (cause as Error).message;
    throw new MilterError('ERR_MILTER_OPTION', `context cannot be cloned, as the workers of ${who} need it: ${why}`, {
      cause,
    });
  }
}

/**
 * What the workers of a class are told first.
 * @param options who has the mail server's socket, and how it is read
 */
export function workerStart(
  milterClass: MilterClass,
  who: string,
  { socket, sharedReads }: Pick<CheckedFactoryOptions, 'socket' | 'sharedReads'>,
): Omit<WorkerStart, 'worker'> {
  const { Milter, options } = milterClass;
  const { errorPolicy } = options;
  return {
    module: moduleOf(Milter, who),
    className: Milter.name,
    sharedReads,
    // The factory logs, and sends the progress if it has the socket: it can while the worker is busy. What is a function
    // stays with it, too.
    options: {
      ...options,
      log: undefined,
      errorPolicy: typeof errorPolicy === 'function' ? undefined : errorPolicy,
      ...(socket === 'parent' ? { progressAfter: MAX_MS, progressEvery: MAX_MS } : {}),
    },
  };
}
