/** Batches on their way between a factory and its workers: as threads get them, and through the pipe of a process. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { isEnvelope, memoryOf, pack, unpack } from '../../lib/factories/batch.js';
import { BatchPipe } from '../../lib/factories/batch-pipe.js';
import type { ToWorker } from '../../lib/factories/messages.js';

t.test('envelopes are known from what a milter says itself', (t) => {
  const all = [{ milterStream: [] }, { milterStream: 1 }, {}, null, 'x'];
  t.strictSame(all.map(isEnvelope), [true, false, false, false, false]);
  t.end();
});

const bytes = (tenant: number, text: string): ToWorker => ['bytes', tenant, Buffer.from(`--${text}`).subarray(2)];
const BATCHES: ReadonlyArray<readonly ToWorker[]> = [
  [],
  [['pulse']],
  [bytes(1, 'one')],
  [bytes(0xffff_ffff, ''), bytes(7, 'x'.repeat(100_000))],
  [['open', 1, {}], bytes(1, 'ab'), bytes(2, 'cd'), ['end', 1], bytes(2, 'ef'), ['drain', 2]],
];
const plainly = (batch: readonly ToWorker[]): unknown[] =>
  batch.map((message) => (message[0] === 'bytes' ? [...message.slice(0, 2), String(message[2])] : message));

t.test('a batch is the same behind its journey; the bytes of its packets are one piece of memory of their own', (t) => {
  for (const batch of BATCHES) {
    const envelope = pack(batch);
    const sent = structuredClone(envelope, { transfer: memoryOf(envelope) });
    t.strictSame(plainly(unpack(sent)), plainly(batch));
    t.notOk('answer' in envelope);
  }
  t.equal(memoryOf(pack(BATCHES[3] as ToWorker[]))[0]?.byteLength, 100_000);
  t.strictSame(memoryOf(pack([['pulse']])), []);
  t.strictSame([pack([], true).answer, pack([bytes(1, 'x')], false).answer], [true, false]);
  t.end();
});

/** Two sockets that are each other's end. */
async function joined(t: Test): Promise<[Socket, Socket]> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const one = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [other] = (await once(server, 'connection')) as [Socket];
  server.close();
  t.teardown(() => [one.destroy(), other.destroy()]);
  return [one, other];
}

t.test('batches go through a pipe in their order, with whether they are answers, until its end', async (t) => {
  const [one, other] = await joined(t);
  const heard: Array<readonly [unknown[], boolean]> = [];
  const pipe = new BatchPipe<ToWorker, ToWorker>(one, () => t.fail('nobody speaks'));
  void new BatchPipe<ToWorker, ToWorker>(other, (batch, answer) => heard.push([plainly(batch), answer]));
  for (const batch of BATCHES) pipe.send(batch);
  for (const batch of BATCHES) pipe.send(batch, true);
  const ended = once(other, 'end');
  await new Promise<void>((resolve) => pipe.end(resolve));
  await ended;
  t.strictSame(heard, [...BATCHES.map((batch) => [plainly(batch), false]), ...BATCHES.map((b) => [plainly(b), true])]);
  pipe.send([['pulse']]);
  one.emit('error', new Error('EPIPE'));
  t.equal(heard.length, 2 * BATCHES.length, 'what is said after the end is said to nobody');
});

t.test('a batch that comes in pieces is one', async (t) => {
  const sockets = await joined(t);
  const written: Buffer[] = [];
  const stand = Object.assign(sockets[0], { write: (piece: Buffer) => written.push(piece) > 0 });
  new BatchPipe<ToWorker, ToWorker>(stand, () => {}).send(BATCHES[4] as ToWorker[]);
  const heard: unknown[] = [];
  void new BatchPipe<ToWorker, ToWorker>(sockets[1], (batch) => heard.push(plainly(batch)));
  for (const byte of Buffer.concat(written)) sockets[1].emit('data', Buffer.of(byte));
  t.strictSame(heard, [plainly(BATCHES[4] as ToWorker[])]);
});
