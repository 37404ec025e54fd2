// A replay between a capture that may hold anything and a milter that may do anything: it comes to an end, and lets go.
import type { Duplex } from 'node:stream';
import t from 'tap';
import { readCapture, type CaptureEvent } from '../../lib/capture/index.js';
import { encodeCommand, type Command } from '../../lib/codec/index.js';
import { replayCapture, type ReplayedSession, type ReplayOptions } from '../../lib/replay/index.js';
import { packet } from '../helpers/bytes.js';
import {
  answer,
  collect,
  collectUntilError,
  connection,
  data,
  ipv4,
  OFFER,
  pcapFile,
  tcpBytes,
} from '../helpers/capture.js';
import { agrees, fakeMilter, silence } from '../helpers/fake-milter.js';
import { memoryInUse } from '../helpers/memory.js';
import { gate } from '../helpers/milter.js';
import { say } from '../helpers/mta.js';

const c = packet('c');
const MiB = 1024 * 1024;

/** A session: the offer, and then each command with its answer, so many ms apart. */
function session(name: string, commands: readonly Command[], apart = 0): CaptureEvent[] {
  const events: CaptureEvent[] = [
    { type: 'open', session: name, time: 1000 },
    data('mta', OFFER, 1000, name),
    data('milter', answer(), 1000, name),
  ];
  for (const [i, command] of commands.entries()) {
    const time = 1000 + (i + 1) * apart;
    events.push(data('mta', encodeCommand(command), time, name));
    if (!['macro', 'abort', 'quit'].includes(command.type)) events.push(data('milter', c, time, name));
  }
  return [...events, { type: 'close', session: name, time: 1000 }];
}

const short = [say.connect(), say.quit()];
const whole = [say.connect(), say.data(), say.eob(), say.quit()];

async function only(
  events: readonly CaptureEvent[],
  connect: () => Duplex,
  options?: ReplayOptions,
): Promise<ReplayedSession> {
  const [session] = await collect(replayCapture(events, connect, options));
  return session as ReplayedSession;
}

t.test('where the events come from is let go of, whatever ends the replay', async (t) => {
  const sessions = ['a', 'b', 'c'].map((name) => session(name, short));
  let returned = 0;
  const stopping = new AbortController();
  async function* source(): AsyncGenerator<CaptureEvent> {
    try {
      for (const events of sessions) yield* events;
      yield* session('never asked for', short);
    } finally {
      returned++;
    }
  }
  const connect = (): Duplex => fakeMilter().stream;
  const aborting = (): Duplex => {
    stopping.abort();
    return connect();
  };
  await collect(replayCapture(source(), aborting, { signal: stopping.signal }));
  t.equal(returned, 1, 'its signal was aborted');
  for await (const each of replayCapture(source(), connect)) {
    t.equal(each.session, 'a');
    break;
  }
  t.equal(returned, 2, 'nobody wants more');
  await collect(replayCapture(source(), connect));
  t.equal(returned, 3, 'it was all');
  await t.rejects(collect(replayCapture(source(), 'inet:x')), { code: 'ERR_MILTER_ADDRESS' });
});

t.test('a source that gives nothing is not waited for when the signal is aborted', async (t) => {
  const stopping = new AbortController();
  const more = gate();
  const asked = gate();
  const over = gate();
  async function* source(): AsyncGenerator<CaptureEvent> {
    try {
      yield* session('a', short);
      asked.open();
      await more.promise;
      yield* session('b', short);
    } finally {
      over.open();
    }
  }
  const all = collect(replayCapture(source(), () => fakeMilter().stream, { signal: stopping.signal }));
  await asked.promise;
  stopping.abort();
  t.match(await all, [{ session: 'a' }]);
  more.open();
  await over.promise;
});

t.test('what a source throws as it is let go of does no harm when nobody waits for it', async (t) => {
  const stopping = new AbortController();
  const [more, over] = [gate(), gate()];
  const source: AsyncIterableIterator<CaptureEvent> = {
    [Symbol.asyncIterator]: () => source,
    async next() {
      stopping.abort();
      await more.promise;
      return { done: false, value: { type: 'open', session: 'a', time: 1 } };
    },
    async return() {
      over.open();
      throw new Error('too late');
    },
  };
  t.strictSame(await collect(replayCapture(source, 'inet:1', { signal: stopping.signal })), []);
  more.open();
  await over.promise;
  await new Promise(setImmediate);
});

