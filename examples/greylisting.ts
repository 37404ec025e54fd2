/**
 * Greylisting, for any number of mail servers and milters: who sends something for the first time is asked to come back
 * in a few minutes. A mail server does, much of what sends spam does not. What has been seen is kept in Redis, so it
 * does not matter which machine the second try comes to.
 *
 *   npx tsx examples/greylisting.ts inet:8892@127.0.0.1 redis://127.0.0.1:6379
 *   npx tsx examples/greylisting.ts --delay 60 --fail-closed inet:8892@127.0.0.1 rediss://user:password@redis.example
 *
 * Without a second argument the URL is taken from REDIS_URL, where other users of the machine do not see the password.
 */
import { createHash } from 'node:crypto';
import { BlockList, isIPv6 } from 'node:net';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { ACCEPT, AsyncFactory, bareAddress, CONTINUE, MilterProtocol, runFilter, toBytes } from 'milter-stream';
import type { Family } from 'milter-stream';
import { createClient } from 'redis';

/** All but `redis` may be left out. Times are in milliseconds. */
export interface GreylistOptions {
  /** `redis://`, `rediss://` (TLS) or `unix:///path`. */
  readonly redis: string;
  /** How long whoever is new has to wait. Default: 5 minutes. */
  readonly delay?: number;
  /** How long after the first try the second one counts. Default: a day. */
  readonly retryWithin?: number;
  /** How long somebody who came back stays known, from the last message on. Default: 36 days, for monthly letters. */
  readonly keep?: number;
  /** How long Redis may take; it is asked at every recipient, and the sender waits. Default: 500. */
  readonly deadline?: number;
  /**
   * What becomes of mail while Redis cannot be reached, or takes too long: false (default) lets it pass without
   * greylisting, true has it come back later, all of it, for as long as that lasts.
   */
  readonly failClosed?: boolean;
  /** Networks whose mail is not greylisted. Default: the private ones and this machine. */
  readonly allow?: readonly string[];
}

const MINUTE = 60_000;
const DAY = 1440 * MINUTE;

const DEFAULTS = {
  delay: 5 * MINUTE,
  retryWithin: DAY,
  keep: 36 * DAY,
  deadline: 500,
  failClosed: false,
  allow: [
    '127.0.0.0/8',
    '10.0.0.0/8',
    '172.16.0.0/12',
    '192.168.0.0/16',
    '169.254.0.0/16',
    '::1/128',
    'fc00::/7',
    'fe80::/10',
  ],
} as const;

/** A mail server may come back from a neighbour's address: the /24 of an IPv4 address, the /64 of an IPv6 one. */
export function networkOf(ip: string): string {
  const ipv4 = ip.replace(/^::ffff:(?=\d+\.)/i, '');
  if (!isIPv6(ipv4)) return ipv4.split('.').slice(0, 3).join('.');
  // A URL's host is the one spelling of many: short, with :: for the longest row of zeros.
  const { hostname } = new URL(`http://[${ip.replace(/%.*/, '')}]`);
  const [head = [], tail = []] = hostname
    .slice(1, -1)
    .split('::')
    .map((half) => half.split(':').filter((group) => group !== ''));
  const zeros = Array.from({ length: 8 - head.length - tail.length }, () => '0');
  return [...head, ...zeros, ...tail].slice(0, 4).join(':');
}

/** What Redis knows of who has tried what. All times are taken by its clock, so those of the machines may differ. */
export class Greylist {
  readonly options;
  readonly #allowed = new BlockList();
  readonly #client;
  #reachable = true;

  /** @throws TypeError for a URL or a network that is none, RangeError for times that cannot work */
  constructor(options: GreylistOptions) {
    this.options = { ...DEFAULTS, ...options };
    const { redis, delay, retryWithin, allow } = this.options;
    if (!(delay > 0 && delay < retryWithin))
      throw new RangeError('delay must be more than 0 and less than retryWithin');
    for (const network of allow) this.#allow(network);
    // Neither a Redis that is away nor one that hangs may gather questions without end.
    this.#client = createClient({ url: redis, disableOfflineQueue: true, commandsQueueMaxLength: 10_000 });
    this.#client.on('error', (error: Error) => this.#lost(error));
  }

  /** Connects; a Redis that is not there yet may come later. */
  async open(): Promise<void> {
    await this.#inTime(this.#client.connect()).catch((error: Error) => this.#lost(error));
  }

  close(): void {
    this.#client.destroy();
  }

