// A new body: how it is cut, what it may come from, what becomes of it when its source or the mail server fails.
import { Readable } from 'node:stream';
import t from 'tap';
import { ACCEPT, MilterProtocol, REJECT, type BodySource, type Result, type SessionOptions } from '../../lib/index.js';
import { encodeReply, type Reply } from '../../lib/codec/index.js';
import { Output } from '../../lib/session/output.js';
import { hex } from '../helpers/bytes.js';
import { stopClock } from '../helpers/clock.js';
import { again, atEob, outcome, withEob } from '../helpers/eob.js';
import { ALL_ACTIONS, inMemory, say } from '../helpers/mta.js';
import { allClosed } from '../helpers/open-files.js';
import { settled } from '../helpers/streams.js';
import { until } from '../helpers/until.js';

const types = (replies: readonly Reply[]): string[] => replies.map((reply) => reply.type);
const bodyOf = (replies: readonly Reply[]): Buffer =>
  Buffer.concat(replies.map((reply) => (reply.type === 'replBody' ? reply.chunk : Buffer.alloc(0))));
const sizes = (replies: readonly Reply[]): number[] =>
  replies.flatMap((reply) => (reply.type === 'replBody' ? [reply.chunk.length] : []));

/** Bytes that tell where they are. */
const bytes = (length: number): Buffer => Buffer.from(Array.from({ length }, (_, i) => (i * 7) & 0xff));

async function* generated(...chunks: ReadonlyArray<string | Uint8Array>): AsyncGenerator<string | Uint8Array> {
  yield* chunks;
}

async function* failing(...chunks: string[]): AsyncGenerator<string> {
  yield* chunks;
  throw new Error('the source is dry');
}

t.test('P119 a body of 200 000 bytes goes out in packets of at most 65 535, one behind the other', async (t) => {
  const body = bytes(200_000);
  const sources: Record<string, () => BodySource> = {
    bytes: () => body,
    text: () => 'x'.repeat(200_000),
    'a stream': () => Readable.from([body.subarray(0, 150_000), body.subarray(150_000)]),
    'a stream of small pieces': () =>
      Readable.from(Array.from({ length: 200 }, (_, i) => body.subarray(i * 1000, (i + 1) * 1000))),
  };
  for (const [name, source] of Object.entries(sources)) {
    for (const spoolMemory of [0, 1_000_000]) {
      const { replies } = await atEob(
        (m) => {
          m.addHeader('X', 'y');
          m.replBody(source());
        },
        { spoolMemory },
      );
      const chunks = sizes(replies);
      t.ok(Math.max(...chunks) <= 65_535, name);
      t.strictSame(types(replies), [...chunks.map(() => 'replBody'), 'addHeader', 'continue']);
      t.ok(bodyOf(replies).equals(name === 'text' ? Buffer.alloc(200_000, 'x') : body));
    }
  }
  const { replies } = await atEob((m) => m.replBody(body));
  t.strictSame(sizes(replies), [65_535, 65_535, 65_535, 3395]);
});

t.test('P27 P119 the packets are as large as was agreed', async (t) => {
  const body = bytes(1_100_000);
  for (const [bit, largest] of [
    [0, 65_535],
    [0x1000_0000, 262_143],
    [0x2000_0000, 1_048_575],
  ] as const) {
    for (const source of [() => body, () => generated(body)]) {
      const { replies } = await atEob((m) => m.replBody(source()), {}, { protocol: 0x1fffff | bit });
      t.equal(sizes(replies)[0], largest);
      t.equal(Math.max(...sizes(replies)), largest);
      t.ok(bodyOf(replies).equals(body));
    }
  }
});

t.test('P120 an empty body is one packet of length 1, whatever it was made of', async (t) => {
  const sources: Array<() => BodySource> = [
    () => '',
    () => Buffer.alloc(0),
    () => new Uint8Array(0),
    () => generated(),
    () => generated('', new Uint8Array(0), ''),
    () => Readable.from([]),
  ];
  for (const source of sources) {
    for (const stream of [false, true]) {
      const { replies } = await atEob((m) => m.replBody(source(), { stream }));
      t.strictSame(types(replies), ['replBody', 'continue']);
      t.ok(encodeReply(replies[0] as Reply).equals(hex('00 00 00 01 62')));
    }
  }
});

