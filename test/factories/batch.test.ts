/** Batches on their way between a factory and its workers: as threads get them, and through the pipe of a process. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { isEnvelope, memoryOf, pack, unpack } from '../../lib/factories/batch.js';
import { BatchPipe } from '../../lib/factories/batch-pipe.js';
import type { MilterError } from '../../lib/errors.js';
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
  const never = (): void => void t.fail('nobody speaks there');
  const pipe = new BatchPipe<ToWorker, ToWorker>(one, one, never, never);
  const hear = (batch: readonly ToWorker[], answer: boolean): void => void heard.push([plainly(batch), answer]);
  void new BatchPipe<ToWorker, ToWorker>(other, other, hear, never);
  for (const batch of BATCHES) pipe.send(batch);
  for (const batch of BATCHES) pipe.send(batch, true);
  const ended = once(other, 'end');
  await new Promise<void>((resolve) => pipe.end(resolve));
  await ended;
  t.strictSame(heard, [...BATCHES.map((batch) => [plainly(batch), false]), ...BATCHES.map((b) => [plainly(b), true])]);
  pipe.send([['pulse']]);
  one.emit('error', new Error('EPIPE'));
  one.destroy();
  await new Promise<void>((resolve) => pipe.end(resolve));
  t.equal(heard.length, 2 * BATCHES.length, 'what is said after the end is said to nobody');
});

t.test('a batch that comes in pieces is one', async (t) => {
  const sockets = await joined(t);
  const written: Buffer[] = [];
  const stand = Object.assign(sockets[0], { write: (piece: Buffer) => written.push(piece) > 0 });
  const never = (): void => void t.fail('nobody speaks there');
  new BatchPipe<ToWorker, ToWorker>(stand, stand, never, never).send(BATCHES[4] as ToWorker[]);
  const heard: unknown[] = [];
  const hear = (batch: readonly ToWorker[]): void => void heard.push(plainly(batch));
  void new BatchPipe<ToWorker, ToWorker>(sockets[1], sockets[1], hear, never);
  for (const byte of Buffer.concat(written)) sockets[1].emit('data', Buffer.of(byte));
  t.strictSame(heard, [plainly(BATCHES[4] as ToWorker[])]);
});

t.test(
  'what is no batch is told of once all before it was heard; a failure of hearing is another matter',
  async (t) => {
    const [one] = await joined(t);
    const told: unknown[] = [];
    const hear = (batch: readonly ToWorker[]): void => {
      told.push(plainly(batch));
      if (batch.length === 0) throw new Error('of the one who hears');
    };
    void new BatchPipe<ToWorker, ToWorker>(one, one, hear, (error) => told.push((error as MilterError).code));
    const written: Buffer[] = [];
    const stand = { on: () => {}, writable: true, write: (piece: Buffer) => written.push(piece) } as unknown as Socket;
    const writer = new BatchPipe<ToWorker, ToWorker>(
      stand,
      stand,
      () => {},
      () => {},
    );
    writer.send([]);
    t.throws(() => one.emit('data', Buffer.concat(written)), { message: 'of the one who hears' });
    written.length = 0;
    writer.send([['pulse']]);
    one.emit('data', Buffer.concat([...written, Buffer.from('GET / HTTP/1.1')]));
    t.strictSame(told, [[], [['pulse']], 'ERR_MILTER_PACKET_TOO_LARGE']);
  },
);
