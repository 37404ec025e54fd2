/**
 * The factory's half of a session that runs in a worker: how long it waits, how much it holds, and that the edits of a
 * message reach the mail server whole or not at all.
 */
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Reply } from '../../lib/codec/index.js';
import { stopClock } from '../helpers/clock.js';
import { outcome } from '../helpers/eob.js';
import type { FakeWorker } from '../helpers/fake-workers.js';
import { shortFolder } from '../helpers/folder.js';
import { memoryLog, times } from '../helpers/milter.js';
import { message, say } from '../helpers/mta.js';
import { allClosed, openFiles, skip } from '../helpers/open-files.js';
import { agree, agreed, GO, heard, open, pass, type Stage } from '../helpers/relay.js';
import { settled } from '../helpers/streams.js';
import { until } from '../helpers/until.js';

const T: Reply = { type: 'tempFail' };

/** A message of which all but the end is through. */
async function atEnd(stage: Stage): Promise<void> {
  await pass(stage, ...message().slice(0, -1));
  stage.mta.send(say.eob());
  await heard(stage.first);
}

const piece: Reply = { type: 'replBody', chunk: Buffer.alloc(60_000, 'x') };
const header: Reply = { type: 'addHeader', name: 'X', value: 'y' };
const typesOf = (replies: readonly Reply[]): string[] => replies.map(({ type }) => type);

// ---- time -------------------------------------------------------------------------------------------------------------

t.test('a command is answered when its time is over; what the worker says later is dropped', async (t) => {
  const clock = stopClock(t);
  const log = memoryLog();
  const stage = await agreed(t, { log });
  await pass(stage, say.mail());
  stage.mta.send(say.rcpt());
  await heard(stage.first);
  await clock.pass(8999);
  t.strictSame(stage.mta.replies, [], 'the worker itself has a second more to keep to the error policy');
  await clock.pass(1);
  t.equal((await stage.mta.reply()).type, 'tempFail');
  const error = { code: 'ERR_MILTER_DEADLINE', message: 'rcpt() did not end within 8000 ms', stage: 'rcpt' };
  t.match(stage.reports, [error]);
  t.match(log.lines, [{ level: 'error', message: error.message, details: { code: error.code } }]);
  t.strictSame([stage.first.names(), stage.first.killed], [['destroy'], false], 'a worker that is alive is left alone');
  stage.first.replies(1, GO);
  stage.first.says(['closed', 1, undefined]);
  t.equal((await stage.mta.ask(say.rcpt())).type, 'tempFail', 'the message is lost');
  t.strictSame(stage.mta.replies, []);
  await clock.pass(60_000);
  t.equal(stage.reports.length, 1);
});

t.test('a worker that is blocked is killed then; the end of a message has a time of its own', async (t) => {
  const clock = stopClock(t);
  const stage = await agreed(t, { eobDeadline: 20_000, progressAfter: 15_000 });
  await pass(stage, ...message().slice(0, -1));
  stage.first.answers = false;
  stage.mta.send(say.eob());
  await heard(stage.first);
  t.equal(stage.relay.patience, 20_000);
  t.ok(stage.relay.waiting);
  await clock.pass(20_999);
  t.notOk(stage.first.killed);
  await clock.pass(1);
  t.ok(stage.first.killed);
  t.strictSame(typesOf(await outcome(stage.mta)), ['progress', 'progress', 'tempFail']);
  t.equal(stage.relay.patience, 8000);
  t.notOk(stage.relay.waiting);
});

t.test('small deadlines have a quarter of a second of grace', async (t) => {
  const clock = stopClock(t);
  const stage = await agreed(t, { callbackDeadline: 20 });
  stage.mta.send(say.mail());
  await heard(stage.first);
  await clock.pass(269);
  t.strictSame(stage.mta.replies, []);
  await clock.pass(1);
  t.equal((await stage.mta.reply()).type, 'tempFail');
});

