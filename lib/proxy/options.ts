/** The options of a proxy, checked once, when it is made. */
import { MILTER_MDS_1M } from '../constants.js';
import { MilterError, show } from '../errors.js';
import type { ProxyOptions } from './types.js';

export type CheckedProxyOptions = {
  readonly [K in Exclude<keyof ProxyOptions, 'trickle'>]-?: NonNullable<ProxyOptions[K]>;
} & Pick<ProxyOptions, 'trickle'>;

type Rule = readonly [words: string, holds: (value: unknown) => boolean];

const wholeTo = (max: number): Rule => [
  `must be a whole number from 1 to ${max}`,
  (value) => Number.isInteger(value) && (value as number) >= 1 && (value as number) <= max,
];

const ACTIONS: ReadonlySet<unknown> = new Set(['tempfail', 'reject', 'accept', 'shutdown', 'close']);

const RULES: Readonly<Record<keyof ProxyOptions, Rule>> = {
  onFailure: ["must be 'tempfail', 'reject', 'accept', 'shutdown' or 'close'", (value) => ACTIONS.has(value)],
  connectTimeout: wholeTo(0x7fff_ffff),
  maxPayload: wholeTo(0x3fff_ffff),
  sharedReads: ['must be true or false', (value) => typeof value === 'boolean'],
  trickle: wholeTo(0x7fff_ffff),
};

/** @throws MilterError ERR_MILTER_OPTION that names the option and what it got */
export function checkProxyOptions(options: ProxyOptions): CheckedProxyOptions {
  for (const [name, value] of Object.entries(options)) {
    const rule = Object.hasOwn(RULES, name) ? RULES[name as keyof ProxyOptions] : undefined;
    if (rule === undefined) throw bad(name, 'is no option', value);
    if (value !== undefined && !rule[1](value)) throw bad(name, rule[0], value);
  }
  return {
    onFailure: options.onFailure ?? 'tempfail',
    connectTimeout: options.connectTimeout ?? 10_000,
    maxPayload: options.maxPayload ?? MILTER_MDS_1M,
    sharedReads: options.sharedReads ?? true,
    trickle: options.trickle,
  };
}

function bad(name: string, words: string, value: unknown): MilterError {
  return new MilterError('ERR_MILTER_OPTION', `${name} ${words}, got ${show(value)}`);
}
