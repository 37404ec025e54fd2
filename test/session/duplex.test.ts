// A session as a stream: bytes in and bytes out, or objects, in any combination; the same session in all of them.
import { Duplex } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import t from 'tap';
import { encodeCommand, type Command, type Reply } from '../../lib/codec/index.js';
import {
  createDecoder,
  createEncoder,
  createSession,
  MilterProtocol,
  type ProtocolClass,
  type SessionOptions,
  type SessionStream,
} from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { cut, hex } from '../helpers/bytes.js';
import { outcome } from '../helpers/eob.js';
import { gate, milter } from '../helpers/milter.js';
import { ALL_ACTIONS, ALL_STEPS, Mta, say } from '../helpers/mta.js';
import { connectedPair } from '../helpers/pair.js';
import { settled } from '../helpers/streams.js';

type NodeStream = NodeJS.ReadWriteStream;

/** Joins a session to the milter's end of a connection. */
type Join = (wire: Duplex, session: SessionStream, pipe: (...streams: NodeStream[]) => void) => void;

const WAYS: Readonly<Record<string, Join>> = {
  'bytes in, bytes out': (wire, session, pipe) => pipe(wire, session, wire),
  'objects in, objects out': (wire, { commands, replies }, pipe) => {
    pipe(wire, createDecoder(), commands as unknown as NodeStream);
    pipe(replies as unknown as NodeStream, createEncoder(), wire);
  },
  'bytes in, objects out': (wire, session, pipe) => {
    pipe(session.replies as unknown as NodeStream, createEncoder(), wire);
    pipe(wire, session);
  },
  'objects in, bytes out': (wire, session, pipe) => {
    pipe(wire, createDecoder(), session.commands as unknown as NodeStream);
    pipe(session, wire);
  },
};

interface Joined {
  readonly mta: Mta;
  readonly session: SessionStream;
  readonly errors: MilterError[];
  /** Settles when all pipelines have ended: undefined for a good end, or a code. */
  readonly ended: Promise<Array<string | undefined>>;
}

function joined(join: Join, MyMilter: ProtocolClass, options: SessionOptions = {}): Joined {
  const [there, here] = connectedPair();
  const session = createSession(MyMilter, { smfifOptions: ALL_ACTIONS, ...options });
  const errors: MilterError[] = [];
  const ends: Array<Promise<string | undefined>> = [];
  session.on('sessionError', (error: MilterError) => errors.push(error));
  join(here, session, (...streams) => {
    const end = pipeline(streams).then(
      () => undefined,
      (error: MilterError) => error.code,
    );
    ends.push(end);
  });
  return { mta: new Mta(there), session, errors, ended: Promise.all(ends) };
}

/** A turn of the loop: long enough for a callback to be busy. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const offer: Command = { type: 'negotiate', version: 6, actions: ALL_ACTIONS, protocol: ALL_STEPS };

/** What a mail server does, and what has to come of it. */
interface Scenario {
  readonly make?: () => { MyMilter: ProtocolClass; calls: string[] };
  readonly play: (mta: Mta) => void | Promise<void>;
  readonly replies: readonly string[];
  readonly calls: readonly string[];
  readonly errors?: readonly string[];
  /** The code of the error that the pipelines end with. */
  readonly end?: string;
}

const judge = () =>
  milter({
    mailFrom: () => Promise.resolve(),
    rcpt(this: MilterProtocol, address: string) {
      return address === '<bad@example.com>' ? this.setReply(550, '5.7.1', ['no', 'never']) : undefined;
    },
    body: () => {},
    async eob(this: MilterProtocol) {
      this.addHeader('X', 'y');
      await turn();
      this.replBody('z'.repeat(100_000));
    },
  });
