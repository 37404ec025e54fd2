/** The options of a client, checked once, when it is made. */
import * as c from '../constants.js';
import { MilterError, show } from '../errors.js';
import type { ClientOptions } from './types.js';

/** Options with their defaults. */
export type CheckedClientOptions = { readonly [K in keyof ClientOptions]-?: NonNullable<ClientOptions[K]> };

/** What each protocol version has, as Postfix offers it. */
const STEPS_OF_VERSION: ReadonlyMap<unknown, number> = new Map([
  [2, c.SMFIP_ALLPROTOS_V2],
  [3, c.SMFIP_ALLPROTOS_V2 | c.SMFIP_NOUNKNOWN],
  [4, c.SMFIP_ALLPROTOS_V2 | c.SMFIP_NOUNKNOWN | c.SMFIP_NODATA],
  [6, c.SMFIP_ALLPROTOS],
]);

type Rule = readonly [words: string, holds: (value: unknown) => boolean];

const isWhole = (value: unknown, min: number, max: number): boolean =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max;

const bits: Rule = ['must be a number of 32 bits', (value) => isWhole(value, 0, 0xffff_ffff)];

/** setTimeout() takes no more; longer ones would fire at once. */
const MAX_MS = 0x7fff_ffff;
const timeout: Rule = [`must be a whole number from 1 to ${MAX_MS}`, (value) => isWhole(value, 1, MAX_MS)];

const RULES: Readonly<Record<keyof ClientOptions, Rule>> = {
  version: ['must be 2, 3, 4 or 6', (value) => STEPS_OF_VERSION.has(value)],
  actions: bits,
  protocol: bits,
  like: ["must be 'postfix' or 'sendmail'", (value) => value === 'postfix' || value === 'sendmail'],
  macros: ['must be an object of objects', (value) => typeof value === 'object' && value !== null],
  connectTimeout: timeout,
  commandTimeout: timeout,
  contentTimeout: timeout,
};

/** @throws MilterError ERR_MILTER_OPTION that names the option and what it got */
export function checkClientOptions(options: ClientOptions): CheckedClientOptions {
  if (typeof options !== 'object' || options === null) throw bad('options', 'must be an object', options);
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(RULES, name)) throw bad(name, 'is no option', value);
    const [words, holds] = RULES[name as keyof ClientOptions];
    if (value !== undefined && !holds(value)) throw bad(name, words, value);
  }
  const { version = c.SMFI_VERSION } = options;
  return {
    version,
    actions: options.actions ?? c.SMFIF_ALLOPTS,
    protocol: options.protocol ?? (STEPS_OF_VERSION.get(version) as number),
    like: options.like ?? 'postfix',
    macros: options.macros ?? {},
    connectTimeout: options.connectTimeout ?? 30_000,
    commandTimeout: options.commandTimeout ?? 30_000,
    contentTimeout: options.contentTimeout ?? 300_000,
  };
}

function bad(name: string, words: string, value: unknown): MilterError {
  return new MilterError('ERR_MILTER_OPTION', `${name} ${words}, got ${show(value)}`);
}
