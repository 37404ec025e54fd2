/** The arguments of a factory, in both of their forms, checked once. */
import { MAX_MS, optionError } from '../option-rules.js';
import type { ResourceLimits } from 'node:worker_threads';
import { SMFIF_ALLOPTS } from '../constants.js';
import { actionBits, checkOptions, flag, whole, type CheckedOptions, type SessionOptions } from '../session/options.js';
import type { ListenOptions } from '../sockets/listen.js';

export interface FactoryOptions<Context = unknown> extends SessionOptions<Context> {
  /** How many connections may wait to be accepted: the documentation's tcpListenQueue. Default 50. */
  backlog?: number | undefined;
  /**
   * Mode of a Unix socket. Default 0o666, as documented: every local user may then talk to the milter.
   * 0o660 with the mail server's group as sockGroup is better.
   */
  sockChmod?: number | undefined;
  /** Owner of a Unix socket: a name from /etc/passwd or a number. Default: the process's user. */
  sockOwner?: string | number | undefined;
  /** Group of a Unix socket: a name from /etc/group or a number. Default: the process's group. */
  sockGroup?: string | number | undefined;
  /** How many connections are served at once. Default: as many as come. */
  maxConnections?: number | undefined;
  /**
   * What becomes of more connections: 'queue' (default) lets them wait, unread, for their turn; 'tempfail' has their
   * mail come back later; 'close' closes them, which a mail server may take as leave to skip the milter.
   */
  overload?: 'queue' | 'tempfail' | 'close' | undefined;
  /**
   * How many workers ThreadFactory and ForkFactory keep, and how many threads AsyncFactory has for callInThread. Default:
   * one for each core.
   */
  workers?: number | undefined;
  /**
   * ThreadFactory and ForkFactory: a thread or process of its own for each connection, as python-libmilter has it, instead
   * of a pool; one is always kept in reserve. Default false.
   */
  perSession?: boolean | undefined;
  /** How long a worker may take to load the module and run setup(), in ms. Default 30,000. */
  startTimeout?: number | undefined;
  /** Limits of a worker's memory, as of Node's worker threads; ForkFactory makes flags of them. Default: Node's. */
  resourceLimits?: ResourceLimits | undefined;
  /** Node's flags for workers, like `--import` or `--enable-source-maps`. Default: those of this process. */
  execArgv?: readonly string[] | undefined;
  /**
   * ForkFactory: 'child' hands the connection itself to a process. That is faster, and a process that dies then closes
   * its connections: what that means is up to the mail server's default action. Default 'parent'.
   */
  socket?: 'parent' | 'child' | undefined;
  /**
   * Reads all connections of a thread into one buffer, which is a good deal faster and hangs on something undocumented of
   * Node's (where that is missing, it is as if this were false). false: sockets are read by their 'data' events.
   * Default true.
   */
  sharedReads?: boolean | undefined;
  /** How long close() waits for the messages in progress, in ms. Default 30,000. */
  closeTimeout?: number | undefined;
  /** Aborted: the same as close(). */
  signal?: AbortSignal | undefined;
}

/** What a factory works with. */
export interface CheckedFactoryOptions {
  readonly session: CheckedOptions;
  readonly listen: ListenOptions;
  readonly maxConnections: number;
  readonly overload: 'queue' | 'tempfail' | 'close';
  /** undefined: one for each core. */
  readonly workers: number | undefined;
  readonly perSession: boolean;
  readonly startTimeout: number;
  readonly resourceLimits: ResourceLimits | undefined;
  readonly execArgv: readonly string[] | undefined;
  readonly socket: 'parent' | 'child';
  readonly sharedReads: boolean;
  readonly closeTimeout: number;
  readonly signal: AbortSignal | undefined;
}

const OWN = [
  'backlog',
  'sockChmod',
  'sockOwner',
  'sockGroup',
  'maxConnections',
  'overload',
  'workers',
  'perSession',
  'startTimeout',
  'resourceLimits',
  'execArgv',
  'socket',
  'sharedReads',
  'closeTimeout',
  'signal',
] as const;

/**
 * The documentation's arguments, `(socketStr, MyMilter, smfifOptions, tcpListenQueue, sockChmod)`, or an options object
 * in the third or fourth place.
 * @throws MilterError ERR_MILTER_OPTION
 */
