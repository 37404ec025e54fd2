// examples/greylisting.ts with a real Redis. No test waits for a sender's delay to pass: it shortens the time that Redis
// has left for the key, which is how the milter tells what has passed.
import { AsyncFactory, formatAddress, type MilterError, type SocketAddress } from 'milter-stream';
import { MilterClient, type ClientMacros } from 'milter-stream/client';
import t, { type Test } from 'tap';
import { GreylistMilter, networkOf, type GreylistOptions } from '../../examples/greylisting.js';
import { demandBuild } from '../helpers/built.js';
import { runExample } from '../helpers/example.js';
import { needs } from '../helpers/real.js';
import { startRedis, type Redis } from '../helpers/redis.js';
import { until } from '../helpers/until.js';

demandBuild();

const MINUTE = 60_000;
/** Far longer than any test takes, so that none of them can hit it by being slow. */
const TIMES = { delay: 10 * MINUTE, retryWithin: 100 * MINUTE, keep: 1000 * MINUTE, deadline: 20_000 };

const PASSES = 'continue';
/** Accepted before any recipient was asked about. */
const EXEMPT = 'accept';
const WAIT = /^451 4\.7\.1 Greylisted, come back in \d+ seconds$/;
const SORRY = '451 4.3.0 Temporary problem, please come back later';

interface Try {
  readonly ip?: string;
  readonly from?: string;
  readonly to?: string;
  readonly macros?: ClientMacros;
}

/** Of all machines: none is expected. */
const sessionErrors: MilterError[] = [];

/** A milter that serves until the test is over: a machine. */
async function machine(t: Test, options: GreylistOptions): Promise<string> {
  const factory = new AsyncFactory('inet:0@127.0.0.1', GreylistMilter, { context: { ...TIMES, ...options } });
  factory.on('sessionError', (error) => sessionErrors.push(error));
  await factory.run();
  const address = formatAddress(factory.address as SocketAddress);
  t.teardown(() => factory.close());
  return address;
}

/** What somebody who tries to send mail is told at RCPT. */
async function attempt(machine: string, { ip = '192.0.2.1', from, to, macros = {} }: Try = {}): Promise<string> {
  const client = new MilterClient(machine);
  await client.connect({ address: ip, hostname: 'mx.example.org' });
  const { verdict, recipients } = await client.send({
    from: from ?? '<a@example.org>',
    to: [to ?? '<b@example.com>'],
    message: 'Subject: hello\r\n\r\nhello\r\n',
    macros,
  });
  await client.quit();
  const [recipient] = recipients;
  if (recipient === undefined) return verdict;
  const { outcome, reply } = recipient;
  return reply === undefined ? outcome : `${reply.code} ${reply.enhanced} ${reply.lines.join()}`;
}

/** The seconds that a refusal names. */
function seconds(answer: string): number {
  return Number(/come back in (\d+) seconds/.exec(answer)?.[1]);
}

/** What it prints as its errors, from now on. */
function logged(t: Test): string[] {
  const lines: string[] = [];
  t.capture(console, 'error', (line: string) => lines.push(line));
  return lines;
}

/** As if so much of a new sender's time had passed. */
async function letPass(redis: Redis, ms: number): Promise<void> {
  const key = await redis.cli('KEYS', 'grey:*');
  await redis.cli('PEXPIRE', key, String(TIMES.retryWithin - ms));
}