t.test('several calls append, and no empty packet comes between', async (t) => {
  const { replies } = await atEob((m) => {
    m.replBody('one ');
    m.replBody('');
    m.replBody(generated('two ', '', 'three '));
    m.replBody(Buffer.from('four '));
    m.replBody(generated('five'), { stream: true });
  });
  t.equal(bodyOf(replies).toString(), 'one two three four five');
  t.notOk(sizes(replies).includes(0));
});

t.test('a body comes from text, bytes, streams of Node and of the web, and generators', async (t) => {
  const whole = Buffer.from('caf\xe9 \xc3\xbc', 'latin1');
  const sources: Record<string, () => BodySource> = {
    text: () => 'caf\udce9 ü',
    'a view of other bytes': () => new Uint8Array(Buffer.concat([Buffer.from('xx'), whole])).subarray(2),
    'a stream of bytes': () => Readable.from([whole.subarray(0, 3), whole.subarray(3)], { objectMode: false }),
    'a stream of text': () => Readable.from(['caf\udce9', ' ü']),
    'a stream of the web': () => new Blob([new Uint8Array(whole)]).stream(),
    'a generator': () => generated('caf', Uint8Array.of(0xe9), ' ü'),
  };
  for (const [name, source] of Object.entries(sources)) {
    for (const options of [undefined, {}, { stream: false }, { stream: true }]) {
      const { replies } = await atEob((m) => m.replBody(source(), options));
      t.ok(bodyOf(replies).equals(whole), name);
      t.equal(replies.at(-1)?.type, 'continue');
    }
  }
});

t.test('a line end is left as it is', async (t) => {
  const { replies } = await atEob((m) => m.replBody('a\nb\r\nc\r'));
  t.equal(bodyOf(replies).toString(), 'a\nb\r\nc\r');
});

t.test('a stream is read whole before anything is sent; with { stream: true } it goes out as it comes', async (t) => {
  for (const stream of [false, true]) {
    let more: (() => void) | undefined;
    async function* slow(): AsyncGenerator<string> {
      yield 'one ';
      await new Promise<void>((resolve) => (more = resolve));
      yield 'two';
    }
    const { mta } = inMemory(
      withEob((m) => m.replBody(slow(), { stream })),
      { smfifOptions: ALL_ACTIONS },
    );
    await mta.negotiate();
    mta.send(say.eob());
    await settled();
    t.match(mta.replies, stream ? [{ type: 'replBody', chunk: Buffer.from('one ') }] : []);
    more?.();
    t.equal(bodyOf(await outcome(mta)).toString(), 'one two');
  }
});

t.test('a source that fails before anything was sent leaves the message as it was', async (t) => {
  const sources: Record<string, (m: MilterProtocol) => void> = {
    'at once': (m) => m.replBody(failing()),
    'half-way': (m) => m.replBody(failing('one', 'two')),
    'at once, sent as it comes': (m) => m.replBody(failing(), { stream: true }),
    'behind another source': (m) => {
      m.replBody('before');
      m.replBody(failing('x'));
    },
    'a stream of Node': (m) => m.replBody(Readable.from(failing('one'))),
  };
  for (const [name, replace] of Object.entries(sources)) {
    for (const errorPolicy of ['tempfail', 'accept', 'reject'] as const) {
      let messages = 0;
      const { replies, errors, mta } = await atEob(
        (m) => {
          if (++messages > 1) return;
          m.addHeader('X', 'y');
          replace(m);
        },
        { errorPolicy },
      );
      t.strictSame(types(replies), [errorPolicy === 'tempfail' ? 'tempFail' : errorPolicy], `${name}, ${errorPolicy}`);
      t.match(errors, [{ code: 'ERR_MILTER_CALLBACK', stage: 'eob', cause: { message: 'the source is dry' } }]);
      t.strictSame(types(await again(mta)), ['continue']);
    }
  }
});

