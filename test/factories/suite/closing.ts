// P142: close() and everything that ends a factory: messages in progress are finished, new ones come back later.
import { once } from 'node:events';
import { lstat } from 'node:fs/promises';
import { connect } from 'node:net';
import type { Test } from 'tap';
import type { Command } from '../../../lib/codec/index.js';
import { connections, reach } from '../../helpers/dial.js';
import { shortFolder } from '../../helpers/folder.js';
import { ALL_ACTIONS, message, say, type Mta } from '../../helpers/mta.js';
import { settled } from '../../helpers/streams.js';
import { until } from '../../helpers/until.js';
import type { Variant } from '../../helpers/variants.js';
import type { Script } from './milters.js';
import { playing, puppets, type Part } from './puppets.js';

const LATER = { type: 'replyCode', text: /^421 4\.3\.2 / };
const CLOSED = { code: 'ERR_MILTER_CLOSING', message: 'The factory is closed' };

/** A process that has the socket hears of close() a moment later than a mail server may send its next message. */
async function refusedForNow(t: Test, variant: Variant, mta: Mta, command: Command): Promise<void> {
  let reply = await mta.ask(command);
  while (variant.reader === 'child' && reply.type === 'continue') reply = await mta.ask(say.abort(), command);
  t.match(reply, LATER);
}

