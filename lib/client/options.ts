/** The options of a client, checked once, when it is made. */
import * as c from '../constants.js';
import {
  abortSignal,
  holdToRules,
  isWhole,
  MAX_MS,
  oneOf,
  optionError,
  wholeTo,
  yesOrNo,
  type Rule,
} from '../option-rules.js';
import { Message } from './message.js';
import type { ClientOptions } from './types.js';

/** Options with their defaults. */
export type CheckedClientOptions = {
  readonly [K in Exclude<keyof ClientOptions, 'signal'>]-?: NonNullable<ClientOptions[K]>;
} & Pick<ClientOptions, 'signal'>;

/** How long each server waits unless it is told otherwise, in ms: chapter "Timeouts" of both servers' documentation. */
const PATIENCE = {
  postfix: { connectTimeout: 30_000, commandTimeout: 30_000, contentTimeout: 300_000, eobTimeout: MAX_MS },
  sendmail: { connectTimeout: 300_000, commandTimeout: 10_000, contentTimeout: 10_000, eobTimeout: 300_000 },
};

/** What each protocol version has, as Postfix offers it. */
const STEPS_OF_VERSION: ReadonlyMap<unknown, number> = new Map([
  [2, c.SMFIP_ALLPROTOS_V2],
  [3, c.SMFIP_ALLPROTOS_V2 | c.SMFIP_NOUNKNOWN],
  [4, c.SMFIP_ALLPROTOS_V2 | c.SMFIP_NOUNKNOWN | c.SMFIP_NODATA],
  [6, c.SMFIP_ALLPROTOS],
]);

const bits: Rule = ['must be a number of 32 bits', (value) => isWhole(value, 0, 0xffff_ffff)];

const timeout = wholeTo(MAX_MS);

const RULES: Readonly<Record<keyof ClientOptions, Rule>> = {
  version: ['must be 2, 3, 4 or 6', (value) => STEPS_OF_VERSION.has(value)],
  actions: bits,
  protocol: bits,
  like: oneOf('postfix', 'sendmail'),
  macros: ['must be an object of objects', (value) => typeof value === 'object' && value !== null],
  ownMacros: yesOrNo,
  connectTimeout: timeout,
  commandTimeout: timeout,
  contentTimeout: timeout,
  eobTimeout: timeout,
  defaultAction: oneOf('throw', 'accept', 'reject', 'tempfail', 'shutdown', 'quarantine'),
  unagreedEdits: oneOf('refuse', 'apply'),
  ownHeaders: [
    'must be a string or a Buffer of header lines',
    (value) => (typeof value === 'string' || value instanceof Uint8Array) && isHeader(value),
  ],
  signal: abortSignal,
};

/**
 * @param defaultAction where none is given
 * @throws MilterError ERR_MILTER_OPTION that names the option and what it got
 */
export function checkClientOptions(
  options: ClientOptions,
  defaultAction: NonNullable<ClientOptions['defaultAction']>,
): CheckedClientOptions {
  if (typeof options !== 'object' || options === null) throw optionError('options', 'must be an object', options);
  holdToRules(options, RULES);
  const { version = c.SMFI_VERSION, like = 'postfix' } = options;
  const patience = PATIENCE[like];
  return {
    version,
    like,
    actions: options.actions ?? c.SMFIF_ALLOPTS,
    protocol: options.protocol ?? (STEPS_OF_VERSION.get(version) as number),
    macros: options.macros ?? {},
    ownMacros: options.ownMacros ?? true,
    connectTimeout: options.connectTimeout ?? patience.connectTimeout,
    commandTimeout: options.commandTimeout ?? patience.commandTimeout,
    contentTimeout: options.contentTimeout ?? patience.contentTimeout,
    eobTimeout: options.eobTimeout ?? patience.eobTimeout,
    defaultAction: options.defaultAction ?? defaultAction,
    unagreedEdits: options.unagreedEdits ?? 'refuse',
    ownHeaders: options.ownHeaders ?? '',
    signal: options.signal,
  };
}

/** Options over others: undefined is as if one were not there. */
export function over<T extends object>(others: ClientOptions, options: T): ClientOptions & T {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return { ...others, ...(Object.fromEntries(given) as T) };
}

function isHeader(text: string | Uint8Array): boolean {
  try {
    return Message.parse(text).body.length === 0;
  } catch {
    return false;
  }
}
