/** The options of a session, checked once, when the session or the factory is made. */
import createDebug from 'debug';
import { MILTER_MDS_1M, SMFIF_ALLOPTS, SMFIP_ALLPROTOS, type Verdict } from '../constants.js';
import type { MilterError } from '../errors.js';
import { MAX_MS, optionError } from '../option-rules.js';
import type { Stage } from '../stages.js';

const debug = createDebug('milter:log');

/** What a callback's failure is answered with. A function gets the error and says a verdict legal at that stage. */
export type ErrorPolicy =
  'tempfail' | 'accept' | 'reject' | ((error: MilterError, where: { readonly stage: Stage }) => Verdict);

/** Where messages go: pino's order, details first; console does too. */
export interface Logger {
  info(details: object, message: string): void;
  warn(details: object, message: string): void;
  error(details: object, message: string): void;
}

export interface SessionOptions<Context = unknown> {
  /** SMFIF_ bits: what the milter would like to do to messages. What the server lacks is left out. Default 0. */
  smfifOptions?: number | undefined;
  /** SMFIP_ bits to ask for besides those that follow from the callbacks: RCPT_REJ, SKIP, HDR_LEADSPC. Default 0. */
  smfipOptions?: number | undefined;
  /** SMFIF_ bits without which the session ends, unanswered. Default 0. */
  required?: number | undefined;
  /** A value for the milter: `this.context`. */
  context?: Context | undefined;
  /** Largest payload that is read, in bytes. Default 1,048,575, the largest that can be negotiated. */
  maxPayload?: number | undefined;
  /** How long nothing may come, in ms. Default 7,210,000: a little more than two hours, so that the server gives up first. */
  idleTimeout?: number | undefined;
  /** How long the offer may take to come, in ms. Default 30,000. */
  negotiationTimeout?: number | undefined;
  /** How long a callback before eob() may take, in ms. Default 8,000: Sendmail waits 10 seconds. */
  callbackDeadline?: number | undefined;
  /** How long eob() may take, reading a new body included, in ms. Default 270,000: both servers wait 300 seconds. */
  eobDeadline?: number | undefined;
  /** When eob() first tells the server that it is still at work, in ms. Default 3,000. */
  progressAfter?: number | undefined;
  /** How often it does so then, in ms. Default 3,000. */
  progressEvery?: number | undefined;
  /** Most bytes of the edits of one message, the body not counted. Default 1 MiB. */
  maxModifications?: number | undefined;
  /** How many bytes of a body given as a stream are kept in memory before a file is used. Default 256 KiB. */
  spoolMemory?: number | undefined;
  /**
   * What a failing callback is answered with. Default: the class's `static errorPolicy`, else 'tempfail'. A function
   * cannot travel to the workers of ThreadFactory and ForkFactory: there it must be the static.
   */
  errorPolicy?: ErrorPolicy | undefined;
  /** Callbacks run, what they would have done is logged, every message passes unchanged. Default false. */
  dryRun?: boolean | undefined;
  /** SHUTDOWN and CONN_FAIL go out as the packets of these names, which Sendmail does not take. Default false. */
  bareReplies?: boolean | undefined;
  /** Where errors and warnings go. Default: nowhere (the debug namespaces milter:* have them all). */
  log?: Logger | undefined;
  /** Log a line for each message too: queue id, verdict, edits, time. Default false. */
  logMessages?: boolean | undefined;
}

/** Every line goes to the debug namespace too, and a logger that fails harms nobody. */
export function careful(log: Logger): Logger {
  const level =
    (name: keyof Logger) =>
    (details: object, message: string): void => {
      debug('%s %o', message, details);
      try {
        log[name](details, message);
      } catch (error) {
        debug('log.%s() failed: %s', name, error);
      }
    };
  return { info: level('info'), warn: level('warn'), error: level('error') };
}