t.test('whatever the moment is at which the signal is aborted, it ends', async (t) => {
  const after = async (turns: number, stopping: AbortController): Promise<void> => {
    for (let i = 0; i < turns; i++) await Promise.resolve();
    stopping.abort();
  };
  const never = (): Promise<Duplex> => new Promise(() => {});
  const silent = (): Duplex => fakeMilter({ negotiate: silence }).stream;
  const ended = new Set<unknown>();
  for (let turns = 0; turns < 60; turns++) {
    for (const connect of [never, silent]) {
      const connecting = new AbortController();
      const connected = async (): Promise<Duplex> => {
        void after(turns, connecting);
        return connect();
      };
      const [one] = await collect(replayCapture(session('a', short), connected, { signal: connecting.signal }));
      t.equal(one?.error?.code, 'ERR_MILTER_ABORTED', `${turns} turns after it was asked to connect`);

      const reading = new AbortController();
      async function* source(): AsyncGenerator<CaptureEvent> {
        yield* session('a', short).slice(0, -1);
        void after(turns, reading);
        yield { type: 'close', session: 'a', time: 1000 };
      }
      const all = await collect(replayCapture(source(), connect, { signal: reading.signal }));
      for (const { error } of all) ended.add(`${error?.code}: ${error?.message}`);
    }
  }
  t.ok(
    ended.size > 1 && [...ended].every((text) => String(text).startsWith('ERR_MILTER_ABORTED')),
    [...ended].join('; '),
  );
});

t.test('a function that is to connect has as long as an address, and may be given up', async (t) => {
  const events = session('a', short);
  const never = (): Promise<Duplex> => new Promise(() => {});
  const [late] = await collect(replayCapture(events, never, { timeout: 20 }));
  t.match(late!.error, { code: 'ERR_MILTER_CONNECTION', message: /nothing within 20 ms/ });

  const stopping = new AbortController();
  let heard: AbortSignal | undefined;
  const calls = gate();
  const asked = (signal: AbortSignal): Promise<Duplex> => {
    heard = signal;
    calls.open();
    return never();
  };
  const given = collect(replayCapture(events, asked, { signal: stopping.signal }));
  await calls.promise;
  t.equal(heard!.aborted, false);
  stopping.abort();
  t.match(await given, [{ error: { code: 'ERR_MILTER_ABORTED' } }]);
  t.equal(heard!.aborted, true);

  const arriving = gate();
  const { stream } = fakeMilter();
  const slow = async (): Promise<Duplex> => {
    await arriving.promise;
    return stream;
  };
  await collect(replayCapture(events, slow, { timeout: 5 }));
  arriving.open();
  await new Promise((resolve) => stream.on('close', resolve));
  t.ok(stream.destroyed, 'a stream that comes too late is destroyed');

  for (const fails of [
    () => Promise.reject(new Error('boom')),
    () => {
      throw new Error('boom');
    },
  ]) {
    const [failed] = await collect(replayCapture(events, fails));
    t.match(failed!.error, { code: 'ERR_MILTER_CONNECTION', message: /boom/, cause: { message: 'boom' } });
  }
});

/** A milter that says the same again and again, as fast as it is read, once a command has come. */
function babbling(stage: Command['type'], what: Buffer): { stream: Duplex; pushed: () => number } {
  const chunk = Buffer.concat(Array.from({ length: 1000 }, () => what));
  let [isBabbling, pushed] = [false, 0];
  const { stream } = fakeMilter({
    helo: silence,
    mailFrom: silence,
    [stage]: () => {
      isBabbling = true;
      stream._read(0);
    },
  });
  stream._read = () => {
    if (!isBabbling || stream.destroyed) return;
    // As from a socket: in a turn of its own.
    setImmediate(() => {
      pushed++;
      stream.push(chunk);
    });
  };
  return { stream, pushed: () => pushed };
}