const judged: Command[] = [say.mail(), say.rcpt('<bad@example.com>'), say.rcpt(), say.body(), say.eob()];
const judgement = ['continue', 'replyCode', 'continue', 'continue', 'replBody', 'replBody', 'addHeader', 'continue'];
const judging = ['mailFrom', 'rcpt', 'rcpt', 'body', 'eob'];

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  'two messages, each command answered before the next': {
    make: judge,
    async play(mta) {
      const replies: Reply[] = [];
      for (const command of [offer, ...judged, ...judged]) {
        mta.send(command);
        if (command.type === 'eob') replies.push(...(await outcome(mta)));
        else replies.push(await mta.reply());
      }
      mta.send(say.quit());
      mta.replies.push(...replies);
    },
    replies: ['negotiate', ...judgement, ...judgement],
    calls: [...judging, ...judging, 'close'],
  },
  'two messages at once': {
    make: judge,
    play: (mta) => mta.send(offer, ...judged, ...judged, say.quit()),
    replies: ['negotiate', ...judgement, ...judgement],
    calls: [...judging, ...judging, 'close'],
  },
  'a byte at a time': {
    make: judge,
    play(mta) {
      const bytes = Buffer.concat([offer, ...judged, say.quit()].map((command) => encodeCommand(command)));
      for (const byte of cut(bytes, 1)) mta.bytes(byte);
    },
    replies: ['negotiate', ...judgement],
    calls: [...judging, 'close'],
  },
  'callbacks that fail': {
    make: () =>
      milter({
        mailFrom: () => Promise.reject(new Error('oops')),
        rcpt: () => {
          throw new Error('oops');
        },
      }),
    play: (mta) => mta.send(offer, say.mail(), say.abort(), say.rcpt(), say.quit()),
    replies: ['negotiate', 'tempFail', 'tempFail'],
    calls: ['mailFrom', 'abort false', 'close'],
    errors: ['ERR_MILTER_CALLBACK'],
  },
  'the end of the connection in the middle of a message': {
    make: () => milter({ mailFrom: () => {} }),
    async play(mta) {
      await mta.ask(offer, say.mail());
      mta.end();
    },
    replies: ['continue'],
    calls: ['mailFrom', 'abort true', 'close'],
  },
  'the end of the connection while a callback is busy': {
    make: () => milter({ mailFrom: () => turn() }),
    play(mta) {
      mta.send(offer, say.mail());
      mta.end();
    },
    replies: ['negotiate', 'continue'],
    calls: ['mailFrom', 'abort true', 'close'],
  },
  'P145 commands behind QUIT': {
    play: (mta) => {
      mta.send(offer, say.quit(), say.connect(), say.connect());
    },
    replies: ['negotiate'],
    calls: ['close'],
  },
  'P30 a second negotiation': {
    play: (mta) => mta.send(offer, offer, say.connect()),
    replies: ['negotiate'],
    calls: ['close'],
    errors: ['ERR_MILTER_SEQUENCE'],
    end: 'ERR_MILTER_SEQUENCE',
  },
  'P7 an end inside a packet': {
    make: () => milter({ mailFrom: () => {} }),
    play: (mta) => {
      mta.send(offer, say.mail());
      mta.bytes(hex('00 00 00 05 42 48'));
      mta.end();
    },
    replies: ['negotiate', 'continue'],
    calls: ['mailFrom', 'abort true', 'close'],
    end: 'ERR_MILTER_TRUNCATED',
  },
};

for (const [way, join] of Object.entries(WAYS)) {
  t.test(way, async (t) => {
    for (const [name, scenario] of Object.entries(SCENARIOS)) {
      await t.test(name, async (t) => {
        const { MyMilter, calls } = (scenario.make ?? milter)();
        const { mta, errors, ended } = joined(join, MyMilter);
        await scenario.play(mta);
        await mta.closed;
        mta.end();
        const ends = await ended;
        await settled();
        t.strictSame(
          mta.replies.map((reply) => reply.type),
          scenario.replies,
        );
        t.strictSame(calls, scenario.calls);
        // A decoder in front of the session finds broken packets before the session does.
        const decoded = way.startsWith('objects') && scenario.end === 'ERR_MILTER_TRUNCATED';
        const told = scenario.errors ?? (scenario.end === undefined || decoded ? [] : [scenario.end]);
        t.strictSame(
          errors.map((error) => error.code),
          told,
        );
        const second = decoded ? 'ERR_MILTER_CONNECTION' : scenario.end;
        t.strictSame(ends, way === 'bytes in, bytes out' ? [scenario.end] : [scenario.end, second]);
      });
    }
  });
}

t.test('P145 any bytes behind QUIT are thrown away', async (t) => {
  for (const way of ['bytes in, bytes out', 'bytes in, objects out']) {
    const { mta, errors, ended } = joined(WAYS[way] as Join, MilterProtocol);
    mta.send(offer, say.quit());
    for (let i = 0; i < 10; i++) mta.bytes(Buffer.alloc(100_000));
    await mta.closed;
    mta.end();
    await ended;
    t.strictSame([mta.replies.length, errors], [1, []], way);
  }
});

t.test('the sides for objects are made when they are asked for, and once', async (t) => {
  const session = createSession(MilterProtocol);
  t.equal(session.commands, session.commands);
  t.equal(session.replies, session.replies);
  const replies: Reply[] = [];
  session.replies.on('data', (reply) => replies.push(reply));
  session.on('data', () => t.fail('the replies go to one side only'));
  session.commands.write(offer);
  session.commands.end(say.eob());
  await settled();
  t.match(replies, [{ type: 'negotiate', version: 6 }, { type: 'continue' }]);
  t.ok(session.destroyed, 'and a session with both needs no other end');
});

t.test('P15 a busy callback stops what feeds the session, and nothing is lost', async (t) => {
  for (const way of Object.keys(WAYS)) {
    const { promise, open } = gate();
    const { MyMilter, calls } = milter({ mailFrom: () => promise, header: () => {} });
    const [there, here] = connectedPair();
    const session = createSession(MyMilter);
    (WAYS[way] as Join)(here, session, (...streams) => void pipeline(streams).catch(() => {}));
    const mta = new Mta(there);
    await mta.ask(offer);
    mta.send(say.mail());
    const headers = 400;
    for (let i = 0; i < headers; i++) mta.send(say.header('X', 'y'.repeat(1000)));
    await settled();
    const held = there.writableLength;
    t.ok(held > 200_000, `${way}: ${held} bytes wait with the mail server`);
    t.strictSame(calls, ['mailFrom']);
    open();
    mta.send(say.quit());
    await mta.closed;
    t.equal(calls.length, 1 + headers + 2);
    t.equal(mta.replies.length, 1 + headers);
  }
});

