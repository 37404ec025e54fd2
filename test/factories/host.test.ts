/** What runs in a worker, without one: how it starts and ends, what it answers, and that its sessions know their limits. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { replyParser, type Command } from '../../lib/codec/index.js';
import type { FromWorker, ToWorker } from '../../lib/factories/messages.js';
import { workerStart } from '../../lib/factories/module-of.js';
import { packError } from '../../lib/factories/portable.js';
import { WorkerHost } from '../../lib/factories/worker-host.js';
import type { ProtocolClass, SessionOptions } from '../../lib/index.js';
import { MilterClass } from '../../lib/session/milter-class.js';
import { checkOptions } from '../../lib/session/options.js';
import { shortFolder } from '../helpers/folder.js';
import { writeModule } from '../helpers/modules.js';
import { Mortal, touch } from '../helpers/mortal.js';
import { message, Mta, say } from '../helpers/mta.js';
import { bytesOf, OFFER } from '../helpers/relay.js';
import { settled } from '../helpers/streams.js';
import { until } from '../helpers/until.js';

/** A worker whose messages the test takes. */
class Host {
  /** What it sent, batch by batch; with whether it answered. */
  readonly batches: Array<{ batch: FromWorker[]; answer: boolean }> = [];
  readonly exits: number[] = [];
  readonly host = new WorkerHost({
    send: (batch, answer) => void this.batches.push(structuredClone({ batch, answer })),
    exit: (code) => void this.exits.push(code),
  });

  /** A batch comes. */
  gets(...batch: ToWorker[]): this {
    this.host.receive(structuredClone(batch));
    return this;
  }

  /** All messages since the last time. */
  take(): FromWorker[] {
    return this.batches.splice(0).flatMap(({ batch }) => batch);
  }

  names(): string[] {
    return this.take().map(([name]) => name);
  }

  /** The replies among the messages since the last time, by type. */
  replies(): string[] {
    const types: string[] = [];
    const parser = replyParser();
    for (const message of this.take()) {
      if (message[0] !== 'bytes') continue;
      parser.parse(Buffer.from(message[2]), { packet: (reply) => types.push(reply.type) });
    }
    return types;
  }

  /** Commands of a session come; gives the types of the replies. */
  async plays(tenant: number, ...commands: Command[]): Promise<string[]> {
    this.gets(bytes(tenant, ...commands));
    await settled();
    return this.replies();
  }
}

const bytes = (tenant: number, ...commands: Command[]): ToWorker => [
  'bytes',
  tenant,
  Uint8Array.from(bytesOf(...commands)),
];

function startOf(Milter: ProtocolClass, options: SessionOptions = {}): ToWorker {
  const start = workerStart(new MilterClass(Milter, checkOptions(options)), 'x', {
    socket: 'parent',
    sharedReads: true,
  });
  return ['start', { ...start, worker: 'worker 1' }];
}

/** One that is ready. */
async function ready(t: Test, options: SessionOptions = {}): Promise<Host> {
  const trace = join(shortFolder(t), 'trace');
  touch(trace);
  const host = new Host().gets(startOf(Mortal, { context: { trace }, smfifOptions: 1, ...options }));
  await until('it to be ready', () => host.names().includes('ready'));
  return host;
}

const claiming = (module: string): ToWorker =>
  startOf(Object.assign(class Mine extends (Mortal as unknown as ProtocolClass) {}, { module }));

t.test('each batch is answered by one, whatever comes of it; what comes by itself goes out by itself', async (t) => {
  const host = await ready(t);
  host.gets(['pulse']);
  t.strictSame(host.batches.splice(0), [{ batch: [], answer: true }]);
  host.gets(['open', 1, {}], bytes(1, OFFER), bytes(1, say.mail(), say.rcpt()));
  t.match(
    host.batches,
    [
      {
        batch: [
          ['bytes', 1],
          ['bytes', 1],
        ],
        answer: true,
      },
    ],
    'replies go with the answer',
  );
  t.strictSame(host.replies(), ['negotiate', 'continue', 'continue']);
  host.gets(bytes(1, say.macros('U', { do: 'wait' }), say.unknown()));
  host.gets(['destroy', 1]);
  await settled();
  t.match(host.batches, [
    { batch: [], answer: true },
    {
      batch: [
        ['bytes', 1],
        ['closed', 1, undefined],
      ],
      answer: true,
    },
  ]);
  host.take();
  host.gets(
    ['destroy', 1],
    ['bytes', 1, new Uint8Array()],
    ['taken', 1, 5],
    ['lost', 1, packError(new Error('x'))],
    ['end', 2],
    ['drain', 2],
  );
  t.strictSame(host.names(), [], 'nobody is there any more');
});