t.test('a milter that says progress without an end, without a pause', async (t) => {
  const timed = await only(session('a', whole), () => babbling('eob', packet('p')).stream, { eobTimeout: 50 });
  t.match(timed.error, { code: 'ERR_MILTER_TIMEOUT', stage: 'eob', message: /has not come to an end within 50 ms/ });
  const large = packet('h', 'X', 'y'.repeat(60_000));
  const { error } = await only(session('a', whole), () => babbling('eob', large).stream);
  t.match(error, { code: 'ERR_MILTER_FILTER', stage: 'eob', message: /Its answer has no end/ });
});

t.test('a milter that talks unasked is not read further than it is asked', async (t) => {
  const milter = babbling('connect', c);
  const one = await only(session('a', [say.connect(), say.helo(), say.mail(), say.quit()], 30), () => milter.stream, {
    speed: 1,
  });
  t.match(one, {
    error: undefined,
    notes: [
      'The milter said unasked: continue',
      'The milter said unasked: continue',
      'The milter said unasked: continue',
    ],
  });
  t.ok(milter.pushed() < 20, `${milter.pushed()} times`);
  const large = packet('h', 'X', 'y'.repeat(60_000));
  const commands = Array.from({ length: 10 }, () => say.helo());
  const { error, steps } = await only(
    session('a', [say.connect(), ...commands]),
    () => babbling('connect', Buffer.concat([c, large])).stream,
  );
  t.match(error, { code: 'ERR_MILTER_FILTER', message: /does not stop talking unasked/ });
  t.ok(steps.length < 10);
});

t.test('a long session: nothing is looked for again and again', async (t) => {
  const macros = encodeCommand(say.macros('L', { a: 'b' }));
  const header = encodeCommand({ type: 'header', name: 'a', value: 'b' });
  const count = 60_000;
  const events = session('a', [say.connect()]).slice(0, -1);
  const mta = (bytes: Buffer): number => events.push(data('mta', bytes, 1000, 'a'));
  mta(Buffer.concat(Array.from({ length: count }, () => macros)));
  mta(Buffer.concat(Array.from({ length: 1000 }, () => header)));
  events.push(data('milter', Buffer.concat(Array.from({ length: count }, () => packet('p'))), 1000, 'a'));
  mta(Buffer.concat(Array.from({ length: count }, () => header)));
  const noHeaders = 0x20;
  const { steps, error } = await only(events, () => fakeMilter({ negotiate: agrees(6, 0x1ff, noHeaders) }).stream);
  t.equal(error, undefined);
  t.equal(steps.length, 2 + count + 1000);
  t.equal(steps[2]!.was.length, count);
});

t.test('a broken capture: not each of its faults becomes a note', async (t) => {
  const events = session('a', [say.connect()]);
  for (let i = 0; i < 1000; i++) events.splice(-1, 0, data('milter', c, 1000, 'a'));
  const { notes } = await only(events, () => fakeMilter().stream);
  t.equal(notes.length, 101);
  t.equal(notes.at(-1), 'And so on: 900 notes more');
});

t.test('commands that were never answered in the capture do not add up', async (t) => {
  const events = session('a', [say.connect()]).slice(0, -1);
  for (let i = 0; i < 12_000; i++) events.push(data('mta', encodeCommand(say.helo()), 1000, 'a'));
  const one = await only(events, () => fakeMilter().stream);
  t.match(one, { error: undefined, differences: 0 });
  t.equal(one.steps.length, 12_002);
});

t.test('of a session that is chosen its own bytes are kept, not the file that they are in', async (t) => {
  const chosen = connection([
    ['mta', OFFER],
    ['milter', answer()],
    ...Array.from({ length: 400 }, () => ['mta', encodeCommand(say.abort())] as const),
  ]);
  const frames = chosen.slice(0, -3).map((segment) => ipv4(segment.from, tcpBytes(segment)));
  const filling = ipv4('mta', Buffer.alloc(65_000)).fill(17, 9, 10); // UDP
  const asked = gate();
  const measured = gate();
  async function* file(): AsyncGenerator<Buffer> {
    yield pcapFile([]);
    for (const frame of frames) yield pcapFile([frame, filling]).subarray(24);
    asked.open();
    await measured.promise;
  }
  const before = await memoryInUse();
  const all = collectUntilError(replayCapture(readCapture(file()), () => fakeMilter().stream));
  await asked.promise;
  t.ok((await memoryInUse()) - before < 4 * MiB);
  measured.open();
  t.match((await all).all, [{ error: undefined }]);
});