t.test(
  'P126 progress at the end of a message, from the factory and from the milter, and none behind the reply',
  async (t) => {
    const clock = stopClock(t);
    const stage = await agreed(t);
    await atEnd(stage);
    await clock.pass(2999);
    t.strictSame(stage.mta.replies, []);
    await clock.pass(1);
    t.equal((await stage.mta.reply()).type, 'progress');
    await clock.pass(6000);
    t.strictSame([(await stage.mta.reply()).type, (await stage.mta.reply()).type], ['progress', 'progress']);
    stage.first.replies(1, { type: 'progress' }, header, GO);
    t.strictSame(typesOf(await outcome(stage.mta)), ['progress', 'addHeader', 'continue']);
    await clock.pass(60_000);
    await pass(stage, say.mail());
  },
);

t.test('without a worker nothing comes for too long', async (t) => {
  const cases: Array<[(t: never) => Promise<Stage>, number]> = [
    [() => open(t, { negotiationTimeout: 700 }), 700],
    [() => agreed(t, { idleTimeout: 900 }), 900],
  ];
  for (const [make, ms] of cases) {
    const clock = stopClock(t);
    const stage = await make(undefined as never);
    stage.first.die();
    await clock.pass(ms - 1);
    t.notOk(stage.over);
    await clock.pass(1);
    await until('the end', () => stage.over);
    t.match(stage.reports, [
      { code: 'ERR_MILTER_TIMEOUT', message: `Nothing came from the mail server within ${ms} ms` },
    ]);
  }
  const clock = stopClock(t);
  const stage = await agreed(t, { idleTimeout: 900 });
  stage.first.die();
  await clock.pass(800);
  stage.mta.send(say.mail());
  await heard(stage.second);
  stage.second.replies(1, agree(), GO);
  await stage.mta.reply();
  await clock.pass(60_000);
  t.notOk(stage.over, 'with one it is the worker who looks');
});

t.test('destroy(): a worker that does not end the session is killed', async (t) => {
  const clock = stopClock(t);
  const stage = await agreed(t);
  stage.relay.destroy();
  await clock.pass(999);
  t.notOk(stage.first.killed);
  await clock.pass(1);
  t.ok(stage.first.killed);
  await stage.mta.closed;
  t.match(stage.errors, [{ message: 'Worker fake 1 died: it did not end its sessions' }]);
});

t.test('a worker that does not come to its end when the mail server has left is killed, later', async (t) => {
  const clock = stopClock(t);
  const stage = await agreed(t);
  stage.mta.end();
  await until('the news', () => stage.first.sent.some(([name]) => name === 'end'));
  await clock.pass(271_000 + 2 * 9000 - 1);
  t.notOk(stage.first.killed);
  await clock.pass(1);
  t.ok(stage.first.killed);
  await stage.mta.closed;
  const other = await agreed(t);
  other.relay.destroy();
  other.mta.end();
  await until('the news', () => other.first.sent.some(([name]) => name === 'end'));
  await clock.pass(1000);
  t.ok(other.first.killed, 'not later when all is to end');
});

// ---- back-pressure ----------------------------------------------------------------------------------------------------

const chunks = (count: number): ReturnType<typeof say.body>[] => times(count, say.body('x'.repeat(65_000)));

t.test('P15 a slow worker: no more is read than it can take', async (t) => {
  const stage = await agreed(t, {}, 0x80000);
  await pass(stage, ...message().slice(0, 5));
  let taken = 0;
  stage.mta.send(...chunks(300));
  for (let round = 0; taken < 300 * 65_005; round++) {
    await until('it to have enough', () => stage.socket.isPaused() || round > 0);
    await settled();
    const bytes = stage.first.bytes(1).length;
    t.ok(bytes <= 65_536 * 5, 'the window, one read, and the packet that it completes');
    taken += bytes;
    stage.first.says(['taken', 1, bytes]);
  }
  t.equal(taken, 300 * 65_005);
  t.notOk(stage.socket.isPaused());
  stage.mta.send(...chunks(10));
  await until('it to have enough', () => stage.socket.isPaused());
  stage.first.die();
  t.notOk(stage.socket.isPaused(), 'one that is dead holds nobody up');
  stage.mta.send(say.eob());
  t.equal((await stage.mta.reply()).type, 'tempFail');
});

