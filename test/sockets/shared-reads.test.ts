// Reading every connection into one buffer: nothing that a milter keeps may change, and what Node might not have any
// more is done without.
import t from 'tap';
import { createServer, connect, type AddressInfo, type Server, type Socket } from 'node:net';
import { once } from 'node:events';
import type { Test } from 'tap';
import { MilterProtocol } from '../../lib/index.js';
import { keepFreedMemory, shareReads } from '../../lib/sockets/shared-reads.js';
import { dial, serve } from '../helpers/dial.js';
import { say, type Mta } from '../helpers/mta.js';
import { shortFolder } from '../helpers/folder.js';

const SESSIONS = 100;

/** What only this session sends, of a length that ends in the middle of reads. */
const text = (id: number, what: string, length: number): string =>
  `${what} of ${id} `.padEnd(length, `${id.toString(36)} `);
const HEADERS = [1, 50, 900, 5_000];
const CHUNKS = [1, 700, 40_000, 65_535];

class Keeper extends MilterProtocol<{ wrong: string[] }> {
  #strings: string[] = [];
  #chunks: Buffer[] = [];
  #id = 0;

  override async mailFrom(address: string, macros: Record<string, string | undefined>, args: readonly string[]) {
    this.#id = Number(macros['id']);
    this.#strings.push(address, macros['id'] as string, macros['text'] as string, ...args);
    await new Promise(setImmediate); // what follows waits in the inbox meanwhile
  }
  override header(name: string, value: string) {
    this.#strings.push(name, value);
  }
  override body(chunk: Buffer) {
    this.#chunks.push(chunk);
  }
  override eob() {
    const id = this.#id;
    const strings = [
      `<${id}@example.org>`,
      String(id),
      text(id, 'macro', 300),
      `SIZE=${id}`,
      ...HEADERS.flatMap((length, i) => [`X-${i}`, text(id, 'header', length)]),
    ];
    if (JSON.stringify(strings) !== JSON.stringify(this.#strings)) this.context.wrong.push(`${id}: strings`);
    const body = Buffer.from(CHUNKS.map((length) => text(id, 'body', length)).join(''));
    if (!body.equals(Buffer.concat(this.#chunks))) this.context.wrong.push(`${id}: chunks`);
  }
}

async function sendMessage(mta: Mta, id: number): Promise<string> {
  await mta.negotiate();
  mta.send(
    say.macros('M', { id: String(id), text: text(id, 'macro', 300) }),
    { type: 'mailFrom', address: `<${id}@example.org>`, args: [`SIZE=${id}`] },
    ...HEADERS.map((length, i) => ({ type: 'header', name: `X-${i}`, value: text(id, 'header', length) }) as const),
    ...CHUNKS.map((length) => ({ type: 'body', chunk: Buffer.from(text(id, 'body', length)) }) as const),
    { type: 'eob' },
  );
  let last = '';
  for (let due = 2 + HEADERS.length + CHUNKS.length; due > 0; due--) last = (await mta.reply()).type;
  return last;
}

for (const where of ['inet:0@127.0.0.1', 'unix']) {
  for (const sharedReads of [true, false]) {
    t.test(`${where}, sharedReads ${sharedReads}: what 100 sessions keep until eob() is as it was sent`, async (t) => {
      const wrong: string[] = [];
      const address = where === 'unix' ? `unix:${shortFolder(t)}/s` : where;
      const { factory, errors } = await serve(
        t,
        Keeper,
        { context: { wrong }, sharedReads, backlog: SESSIONS },
        address,
      );
      const dialled = await Promise.all(Array.from({ length: SESSIONS }, () => dial(t, factory)));
      const ends = await Promise.all(dialled.map(({ mta }, id) => sendMessage(mta, id)));
      t.strictSame([...new Set(ends)], ['continue']);
      t.strictSame(wrong, []);
      t.strictSame(errors, []);
    });
  }
}

t.test('where there is no memory for the block that is never touched, there is none', async (t) => {
  const sizes: number[] = [];
  keepFreedMemory((size) => {
    sizes.push(size);
    throw new RangeError('Array buffer allocation failed');
  });
  t.strictSame(sizes, [31 * 1024 * 1024]);
});

/** A server as a factory has it, and the sockets of one connection to it. */
async function accepted(t: Test): Promise<{ server: Server; socket: Socket; client: Socket }> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, '127.0.0.1');
  t.teardown(() => server.close());
  await once(server, 'listening');
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  t.teardown(() => client.destroy());
  const [socket] = (await once(server, 'connection')) as [Socket];
  t.teardown(() => socket.destroy());
  return { server, socket, client };
}

t.test('two connections read into the same memory, one after the other', async (t) => {
  const seen: Array<[string, Buffer]> = [];
  const sockets: Socket[] = [];
  for (const name of ['a', 'b']) {
    const { socket, client } = await accepted(t);
    const works = shareReads(socket, (memory, length) => {
      const bytes = memory.subarray(0, length);
      seen.push([`${name}: ${bytes.toString()}`, bytes]);
      return true;
    });
    t.ok(works);
    t.notOk(
      shareReads(socket, () => true),
      'not twice',
    );
    socket.resume();
    sockets.push(client);
    client.write(name);
    while (seen.length < sockets.length) await new Promise(setImmediate);
  }
  t.strictSame(
    seen.map(([each]) => each),
    ['a: a', 'b: b'],
  );
  t.equal(seen[0]?.[1].buffer, seen[1]?.[1].buffer);
  t.equal(seen[0]?.[1].toString(), 'b', 'which is why nobody may keep it');
});

t.test('false stops the reading, resume() goes on; the end and the server’s count are as ever', async (t) => {
  const { server, socket, client } = await accepted(t);
  const seen: string[] = [];
  shareReads(socket, (memory, length) => {
    seen.push(memory.toString('latin1', 0, length));
    return false;
  });
  socket.on('data', () => t.fail('no memory but the shared one'));
  socket.resume();
  client.write('one');
  while (seen.length < 1) await new Promise(setImmediate);
  client.write('two');
  client.end();
  for (let i = 0; i < 20; i++) await new Promise(setImmediate);
  t.strictSame(seen, ['one'], 'no more before resume()');
  const ended = once(socket, 'end');
  socket.resume();
  while (seen.length < 2) await new Promise(setImmediate);
  socket.resume();
  await ended;
  t.ok(socket.writable, 'half-open');
  t.equal(await count(server), 1);
  socket.destroy();
  await once(socket, 'close');
  t.equal(await count(server), 0);
});

function count(server: Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, number) => (error ? reject(error) : resolve(number)));
  });
}

t.test('a socket that has been read from, is destroyed, or has no such insides is left as it is', async (t) => {
  const never = (): never => {
    throw new Error('called');
  };
  const read = await accepted(t);
  read.client.write('x');
  read.socket.resume().pause();
  while (read.socket.readableLength === 0) await new Promise(setImmediate);
  t.notOk(shareReads(read.socket, never));
  t.equal(String(read.socket.read()), 'x');

  const destroyed = await accepted(t);
  destroyed.socket.destroy();
  t.notOk(shareReads(destroyed.socket, never));

  const other = await accepted(t);
  const handle = (other.socket as unknown as { _handle: { useUserBuffer: unknown } })._handle;
  handle.useUserBuffer = undefined;
  t.notOk(shareReads(other.socket, never));
  other.socket.resume();
  other.client.write('y');
  t.equal(String((await once(other.socket, 'data'))[0]), 'y');
});