t.test('P15 replies that nobody takes stop what feeds the session, and nothing is lost', async (t) => {
  for (const way of Object.keys(WAYS)) {
    const { MyMilter, calls } = milter({ header: () => {} });
    const [there, here] = connectedPair();
    const session = createSession(MyMilter);
    (WAYS[way] as Join)(here, session, (...streams) => void pipeline(streams).catch(() => {}));
    const mta = new Mta(there);
    await mta.ask(offer);
    there.pause();
    const headers = 40_000;
    const bytes = encodeCommand(say.header('X', 'y'));
    for (let i = 0; i < headers; i += 1000) mta.bytes(Buffer.concat(Array.from({ length: 1000 }, () => bytes)));
    await settled();
    t.ok(there.writableLength > 100_000, `${way}: ${there.writableLength} bytes wait with the mail server`);
    t.ok(calls.length < headers / 2, `${calls.length} of them were handled`);
    there.resume();
    mta.send(say.quit());
    await mta.closed;
    t.equal(calls.length, headers + 2);
    t.equal(mta.replies.length, headers);
  }
});

t.test('what destroys one side of a session ends all of it, with abort() and close()', async (t) => {
  const oops = Object.assign(new Error('oops'), { code: 'OOPS' });
  const lost = 'ERR_MILTER_CONNECTION';
  const cases: ReadonlyArray<readonly [string, (joined: Joined) => unknown, ReadonlyArray<string | undefined>]> = [
    ['bytes in, bytes out', ({ session }) => session.destroy(), ['ERR_STREAM_PREMATURE_CLOSE']],
    ['bytes in, bytes out', ({ session }) => session.destroy(oops), ['OOPS']],
    ['objects in, objects out', ({ session }) => session.commands.destroy(oops), ['OOPS', lost]],
    ['objects in, objects out', ({ session }) => session.replies.destroy(oops), [lost, 'OOPS']],
    ['objects in, objects out', ({ session }) => session.destroy(), [lost, lost]],
    ['bytes in, objects out', ({ session }) => session.replies.destroy(oops), ['OOPS', lost]],
    ['objects in, bytes out', ({ session }) => session.commands.destroy(oops), ['OOPS', lost]],
  ];
  for (const [way, destroy, expected] of cases) {
    const { MyMilter, calls } = milter({ mailFrom: () => {} });
    const ready = joined(WAYS[way] as Join, MyMilter);
    await ready.mta.ask(offer);
    await ready.mta.ask(say.mail());
    destroy(ready);
    t.strictSame(await ready.ended, expected, `${way}: ${destroy.toString()}`);
    await settled();
    t.strictSame(calls, ['mailFrom', 'abort true', 'close']);
    t.ok(ready.session.destroyed);
    t.strictSame(ready.errors, []);
  }
});

t.test('a callback at work when the session is destroyed is waited for before close()', async (t) => {
  const { promise, open } = gate();
  const { MyMilter, calls } = milter({ mailFrom: () => promise });
  const session = createSession(MyMilter);
  session.write(Buffer.concat([offer, say.mail()].map((command) => encodeCommand(command))));
  await settled();
  session.destroy();
  await settled();
  t.strictSame(calls, ['mailFrom']);
  open();
  await settled();
  t.strictSame(calls, ['mailFrom', 'abort true', 'close']);
});

t.test('a broken protocol destroys the session with its error, heard once', async (t) => {
  const session = createSession(MilterProtocol);
  const heard: unknown[] = [];
  session.on('error', (error) => heard.push(error));
  session.on('sessionError', (error: MilterError) => heard.push(error.code));
  session.write(encodeCommand(say.mail()));
  await settled();
  t.match(heard, ['ERR_MILTER_SEQUENCE', { code: 'ERR_MILTER_SEQUENCE' }]);
  t.ok(session.destroyed);
});

t.test("it works with what Node has for streams, though it is not an instance of Node's", async (t) => {
  const { MyMilter, calls } = milter();
  const session = createSession(MyMilter);
  const web = Duplex.toWeb(session);
  const writer = web.writable.getWriter();
  const reader = web.readable.getReader();
  await writer.write(encodeCommand(offer));
  const { value } = (await reader.read()) as { value: Uint8Array };
  t.equal(value[4], 'O'.charCodeAt(0));
  await writer.write(encodeCommand(say.quit()));
  await writer.close();
  t.match(await reader.read(), { done: true });
  await finished(session);
  t.strictSame(calls, ['close']);
});

t.test('bad options are refused at once', async (t) => {
  t.throws(() => createSession(MilterProtocol, { backlog: 5 } as SessionOptions), {
    code: 'ERR_MILTER_OPTION',
    message: 'backlog is no option, got 5',
  });
});
