// A replay's options, its time, and what ends it before its end.
import { Duplex } from 'node:stream';
import t from 'tap';
import type { CaptureEvent } from '../../lib/capture/index.js';
import { encodeCommand, type Command } from '../../lib/codec/index.js';
import { replayCapture, type ReplayedSession, type ReplayOptions } from '../../lib/replay/index.js';
import { packet } from '../helpers/bytes.js';
import { answer, collect, data, OFFER } from '../helpers/capture.js';
import { fakeMilter, silence } from '../helpers/fake-milter.js';
import { gate } from '../helpers/milter.js';
import { say } from '../helpers/mta.js';

const c = packet('c');

/** A session: the offer, and then each command with its answer, so many ms apart. */
function session(name: string, commands: readonly Command[], start = 1000, apart = 0): CaptureEvent[] {
  const events: CaptureEvent[] = [
    { type: 'open', session: name, time: start },
    data('mta', OFFER, start, name),
    data('milter', answer(), start, name),
  ];
  for (const [i, command] of commands.entries()) {
    const time = start + (i + 1) * apart;
    events.push(data('mta', encodeCommand(command, 0xfffff), time, name));
    if (!['macro', 'abort', 'quit'].includes(command.type)) events.push(data('milter', c, time, name));
  }
  return [...events, { type: 'close', session: name, time: start }];
}

const short = [say.connect(), say.quit()];

t.test('an option that is none is named', async (t) => {
  const play = (options: object): Promise<unknown> => collect(replayCapture([], 'inet:1', options as ReplayOptions));
  for (const [options, message] of [
    [{ speed: 0 }, /^speed must be a number above 0, got 0$/],
    [{ sessions: 'a' }, /^sessions must be a list of names/],
    [{ connections: 0 }, /^connections must be a whole number from 1 to 10000/],
    [{ ignore: ['nonsense'] }, /^ignore must be a list of kinds of replies/],
    [{ ignore: [undefined] }, /^ignore must be/],
    [{ ignoreHeaders: [1] }, /^ignoreHeaders must be/],
    [{ like: 'exim' }, /^like must be/],
    [{ timeout: 1.5 }, /^timeout must be/],
    [{ signal: 1 }, /^signal must be/],
    [{ sped: 1 }, /^sped is no option/],
  ] as const) {
    await t.rejects(play(options), { code: 'ERR_MILTER_OPTION', message });
  }
  await t.rejects(collect(replayCapture([], 'inet:x')), { code: 'ERR_MILTER_ADDRESS' });
  t.strictSame(await play({ speed: undefined, signal: new AbortController().signal, eobTimeout: 1 }), []);
});

t.test('with a speed nothing comes sooner than it came then', async (t) => {
  const events = [...session('a', short, 1000, 20), ...session('b', short, 1060, 20)];
  const times: number[] = [];
  const connect = (): Duplex => {
    const { stream } = fakeMilter();
    times.push(performance.now());
    return stream;
  };
  const start = performance.now();
  const sessions = await collect(replayCapture(events, connect, { speed: 2 }));
  // A timer may be a little early.
  t.ok(times[1]! - start >= 28, 'the second session begins after 30 ms');
  t.ok(performance.now() - start >= 48, 'and takes 20');
  t.match(sessions, [{ differences: 0 }, { differences: 0 }]);
});

t.test('several at once, each given when it is over; others are left out', async (t) => {
  const events = ['a', 'b', 'c', 'd'].flatMap((name) => session(name, short));
  const second = gate();
  let dialled = 0;
  const connect = async (): Promise<Duplex> => {
    const number = ++dialled;
    if (number === 1) await second.promise;
    if (number === 2) second.open();
    return fakeMilter().stream;
  };
  const sessions = await collect(replayCapture(events, connect, { connections: 2, sessions: ['a', 'b', 'd'] }));
  t.strictSame(sessions.map((each) => each.session).sort(), ['a', 'b', 'd']);
});

t.test('those that end while another one is being looked at are given as well', async (t) => {
  const events = ['a', 'b', 'c'].flatMap((name) => session(name, short));
  const names: string[] = [];
  for await (const each of replayCapture(events, () => fakeMilter().stream, { connections: 3 })) {
    names.push(each.session);
    for (let i = 0; i < 50; i++) await new Promise(setImmediate);
  }
  t.strictSame(names, ['a', 'b', 'c']);
});