  #allow(network: string): void {
    const [ip = '', bits] = network.split('/');
    try {
      this.#allowed.addSubnet(ip, Number(bits), isIPv6(ip) ? 'ipv6' : 'ipv4');
    } catch (cause) {
      throw new TypeError(`allow: "${network}" is no network like 192.0.2.0/24 or 2001:db8::/32`, { cause });
    }
  }

  isAllowed(ip: string): boolean {
    return this.#allowed.check(ip, isIPv6(ip) ? 'ipv6' : 'ipv4');
  }

  /**
   * How long this sender has still to wait, in ms; 0 when it may pass.
   * @returns undefined when Redis cannot say
   */
  async wait(network: string, sender: string, recipient: string): Promise<number | undefined> {
    const triplet = [network, sender, recipient].join('\0').toLowerCase();
    const key = `grey:${createHash('sha256').update(toBytes(triplet)).digest('hex')}`;
    try {
      const wait = await this.#inTime(this.#ask(key));
      if (!this.#reachable) console.error('Redis is back');
      this.#reachable = true;
      return wait;
    } catch (error) {
      this.#lost(error as Error);
      return undefined;
    }
  }

  /**
   * The key is there from the first try on, and expires; what is left of its time says how long ago that was. Whichever
   * machine comes first makes it (NX), the others find it.
   */
  async #ask(key: string): Promise<number> {
    // A transaction, unlike a single command, is not refused at once: it would wait for the next try to connect.
    if (!this.#client.isReady) throw new Error('not connected');
    const { delay, retryWithin, keep } = this.options;
    const [, left, state] = await this.#client
      .multi()
      .set(key, 'waiting', { condition: 'NX', expiration: { type: 'PX', value: retryWithin } })
      .pTTL(key)
      .get(key)
      .execTyped();
    const wait = state === 'known' ? 0 : delay - (retryWithin - left);
    if (wait > 0) return wait;
    await this.#client.set(key, 'known', { expiration: { type: 'PX', value: keep } });
    return 0;
  }

  async #inTime<T>(answer: Promise<T>): Promise<T> {
    const { deadline } = this.options;
    let timer;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${deadline} ms`)), deadline);
    });
    try {
      return await Promise.race([answer, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** One line, not one for each message and each try to connect. */
  #lost({ name, message }: Error): void {
    const fate = this.options.failClosed ? 'mail is refused for now' : 'mail passes without greylisting';
    if (this.#reachable) console.error(`Redis cannot be asked (${message || name}): ${fate}`);
    this.#reachable = false;
  }
}

export class GreylistMilter extends MilterProtocol<GreylistOptions, Greylist> {
  static readonly module = import.meta.url;

  static async setup(options: GreylistOptions): Promise<Greylist> {
    const greylist = new Greylist(options);
    await greylist.open();
    return greylist;
  }

  static teardown(greylist: Greylist): void {
    greylist.close();
  }

  #network = '';
  #sender = '';

  override connect(_hostname: string, family: Family, ip: string) {
    // A client without an address is a program on this machine.
    if ((family !== '4' && family !== '6') || this.shared.isAllowed(ip)) return ACCEPT;
    this.#network = networkOf(ip);
    return CONTINUE;
  }

  override mailFrom(frAddr: string) {
    this.#sender = bareAddress(frAddr);
    return this.macro('{auth_authen}') ? ACCEPT : CONTINUE;
  }

  override async rcpt(recip: string) {
    const wait = await this.shared.wait(this.#network, this.#sender, bareAddress(recip));
    if (wait === undefined) {
      if (!this.shared.options.failClosed) return CONTINUE;
      return this.setReply(451, '4.3.0', 'Temporary problem, please come back later');
    }
    if (wait === 0) return CONTINUE;
    return this.setReply(451, '4.7.1', `Greylisted, come back in ${Math.ceil(wait / 1000)} seconds`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { values, positionals } = parseArgs({
    options: { delay: { type: 'string', default: '300' }, 'fail-closed': { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  const [socket = 'inet:8892@127.0.0.1', redis = process.env['REDIS_URL'] ?? 'redis://127.0.0.1:6379'] = positionals;
  const context = { redis, delay: Number(values.delay) * 1000, failClosed: values['fail-closed'] };
  const factory = new AsyncFactory(socket, GreylistMilter, { context });
  factory.on('sessionError', (error) => console.error(`${error.code}: ${error.message}`));
  await runFilter(factory, { log: { ...console, info: (_details, message) => console.log(message) } });
}
