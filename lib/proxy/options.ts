/** The options of a proxy, checked once, when it is made. */
import { MILTER_MDS_1M } from '../constants.js';
import { holdToRules, MAX_MS, wholeTo, yesOrNo, type Rule } from '../option-rules.js';
import type { ProxyOptions } from './types.js';

export type CheckedProxyOptions = {
  readonly [K in Exclude<keyof ProxyOptions, 'trickle'>]-?: NonNullable<ProxyOptions[K]>;
} & Pick<ProxyOptions, 'trickle'>;

const ACTIONS: ReadonlySet<unknown> = new Set(['tempfail', 'reject', 'accept', 'shutdown', 'close']);

const RULES: Readonly<Record<keyof ProxyOptions, Rule>> = {
  onFailure: ["must be 'tempfail', 'reject', 'accept', 'shutdown' or 'close'", (value) => ACTIONS.has(value)],
  connectTimeout: wholeTo(MAX_MS),
  closeTimeout: wholeTo(MAX_MS),
  maxPayload: wholeTo(0x3fff_ffff),
  sharedReads: yesOrNo,
  trickle: wholeTo(0x7fff_ffff),
};

/** @throws MilterError ERR_MILTER_OPTION that names the option and what it got */
export function checkProxyOptions(options: ProxyOptions): CheckedProxyOptions {
  holdToRules(options, RULES);
  return {
    onFailure: options.onFailure ?? 'tempfail',
    connectTimeout: options.connectTimeout ?? 10_000,
    closeTimeout: options.closeTimeout ?? 30_000,
    maxPayload: options.maxPayload ?? MILTER_MDS_1M,
    sharedReads: options.sharedReads ?? true,
    trickle: options.trickle,
  };
}