t.test('who gives up: what is at work ends, and nothing more begins', async (t) => {
  const events = ['a', 'b', 'c'].flatMap((name) => session(name, short));
  const early = new AbortController();
  early.abort();
  t.strictSame(await collect(replayCapture(events, 'inet:1', { signal: early.signal })), []);

  const waiting = new AbortController();
  const script = { connect: () => waiting.abort(new Error('enough')) };
  const sessions = await collect(replayCapture(events, () => fakeMilter(script).stream, { signal: waiting.signal }));
  t.match(sessions, [{ session: 'a', error: { code: 'ERR_MILTER_ABORTED', cause: { message: 'enough' } } }]);
  t.equal(sessions.length, 1);

  const asleep = new AbortController();
  const slow = replayCapture(session('a', short, 1000, 60_000), () => fakeMilter({ negotiate: [answer()] }).stream, {
    speed: 1,
    signal: asleep.signal,
  });
  setImmediate(() => asleep.abort());
  t.match(await collect(slow), [{ error: { code: 'ERR_MILTER_ABORTED' } }]);

  const dialling = new AbortController();
  const connect = (): Duplex => {
    dialling.abort();
    return fakeMilter().stream;
  };
  t.match(await collect(replayCapture(events, connect, { signal: dialling.signal })), [
    { error: { code: 'ERR_MILTER_ABORTED' } },
  ]);
});

t.test('who wants no more sessions leaves none behind', async (t) => {
  const streams: Duplex[] = [];
  const connect = (): Duplex => {
    const { stream } = fakeMilter(streams.length === 0 ? {} : { connect: silence });
    streams.push(stream);
    return stream;
  };
  const events = ['a', 'b', 'c'].flatMap((name) => session(name, short));
  for await (const { session: name } of replayCapture(events, connect, { connections: 2 })) {
    t.equal(name, 'a');
    break;
  }
  await new Promise(setImmediate);
  t.ok(streams.length >= 2);
  t.ok(streams.every(({ destroyed }) => destroyed));
});

t.test('a milter that takes nothing, or does not close, is not waited for for ever', async (t) => {
  const deaf = new Duplex({ read() {}, write() {}, highWaterMark: 1 });
  const [unheard] = await collect(replayCapture(session('a', short), () => deaf, { timeout: 20 }));
  t.match(unheard!.error, { code: 'ERR_MILTER_TIMEOUT', message: 'It takes nothing, and 20 ms are over' });
  t.ok(deaf.destroyed);
  const open = fakeMilter();
  open.stream._final = (done) => done();
  const [stays] = await collect(replayCapture(session('a', short), () => open.stream, { timeout: 20 }));
  t.match(stays, { differences: 0 });
  t.ok(open.stream.destroyed);
  const slow = fakeMilter();
  const write = slow.stream._write.bind(slow.stream);
  slow.stream._write = (bytes: Buffer, encoding, done) => setImmediate(() => write(bytes, encoding, done));
  const large = { type: 'body', chunk: Buffer.alloc(70_000) } as const;
  const body = session('a', [say.connect(), say.mail(), say.rcpt(), large, say.eob(), say.quit()]);
  t.match(await collect(replayCapture(body, () => slow.stream)), [{ differences: 0, error: undefined }]);
});

t.test('a mail server alone, without an offer: everything is answered', async (t) => {
  const events: CaptureEvent[] = [
    { type: 'open', session: '1', time: 0, only: 'mta' },
    ...[say.helo(), say.macros('M', { i: 'Q' }), say.mail(), say.header(), say.macros('Q', {})].map((command) =>
      data('mta', encodeCommand(command), 0, '1'),
    ),
  ];
  const milter = fakeMilter();
  const [session1] = (await collect(replayCapture(events, () => milter.stream))) as [ReplayedSession];
  t.match(session1, { differences: 0, error: undefined });
  t.strictSame(
    milter.heard.map(({ type }) => type),
    ['helo', 'macro', 'mailFrom', 'header', 'macro'],
  );
});

t.test('what then was no reply is different from one now, and shown as it was', async (t) => {
  const events = session('a', [say.connect(), say.mail(), say.rcpt(), say.eob()]);
  const at = events.findLastIndex((event) => event.type === 'data' && event.from === 'milter');
  events[at] = data(
    'milter',
    Buffer.concat([packet('h', Buffer.from('no end')), packet('y', Buffer.from('nonsense\0'))]),
    1000,
    'a',
  );
  const [one] = (await collect(replayCapture(events, () => fakeMilter().stream))) as [ReplayedSession];
  t.match(one.steps.at(-1), { differs: true, was: [{ type: 'malformed' }, { type: 'replyCode' }] });
  t.match(one.messages, [{ was: { verdict: 'reject', reply: 'nonsense' }, now: { verdict: 'accept' } }]);
});