export const closing: Part = (t, variant) => {
  t.test('P142 close() lets the message in progress end, and refuses the next one for now', async (t) => {
    const play = await playing(t, variant, { mailFrom: [], rcpt: [], eob: [] });
    const { factory } = play;
    const { mta } = await play.agreed();
    const other = await play.dial();
    await mta.ask(say.mail());
    let over = false;
    const closing = factory.close().then(() => (over = true));
    other.mta.end();
    await connections(factory, 1);
    t.strictSame(await mta.play(say.rcpt(), say.eob()), ['continue', 'continue']);
    await refusedForNow(t, variant, mta, say.mail());
    t.match(await mta.ask(say.rcpt()), LATER, 'and whatever else comes');
    t.notOk(over, 'the milter does not close first');
    mta.send(say.quit());
    await closing;
    if (variant.reader === 'parent') t.strictSame(play.calls(), ['mailFrom', 'close', 'rcpt', 'eob', 'close']);
    t.strictSame(play.errors, []);
  });

  t.test('P142 a message of a milter that sees its end alone is refused there', async (t) => {
    const play = await playing(t, variant, { eob: [] });
    const { mta } = await play.agreed();
    mta.send(say.macros('M', { i: 'Q1' }));
    await mta.ask(say.eob());
    const closing = play.factory.close();
    await refusedForNow(t, variant, mta, say.eob());
    mta.end();
    await closing;
    if (variant.reader === 'parent') t.strictSame(play.calls(), ['eob', 'close']);
  });

  t.test('P142 a connection that says nothing more is waited for', async (t) => {
    const play = await playing(t, variant);
    const { mta } = await play.agreed();
    let over = false;
    const closing = play.factory.close().then(() => (over = true));
    await settled();
    t.notOk(over);
    mta.end();
    await closing;
  });

  t.test('P142 nobody can connect any more, and the file is gone, at once', async (t) => {
    for (const where of ['inet:0', `${shortFolder(t)}/a.sock`]) {
      const play = await playing(t, variant, { mailFrom: [['hold']] }, { where });
      const place = reach(play.factory.address);
      const { mta } = await play.agreed();
      mta.send(say.mail());
      const release = await play.held('mailFrom');
      const closing = play.factory.close();
      await until('nobody to listen', () => play.factory.address === undefined);
      await t.rejects(once(connect(place), 'connect'), { code: 'path' in place ? 'ENOENT' : 'ECONNREFUSED' });
      if ('path' in place) await t.rejects(lstat(place.path), { code: 'ENOENT' });
      release();
      t.equal((await mta.reply()).type, 'continue', 'and the message goes on');
      mta.end();
      await closing;
    }
  });

  t.test(
    'P142 a second call ends everything at once: abort() and close(), and a refusal for the command',
    async (t) => {
      const play = await playing(t, variant, { mailFrom: [], rcpt: [['aborted'], ['never']] });
      const { factory } = play;
      const [waiting, between, idle] = [await play.agreed(), await play.agreed(), await play.agreed()];
      await waiting.mta.ask(say.mail());
      await between.mta.ask(say.mail());
      waiting.mta.send(say.rcpt());
      await until('rcpt()', () => play.count('rcpt') === 1);
      const closing = factory.close();
      t.equal(factory.close(), closing, 'it is the same closing');
      await closing;
      t.equal((await waiting.mta.reply()).type, 'tempFail');
      for (const { mta } of [waiting, between, idle]) {
        await mta.closed;
        t.strictSame(mta.replies, []);
      }
      const calls = play.calls().slice(3).map(String);
      const signalled = 'aborted,ERR_MILTER_CLOSING';
      t.strictSame(calls.toSorted(), ['abort true', 'abort true', signalled, 'close', 'close', 'close']);
      t.strictSame(play.errors, []);
    },
  );

  t.test('P142 the same after closeTimeout', async (t) => {
    const play = await playing(t, variant, { mailFrom: [['hold']] }, { closeTimeout: 20 });
    const { mta } = await play.agreed();
    mta.send(say.mail());
    await play.held('mailFrom');
    await play.factory.close();
    t.equal((await mta.reply()).type, 'tempFail');
    await mta.closed;
    t.strictSame(play.calls(), ['mailFrom', 'abort true', 'close']);
    // A worker that takes as long to end is told of.
    t.strictSame(
      play.errors.filter(({ code }) => code !== 'ERR_MILTER_WORKER'),
      [],
    );
  });

  t.test('P142 abort() and close() of the milter are waited for', async (t) => {
    const play = await playing(t, variant, { mailFrom: [], abort: [['hold']], close: [['tick']] });
    const { mta } = await play.agreed();
    await mta.ask(say.mail());
    let over = false;
    void play.factory.close();
    const closing = play.factory.close().then(() => (over = true));
    const release = await play.held('abort');
    await settled();
    t.strictSame([over, play.calls()], [false, ['mailFrom', 'abort true']]);
    release();
    await closing;
    t.strictSame(play.calls(), ['mailFrom', 'abort true', 'close']);
  });

  t.test('P142 a client that never reads does not keep a factory from closing', async (t) => {
    const bodies: Record<string, Script> = {
      'the body is being written': { eob: [['body', 50_000_000]] },
      // Small enough to be handed to the system in one go, too large for it.
      'the session is over': { eob: [['body', 1000, 250]] },
    };
    for (const [name, script] of Object.entries(bodies)) {
      const play = await playing(t, variant, script, { smfifOptions: ALL_ACTIONS });
      const { mta, socket } = await play.agreed();
      socket.pause();
      // More than the buffers of the system can hold.
      const messages = name === 'the session is over' ? 100 : 1;
      for (let i = 0; i < messages; i++) mta.send(say.eob());
      mta.send(say.quit());
      await until('eob()', () => play.count('eob') > 0);
      void play.factory.close();
      await play.factory.close();
      t.equal(play.calls().at(-1), 'close', name);
      t.equal(play.factory.connections, 0);
    }
  });

  t.test('the end of a factory is told of once', async (t) => {
    const { factory } = await playing(t, variant);
    let told = 0;
    factory.on('close', () => told++);
    await Promise.all([factory.close(), factory.close()]);
    await factory.close();
    t.equal(told, 1);
    t.equal(factory.address, undefined);
  });

  t.test('P142 run() and close() may come in any order', async (t) => {
    const borders: Script = { setup: [], teardown: [] };
    await t.test('close() alone', async (t) => {
      const play = puppets(t, variant, borders);
      play.factory.on('close', () => t.fail('it never ran'));
      await play.factory.close();
      await play.factory.close();
      await t.rejects(play.factory.run(), CLOSED);
      await play.factory.close();
      t.strictSame(play.calls(), []);
    });
    await t.test('close(), and run() in the same breath', async (t) => {
      const play = puppets(t, variant, borders);
      play.factory.on('close', () => t.fail('it never ran'));
      const closing = play.factory.close();
      await t.rejects(play.factory.run(), CLOSED);
      await closing;
      t.strictSame(play.calls(), []);
    });
    await t.test('close() while setup() is at work', async (t) => {
      const play = puppets(t, variant, { ...borders, setup: [['hold']] });
      const running = play.factory.run();
      const release = await play.held('setup');
      const closing = play.factory.close();
      release();
      await running;
      await closing;
      t.strictSame(play.calls(), ['setup', 'teardown']);
      t.equal(play.factory.address, undefined);
    });
    await t.test('close() behind a run() that fails', async (t) => {
      const play = puppets(t, variant, { ...borders, setup: [['throw', 'oops']] });
      const running = play.factory.run();
      const closing = play.factory.close();
      await t.rejects(running, { code: 'ERR_MILTER_CALLBACK' });
      await closing;
      t.strictSame(play.calls(), ['setup']);
    });
    await t.test('run() again after close()', async (t) => {
      const { factory } = await playing(t, variant);
      const closing = factory.close();
      await t.rejects(factory.run(), CLOSED);
      await closing;
      await t.rejects(factory.run(), CLOSED);
    });
  });

  t.test('P142 an AbortSignal is a close()', async (t) => {
    await t.test('before run()', async (t) => {
      const play = puppets(t, variant, { setup: [] }, { signal: AbortSignal.abort() });
      await t.rejects(play.factory.run(), { code: 'ERR_MILTER_CLOSING' });
      t.strictSame(play.calls(), []);
    });
    await t.test('while it runs', async (t) => {
      const controller = new AbortController();
      const play = await playing(t, variant, { mailFrom: [] }, { signal: controller.signal });
      const { mta } = await play.agreed();
      await mta.ask(say.mail());
      const closed = once(play.factory, 'close');
      controller.abort();
      t.strictSame(
        await mta.play(...message().slice(1)),
        Array.from({ length: 6 }, () => 'continue'),
      );
      await refusedForNow(t, variant, mta, say.mail());
      mta.end();
      await closed;
    });
    await t.test('while setup() is at work', async (t) => {
      const controller = new AbortController();
      const script: Script = { setup: [['hold']], teardown: [] };
      const play = puppets(t, variant, script, { signal: controller.signal });
      const closed = once(play.factory, 'close');
      const running = play.factory.run();
      const release = await play.held('setup');
      controller.abort();
      release();
      await running;
      await closed;
      t.strictSame(play.calls(), ['setup', 'teardown']);
    });
    await t.test('behind a close(), or a run() that failed, it means nothing', async (t) => {
      const controller = new AbortController();
      const play = await playing(t, variant, {}, { signal: controller.signal });
      const { mta } = await play.agreed();
      const closing = play.factory.close();
      await until('nobody to listen', () => play.factory.address === undefined);
      controller.abort();
      await refusedForNow(t, variant, mta, say.eob()); // it is not a second call
      mta.end();
      await closing;

      const other = new AbortController();
      const failed = puppets(t, variant, { setup: [['throw', 'oops']] }, { signal: other.signal });
      await t.rejects(failed.factory.run(), { code: 'ERR_MILTER_CALLBACK' });
      other.abort();
      await failed.factory.close();
      t.strictSame(failed.errors, []);
    });
  });

  t.test('P142 `await using` closes a factory', async (t) => {
    const { factory } = await playing(t, variant);
    await factory[Symbol.asyncDispose]();
    t.equal(factory.address, undefined);
  });
};