t.test('a source that fails after the first byte costs the message, whatever the error policy', async (t) => {
  for (const errorPolicy of ['tempfail', 'accept', 'reject'] as const) {
    let messages = 0;
    const { replies, errors, mta } = await atEob(
      (m) => {
        if (++messages > 1) return;
        m.addHeader('X', 'y');
        m.replBody(failing('one'), { stream: true });
      },
      { errorPolicy },
    );
    t.strictSame(types(replies), ['replBody', 'tempFail']);
    t.match(errors, [{ code: 'ERR_MILTER_CALLBACK', message: 'The new body failed half-way: the source is dry' }]);
    t.strictSame(types(await again(mta)), ['continue'], 'and no other');
  }
});

t.test('a source that fails while eob() still waits harms nobody', async (t) => {
  for (const stream of [false, true]) {
    const source = new Readable({ read() {} });
    const { replies } = await atEob(async (m) => {
      m.replBody(source, { stream });
      source.destroy(new Error('the source is dry'));
      await settled();
    });
    t.strictSame(types(replies), ['tempFail']);
  }
});

t.test('with any other verdict the sources are let go, and the file too', async (t) => {
  const endings: Array<() => Result> = [
    () => REJECT,
    () => {
      throw new Error('oops');
    },
  ];
  for (const end of endings) {
    const never = [new Readable({ read() {} }), new Readable({ read() {} })] as const;
    let cancelled = 0;
    const web = new ReadableStream<Uint8Array>({ cancel: () => void cancelled++ });
    await atEob(
      async (m) => {
        m.replBody(bytes(1000));
        m.replBody(generated(bytes(1000), bytes(1000)));
        m.replBody(never[0]);
        m.replBody(never[1], { stream: true });
        m.replBody(web, { stream: true });
        await settled();
        return end();
      },
      { spoolMemory: 10 },
    );
    t.ok(never.every((stream) => stream.destroyed));
    t.equal(cancelled, 1);
    await allClosed(t, 'milter-stream-');
  }
});

t.test('no file is left open after a body from one was sent', async (t) => {
  const { replies } = await atEob((m) => m.replBody(generated(bytes(1000))), { spoolMemory: 0 });
  t.equal(bodyOf(replies).length, 1000);
  await allClosed(t, 'milter-stream-');
});

t.test('what is due goes out in one write, unless that would copy much', async (t) => {
  const output = new Output();
  const written = (...sizes: number[]): number[] => {
    const writes: number[] = [];
    for (const size of sizes) output.reply({ type: 'replBody', chunk: Buffer.alloc(size) });
    t.equal(
      output.flush((bytes) => writes.push(bytes.length) < 2),
      writes.length < 2,
    );
    return writes;
  };
  t.strictSame(written(), []);
  t.strictSame(written(1, 2, 3), [21]);
  t.strictSame(written(65_000, 526), [65_536]);
  t.strictSame(written(65_000, 527), [65_005, 532]);
  const same = new Set<Buffer>();
  for (let i = 0; i < 2; i++) {
    output.reply({ type: 'continue' });
    output.flush((bytes) => same.add(bytes).size > 0);
  }
  t.equal(same.size, 1, 'what is always the same is made once');
});

t.test('P15 what the mail server does not take is not written', async (t) => {
  const body = bytes(4_000_000);
  let pulled = 0;
  async function* counted(): AsyncGenerator<Buffer> {
    for (let at = 0; at < body.length; at += 100_000) {
      pulled += 100_000;
      yield body.subarray(at, at + 100_000);
    }
  }
  const sources: Record<string, (m: MilterProtocol) => void> = {
    bytes: (m) => m.replBody(body),
    'a stream in memory': (m) => m.replBody(counted()),
    'a stream in a file': (m) => m.replBody(counted()),
    'a stream that is sent as it comes': (m) => m.replBody(counted(), { stream: true }),
  };
  for (const [name, replace] of Object.entries(sources)) {
    pulled = 0;
    const spoolMemory = name.endsWith('file') ? 0 : 10_000_000;
    const { mta, session } = inMemory(withEob(replace), { smfifOptions: ALL_ACTIONS, spoolMemory });
    await mta.negotiate();
    session.pause();
    const before = session.readableLength;
    mta.send(say.eob());
    while (session.readableLength === before) await settled();
    await settled();
    t.ok(session.readableLength <= session.readableHighWaterMark + 65_540, `${name}: ${session.readableLength}`);
    if (name.endsWith('as it comes')) t.equal(pulled, 100_000, 'nor read');
    session.resume();
    const replies = await outcome(mta);
    t.ok(bodyOf(replies).equals(body), name);
    t.equal(replies.at(-1)?.type, 'continue');
  }
});