export function factoryOptions(third: unknown, fourth: unknown, fifth: unknown): CheckedFactoryOptions {
  if (isOptions(third)) {
    nothingBehind(fourth === undefined ? fifth : fourth);
    return check(third);
  }
  if (third !== undefined && typeof third !== 'number') {
    throw optionError('smfifOptions', `must be SMFIF_ bits, up to 0x${SMFIF_ALLOPTS.toString(16)}, or options`, third);
  }
  if (isOptions(fourth)) {
    nothingBehind(fifth);
    const { smfifOptions = 0 } = fourth;
    for (const bits of [third ?? 0, smfifOptions]) actionBits('smfifOptions', bits);
    return check({ ...fourth, smfifOptions: (third ?? 0) | smfifOptions });
  }
  return check({
    smfifOptions: third,
    backlog: named('tcpListenQueue', fourth),
    sockChmod: named('sockChmod', fifth),
  });
}

function isOptions(value: unknown): value is FactoryOptions {
  return typeof value === 'object' && value !== null;
}

function nothingBehind(argument: unknown): void {
  if (argument !== undefined) throw optionError('the argument after the options', 'must not be there', argument);
}

function named(name: string, value: unknown): number | undefined {
  if (value === undefined || typeof value === 'number') return value;
  throw optionError(name, 'must be a number', value);
}

function check(options: FactoryOptions): CheckedFactoryOptions {
  const {
    backlog = 50,
    sockChmod = 0o666,
    maxConnections = Infinity,
    overload = 'queue',
    workers,
    perSession = false,
    startTimeout = 30_000,
    resourceLimits,
    execArgv,
    socket = 'parent',
    sharedReads = true,
    closeTimeout = 30_000,
  } = options;
  whole(1, 0x7fff_ffff)('backlog', backlog);
  whole(0, 0o777)('sockChmod', sockChmod);
  if (maxConnections !== Infinity) whole(1, 0x7fff_ffff)('maxConnections', maxConnections);
  if (!['queue', 'tempfail', 'close'].includes(overload)) {
    throw optionError('overload', "must be 'queue', 'tempfail' or 'close'", overload);
  }
  if (workers !== undefined) whole(1, 1024)('workers', workers);
  flag('perSession', perSession);
  if (perSession && workers !== undefined) throw optionError('workers', 'means nothing with perSession', workers);
  whole(1, MAX_MS)('startTimeout', startTimeout);
  limits(resourceLimits);
  if (execArgv !== undefined && !(Array.isArray(execArgv) && execArgv.every((flag) => typeof flag === 'string'))) {
    throw optionError('execArgv', 'must be an array of strings', execArgv);
  }
  if (!['parent', 'child'].includes(socket)) throw optionError('socket', "must be 'parent' or 'child'", socket);
  flag('sharedReads', sharedReads);
  whole(0, MAX_MS)('closeTimeout', closeTimeout);
  account('sockOwner', options.sockOwner);
  account('sockGroup', options.sockGroup);
  const { signal } = options;
  if (signal !== undefined && typeof signal?.addEventListener !== 'function') {
    throw optionError('signal', 'must be an AbortSignal', signal);
  }
  return {
    session: checkOptions(options, OWN),
    listen: { backlog, sockChmod, sockOwner: options.sockOwner, sockGroup: options.sockGroup },
    maxConnections,
    overload,
    workers,
    perSession,
    startTimeout,
    resourceLimits,
    execArgv,
    socket,
    sharedReads,
    closeTimeout,
    signal,
  };
}

function account(name: string, value: unknown): void {
  if (value === undefined || (typeof value === 'string' && value !== '')) return;
  if (Number.isInteger(value) && (value as number) >= 0) return;
  throw optionError(name, 'must be a name or a number', value);
}

/** Those of Node's worker threads, in MiB. */
const LIMITS = new Set(['maxOldGenerationSizeMb', 'maxYoungGenerationSizeMb', 'codeRangeSizeMb', 'stackSizeMb']);

function limits(value: unknown): void {
  if (value === undefined) return;
  if (typeof value !== 'object' || value === null) throw optionError('resourceLimits', 'must be an object', value);
  for (const [name, mib] of Object.entries(value)) {
    if (!LIMITS.has(name)) throw optionError(`resourceLimits.${name}`, 'is no limit', mib);
    if (!(typeof mib === 'number' && mib > 0))
      throw optionError(`resourceLimits.${name}`, 'must be a number of MiB', mib);
  }
}
