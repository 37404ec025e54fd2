// What a factory does around its sessions: it listens, prepares, cleans up, and hands messages through.
import { once } from 'node:events';
import { connect, Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { SMFIP_MDS_1M } from '../../../lib/index.js';
import type { MilterError } from '../../../lib/errors.js';
import { listeningServers } from '../../helpers/listening.js';
import { outcome } from '../../helpers/eob.js';
import { shortFolder } from '../../helpers/folder.js';
import { ALL_ACTIONS, ALL_STEPS, COMMANDS, message, say } from '../../helpers/mta.js';
import { playing, puppets, type Part } from './puppets.js';

const withIPv6 = Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === '::1'));

export const serving: Part = (t, variant) => {
  t.test('messages pass over TCP, IPv6 and a Unix socket', async (t) => {
    const places = ['inet:0@127.0.0.1', `unix:${shortFolder(t)}/a.sock`, ...(withIPv6 ? ['inet6:0@::1'] : [])];
    for (const where of places) {
      const script = {
        body: [],
        eob: [
          ['call', 'addHeader', 'X', 'y'],
          ['body', 500_000],
        ],
      } as const;
      const play = await playing(t, variant, script, { smfifOptions: ALL_ACTIONS, where });
      const { mta } = await play.agreed();
      for (let i = 0; i < 2; i++) {
        t.equal((await mta.ask(say.body('b'.repeat(60_000)))).type, 'continue');
        mta.send(say.eob());
        const replies = await outcome(mta);
        t.match(replies.slice(-2), [{ type: 'addHeader' }, { type: 'continue' }], where);
        t.equal(replies.length, 8 + 2);
      }
      t.equal(play.factory.connections, 1);
      mta.send(say.quit());
      await mta.closed;
      await play.alone();
      t.strictSame(play.calls(), ['body', 'eob', 'body', 'eob', 'close']);
      t.strictSame(play.errors, []);
    }
  });

  t.test('run() tells where it listens, once, however often it is called', async (t) => {
    const { factory } = puppets(t, variant);
    const told: unknown[] = [];
    factory.on('listening', (address) => told.push(address));
    t.equal(factory.address, undefined);
    const running = factory.run();
    t.equal(factory.run(), running);
    await running;
    t.equal(factory.run(), running);
    t.match(factory.address, { kind: 'inet', host: '127.0.0.1', port: Number });
    t.strictSame(told, [factory.address]);
  });

  t.test('setup() runs before the first session, teardown() after the last, and both reach the milter', async (t) => {
    const report = [['report', 'context'] as const, ['report', 'shared'] as const];
    const script = { setup: [['tick'], ...report], mailFrom: report, close: [['tick']], teardown: report } as const;
    const play = puppets(t, variant, script, { gift: { size: 5 } });
    const running = play.factory.run();
    t.strictSame(play.calls(), []);
    await running;
    for (let i = 0; i < 2; i++) {
      const { mta } = await play.agreed();
      await mta.ask(say.mail());
      mta.end();
    }
    await play.factory.close();
    const gifts = [
      ['context', { size: 5 }],
      ['shared', { size: 5 }],
    ];
    const calls = play.calls();
    t.strictSame(calls.slice(0, 3), ['setup', ...gifts]);
    t.strictSame(calls.slice(-3), ['teardown', ...gifts]);
    const sessions = calls.slice(3, -3).filter((call) => call !== 'close' && call !== 'abort true');
    t.strictSame(sessions, ['mailFrom', ...gifts, 'mailFrom', ...gifts]);
  });

  t.test('a failing setup() fails run(): nothing listens, and there is nothing to tear down', async (t) => {
    for (const deed of ['throw', 'throwText'] as const) {
      for (const setup of [[[deed, 'no database']], [['tick'], [deed, 'no database']]] as const) {
        const path = `${shortFolder(t)}/a.sock`;
        const play = puppets(t, variant, { setup, teardown: [] }, { where: path });
        const error = await play.factory.run().then(undefined, (failure: MilterError) => failure);
        const words = deed === 'throw' ? 'no database' : '"no database"';
        t.match(error, { code: 'ERR_MILTER_CALLBACK', message: `Puppet.setup() failed: ${words}` });
        t.match(error?.cause, deed === 'throw' ? { name: 'Error', message: 'no database' } : 'no database');
        t.equal(play.factory.address, undefined);
        await t.rejects(once(connect(path), 'connect'), { code: 'ENOENT' });
        await play.factory.close();
        t.strictSame([play.calls(), play.errors], [['setup'], []]);
      }
    }
  });

  t.test('where listening fails, what setup() made is torn down', async (t) => {
    const where = `${shortFolder(t)}/missing/a.sock`;
    const play = puppets(t, variant, { setup: [], teardown: [] }, { where });
    await t.rejects(play.factory.run(), { code: 'ERR_MILTER_LISTEN' });
    await play.factory.close();
    t.strictSame(play.calls(), ['setup', 'teardown']);
  });

  t.test('a failing teardown() is told of, and close() ends all the same', async (t) => {
    for (const deed of ['throw', 'throwText'] as const) {
      const play = await playing(t, variant, { teardown: [[deed, 'oops']] });
      await play.factory.close();
      const words = deed === 'throw' ? 'oops' : '"oops"';
      t.match(play.errors, [{ code: 'ERR_MILTER_CALLBACK', message: `Puppet.teardown() failed: ${words}` }]);
      t.match(play.errors[0]?.cause, deed === 'throw' ? { message: 'oops' } : 'oops');
      t.equal(play.errors.length, 1);
    }
  });

  t.test('a milter whose constructor fails refuses that connection for now, and no other', async (t) => {
    const play = await playing(t, variant, { made: [['first', ['throw', 'not in the mood']]], mailFrom: [] });
    const first = await play.agreed();
    t.equal((await first.mta.ask(say.mail())).type, 'tempFail');
    t.match(await play.failure(), {
      code: 'ERR_MILTER_CALLBACK',
      message: 'The constructor failed: not in the mood',
      stage: 'connect',
    });
    const second = await play.agreed();
    t.equal((await second.mta.ask(say.mail())).type, 'continue');
    t.strictSame(play.errors, []);
  });

  t.test(
    'P74 what comes in one write is handled in order, one by one, callbacks that take a while as well',
    async (t) => {
      for (const deeds of [[], [['tick']]] as const) {
        const script = Object.fromEntries(Object.keys(COMMANDS).map((stage) => [stage, deeds]));
        const play = await playing(t, variant, script);
        const { mta } = await play.agreed();
        const commands = [say.connect(), say.helo(), ...message(), say.abort(), say.unknown(), ...message()];
        mta.send(...commands, say.quit());
        await mta.closed;
        t.strictSame(
          mta.replies.map(({ type }) => type),
          commands.filter(({ type }) => type !== 'abort').map(() => 'continue'),
        );
        await play.alone();
        const names = commands.map(({ type }) => (type === 'abort' ? 'abort false' : type));
        t.strictSame(play.calls(), [...names, 'close']);
      }
    },
  );

  t.test('P75 two connections at once: what fails in one is told of once, and the other notices nothing', async (t) => {
    const bad = '<bad@example.org>';
    const play = await playing(t, variant, { mailFrom: [['tick'], ['of', bad, ['throw', 'oops']]] }, { workers: 2 });
    const [good, other] = [await play.agreed(), await play.agreed()];
    const replies = await Promise.all([good.mta.ask(say.mail()), other.mta.ask(say.mail(bad))]);
    t.strictSame(
      replies.map(({ type }) => type),
      ['continue', 'tempFail'],
    );
    t.match(await play.failure(), {
      code: 'ERR_MILTER_CALLBACK',
      stage: 'mailFrom',
      message: 'mailFrom() failed: oops',
      cause: { name: 'Error', message: 'oops' },
    });
    t.equal((await other.mta.ask(say.abort(), say.mail())).type, 'continue');
    t.equal((await good.mta.ask(say.rcpt())).type, 'continue');
    t.strictSame(play.errors, []);
  });

  t.test('sessions at once are spread over the workers; under AsyncFactory all run here', async (t) => {
    const play = await playing(t, variant, { mailFrom: [['report', 'where']] }, { workers: 2 });
    const clients = [await play.agreed(), await play.agreed(), await play.agreed(), await play.agreed()];
    for (const { mta } of clients) t.equal((await mta.ask(say.mail())).type, 'continue');
    const where = play.calls().flatMap((call) => (Array.isArray(call) ? [String(call[1])] : []));
    const places = [...new Set(where)];
    const counts = places.map((place) => where.filter((each) => each === place).length);
    t.strictSame(counts, variant.runtime === 'here' ? [4] : [2, 2]);
    const processes = new Set(where.map((place) => Number(place.split('/')[0])));
    t.equal(processes.has(process.pid), variant.runtime !== 'process');
    t.equal(places.includes(`${process.pid}/0`), variant.runtime === 'here');
  });

  t.test('P27 a larger size of packets that was agreed is used', async (t) => {
    const play = await playing(t, variant, { body: [], eob: [['body', 100_000]] }, { smfifOptions: ALL_ACTIONS });
    const { mta } = await play.dial();
    await mta.negotiate({ protocol: ALL_STEPS | SMFIP_MDS_1M });
    t.equal((await mta.ask(say.body('b'.repeat(900_000)))).type, 'continue');
    mta.send(say.eob());
    t.equal((await outcome(mta)).length, 2);
  });

  t.test('small packets are sent at once, and connections that are dead are found out', async (t) => {
    const calls: unknown[] = [];
    for (const name of ['setNoDelay', 'setKeepAlive'] as const) {
      t.intercept(Socket.prototype, name, { value: (on: boolean) => void calls.push([name, on]) });
    }
    const play = await playing(t, variant);
    await play.agreed();
    // What the child does is not seen from here, but setNoDelay() holds for the connection, whoever has it.
    const own = [['setNoDelay', true], ...(variant.reader === 'child' ? [] : [['setKeepAlive', true]])];
    t.strictSame(calls, own);
  });

  t.test('P143 a connection that cannot be accepted is told of, and the rest goes on', async (t) => {
    const servers = listeningServers(t);
    const play = await playing(t, variant);
    const cause = Object.assign(new Error('accept EMFILE'), { code: 'EMFILE' });
    servers.at(-1)?.emit('error', cause);
    t.match(play.errors, [{ code: 'ERR_MILTER_LISTEN', message: 'Cannot accept a connection: accept EMFILE', cause }]);
    const { mta } = await play.dial();
    t.equal((await mta.negotiate()).type, 'negotiate');
  });
};
