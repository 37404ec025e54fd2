// What a factory does to its sessions when it closes, or has too many of them.
import t from 'tap';
import type { Command } from '../../lib/codec/index.js';
import type { SessionOptions } from '../../lib/index.js';
import { bareSession, each, gate, memoryLog, milter, STAGES, times, type Script } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, say } from '../helpers/mta.js';
import { settled } from '../helpers/streams.js';

const OFFER: Command = { type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS };

const never = (): Promise<void> => new Promise(() => {});

t.test('a factory that closes', async (t) => {
  const begin = (script: Script = {}, options: SessionOptions = {}) => {
    const { MyMilter, calls } = milter({ ...each(STAGES), ...script });
    const bare = bareSession(MyMilter, options);
    bare.session.receive(OFFER);
    bare.replies.length = 0;
    const say = (...commands: Command[]): void => commands.forEach((command) => bare.session.receive(command));
    return { ...bare, calls, say };
  };
  const CLOSED = { type: 'replyCode', text: '421 4.3.2 Service not available, closing transmission channel' };

  for (const bareReplies of [false, true]) {
    await t.test(
      `P142 a message in progress is finished, a new one is sent away${bareReplies ? ', in words also with bareReplies' : ''}`,
      async (t) => {
        const { session, replies, calls, say: send } = begin({}, { bareReplies });
        send(say.connect(), say.mail());
        session.drain();
        send(say.rcpt(), say.eob(), say.helo());
        t.same(replies.splice(0), times(5, { type: 'continue' }));
        send(say.mail(), say.rcpt(), say.helo(), say.mail());
        t.same(replies, times(4, CLOSED));
        t.same(calls, ['connect', 'mailFrom', 'rcpt', 'eob', 'helo']);
      },
    );
  }

  await t.test('P142 destroy() while a callback is at work: refused for now, abort(), close()', async (t) => {
    const { promise, open } = gate<'accept'>();
    let signal: AbortSignal | undefined;
    const {
      session,
      replies,
      calls,
      closed,
      errors,
      say: send,
    } = begin(
      {
        eob() {
          ({ signal } = this);
          this.addHeader('X', 'y');
          return promise;
        },
      },
      { smfifOptions: ALL_ACTIONS },
    );
    send(say.mail(), say.eob(), say.mail());
    session.destroy();
    t.equal(await closed, undefined);
    t.match(signal, { aborted: true, reason: { code: 'ERR_MILTER_CLOSING' } });
    t.same(replies, [{ type: 'continue' }, { type: 'tempFail' }]);
    t.same(calls, ['mailFrom', 'eob', 'abort true', 'close']);
    open('accept');
    await settled();
    session.destroy();
    t.same(replies.length, 2);
    t.same(errors, []);
  });

  await t.test('P142 destroy() in a dry run refuses nothing; nor does it where nothing is answered', async (t) => {
    const dry = begin({ eob: never }, { dryRun: true });
    dry.say(say.mail(), say.eob());
    dry.session.destroy();
    t.same(dry.replies, [{ type: 'continue' }, { type: 'continue' }]);
    await dry.closed;

    const { MyMilter } = milter({ header: never }, { noReply: ['header'] });
    const quiet = bareSession(MyMilter);
    quiet.session.receive(OFFER);
    quiet.session.receive(say.header());
    quiet.session.destroy();
    await quiet.closed;
    t.equal(quiet.replies.length, 1);
  });

  await t.test('P142 destroy() behind a break that waits for the callback at work: it waits no more', async (t) => {
    for (const ends of ['lost', 'rubbish'] as const) {
      const { session, replies, calls, closed, say: send } = begin({ eob: never });
      send(say.mail(), say.eob());
      if (ends === 'lost') session.lost(new Error('gone'));
      else session.feed(Buffer.from('GET / HTTP/1.1'));
      t.same(calls, ['mailFrom', 'eob']);
      session.destroy();
      t.ok(await closed);
      t.same(calls, ['mailFrom', 'eob', 'abort true', 'close']);
      t.equal(replies.length, 1, 'nobody waits for an answer');
    }
  });

  await t.test('P142 destroy() between messages, and before the offer: close() alone', async (t) => {
    const { session, calls, closed, say: send } = begin();
    send(say.mail(), say.eob());
    session.destroy();
    t.equal(await closed, undefined);
    t.same(calls, ['mailFrom', 'eob', 'close']);
    const { MyMilter, calls: early } = milter();
    const silent = bareSession(MyMilter);
    silent.session.destroy();
    t.equal(await silent.closed, undefined);
    t.same(early, ['close']);
  });

  for (const [what, commands] of [
    ['abort() of an ABORT', [say.abort(), say.mail()]],
    ['abort() of a MAIL', [say.mail()]],
    ['abort() of a QUIT_NC', [say.quitNewConnection(), say.connect()]],
    ['abort() of a QUIT', [say.quit()]],
  ] as const) {
    await t.test(`P142 destroy() while ${what} is at work: it is waited for, and close() comes once`, async (t) => {
      const { promise, open } = gate();
      const { session, calls, closed, say: send } = begin({ abort: () => promise });
      send(say.mail(), ...commands);
      session.destroy();
      session.destroy();
      t.same(calls, ['mailFrom', 'abort true']);
      open();
      t.equal(await closed, undefined);
      t.same(calls, ['mailFrom', 'abort true', 'close']);
    });
  }

  await t.test(
    'P145 a connection that breaks behind QUIT, while close() is at work, is none the worse for it',
    async (t) => {
      const { promise, open } = gate();
      const { session, calls, closed, errors, say: send } = begin({ close: () => promise });
      send(say.quit());
      session.lost(new Error('read ECONNRESET'));
      session.end();
      open();
      t.equal(await closed, undefined);
      t.same(calls, ['close']);
      t.same(errors, []);
    },
  );

  await t.test('P142 destroy() while close() of a QUIT_NC is at work: nothing follows', async (t) => {
    const { promise, open } = gate();
    const { session, calls, closed, say: send } = begin({ close: () => promise });
    send(say.quitNewConnection(), say.connect());
    session.destroy();
    open();
    t.equal(await closed, undefined);
    t.same(calls, ['close']);
  });

  await t.test('P142 a macro that aborts a message, while the session ends, begins no other', async (t) => {
    const { promise, open } = gate();
    const { MyMilter, calls } = milter({ eob() {}, abort: () => promise });
    const { session, closed } = bareSession(MyMilter);
    session.receive(OFFER);
    session.receive(say.macros('M', { i: 'one' }));
    session.receive(say.macros('M', { i: 'two' }));
    session.destroy();
    open();
    await closed;
    t.same(calls, ['abort true', 'close']);
  });

  await t.test(
    'P144 too many connections: negotiated, then every message is sent away, without an object',
    async (t) => {
      const { MyMilter, calls } = milter(each(STAGES));
      const log = memoryLog();
      const { session, replies, closed } = bareSession(MyMilter, { bareReplies: true, log }, { overloaded: true });
      session.receive(OFFER);
      t.match(replies.splice(0), [{ type: 'negotiate', protocol: 0, actions: 0 }]);
      for (const command of [say.connect(), say.helo(), say.mail(), say.abort(), say.mail()]) session.receive(command);
      session.receive(say.quitNewConnection());
      session.receive(say.connect());
      t.same(replies, times(5, CLOSED));
      session.receive(say.quit());
      t.equal(await closed, undefined);
      t.same([calls, log.lines], [[], []]);
    },
  );
});