t.test('what comes before it is ready waits', async (t) => {
  const host = new Host();
  host.gets(startOf(Mortal), ['open', 1, {}]).gets(bytes(1, OFFER, say.connect()));
  t.strictSame(host.batches.splice(0), [
    { batch: [], answer: true },
    { batch: [], answer: true },
  ]);
  await until('it to be ready', () => host.batches.length > 0);
  t.match(host.batches, [{ batch: [['ready'], ['bytes', 1]], answer: false }]);
  t.strictSame(host.replies(), ['negotiate', 'continue']);
});

t.test('one that cannot start says why, and ends', async (t) => {
  const host = new Host().gets(claiming(writeModule(shortFolder(t), 'none.mjs', '')));
  await until('its end', () => host.exits.length > 0);
  t.match(host.take(), [['failed', { name: 'MilterError', code: 'ERR_MILTER_WORKER' }]]);
  t.strictSame(host.exits, [1]);
});

t.test('told to stop it runs teardown(), tells of its failure, and ends; also before it is ready', async (t) => {
  const it = 'export class Mine extends MilterProtocol { static module = import.meta.url;';
  for (const early of [true, false]) {
    const code = `${it} static setup() { return 7; } static teardown(n) { throw new Error('n is ' + n); } }`;
    const host = new Host().gets(claiming(writeModule(shortFolder(t), 'mine.mjs', code)));
    if (!early) await until('it to be ready', () => host.batches.length > 1);
    host.gets(['stop']);
    await until('its end', () => host.exits.length > 0);
    t.match(host.take(), [
      ['ready'],
      ['unclean', { code: 'ERR_MILTER_CALLBACK', message: 'Mine.teardown() failed: n is 7' }],
    ]);
    t.strictSame(host.exits, [0]);
  }
});

t.test('without a factory it ends; what it dies of it says', async (t) => {
  const host = new Host();
  host.host.dying(new TypeError('boom'));
  t.match(host.batches, [{ batch: [['dying', { name: 'TypeError', message: 'boom' }]], answer: false }]);
  host.host.abandoned();
  t.strictSame(host.exits, [0]);
});

t.test('log lines go to the factory, with the name of the worker', async (t) => {
  const host = await ready(t, { logMessages: true, smfipOptions: 0x80 });
  host.gets(['open', 1, {}], bytes(1, OFFER), bytes(1, ...message().filter(({ type }) => type !== 'header')));
  await settled();
  const lines = host.take().filter(([name]) => name === 'log');
  t.match(lines, [
    ['log', 'warn', { worker: { value: 'worker 1' } }, /^smfipOptions has SMFIP_NR_HDR, which wins/],
    ['log', 'info', { worker: { value: 'worker 1' } }],
  ]);
  host.gets(['open', 2, {}], bytes(2, say.mail()));
  t.match(host.take(), [
    ['log', 'error', { err: { error: { code: 'ERR_MILTER_SEQUENCE' } } }],
    ['report', 2, { code: 'ERR_MILTER_SEQUENCE' }],
    ['closed', 2, {}],
  ]);
});

t.test('a session that takes over keeps what was agreed, and one that is to drain does', async (t) => {
  const host = await ready(t, { smfipOptions: 0x80 });
  host.gets(['open', 1, { agreement: { version: 6, actions: 0, protocol: 0, maxPayload: 65_535 } }], bytes(1, OFFER));
  host.gets(bytes(1, say.connect(), say.mail(), say.header()));
  t.strictSame(host.replies(), ['negotiate', 'continue', 'continue', 'continue'], 'the header is answered');
  host.gets(['drain', 1], bytes(1, say.abort(), say.mail()));
  t.strictSame(host.replies(), ['replyCode']);
  host.gets(['end', 1]);
  t.match(host.take(), [['closed', 1, undefined]]);
  host.gets(['open', 2, {}], bytes(2, OFFER), ['lost', 2, packError(new Error('reset'))]);
  t.match(host.take(), [
    ['bytes', 2],
    ['closed', 2, { code: 'ERR_MILTER_CONNECTION', message: 'The connection was lost: reset' }],
  ]);
});