t.test('a connection that is lost ends what is being read and what is being written', async (t) => {
  const cases: Record<string, { source: (m: MilterProtocol) => void; options?: SessionOptions }> = {
    'while a stream is read': { source: (m) => m.replBody(new Readable({ read() {} })) },
    'while bytes are written': { source: (m) => m.replBody(bytes(4_000_000)) },
    'while a file is sent': { source: (m) => m.replBody(generated(bytes(4_000_000))), options: { spoolMemory: 0 } },
  };
  for (const [name, { source, options }] of Object.entries(cases)) {
    const calls: string[] = [];
    let reason: unknown;
    let over: (() => void) | undefined;
    const closed = new Promise<void>((resolve) => (over = resolve));
    class Noting extends MilterProtocol {
      override eob() {
        const { signal } = this;
        signal.addEventListener('abort', () => (reason = signal.reason));
        source(this);
      }
      override abort(interrupted: boolean) {
        calls.push(`abort ${interrupted}`);
      }
      override close() {
        calls.push('close');
        over?.();
      }
    }
    const { mta, session } = inMemory(Noting, { smfifOptions: ALL_ACTIONS, ...options });
    await mta.negotiate();
    session.pause();
    mta.send(say.eob());
    if (name.endsWith('read')) await settled();
    else await until('a part of the body', () => session.readableLength > 0);
    session.destroy();
    await closed;
    t.strictSame(calls, ['abort true', 'close'], name);
    t.match(reason, { code: 'ERR_MILTER_CONNECTION' });
    await allClosed(t, 'milter-stream-');
  }
});

t.test(
  'eobDeadline counts from the end of the message, the reading and the writing of the body included',
  async (t) => {
    async function* waitingFor(event: Promise<void>): AsyncGenerator<string> {
      await event;
      yield* [];
    }
    const waiting: Record<string, (m: MilterProtocol, late: Promise<void>) => void> = {
      read: (m) => m.replBody(new Readable({ read() {} })),
      written: (m) => m.replBody(bytes(4_000_000)),
      'read and written': (m, late) => m.replBody(waitingFor(late), { stream: true }),
    };
    for (const [name, replace] of Object.entries(waiting)) {
      await t.test(`while it is being ${name}`, async (t) => {
        const clock = stopClock(t);
        let go: (() => void) | undefined;
        let endOfLate: (() => void) | undefined;
        const late = new Promise<void>((resolve) => (endOfLate = resolve));
        let signal: AbortSignal | undefined;
        const milter = withEob(async (m) => {
          ({ signal } = m);
          await new Promise<void>((resolve) => (go = resolve));
          m.addHeader('X', 'y');
          replace(m, late);
          return ACCEPT;
        });
        const { mta, session, errors } = inMemory(milter, {
          smfifOptions: ALL_ACTIONS,
          errorPolicy: 'accept',
          eobDeadline: 1000,
          progressAfter: 5000,
        });
        await mta.negotiate();
        session.pause();
        mta.send(say.eob());
        await clock.pass(900);
        go?.();
        await clock.pass(99);
        t.strictSame(errors, []);
        await clock.pass(1);
        t.match(errors, [{ code: 'ERR_MILTER_DEADLINE', message: 'eob() did not end within 1000 ms' }]);
        t.equal(signal?.reason, errors[0]);
        session.resume();
        const replies = await outcome(mta);
        const last = replies.at(-1)?.type;
        // Nothing was written: the error policy. A part of the body was: only a refusal takes it back.
        t.equal(last, name === 'written' ? 'tempFail' : 'accept');
        endOfLate?.();
        await settled();
        t.ok(bodyOf(replies).length < 4_000_000);
        t.notOk(types(replies).includes('addHeader'));
        t.strictSame(types(await again(mta)), ['tempFail'], 'the rest of the session is refused for now');
      });
    }
  },
);
