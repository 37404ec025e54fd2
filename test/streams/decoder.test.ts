// The streams that read: a test per promise.
import { once } from 'node:events';
import { PassThrough, Readable, Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { format, inspect } from 'node:util';
import createDebug from 'debug';
import t from 'tap';
import type { Command } from '../../lib/codec/index.js';
import { MilterError } from '../../lib/errors.js';
import { createDecoder, createReplyDecoder } from '../../lib/streams/decoder.js';
import { cut, hex, packet, str, u32 } from '../helpers/bytes.js';
import { commands, replies } from '../helpers/packets.js';
import { countedSource, drained, settled } from '../helpers/streams.js';

const allCommands = Buffer.concat(commands.map((each) => hex(each.hex)));
const plain = (each: object): object => ({ ...each });
const types = (packets: ReadonlyArray<{ readonly type: string }>): string[] => packets.map(({ type }) => type);

/** A stream's bytes, whole. */
function decoded(...chunks: ReadonlyArray<Buffer | string | Uint8Array>): ReturnType<typeof createDecoder> {
  const decoder = createDecoder();
  Readable.from(chunks, { objectMode: true }).pipe(decoder);
  return decoder;
}

t.test("P3 'data' gives every command of a piped stream, in order, and then comes 'end'", async (t) => {
  const seen: Command[] = [];
  const decoder = decoded(...cut(allCommands, 100));
  decoder.on('data', (command) => seen.push(command));
  await once(decoder, 'end');
  t.strictSame(
    seen.map(plain),
    commands.map((each) => each.packet),
  );
});

t.test('P2 for await gives every command, however the chunks were cut', async (t) => {
  for (const size of [1, 5, 17, allCommands.length]) {
    const { items, error } = await drained(decoded(...cut(allCommands, size)));
    t.equal(error, undefined);
    t.strictSame(
      items.map(plain),
      commands.map((each) => each.packet),
      `chunks of ${size}`,
    );
  }
});

t.test('P10 createReplyDecoder() reads the other direction', async (t) => {
  const decoder = createReplyDecoder();
  decoder.end(Buffer.concat(replies.map((each) => hex(each.hex))));
  const { items } = await drained(decoder);
  t.strictSame(
    items.map(plain),
    replies.map((each) => each.packet),
  );
  const wrong = createReplyDecoder();
  wrong.end(packet('H', 'a'));
  t.match((await drained(wrong)).error, { code: 'ERR_MILTER_UNKNOWN_CODE' });
});

t.test('pipeline() runs through a decoder into a generator, and fails with its error', async (t) => {
  const names: string[] = [];
  const names2 = async (source: AsyncIterable<Command>): Promise<void> => {
    for await (const command of source) if (command.type === 'helo') names.push(command.name);
  };
  const bytes = [packet('H', 'a'), packet('N'), packet('H', 'b')];
  await pipeline(Readable.from(bytes), createDecoder(), names2);
  t.strictSame(names, ['a', 'b']);
  const source = Readable.from([...bytes, packet('H'), packet('H', 'never')]);
  await t.rejects(pipeline(source, createDecoder(), names2), { code: 'ERR_MILTER_MALFORMED', packet: 'helo' });
  t.strictSame(names, ['a', 'b', 'a', 'b'], 'the packets before the broken one have been delivered');
  t.equal(source.destroyed, true, 'and the source is gone');
});

t.test('P7 an end inside a packet is an error, behind the whole packets before it', async (t) => {
  const whole = [packet('H', 'a'), packet('N'), packet('H', 'b')];
  for (const torn of [
    packet('H', 'c').subarray(0, 3),
    packet('H', 'c').subarray(0, 6),
    packet('B', Buffer.alloc(70_000)).subarray(0, 66_000),
  ]) {
    for (const chunks of [
      [...whole, torn],
      [Buffer.concat([...whole, torn])],
      cut(Buffer.concat([...whole, torn]), 7),
    ]) {
      const { items, error } = await drained(decoded(...chunks));
      t.strictSame(types(items), ['helo', 'eoh', 'helo']);
      t.match(error, { code: 'ERR_MILTER_TRUNCATED', offset: 19 });
    }
  }
});

t.test('P4 P5 P8 P14 a packet that cannot be read is an error, behind the good packets before it', async (t) => {
  const good = Buffer.concat([packet('H', 'a'), packet('N'), packet('H', 'b')]);
  for (const [code, bad] of [
    ['ERR_MILTER_EMPTY_PACKET', u32(0)],
    ['ERR_MILTER_PACKET_TOO_LARGE', u32(1_048_577)],
    ['ERR_MILTER_UNKNOWN_CODE', packet('z')],
    ['ERR_MILTER_MALFORMED', packet('H')],
  ] as const) {
    const bytes = Buffer.concat([good, bad, packet('H', 'never')]);
    for (const chunks of [[bytes], cut(bytes, 1), cut(bytes, 11)]) {
      const { items, error } = await drained(decoded(...chunks));
      t.strictSame(types(items), ['helo', 'eoh', 'helo'], code);
      t.type(error, MilterError);
      t.match(error, { code });
    }
  }
});

t.test(
  'the error waits for a reader that takes its time, and comes without one for what was not readable',
  async (t) => {
    const decoder = createDecoder();
    let failure: unknown;
    decoder.once('error', (error) => (failure = error));
    decoder.write(Buffer.concat([packet('H', 'a'), packet('N'), packet('z')]));
    await settled();
    t.equal(failure, undefined, 'nobody has read yet');
    t.equal(decoder.read()?.type, 'helo');
    await settled();
    t.equal(failure, undefined, 'one packet is left');
    t.equal(decoder.read()?.type, 'eoh');
    await settled();
    t.match(failure, { code: 'ERR_MILTER_UNKNOWN_CODE' });
    t.equal(decoder.destroyed, true);
    const alone = createDecoder();
    alone.write(packet('z'));
    await t.rejects(once(alone, 'close'), { code: 'ERR_MILTER_UNKNOWN_CODE' });
  },
);

t.test(
  'the error comes behind the packets for a listener that pauses, and through pipe() to a slow writable',
  async (t) => {
    const bytes = Buffer.concat([packet('H', 'a'), packet('N'), packet('H', 'b'), packet('T'), packet('z')]);
    const decoder = createDecoder();
    const seen: string[] = [];
    decoder.on('data', ({ type }) => {
      seen.push(type);
      decoder.pause();
      setImmediate(() => decoder.resume());
    });
    decoder.end(bytes);
    await t.rejects(finished(decoder), { code: 'ERR_MILTER_UNKNOWN_CODE' });
    t.strictSame(seen, ['helo', 'eoh', 'helo', 'data']);

    const slow: string[] = [];
    const sink = new Writable({
      objectMode: true,
      highWaterMark: 1,
      write({ type }: Command, _encoding, done) {
        slow.push(type);
        setImmediate(done);
      },
    });
    const piped = createDecoder();
    piped.pipe(sink);
    piped.end(bytes);
    await t.rejects(finished(piped), { code: 'ERR_MILTER_UNKNOWN_CODE' });
    await settled();
    t.strictSame(slow, ['helo', 'eoh', 'helo', 'data']);
  },
);

t.test('P4 nothing is taken in once an error is due, and nothing comes out behind it', async (t) => {
  const { stream, given } = countedSource(Buffer.concat([packet('N'), packet('z'), packet('H', 'never')]), 1000);
  const decoder = createDecoder();
  decoder.on('error', () => {});
  stream.pipe(decoder);
  await settled();
  t.ok(given() < 1000, 'the source was left alone');
  t.strictSame(types((await drained(decoder)).items), ['eoh']);
});

t.test('P15 a decoder stops reading its source when its own reader is slow, and goes on with him', async (t) => {
  const inChunk = 200;
  const chunk = Buffer.concat(Array.from({ length: inChunk }, () => packet('L', 'Subject', 'x'.repeat(50))));
  const chunks = 200;
  const { stream, given } = countedSource(chunk, chunks);
  const packets = stream.pipe(createDecoder())[Symbol.asyncIterator]();
  await packets.next();
  await settled();
  const before = given();
  t.ok(before < 10, `${before} of ${chunks} chunks were taken for one packet`);
  await settled();
  t.equal(given(), before, 'it does not go on by itself');
  let seen = 1;
  for (let i = 0; i < 10 * inChunk; i++, seen++) await packets.next();
  await settled();
  t.ok(given() <= before + 11, 'it goes on as far as it is read');
  while (!(await packets.next()).done) seen++;
  t.equal(seen, chunks * inChunk, 'and nothing is lost');
});

t.test('P15 highWaterMark is how many packets may wait', async (t) => {
  for (const highWaterMark of [0, 1, 3, 100]) {
    const { stream, given } = countedSource(packet('H', 'a'), 1000);
    const decoder = createDecoder({ highWaterMark });
    t.equal(decoder.readableHighWaterMark, highWaterMark);
    // A writable side of one byte: what has been taken has been decoded.
    const narrow = new PassThrough({ highWaterMark: 1 });
    stream.pipe(narrow).pipe(decoder);
    await settled();
    t.ok(decoder.readableLength <= Math.max(highWaterMark, 1), `${decoder.readableLength} packets wait`);
    const { items } = await drained(decoder);
    t.equal(items.length, 1000, `${given()} chunks taken`);
  }
  t.equal(createDecoder().readableHighWaterMark, 16, 'by default 16');
  t.equal(createReplyDecoder({ highWaterMark: 2 }).readableHighWaterMark, 2);
  t.throws(() => createDecoder({ highWaterMark: -1 }), { code: 'ERR_INVALID_ARG_VALUE' });
});

t.test('P5 maxPayload is checked when the decoder is made, and kept', async (t) => {
  t.throws(() => createDecoder({ maxPayload: -1 }), { code: 'ERR_MILTER_OPTION', message: /^maxPayload must be/ });
  t.throws(() => createReplyDecoder({ maxPayload: Number.NaN }), { code: 'ERR_MILTER_OPTION' });
  const decoder = createDecoder({ maxPayload: 2 });
  decoder.end(Buffer.concat([packet('H', 'a'), packet('H', 'ab')]));
  const { items, error } = await drained(decoder);
  t.equal(items.length, 1);
  t.match(error, { code: 'ERR_MILTER_PACKET_TOO_LARGE', offset: 7 });
});

t.test('P8 P14 a lenient decoder passes odd packets on, between the good ones', async (t) => {
  const decoder = createDecoder({ lenient: true });
  decoder.end(Buffer.concat([packet('N'), packet('z', 'a'), packet('H'), packet('T', 'more'), packet('Q')]));
  const { items, error } = await drained(decoder);
  t.equal(error, undefined);
  t.strictSame(types(items), ['eoh', 'unrecognized', 'malformed', 'data', 'quit']);
  t.strictSame(items[1]?.raw, packet('z', 'a'));
  const reply = createReplyDecoder({ lenient: true });
  reply.end(packet('Q'));
  t.strictSame(types((await drained(reply)).items), ['unrecognized']);
  const torn = createDecoder({ lenient: true });
  torn.end(u32(5));
  t.match((await drained(torn)).error, { code: 'ERR_MILTER_TRUNCATED' }, 'a torn end is an error all the same');
});

t.test('P11 a body chunk is a view of the chunk it came in, not a copy', async (t) => {
  const chunk = Buffer.concat([packet('B', Buffer.from('one')), packet('B', Buffer.from('two'))]);
  const [one, two] = (await drained(decoded(chunk))).items;
  if (one?.type !== 'body' || two?.type !== 'body') throw new Error('no bodies');
  t.equal(one.chunk.buffer, chunk.buffer);
  chunk.fill('x');
  t.equal(`${one.chunk.toString()} ${two.chunk.toString()}`, 'xxx xxx');
});

t.test('P11 raw has all bytes of the packet, is made when asked for, and does not show', async (t) => {
  const torn = packet('B', Buffer.from('torn'));
  const chunk = Buffer.concat([packet('H', 'a'), torn.subarray(0, 6)]);
  const [helo, body] = (await drained(decoded(chunk, torn.subarray(6)))).items;
  if (helo === undefined || body === undefined) throw new Error('no packets');
  t.strictSame(helo.raw, packet('H', 'a'));
  t.equal(helo.raw?.buffer, chunk.buffer, 'a view');
  t.strictSame(body.raw, torn);
  t.strictSame(Object.keys(helo), ['type', 'name']);
  t.equal(Object.getOwnPropertyDescriptor(helo, 'raw'), undefined, 'no property of its own: a getter');
  t.equal(JSON.stringify(helo), '{"type":"helo","name":"a"}');
  t.notMatch(inspect(helo), /raw/);
  t.strictSame(structuredClone(helo), { type: 'helo', name: 'a' });
  t.strictSame({ ...helo }, { type: 'helo', name: 'a' });
});

t.test(
  'a plain Uint8Array is read like a Buffer, without a copy, and a string as the bytes of its encoding',
  async (t) => {
    const bytes = new Uint8Array(packet('B', Buffer.from('Hi')));
    const [body] = (await drained(decoded(bytes))).items;
    t.ok(body?.type === 'body' && body.chunk.buffer === bytes.buffer && Buffer.isBuffer(body.chunk));
    const [helo] = (await drained(decoded('\0\0\0\u0004Hé\0'))).items;
    t.match(helo, { type: 'helo', name: 'é' });
    const decoder = createDecoder();
    decoder.end(packet('H', str(Buffer.of(0xe9))).toString('latin1'), 'latin1');
    t.match((await drained(decoder)).items, [{ type: 'helo', name: '\udce9' }]);
    t.throws(() => createDecoder().write({ type: 'eoh' }), { code: 'ERR_INVALID_ARG_TYPE' });
  },
);

t.test('an empty stream ends without a packet, and empty chunks are nothing', async (t) => {
  t.strictSame(await drained(decoded()), { items: [], error: undefined });
  const { items } = await drained(
    decoded(Buffer.alloc(0), packet('N').subarray(0, 2), Buffer.alloc(0), packet('N').subarray(2)),
  );
  t.strictSame(types(items), ['eoh']);
});

t.test('destroy() in the middle ends the iteration, with its error if it has one', async (t) => {
  for (const error of [undefined, new Error('enough')]) {
    const decoder = createDecoder();
    decoder.write(Buffer.concat([packet('N'), packet('T')]));
    const seen: string[] = [];
    const reading = (async () => {
      for await (const { type } of decoder) {
        seen.push(type);
        decoder.destroy(error);
      }
    })();
    await t.rejects(reading, error ?? { code: 'ERR_STREAM_PREMATURE_CLOSE' });
    t.strictSame(seen, ['eoh']);
  }
});

t.test('the debug namespace milter:codec names each packet when on, and says nothing when off', async (t) => {
  const lines: string[] = [];
  const { log } = createDebug;
  const before = createDebug.disable();
  createDebug.log = (...args: unknown[]) => lines.push(format(...args));
  t.teardown(() => {
    createDebug.log = log;
    createDebug.enable(before);
  });
  await drained(decoded(packet('N')));
  t.strictSame(lines, []);
  createDebug.enable('milter:codec');
  const decoder = createDecoder({ lenient: true });
  decoder.end(Buffer.concat([packet('H', 'secret'), packet('z')]));
  await drained(decoder);
  t.match(lines, [/milter:codec.* read helo/, /milter:codec.* read unrecognized/]);
  t.notMatch(lines.join('\n'), /secret/, 'never content');
  createDebug.disable();
  await drained(decoded(packet('N')));
  t.equal(lines.length, 2);
});
