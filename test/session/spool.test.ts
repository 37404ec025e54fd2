// Streams that are read whole before anything is sent: what is kept where, and that nothing of it stays behind.
import { readdirSync, statSync } from 'node:fs';
import { Readable } from 'node:stream';
import t from 'tap';
import { chunkBytes, destroyStream, Spool, type ByteStream } from '../../lib/session/spool.js';
import { cut } from '../helpers/bytes.js';
import { thrown } from '../helpers/eob.js';
import { allClosed, openFiles, skip, type OpenFile } from '../helpers/open-files.js';
import { settled } from '../helpers/streams.js';

/** Where spool files are made, which only these tests use. */
const folder = t.testdir();
const { TMPDIR } = process.env;
process.env['TMPDIR'] = folder;
t.teardown(() => {
  if (TMPDIR === undefined) delete process.env['TMPDIR'];
  else process.env['TMPDIR'] = TMPDIR;
});

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  yield* cut(bytes, size);
}

async function gathered(spool: Spool, size = 1000): Promise<Buffer[]> {
  const chunks: Buffer[] = [];
  for await (const chunk of spool.chunks(size)) chunks.push(chunk);
  return chunks;
}

const text = Buffer.from(Array.from({ length: 5000 }, (_, i) => i & 0xff));

t.test('up to spoolMemory a stream stays in memory', { skip }, async (t) => {
  const spool = new Spool(pieces(text, 100), { spoolMemory: 5000 });
  await spool.ready;
  t.strictSame(openFiles(folder), []);
  t.ok(Buffer.concat(await gathered(spool)).equals(text));
  spool.discard();
});

t.test('beyond it the rest goes into a file without a name that nobody else may read', { skip }, async (t) => {
  for (const [spoolMemory, size] of [
    [0, 5000],
    [4999, 100],
    [1050, 100],
    [10, 5000],
  ] as const) {
    const spool = new Spool(pieces(text, size), { spoolMemory });
    await spool.ready;
    t.strictSame(readdirSync(folder), [], 'it has no name any more');
    const [file, ...more] = openFiles(folder);
    t.strictSame(more, []);
    const { mode, nlink, size: bytes } = statSync((file as OpenFile).path);
    t.strictSame({ mode: mode & 0o777, nlink }, { mode: 0o600, nlink: 0 });
    t.equal(bytes, 5000 - Math.floor(spoolMemory / size) * size, 'what was in memory is not in the file');
    const chunks = await gathered(spool);
    t.ok(Buffer.concat(chunks).equals(text), `${spoolMemory} in memory, pieces of ${size}`);
    t.ok(chunks.every((chunk) => chunk.length <= 1000));
    t.ok(Buffer.concat(await gathered(spool)).equals(text), 'it can be read again');
    spool.discard();
    spool.discard();
    await allClosed(t, folder);
  }
});

t.test('small pieces behind a large one keep their order', async (t) => {
  async function* source(): AsyncGenerator<string> {
    yield 'one ';
    yield 'a piece too large for memory ';
    yield 'two';
  }
  const spool = new Spool(source(), { spoolMemory: 10 });
  await spool.ready;
  t.equal(Buffer.concat(await gathered(spool, 7)).toString(), 'one a piece too large for memory two');
  spool.discard();
});

t.test('a stream that fails is told of, and nothing of it is kept', { skip }, async (t) => {
  for (const spoolMemory of [0, 1000]) {
    const failure = new Error('the source is dry');
    const source = Readable.from([text.subarray(0, 100), text.subarray(100, 200)]);
    const spool = new Spool(source, { spoolMemory });
    source.once('end', () => t.fail('it did not fail'));
    source.once('data', () => source.destroy(failure));
    await t.rejects(spool.ready, failure);
    t.ok(source.destroyed);
    t.strictSame(await gathered(spool), []);
    await allClosed(t, folder);
  }
});

t.test('a stream of things that are no bytes is refused', async (t) => {
  async function* numbers(): AsyncGenerator<number> {
    yield 1;
  }
  const spool = new Spool(numbers() as unknown as ByteStream, { spoolMemory: 0 });
  await t.rejects(spool.ready, {
    code: 'ERR_MILTER_ARGUMENT',
    message: 'replBody(): the stream gave 1, not bytes or a string',
  });
  t.equal(thrown(() => chunkBytes(null)).message, 'replBody(): the stream gave null, not bytes or a string');
  t.ok(chunkBytes('caf\udce9').equals(Buffer.from('caf\xe9', 'latin1')));
  t.ok(chunkBytes(new Uint8Array([9, 1, 2]).subarray(1)).equals(Buffer.of(1, 2)));
});

t.test('discard() while the file is being made leaves nothing open', { skip }, async (t) => {
  let made = false;
  async function* source(): AsyncGenerator<Buffer> {
    made = true;
    yield text;
    throw new Error('not to be reached');
  }
  const spool = new Spool(source(), { spoolMemory: 0 });
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  t.ok(made, 'the first piece is on its way into the file');
  spool.discard();
  await spool.ready;
  await allClosed(t, folder);
  t.strictSame(readdirSync(folder), []);
});

t.test('discard() while a stream is read ends the stream', async (t) => {
  let ended = false;
  let more: (() => void) | undefined;
  async function* endless(): AsyncGenerator<string> {
    try {
      for (;;) {
        await new Promise<void>((resolve) => (more = resolve));
        yield 'x';
      }
    } finally {
      ended = true;
    }
  }
  const generated = new Spool(endless(), { spoolMemory: 10 });
  await settled();
  generated.discard();
  more?.();
  await generated.ready;
  t.ok(ended, 'a generator, at its next piece');

  const readable = new Readable({ read() {} });
  const read = new Spool(readable, { spoolMemory: 10 });
  await settled();
  read.discard();
  await t.rejects(read.ready);
  t.ok(readable.destroyed, "Node's, at once");
});

t.test('a stream that nobody has begun to read is ended by what it has for that', async (t) => {
  const readable = new Readable({ read() {} });
  destroyStream(readable);
  t.ok(readable.destroyed);
  let cancelled = false;
  const web = new ReadableStream<Uint8Array>({ cancel: () => void (cancelled = true) });
  destroyStream(web);
  t.ok(cancelled);
  const locked = new ReadableStream<Uint8Array>();
  locked.getReader();
  destroyStream(locked);
  destroyStream(pieces(text, 100));
  await settled();
});

t.test('a folder for temporary files that is not there is told of', async (t) => {
  process.env['TMPDIR'] = `${folder}/missing`;
  t.teardown(() => (process.env['TMPDIR'] = folder));
  const spool = new Spool(pieces(text, 100), { spoolMemory: 0 });
  await t.rejects(spool.ready, { code: 'ENOENT' });
});