/** The options with their defaults. */
export type CheckedOptions = {
  [K in keyof Required<Omit<SessionOptions, 'context' | 'errorPolicy'>>]: NonNullable<SessionOptions[K]>;
} & {
  context: unknown;
  errorPolicy: ErrorPolicy | undefined;
};

const nowhere: Logger = { info() {}, warn() {}, error() {} };

const DEFAULTS: CheckedOptions = {
  smfifOptions: 0,
  smfipOptions: 0,
  required: 0,
  context: undefined,
  maxPayload: MILTER_MDS_1M,
  idleTimeout: 7_210_000,
  negotiationTimeout: 30_000,
  callbackDeadline: 8_000,
  eobDeadline: 270_000,
  progressAfter: 3_000,
  progressEvery: 3_000,
  maxModifications: 1_048_576,
  spoolMemory: 262_144,
  errorPolicy: undefined,
  dryRun: false,
  bareReplies: false,
  log: nowhere,
  logMessages: false,
};

type Check = (name: string, value: unknown) => void;

/** @throws MilterError ERR_MILTER_OPTION unless it is a whole number in a range */
export const whole =
  (min: number, max: number): Check =>
  (name, value) => {
    if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
      throw optionError(name, `must be a whole number from ${min} to ${max}`, value);
    }
  };

/** Each mask is a row of ones, so the range is enough. */
const bits =
  (mask: number, prefix: string): Check =>
  (name, value) => {
    if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > mask) {
      throw optionError(name, `must be ${prefix} bits`, value);
    }
  };

export const flag: Check = (name, value) => {
  if (typeof value !== 'boolean') throw optionError(name, 'must be true or false', value);
};

const anything: Check = () => {};

/** The checks of the options, and of the statics of the same names. */
export const actionBits = bits(SMFIF_ALLOPTS, 'SMFIF_');
export const protocolBits = bits(SMFIP_ALLPROTOS, 'SMFIP_');

/** The check of the option, and of the static of the same name. */
export const errorPolicy: Check = (name, value) => {
  if (typeof value !== 'function' && !['tempfail', 'accept', 'reject'].includes(value as string)) {
    throw optionError(name, "must be 'tempfail', 'accept', 'reject' or a function", value);
  }
};

const CHECKS: Readonly<Record<keyof SessionOptions, Check>> = {
  smfifOptions: actionBits,
  smfipOptions: protocolBits,
  required: actionBits,
  context: anything,
  maxPayload: whole(1, 0x3fff_ffff),
  idleTimeout: whole(1, MAX_MS),
  negotiationTimeout: whole(1, MAX_MS),
  callbackDeadline: whole(1, MAX_MS),
  eobDeadline: whole(1, MAX_MS),
  progressAfter: whole(1, MAX_MS),
  progressEvery: whole(1, MAX_MS),
  maxModifications: whole(0, 0x3fff_ffff),
  spoolMemory: whole(0, 0x3fff_ffff),
  errorPolicy,
  dryRun: flag,
  bareReplies: flag,
  log(name, value) {
    const logger = value as Partial<Logger> | null;
    if (['info', 'warn', 'error'].some((level) => typeof logger?.[level as keyof Logger] !== 'function')) {
      throw optionError(name, 'must have the methods info, warn and error', value);
    }
  },
  logMessages: flag,
};

/**
 * Options that are there are checked, the others get their defaults.
 * @param others names of options that somebody else checks
 * @throws MilterError ERR_MILTER_OPTION that names the option and what it got
 */
export function checkOptions(options: SessionOptions, others: readonly string[] = []): CheckedOptions {
  if (typeof options !== 'object' || options === null) throw optionError('options', 'must be an object', options);
  const checked: Record<string, unknown> = { ...DEFAULTS };
  for (const [name, value] of Object.entries(options)) {
    if (others.includes(name)) continue;
    if (!Object.hasOwn(CHECKS, name)) throw optionError(name, 'is no option', value);
    if (value === undefined) continue;
    CHECKS[name as keyof SessionOptions](name, value);
    checked[name] = value;
  }
  return checked as CheckedOptions;
}