t.test('the network of an address is its /24, or its /64 however it is written', async (t) => {
  for (const [ip, network] of [
    ['192.0.2.77', '192.0.2'],
    ['::ffff:192.0.2.77', '192.0.2'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
    ['2001:0DB8:0001:0002::', '2001:db8:1:2'],
    ['2001:db8::1', '2001:db8:0:0'],
    ['2001:db8:0:0:1::', '2001:db8:0:0'],
    ['2001:db8:0:7::%eth0', '2001:db8:0:7'],
    ['::5:6:7:8:9:a', '0:0:5:6'],
    ['::1', '0:0:0:0'],
    ['64:ff9b::192.0.2.33', '64:ff9b:0:0'],
  ] as const) {
    t.equal(networkOf(ip), network, ip);
  }
});

t.test('what cannot work fails the start, and says why', async (t) => {
  for (const [options, words] of [
    [{ redis: 'http://127.0.0.1' }, /Expected redis: or rediss:/],
    [{ redis: 'redis://127.0.0.1', delay: Number.NaN }, /delay must be more than 0 and less than retryWithin/],
    [{ redis: 'redis://127.0.0.1', delay: 5, retryWithin: 5 }, /delay must be more than 0 and less than retryWithin/],
    [{ redis: 'redis://127.0.0.1', allow: ['nowhere/8'] }, /allow: "nowhere\/8" is no network/],
    [{ redis: 'redis://127.0.0.1', allow: ['192.0.2.1'] }, /allow: "192\.0\.2\.1" is no network/],
  ] as const) {
    const factory = new AsyncFactory('inet:0@127.0.0.1', GreylistMilter, { context: options });
    await t.rejects(factory.run(), { code: 'ERR_MILTER_CALLBACK', message: words });
  }
});

t.test('with Redis', needs('redis'), async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  t.beforeEach(async () => {
    await redis.cli('FLUSHALL');
  });

  t.test('the first try is refused, so is an early second one, and one in time passes from then on', async (t) => {
    const milter = await machine(t, { redis: redis.url });
    const first = await attempt(milter);
    t.match(first, WAIT);
    t.ok(seconds(first) > 540 && seconds(first) <= 600, first);
    await letPass(redis, 7 * MINUTE);
    const early = await attempt(milter);
    t.match(early, WAIT);
    t.ok(seconds(early) > 120 && seconds(early) <= 180, early);
    await letPass(redis, 10 * MINUTE);
    t.equal(await attempt(milter), PASSES);
    t.ok(Number(await redis.cli('PTTL', await redis.cli('KEYS', 'grey:*'))) > 900 * MINUTE, 'known for a long time');
    t.equal(await attempt(milter), PASSES, 'and known at once');
    await letPass(redis, 99 * MINUTE);
    t.equal(await attempt(milter), PASSES, 'also at the end of that time');
    t.ok(Number(await redis.cli('PTTL', await redis.cli('KEYS', 'grey:*'))) > 900 * MINUTE, 'which then begins anew');
  });

  t.test('who does not come back in time is new again', async (t) => {
    const milter = await machine(t, { redis: redis.url });
    t.match(await attempt(milter), WAIT);
    t.ok(Number(await redis.cli('PTTL', await redis.cli('KEYS', 'grey:*'))) <= TIMES.retryWithin, 'the key expires');
    await redis.cli('PEXPIRE', await redis.cli('KEYS', 'grey:*'), '0');
    const again = await attempt(milter);
    t.ok(seconds(again) > 540, again);
  });

  t.test('it is the network, the sender and the recipient that are known, in any case of letters', async (t) => {
    const milter = await machine(t, { redis: redis.url });
    t.match(await attempt(milter), WAIT);
    await letPass(redis, 10 * MINUTE);
    t.equal(await attempt(milter, { ip: '192.0.2.250', from: '<A@Example.ORG>', to: 'B@example.com' }), PASSES);
    for (const other of [
      { ip: '192.0.3.1' },
      { ip: '2001:db8::1' },
      { from: '<c@example.org>' },
      { from: '<>' },
      { to: '<c@example.com>' },
      { from: '<caf\u{dce9}@example.org>' },
      { from: '<caf\u{dce8}@example.org>' },
    ]) {
      t.match(await attempt(milter, other), WAIT, JSON.stringify(other));
    }
    t.equal(await redis.cli('DBSIZE'), '8', 'a key for each, of bytes that are not UTF-8, too');
  });

  t.test('two machines share what they know', async (t) => {
    const [one, two] = await Promise.all([machine(t, { redis: redis.url }), machine(t, { redis: redis.url })]);
    const tries = await Promise.all([attempt(one), attempt(two), attempt(one), attempt(two)]);
    for (const answer of tries) t.match(answer, WAIT);
    t.equal(await redis.cli('DBSIZE'), '1', 'who tries at both at once has tried once');
    await letPass(redis, 10 * MINUTE);
    t.equal(await attempt(two), PASSES);
    t.equal(await attempt(one), PASSES);
  });

  t.test('who has logged in, and who is from here, is not greylisted', async (t) => {
    const milter = await machine(t, { redis: redis.url });
    t.equal(await attempt(milter, { macros: { mailFrom: { '{auth_authen}': 'alice' } } }), EXEMPT);
    for (const ip of [
      '127.0.0.1',
      '10.1.2.3',
      '172.31.0.1',
      '192.168.7.7',
      '::1',
      'fd00::1',
      '::ffff:10.1.2.3',
      '/s',
    ]) {
      t.equal(await attempt(milter, { ip }), EXEMPT, ip);
    }
    t.equal(await redis.cli('DBSIZE'), '0');
    t.match(await attempt(milter, { ip: '172.32.0.1' }), WAIT);
    const strict = await machine(t, { redis: redis.url, allow: ['192.0.2.0/24', '2001:db8::/32'] });
    t.equal(await attempt(strict), EXEMPT);
    t.equal(await attempt(strict, { ip: '2001:db8:ffff::1' }), EXEMPT);
    t.match(await attempt(strict, { ip: '10.1.2.3' }), WAIT);
  });

  t.test(
    'a Redis that goes away is mail that passes, or comes back later; it is noticed when it returns',
    async (t) => {
      const lines = logged(t);
      const [open, closed] = [
        await machine(t, { redis: redis.url }),
        await machine(t, { redis: redis.url, failClosed: true }),
      ];
      t.match(await attempt(open), WAIT);
      await redis.kill();
      t.equal(await attempt(open), PASSES);
      t.equal(await attempt(closed), SORRY);
      t.equal(await attempt(closed), SORRY);
      t.equal(lines.length, 2, 'one line each, however many tries');
      t.match(lines.sort().join('\n'), /: mail is refused for now\n.*: mail passes without greylisting$/);
      await redis.start();
      for (const milter of [open, closed]) {
        await until('it to be asked again', async () => WAIT.test(await attempt(milter)));
      }
      t.equal(lines.filter((line) => line === 'Redis is back').length, 2);
    },
  );

  t.test('one that was never there can come later', async (t) => {
    const lines = logged(t);
    await redis.kill();
    const closed = await machine(t, { redis: redis.url, failClosed: true, deadline: 20 });
    t.equal(await attempt(closed), SORRY);
    t.match(lines[0], /^Redis cannot be asked \(.+\): mail is refused for now$/);
    await redis.start();
    await until('it to be asked', async () => WAIT.test(await attempt(closed)));
  });

  t.test('one that hangs costs no more than the deadline', async (t) => {
    const lines = logged(t);
    const milters = [
      await machine(t, { redis: redis.url, deadline: 20 }),
      await machine(t, { redis: redis.url, deadline: 20, failClosed: true }),
    ] as const;
    redis.freeze();
    t.equal(await attempt(milters[0]), PASSES);
    t.equal(await attempt(milters[1]), SORRY);
    t.match(lines[0], 'Redis cannot be asked (no answer within 20 ms): mail passes without greylisting');
    redis.thaw();
    for (const milter of milters) {
      await until('it to be asked again', async () => WAIT.test(await attempt(milter)));
    }
  });

  t.test('it runs as a program', async (t) => {
    const program = runExample('greylisting.ts', '--delay', '60', '--fail-closed', 'inet:0@127.0.0.1', redis.url);
    t.teardown(() => program.kill('SIGKILL'));
    await program.printed('listening on');
    const address = /listening on (\S+)/.exec(program.out())?.[1] as string;
    const answer = await attempt(address);
    t.ok(seconds(answer) > 30 && seconds(answer) <= 60, answer);
    await redis.kill();
    t.equal(await attempt(address), SORRY);
    t.match(program.err(), /^Redis cannot be asked \(.+\): mail is refused for now\n$/);
    program.kill('SIGTERM');
    t.equal(await program.ended, 0, 'and ends, though Redis is away');
  });
});

t.test('no session has failed', async (t) => {
  t.strictSame(sessionErrors, []);
});