t.test('P15 commands are acknowledged as they are handled, in portions; not while a callback is busy', async (t) => {
  const host = await ready(t);
  host.gets(['open', 1, {}], bytes(1, OFFER, ...message().slice(0, 5)));
  t.strictSame(host.names(), ['bytes']);
  const small = say.body('x'.repeat(10_000));
  host.gets(bytes(1, small, small, small));
  t.strictSame(host.names(), ['bytes']);
  host.gets(bytes(1, small));
  const taken = host.take().find(([name]) => name === 'taken') as ['taken', number, number];
  t.ok(taken[2] > 40_000);
  const file = join(shortFolder(t), 'go');
  host.gets(bytes(1, say.macros('B', { do: 'later', with: file }), say.body()));
  const large = say.body('x'.repeat(40_000));
  host.gets(bytes(1, large)).gets(bytes(1, large));
  await settled();
  t.strictSame(
    host.names().filter((name) => name === 'taken').length,
    1,
    'what is read ahead of a callback: 64 KiB, no more',
  );
  touch(file);
  await until('the rest', () => host.batches.flatMap(({ batch }) => batch).some(([name]) => name === 'taken'));
});

t.test('P15 a session writes no more than the mail server takes', async (t) => {
  const host = await ready(t, { smfifOptions: 3 });
  host.gets(['open', 1, {}], bytes(1, OFFER, ...message().slice(0, -1), say.macros('E', { do: 'flood' }), say.eob()));
  let written = 0;
  const count = (): number => {
    const sizes = host.take().map((message) => (message[0] === 'bytes' ? message[2].length : 0));
    const sum = sizes.reduce((a, b) => a + b, 0);
    written += sum;
    return sum;
  };
  await settled();
  let portion = count();
  let rounds = 0;
  // oxlint-disable-next-line no-unmodified-loop-condition -- count() does
  for (; written < 3_000_000 && rounds < 100; rounds++) {
    t.ok(portion < 256 * 1024 + 70_000, 'what is under way is bounded');
    host.gets(['taken', 1, 10]);
    t.equal(count(), 0, 'and waits for all of it');
    host.gets(['taken', 1, portion - 10]);
    await settled();
    portion = count();
  }
  t.ok(rounds > 5 && rounds < 100);
});

t.test('a socket that comes is served; one that did not get here is over', async (t) => {
  const host = await ready(t);
  host.gets(['socket', 1]);
  t.strictSame(host.take(), [
    ['took', 1],
    ['closed', 1, undefined],
  ]);
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [socket] = (await once(server, 'connection')) as [Socket];
  server.close();
  t.teardown(() => void client.destroy());
  host.host.receive([['socket', 2]], socket);
  t.strictSame(host.take(), [['took', 2]]);
  const mta = new Mta(client);
  await mta.negotiate({ protocol: 0x400 });
  t.equal((await mta.ask(say.mail())).type, 'continue');
  host.gets(['bytes', 2, new Uint8Array()], ['taken', 2, 1], ['lost', 2, packError(new Error('x'))], ['end', 2]);
  t.equal((await mta.ask(say.rcpt())).type, 'continue', 'it looks at its socket alone');
  host.gets(['drain', 2]);
  t.equal((await mta.ask(say.abort(), say.mail())).type, 'replyCode');
  mta.bytes(Buffer.from('00000000', 'hex'));
  await mta.closed;
  await until('the end', () => host.batches.flatMap(({ batch }) => batch).some(([name]) => name === 'closed'));
  const told = host.take().filter(([name]) => name !== 'log');
  t.match(told, [
    ['report', 2, { code: 'ERR_MILTER_EMPTY_PACKET' }],
    ['closed', 2, undefined],
  ]);
});