/** A connection whose other end takes no more, as much has been written to it. */
async function clogged(t: Test): Promise<Stage> {
  const stage = await agreed(t, { spoolMemory: 100_000_000 });
  await atEnd(stage);
  stage.client.pause();
  while (!stage.socket.writableNeedDrain) {
    await giveBody(stage.first, 200);
    stage.first.replies(1, GO);
    await settled();
  }
  return stage;
}

t.test('a slow mail server: the worker is told when what it wrote is taken', async (t) => {
  const stage = await clogged(t);
  stage.first.says(['bytes', 1, Uint8Array.from(Buffer.alloc(50_000, Buffer.of(0, 0, 0, 1, 0x70)))]);
  await settled();
  t.strictSame(stage.first.names(), [], 'what is written now counts');
  stage.mta.send(say.abort());
  await until('the command', () => stage.first.sent.length > 0);
  t.strictSame(stage.first.names(), ['bytes']);
  t.ok(stage.socket.isPaused(), 'nor is more read from who does not read');
  stage.client.resume();
  await until('it to be taken', () => stage.first.sent.some(([name]) => name === 'taken'));
  t.notOk(stage.socket.isPaused());
});

// ---- edits ------------------------------------------------------------------------------------------------------------

t.test('edits wait for the reply that makes them count; the body goes first', async (t) => {
  const stage = await agreed(t);
  await atEnd(stage);
  stage.first.replies(1, header, { type: 'replBody', chunk: Buffer.from('new') });
  await settled();
  t.strictSame(stage.mta.replies, []);
  stage.first.replies(1, { type: 'accept' });
  t.strictSame(typesOf(await outcome(stage.mta)), ['replBody', 'addHeader', 'accept']);
  await pass(stage, say.mail());
  stage.mta.send(say.eob());
  await heard(stage.first);
  stage.first.replies(1, header, { type: 'reject' });
  t.strictSame(typesOf(await outcome(stage.mta)), ['reject']);
  await pass(stage, say.mail());
  stage.mta.send(say.eob());
  await heard(stage.first);
  stage.first.replies(1, header);
  stage.first.die();
  t.strictSame(typesOf(await outcome(stage.mta)), ['tempFail']);
});

/** The worker gives a new body, waiting for room as it does. */
async function giveBody(worker: FakeWorker, pieces: number): Promise<void> {
  for (let i = 0; i < pieces; i++) {
    worker.replies(1, piece);
    while (!worker.names().includes('taken')) await new Promise(setImmediate);
  }
}

t.test(
  'a large body is held in a file, and written as it is taken; the worker may die meanwhile',
  { skip },
  async (t) => {
    for (const death of [false, true]) {
      const stage = await agreed(t, { spoolMemory: 100_000, progressAfter: 1_000_000 });
      await atEnd(stage);
      await giveBody(stage.first, 300);
      t.equal(openFiles('milter-stream-').length, 1);
      t.strictSame(stage.mta.replies, []);
      stage.client.pause();
      stage.first.replies(1, header, GO);
      await until('the mail server to be slow', () => stage.socket.writableNeedDrain);
      await settled();
      t.ok(stage.socket.writableLength <= 65_536, 'no faster than it is taken');
      if (death) stage.first.die();
      stage.client.resume();
      const replies = await outcome(stage.mta);
      t.strictSame(typesOf(replies), [...times(300, 'replBody'), 'addHeader', 'continue']);
      t.ok(replies.slice(0, 300).every((reply) => (reply as typeof piece & { chunk: Buffer }).chunk.length === 60_000));
      await allClosed(t, 'milter-stream-');
      stage.mta.send(say.mail());
      await heard(death ? stage.second : stage.first);
      t.strictSame(stage.reports, []);
    }
  },
);

