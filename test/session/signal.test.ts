// What `this.signal` tells: that the mail server has given up on the message, or that the connection ends.
import t from 'tap';
import { encodeCommand, type Command } from '../../lib/codec/index.js';
import type { MilterProtocol } from '../../lib/index.js';
import { cut } from '../helpers/bytes.js';
import { settled } from '../helpers/streams.js';
import { bareSession, each, gate, matchAll, milter, STAGES, type BareSession, type Script } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, say } from '../helpers/mta.js';

const OFFER: Command = { type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS };

const wire = (...commands: Command[]): Buffer =>
  Buffer.concat(commands.map((command) => encodeCommand(command, 0xffffff)));

interface Started extends BareSession {
  readonly calls: string[];
  /** Commands as bytes, in one chunk; what feed() says. */
  readonly feed: (...commands: Command[]) => boolean;
}

/** A session past its negotiation, of a milter that goes on everywhere but where its script says otherwise. */
function start(script: Script = {}, statics: object = {}): Started {
  const { MyMilter, calls } = milter({ ...each(STAGES), ...script }, statics);
  const bare = bareSession(MyMilter);
  const feed = (...commands: Command[]): boolean => bare.session.feed(wire(...commands));
  feed(OFFER);
  bare.replies.length = 0;
  return Object.assign(bare, { calls, feed });
}

const types = ({ replies }: BareSession): string[] => replies.map(({ type }) => type);

