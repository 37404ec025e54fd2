/** The options of a replay, checked once, when it begins. */
import { MODELS, type MailServerName } from '../client/models.js';
import { replyCodec } from '../codec/replies.js';
import { abortSignal, holdToRules, MAX_MS, wholeTo, type Rule } from '../option-rules.js';
import type { Leniency } from './compare.js';
import type { ReplayOptions } from './types.js';

export interface CheckedReplayOptions {
  readonly sessions: ReadonlySet<string> | undefined;
  readonly connections: number;
  readonly speed: number | undefined;
  readonly leniency: Leniency;
  readonly like: MailServerName;
  readonly timeout: number;
  readonly eobTimeout: number;
  /** The caller has given up, or the replay is over. */
  readonly signal: AbortSignal;
}

const KINDS: ReadonlySet<unknown> = new Set(Array.from({ length: 256 }, (_, code) => replyCodec.typeOf(code)));

const all = (what: string, holds: (value: unknown) => boolean): Rule => [
  `must be a list of ${what}`,
  (value) => Array.isArray(value) && value.every(holds),
];
const isText = (value: unknown): boolean => typeof value === 'string';

const RULES: Readonly<Record<keyof ReplayOptions, Rule>> = {
  sessions: all('names', isText),
  connections: wholeTo(10_000),
  speed: ['must be a number above 0', (value) => typeof value === 'number' && value > 0],
  ignore: all('kinds of replies, like progress', (value) => value !== undefined && KINDS.has(value)),
  ignoreHeaders: all('names of headers', isText),
  like: ["must be 'postfix' or 'sendmail'", (value) => typeof value === 'string' && Object.hasOwn(MODELS, value)],
  timeout: wholeTo(MAX_MS),
  eobTimeout: wholeTo(MAX_MS),
  signal: abortSignal,
};

/**
 * @param over aborted when nobody wants more
 * @throws MilterError ERR_MILTER_OPTION that names the option and what it got
 */
export function checkReplayOptions(options: ReplayOptions, over: AbortSignal): CheckedReplayOptions {
  holdToRules(options, RULES);
  const { signal, sessions, ignore = ['progress'], ignoreHeaders = [], timeout = 30_000 } = options;
  return {
    sessions: sessions && new Set(sessions),
    connections: options.connections ?? 1,
    speed: options.speed,
    leniency: { ignore: new Set(ignore), headers: new Set(ignoreHeaders.map((name) => name.toLowerCase())) },
    like: options.like ?? 'postfix',
    timeout,
    eobTimeout: options.eobTimeout ?? Math.max(300_000, timeout),
    signal: signal === undefined ? over : AbortSignal.any([signal, over]),
  };
}