t.test('a mail server that has said all it has to say gets a large body, too', { skip }, async (t) => {
  for (const end of ['closed', 'destroyed', 'lost'] as const) {
    const stage = await agreed(t, { spoolMemory: 1000, progressAfter: 1_000_000 });
    await atEnd(stage);
    await giveBody(stage.first, 200);
    stage.client.pause();
    if (end === 'closed') stage.mta.end();
    stage.first.replies(1, header, GO);
    await until('the mail server to be slow', () => stage.socket.writableNeedDrain);
    if (end === 'destroyed') stage.relay.destroy();
    if (end === 'lost') stage.client.destroy();
    else stage.first.says(['closed', 1, undefined]);
    if (end === 'closed') {
      stage.client.resume();
      t.strictSame(typesOf(await outcome(stage.mta)), [...times(200, 'replBody'), 'addHeader', 'continue']);
      await stage.mta.closed;
    }
    if (end === 'lost') {
      await until('the news', () => stage.first.sent.some(([name]) => name === 'lost'));
      await allClosed(t, 'milter-stream-');
      stage.first.says(['closed', 1, { name: 'Error', message: 'lost' }]);
    }
    await until('the end', () => stage.over);
    await allClosed(t, 'milter-stream-');
    t.strictSame(stage.reports, []);
  }
});

t.test('a large body that is not wanted in the end leaves no file', { skip }, async (t) => {
  for (const verdict of [T, undefined]) {
    const stage = await agreed(t, { spoolMemory: 1000, progressAfter: 1_000_000 });
    await atEnd(stage);
    await giveBody(stage.first, 3);
    stage.first.replies(1, piece, piece, piece);
    if (verdict === undefined) stage.first.die();
    else stage.first.replies(1, verdict);
    t.strictSame(typesOf(await outcome(stage.mta)), ['tempFail']);
    await allClosed(t, 'milter-stream-');
  }
});

t.test('a body that cannot be held: the message is refused for now, and the worker not held up', async (t) => {
  const { TMPDIR = '/tmp' } = process.env;
  t.teardown(() => (process.env['TMPDIR'] = TMPDIR));
  process.env['TMPDIR'] = join(shortFolder(t), 'none');
  const stage = await agreed(t, { spoolMemory: 1000, progressAfter: 1_000_000 });
  await atEnd(stage);
  await giveBody(stage.first, 10);
  stage.first.replies(1, header, GO);
  t.strictSame(typesOf(await outcome(stage.mta)), ['tempFail']);
  t.match(stage.reports, [{ code: 'ERR_MILTER_CALLBACK', message: /^The new body is lost: ENOENT/ }]);
  await pass(stage, say.mail());
});

t.test('a mail server that does not wait for the end of a message ends the connection', { skip }, async (t) => {
  for (const half of [false, true]) {
    const stage = await agreed(t, { spoolMemory: 1000, progressAfter: 1_000_000 });
    await atEnd(stage);
    stage.mta.send(say.mail());
    await heard(stage.first);
    await giveBody(stage.first, 3);
    if (half) stage.mta.end();
    if (half) await until('the end', () => stage.first.sent.some(([name]) => name === 'end'));
    stage.first.replies(1, GO, GO);
    if (!half) await until('the news', () => stage.first.sent.some(([name]) => name === 'lost'));
    stage.first.replies(1, GO);
    stage.first.says(['closed', 1, half ? undefined : { name: 'Error', message: 'lost' }]);
    await stage.mta.closed;
    await until('the end', () => stage.over);
    const { replies } = stage.mta;
    if (half) t.strictSame(typesOf(replies), [...times(3, 'replBody'), 'continue'], 'and hears nothing of the next');
    else t.match(stage.reports, [{ code: 'ERR_MILTER_SEQUENCE' }]);
    t.equal(stage.reports.length, half ? 0 : 1);
    await allClosed(t, 'milter-stream-');
  }
});

t.test('destroy(): what the mail server does not read is given up', async (t) => {
  const stage = await clogged(t);
  stage.relay.destroy();
  stage.first.says(['closed', 1, undefined]);
  await until('the end', () => stage.over);
  const slow = await clogged(t);
  slow.first.says(['closed', 1, undefined]);
  await settled();
  t.notOk(slow.over, 'else it has its time');
  slow.relay.destroy();
  await until('the end', () => slow.over);
});
