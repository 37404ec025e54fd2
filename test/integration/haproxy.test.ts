// examples/scale-out: a real HAProxy in front of three milters that stand for three machines, and a real Postfix under
// load, while one of them is killed and all of them are rolled.
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { pipeline } from 'node:stream';
import t, { type Test } from 'tap';
import { parseAddress } from '../../lib/address.js';
import { MilterClient } from '../../lib/client/index.js';
import { commandParser } from '../../lib/codec/index.js';
import { createSession, MilterProtocol, SMFIF_ALLOPTS, SMFIP_ALLPROTOS } from '../../lib/index.js';
import { demandBuild } from '../helpers/built.js';
import { runExample, type Running } from '../helpers/example.js';
import { SERVERS, startHaproxy, type ServerName } from '../helpers/haproxy.js';
import { milterWarnings, startPostfix } from '../helpers/postfix.js';
import { needs } from '../helpers/real.js';
import { Ledger, Sender, Senders } from '../helpers/senders.js';
import { startSink } from '../helpers/sink.js';
import { until } from '../helpers/until.js';

demandBuild();

const SENDERS = 6;
/** In all; more if the rest takes longer than these. */
const MESSAGES = 300;

/** How Postfix says that the connection to a milter was lost; and that it was before anything was said. */
const LOST = /: (can't read SMFIC_\w+ reply packet header|error writing command|EOF while reading [a-z ]+): /;
const LOST_AT_ONCE =
  /: (read error in initial handshake$|(can.t read SMFIC_OPTNEG reply packet header|error writing command): )/;

t.test('a check is a negotiation: who hangs, and who is no milter, gets no connection', needs('haproxy'), async (t) => {
  const haproxy = await startHaproxy();
  t.teardown(() => haproxy.stop());
  /** What is heard on each connection. */
  const heard: object[][] = [];
  await listen(t, haproxy.sockets.m1, (socket) => {
    const commands: object[] = [];
    heard.push(commands);
    const parser = commandParser();
    socket.on('data', (bytes) => parser.parse(bytes, { packet: (command) => commands.push(command) }));
    pipeline(socket, createSession(MilterProtocol), socket, (error) => commands.push({ ended: error ?? 'well' }));
  });
  await listen(t, haproxy.sockets.m2, () => {});
  await listen(t, haproxy.sockets.m3, (socket) => socket.write('220 mail.example.org ESMTP\r\n'));
  await haproxy.up('m1');
  t.match(heard[0], [
    { type: 'negotiate', version: 6, actions: SMFIF_ALLOPTS, protocol: SMFIP_ALLPROTOS },
    { type: 'quit' },
    { ended: 'well' },
  ]);
  await until('m2 to have been asked', async () => (await haproxy.show('m2')).check === 'L7TOUT');
  await until('m3 to have been asked', async () => (await haproxy.show('m3')).check.startsWith('L7'));
  t.match(await haproxy.show('m2'), { status: 'DOWN' });
  t.match(await haproxy.show('m3'), { status: 'DOWN' });
  const clients = Array.from({ length: 5 }, () => new MilterClient(haproxy.milter));
  for (const client of clients) await client.connect();
  t.equal((await haproxy.show('m1')).connections, clients.length);
  for (const client of clients) await client.quit();
});

t.test('three instances behind HAProxy', needs('haproxy', 'postfix'), async (t) => {
  const cleanUp: (() => Promise<unknown>)[] = [];
  t.teardown(async () => {
    for (const stop of cleanUp.toReversed()) await stop();
  });
  const sink = await startSink();
  cleanUp.push(() => sink.close());
  const haproxy = await startHaproxy();
  cleanUp.push(() => haproxy.stop());
  const settings = { smtp_connection_cache_on_demand: 'no' };
  const postfix = await startPostfix({ milters: [haproxy.milter], sinkPort: sink.port, mainCf: settings });
  cleanUp.push(() => postfix.stop());

  const ledger = new Ledger();
  /** Each time an instance is started it has another name: m1.1, then m1.2. */
  const started = new Map<string, Running>();

  /** Starts an instance, anew. */
  async function start(server: ServerName): Promise<void> {
    const name = `${server}.${[...started.keys()].filter((each) => each.startsWith(server)).length + 1}`;
    const instance = runExample('scale-out/instance.ts', haproxy.sockets[server], name);
    started.set(name, instance);
    cleanUp.push(() => {
      instance.kill('SIGKILL');
      return instance.ended;
    });
    await instance.printed('listening on');
  }

  /** Resolves when the newest instance of a server gets mail. */
  async function serves(server: ServerName): Promise<void> {
    await haproxy.up(server);
    await until(`mail that has passed ${newest(server)}`, () =>
      delivered().some(({ marks }) => marks.includes(newest(server))),
    );
  }

  const newest = (server: ServerName): string => [...started.keys()].findLast((name) => name.startsWith(server))!;
  const running = (server: ServerName): Running => started.get(newest(server))!;

  /** What has arrived, with the instances that the messages say they have passed. */
  function delivered(): { name: string; marks: string[] }[] {
    return sink.messages.map(({ data }) => {
      const [head = ''] = data.toString('latin1').split('\r\n\r\n');
      const marks = [...head.matchAll(/^X-Milter-Instance: (.*)\r?$/gm)].map(([, mark]) => mark as string);
      return { name: /^Message-ID: <(.*)@/m.exec(head)?.[1] ?? head, marks };
    });
  }

  let sessions = 0;
  /** A session that has handed in one message, which has passed the newest instance of this server. */
  async function sessionOn(server: ServerName): Promise<Sender> {
    for (let attempt = 1; attempt <= 100; attempt++) {
      const sender = await Sender.connect(postfix.port, ledger);
      const name = `h${++sessions}`;
      if (sender !== undefined && (await sender.send(name))) {
        const { marks } = await until('it to arrive', () => delivered().find((each) => each.name === name));
        if (marks.includes(newest(server))) return sender;
      }
      await sender?.end();
    }
    throw new Error(`of 100 sessions none was on ${server}`);
  }

  /** The log so far, whole: up to a message that has been handed in just now. */
  async function log(): Promise<string> {
    const name = `log-${++sessions}`;
    await deliver(name);
    await until('the log', async () => (await postfix.log()).includes(`message-id=<${name}@`));
    return postfix.log();
  }

  /** Hands in a message, as often as it takes. */
  async function deliver(name: string): Promise<void> {
    for (let accepted = false; !accepted;) {
      const sender = await Sender.connect(postfix.port, ledger);
      accepted = (await sender?.send(name)) ?? false;
      await sender?.end();
    }
  }

  await Promise.all(SERVERS.map(start));
  await Promise.all(SERVERS.map((server) => haproxy.up(server)));
  const load = new Senders(postfix.port, SENDERS, ledger);
  cleanUp.push(() => load.stop().catch(() => {}));

  await t.test('all of them get mail, and none of it is refused', async (t) => {
    await load.more(MESSAGES / 10);
    await Promise.all(SERVERS.map(serves));
    t.strictSame(milterWarnings(await log()), []);
    t.strictSame(ledger.refused, []);
  });

  await t.test('one is killed: its messages are refused for now, and it gets no more', async (t) => {
    const before = (await log()).length;
    const session = await sessionOn('m1');
    await session.begin('killed');
    running('m1').kill('SIGKILL');
    t.equal(await running('m1').ended, 'SIGKILL');
    t.notOk(await session.finish('killed'), 'the message in progress');
    await session.end();
    await deliver('killed');
    await haproxy.down('m1');
    await load.turnover();
    const logged = (await log()).slice(before);
    const refused = ledger.refused.length;
    await load.more(MESSAGES / 10);
    t.comment(`killed: ${ledger.summary()}`);
    t.equal(ledger.refused.length, refused, 'nothing is refused any more');
    t.ok(refused <= SENDERS + 1, 'no connection was, that came after it: they got another instance');
    const warnings = milterWarnings(logged);
    t.comment(warnings.join('\n'));
    t.strictSame(
      warnings.filter((line) => !LOST.test(line)),
      [],
      'all that Postfix says is that the connection was lost',
    );
    await start('m1');
    await serves('m1');
  });

  for (const server of SERVERS) {
    await t.test(`${server} is rolled: what it is at is finished, what is new comes back`, async (t) => {
      const [refused, before] = [ledger.refused.length, (await log()).length];
      const session = await sessionOn(server);
      const name = newest(server);
      t.ok(await session.begin(`rolled-${server}`));
      running(server).kill('SIGTERM');
      await running(server).printed('closing');
      await haproxy.down(server);
      t.ok(await session.finish(`rolled-${server}`), 'the message in progress');
      t.notOk(await session.begin(`after-${server}`), 'the next one on this connection');
      t.match(ledger.refused.at(-1), { code: 421, text: /^4\.3\.2 / });
      await session.end();
      t.equal(await running(server).ended, 0);
      const { marks } = await until('it to arrive', () => delivered().find((each) => each.name === `rolled-${server}`));
      t.strictSame(marks, [name]);
      await start(server);
      await serves(server);
      t.comment(`${server} rolled: ${ledger.summary(refused)}`);
      // The system had accepted a connection that the instance had not yet, and resets it when the listener closes.
      const warnings = milterWarnings((await log()).slice(before));
      t.strictSame(
        warnings.filter((line) => !LOST_AT_ONCE.test(line)),
        [],
      );
    });
  }

  await t.test('rolled after HAProxy has drained them, nobody is refused anything', async (t) => {
    const [refused, before] = [ledger.refused.length, (await log()).length];
    for (const server of SERVERS) {
      await haproxy.say(`set server milters/${server} state drain`);
      await until('its last connection to end', async () => (await haproxy.show(server)).connections === 0);
      running(server).kill('SIGTERM');
      t.equal(await running(server).ended, 0);
      await start(server);
      await haproxy.say(`set server milters/${server} state ready`);
      await serves(server);
    }
    t.equal(ledger.refused.length, refused, ledger.summary(refused));
    t.strictSame(milterWarnings((await log()).slice(before)), []);
  });

  await t.test('every message that was accepted has passed a milter, and arrived once', async (t) => {
    while (ledger.accepted.length < MESSAGES) await load.more(1);
    await load.stop();
    await until('the queue to be empty', async () => (await postfix.postqueue()).includes('Mail queue is empty'));
    await sink.idle();
    const arrived = delivered();
    t.comment(`${ledger.accepted.length} messages accepted, ${arrived.length} delivered; refused for now:`);
    t.comment(ledger.summary());
    t.strictSame(arrived.map(({ name }) => name).sort(), [...ledger.accepted].sort());
    t.strictSame(
      arrived.filter(({ marks }) => marks.length !== 1 || !started.has(marks[0]!)),
      [],
      'each carries the mark of one instance',
    );
    for (const [name, instance] of started) t.equal(instance.err(), '', `${name} has nothing to complain about`);
  });
});

/** A server that is no milter, until the test is over. */
async function listen(t: Test, place: string, serve: (socket: Socket) => void): Promise<void> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}));
    serve(socket);
  });
  server.listen(parseAddress(place, 'listen') as { host: string; port: number });
  t.teardown(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  await once(server, 'listening');
}