t.test('the signal', async (t) => {
  /** A milter whose rcpt() is at work until the gate opens, and the signal that it has. */
  const busy = (): Started & { open: () => void; signal: () => AbortSignal } => {
    const { promise, open } = gate();
    let signal: AbortSignal | undefined;
    const started = start({
      rcpt() {
        ({ signal } = this);
        return promise;
      },
    });
    started.feed(say.connect(), say.mail(), say.rcpt());
    return Object.assign(started, { open, signal: () => signal as AbortSignal });
  };

  for (const [what, commands, code] of [
    ['ABORT', [say.abort()], 'ERR_MILTER_ABORTED'],
    ['QUIT', [say.quit()], 'ERR_MILTER_ABORTED'],
    ['QUIT_NC', [say.quitNewConnection()], 'ERR_MILTER_ABORTED'],
    ['an ABORT behind other commands', [say.rcpt(), say.data(), say.abort()], 'ERR_MILTER_ABORTED'],
  ] as const) {
    await t.test(`is aborted at once by ${what} that is read ahead; the order stays`, async (t) => {
      const one = busy();
      t.equal(one.signal().aborted, false);
      t.ok(one.feed(...commands));
      t.match(one.signal(), { aborted: true, reason: { code } });
      t.same(one.calls, ['connect', 'mailFrom', 'rcpt'], 'and nothing is done about it yet');
      one.open();
      await settled();
      const between = commands.length > 1 ? ['rcpt', 'data'] : [];
      const after = what === 'QUIT' || what === 'QUIT_NC' ? ['close'] : [];
      t.same(one.calls, ['connect', 'mailFrom', 'rcpt', ...between, 'abort true', ...after]);
      t.same(types(one), Array(3 + between.length).fill('continue'));
    });
  }

  await t.test('is aborted at once by an ABORT that comes byte by byte', async (t) => {
    const one = busy();
    for (const byte of cut(wire(say.abort()), 1)) {
      t.equal(one.signal().aborted, false);
      one.session.feed(byte);
    }
    t.equal(one.signal().aborted, true);
  });

  await t.test('P70 is aborted by the end of the connection; what has come is still handled', async (t) => {
    const one = busy();
    one.feed(say.rcpt(), say.eob());
    one.session.end();
    t.match(one.signal(), { aborted: true, reason: { code: 'ERR_MILTER_CONNECTION' } });
    one.session.end();
    one.open();
    t.equal(await one.closed, undefined);
    t.same(one.calls, ['connect', 'mailFrom', 'rcpt', 'rcpt', 'eob', 'close']);
    t.same(types(one), Array(5).fill('continue'));
    t.same(one.errors, []);
  });

  await t.test('P143 is aborted by a connection that breaks; what waits is not handled any more', async (t) => {
    const one = busy();
    one.feed(say.rcpt(), say.eob());
    one.session.lost(new Error('read ECONNRESET'));
    t.match(one.signal(), { aborted: true, reason: { code: 'ERR_MILTER_CONNECTION', message: /read ECONNRESET/ } });
    one.open();
    t.match(await one.closed, { code: 'ERR_MILTER_CONNECTION' });
    t.same(one.calls, ['connect', 'mailFrom', 'rcpt', 'abort true', 'close']);
    t.same(types(one), ['continue', 'continue']);
    t.same(one.errors, []);
  });

  await t.test('what the callback makes of it is its business: it may fail, and the message is gone', async (t) => {
    const one = start({
      rcpt() {
        return new Promise((_resolve, reject) => {
          this.signal.addEventListener('abort', () => reject(this.signal.reason as Error));
        });
      },
    });
    one.feed(say.mail(), say.rcpt());
    one.feed(say.abort(), say.mail());
    await settled();
    t.same(types(one), ['continue', 'tempFail', 'continue']);
    t.same(one.calls, ['mailFrom', 'rcpt', 'abort true', 'mailFrom']);
    matchAll(t, one.errors, [{ code: 'ERR_MILTER_ABORTED' }]);
  });

  await t.test('is made when first asked for, and then the same for the whole message', async (t) => {
    const signals: AbortSignal[] = [];
    const keep = function (this: MilterProtocol): void {
      signals.push(this.signal, this.signal);
    };
    const { promise, open } = gate();
    const one = start({
      rcpt: keep,
      data: () => promise,
      header: keep,
      eob: keep,
    });
    one.feed(say.mail(), say.rcpt(), say.data());
    one.feed(say.abort());
    open();
    await settled();
    t.equal(new Set(signals.splice(0)).size, 1);
    one.feed(say.mail(), say.rcpt(), say.header(), say.eob());
    await settled();
    t.equal(new Set(signals).size, 1);
    t.equal(signals[0]?.aborted, false);
  });

  await t.test('asked for only after the abort, it is aborted already', async (t) => {
    const { promise, open } = gate();
    const seen: unknown[] = [];
    const one = start({
      async rcpt() {
        await promise;
        seen.push(this.signal.aborted, this.signal.reason);
      },
    });
    one.feed(say.mail(), say.rcpt());
    one.feed(say.abort());
    open();
    await settled();
    matchAll(t, seen, [true, { code: 'ERR_MILTER_ABORTED' }]);
  });

  await t.test('outside a message is that of the connection: an ABORT leaves it alone', async (t) => {
    const signals: AbortSignal[] = [];
    const keep = function (this: MilterProtocol): void {
      signals.push(this.signal);
    };
    const one = start({ connect: keep, helo: keep, mailFrom: keep, unknown: keep, abort: keep });
    one.feed(say.connect(), say.helo(), say.mail(), say.unknown(), say.abort(), say.unknown());
    const [connect, helo, mail, unknown, abort, later] = signals;
    t.equal(connect, helo);
    t.not(connect, mail);
    t.equal(mail, unknown);
    t.equal(mail, abort);
    t.equal(connect, later);
    t.same([connect?.aborted, mail?.aborted], [false, true]);
    one.feed(say.quit());
    t.equal(connect?.aborted, true, 'the end of the connection does not');
  });

  for (const [what, end] of [
    ['QUIT', (one: Started) => void one.feed(say.quit())],
    ['QUIT_NC', (one: Started) => void one.feed(say.quitNewConnection())],
    ['the end', (one: Started) => one.session.end()],
    ['a break', (one: Started) => one.session.lost(new Error('gone'))],
    ['a failure', (one: Started) => void one.session.feed(Buffer.from('\0\0\0\0'))],
    ['destroy()', (one: Started) => one.session.destroy()],
  ] as const) {
    await t.test(`is aborted by ${what}, also while nothing is at work`, async (t) => {
      const signals: AbortSignal[] = [];
      const keep = function (this: MilterProtocol): void {
        signals.push(this.signal);
      };
      const one = start({ connect: keep, mailFrom: keep });
      one.feed(say.connect(), say.mail());
      end(one);
      t.same(
        signals.map(({ aborted }) => aborted),
        [true, true],
      );
      if (what !== 'QUIT_NC') return;
      one.feed(say.connect(), say.mail());
      t.same(
        signals.slice(2).map(({ aborted }) => aborted),
        [false, false],
        'the next SMTP session has others',
      );
    });
  }
});
