// The streams that write, and both kinds together in what Node makes of streams: a test per promise.
import { once } from 'node:events';
import * as stream from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { finished, pipeline } from 'node:stream/promises';
import { format } from 'node:util';
import createDebug from 'debug';
import t from 'tap';
import type { Command, Reply } from '../../lib/codec/index.js';
import { MilterError } from '../../lib/errors.js';
import { createDecoder, createReplyDecoder } from '../../lib/streams/decoder.js';
import { createCommandEncoder, createEncoder } from '../../lib/streams/encoder.js';
import { hex, packet } from '../helpers/bytes.js';
import { commands, replies } from '../helpers/packets.js';
import { countedSource, drained, settled } from '../helpers/streams.js';

const { Duplex, Readable, Writable } = stream;
const writable = commands.filter((each) => each.readOnly !== true);
const commandBytes = Buffer.concat(writable.map((each) => hex(each.hex)));
const replyBytes = Buffer.concat(replies.map((each) => hex(each.hex)));

t.test('P1 P12 objects that are written come out as their bytes, in order', async (t) => {
  const encoder = createEncoder();
  for (const each of replies) encoder.write(each.packet);
  encoder.end();
  t.strictSame(await buffer(encoder), replyBytes);
  const other = createCommandEncoder();
  for (const each of writable) other.write(each.packet);
  other.end({ type: 'quit' });
  t.strictSame(await buffer(other), Buffer.concat([commandBytes, packet('Q')]));
});

t.test(
  'P12 what a decoder reads an encoder writes, byte for byte, through pipe() and through pipeline()',
  async (t) => {
    const decoder = createDecoder();
    decoder.end(commandBytes);
    t.strictSame(await buffer(decoder.pipe(createCommandEncoder())), commandBytes);
    const parts: Buffer[] = [];
    await pipeline(stream.Readable.from([replyBytes]), createReplyDecoder(), createEncoder(), async (source) => {
      for await (const part of source) parts.push(part as Buffer);
    });
    t.strictSame(Buffer.concat(parts), replyBytes);
  },
);

t.test('a decoder, a generator and an encoder make a milter of one pipeline', async (t) => {
  const parts: Buffer[] = [];
  await pipeline(
    Readable.from([packet('H', 'good'), packet('A'), packet('H', 'bad')]),
    createDecoder(),
    async function* (source): AsyncGenerator<Reply> {
      for await (const command of source) {
        if (command.type === 'helo') yield { type: command.name === 'bad' ? 'reject' : 'continue' };
      }
    },
    createEncoder(),
    async (source) => {
      for await (const part of source) parts.push(part as Buffer);
    },
  );
  t.strictSame(Buffer.concat(parts), Buffer.concat([packet('c'), packet('r')]));
});

t.test('raw is not looked at: the fields are what is encoded', async (t) => {
  const encoder = createCommandEncoder();
  encoder.write({ type: 'helo', name: 'new', raw: packet('H', 'old') });
  const decoder = createDecoder();
  decoder.end(packet('H', 'old'));
  const [read] = (await drained(decoder)).items;
  if (read?.type !== 'helo') throw new Error('no HELO');
  encoder.end({ ...read, name: 'newer' });
  t.strictSame(await buffer(encoder), Buffer.concat([packet('H', 'new'), packet('H', 'newer')]));
});

t.test('P9 P13 an object that cannot be encoded is an error that names packet and field', async (t) => {
  const cases: ReadonlyArray<readonly [unknown, object]> = [
    [
      { type: 'addHeader', name: 'X', value: 'a\0b' },
      { code: 'ERR_MILTER_VALUE', message: /addHeader packet: value holds a NUL/ },
    ],
    [
      { type: 'addHeader', name: 'X', value: '\ud800' },
      { code: 'ERR_MILTER_TEXT', message: /addHeader packet: value is no/ },
    ],
    [
      { type: 'chgHeader', index: '1', name: 'X', value: '' },
      { code: 'ERR_MILTER_VALUE', message: /index must be a whole/ },
    ],
    [
      { type: 'replBody', chunk: Buffer.alloc(65_536) },
      { code: 'ERR_MILTER_PACKET_TOO_LARGE', packet: 'replBody' },
    ],
    [
      { type: 'helo', name: 'a' },
      { code: 'ERR_MILTER_VALUE', message: /no packet of type "helo" in this direction/ },
    ],
    ['text', { code: 'ERR_MILTER_VALUE' }],
  ];
  for (const [object, says] of cases) {
    const encoder = createEncoder();
    let told: unknown;
    encoder.write(object as Reply, (error) => (told = error));
    const { error } = await drained(encoder);
    t.type(error, MilterError);
    t.match(error, says);
    t.equal(told, error, 'the callback of write() gets it too');
    t.equal(encoder.destroyed, true);
  }
  t.throws(() => createEncoder().write(null as unknown as Reply), { code: 'ERR_STREAM_NULL_VALUES' });
});

t.test('P9 maxPayload is the largest payload that is written, and is checked when the encoder is made', async (t) => {
  const chunk = Buffer.alloc(65_536);
  const large = createEncoder({ maxPayload: 65_536 });
  large.end({ type: 'replBody', chunk });
  t.equal((await buffer(large)).length, 5 + 65_536);
  const small = createCommandEncoder({ maxPayload: 3 });
  small.end({ type: 'helo', name: 'abc' });
  t.match((await drained(small)).error, { code: 'ERR_MILTER_PACKET_TOO_LARGE' });
  for (const create of [createEncoder, createCommandEncoder]) {
    t.throws(() => create({ maxPayload: 1.5 }), { code: 'ERR_MILTER_OPTION', message: /^maxPayload must be/ });
    t.throws(() => create({ highWaterMark: -1 }), { code: 'ERR_INVALID_ARG_VALUE' });
  }
});

t.test("P15 write() returns false when nobody reads, little waits, and 'drain' comes with a reader", async (t) => {
  const encoder = createEncoder();
  t.equal(encoder.writableHighWaterMark, 16, 'by default 16 packets may wait');
  const chunk = Buffer.alloc(10_000);
  let written = 0;
  do {
    written++;
    await settled();
  } while (encoder.write({ type: 'replBody', chunk }) && written < 1000);
  t.ok(written < 100, `${written} packets were taken`);
  const inside = encoder.readableLength;
  t.ok(inside <= encoder.readableHighWaterMark + 10_005, `${inside} bytes are encoded`);
  let drains = 0;
  encoder.once('drain', () => drains++);
  await settled();
  t.equal(drains, 0);
  encoder.resume();
  await settled();
  t.equal(drains, 1);
});

t.test('P15 highWaterMark is how many packets may wait before write() returns false', async (t) => {
  for (const create of [createEncoder, createCommandEncoder]) {
    const encoder = create({ highWaterMark: 2 });
    t.equal(encoder.writableHighWaterMark, 2);
  }
  const encoder = createEncoder({ highWaterMark: 2 });
  encoder.cork();
  t.equal(encoder.write({ type: 'progress' }), true);
  t.equal(encoder.write({ type: 'progress' }), false);
});

t.test('P15 a slow socket slows the source of the objects down', async (t) => {
  const { stream: bytes, given } = countedSource(packet('B', Buffer.alloc(10_000)), 1000);
  const waiting: Array<() => void> = [];
  let length = 0;
  const socket = new Writable({
    highWaterMark: 1,
    write(chunk: Buffer, _encoding, done) {
      length += chunk.length;
      waiting.push(done);
    },
  });
  const done = pipeline(bytes, createDecoder(), createCommandEncoder(), socket);
  await settled();
  const before = given();
  t.ok(before < 60, `${before} of 1000 packets were made for a socket that takes one`);
  await settled();
  t.equal(given(), before, 'and no more');
  while (!socket.writableFinished) {
    waiting.shift()?.();
    await new Promise(setImmediate);
  }
  await done;
  t.equal(length, 1000 * 10_005);
});

t.test('compose() makes one stream of a decoder and an encoder', async (t) => {
  const { compose } = stream as unknown as { compose: (...streams: unknown[]) => stream.Duplex };
  const composed = compose(createDecoder(), createCommandEncoder());
  composed.end(commandBytes);
  t.strictSame(await buffer(composed), commandBytes);
  const failing = compose(createDecoder(), createCommandEncoder());
  failing.end(Buffer.concat([packet('N'), packet('H')]));
  const { items, error } = await drained<Buffer>(failing);
  t.strictSame(Buffer.concat(items), packet('N'));
  t.match(error, { code: 'ERR_MILTER_MALFORMED' });
});

t.test('Duplex.from() makes one stream of packets out of both directions of a wire', async (t) => {
  const [decoder, encoder] = [createReplyDecoder(), createCommandEncoder()];
  const client = Duplex.from({ readable: decoder, writable: encoder });
  encoder.once('data', (bytes: Buffer) => {
    t.strictSame(bytes, packet('H', 'a'));
    decoder.end(packet('c'));
  });
  client.write({ type: 'helo', name: 'a' } satisfies Command);
  const [reply] = (await once(client, 'data')) as [Reply];
  t.equal(reply.type, 'continue');
});

t.test('toWeb() gives web streams that carry the same packets, and the error behind them', async (t) => {
  const decoder = createDecoder();
  const { readable, writable: web } = Duplex.toWeb(decoder);
  const writer = web.getWriter();
  const writing = (async () => {
    await writer.write(Buffer.concat([packet('H', 'a'), packet('N')]));
    await writer.close();
  })();
  t.match((await drained(readable)).items, [{ type: 'helo', name: 'a' }, { type: 'eoh' }]);
  await writing;
  const failing = createDecoder();
  failing.end(Buffer.concat([packet('N'), packet('H')]));
  const { items, error } = await drained(Readable.toWeb(failing));
  t.match(items, [{ type: 'eoh' }]);
  t.match(error, { code: 'ERR_MILTER_MALFORMED' });
  const encoder = createEncoder();
  encoder.end({ type: 'accept' });
  t.strictSame((await drained<Uint8Array>(Readable.toWeb(encoder))).items, [new Uint8Array(packet('a'))]);
});

t.test('finished() and the consumers of Node take the streams for their own', async (t) => {
  const decoder = createDecoder();
  decoder.end(packet('N'));
  t.match(await decoder.toArray(), [{ type: 'eoh' }]);
  await finished(decoder);
  const again = createDecoder();
  again.end(Buffer.concat([packet('N'), packet('T')]));
  for await (const { type } of again.iterator({ destroyOnReturn: false })) {
    t.equal(type, 'eoh');
    break;
  }
  t.equal(again.destroyed, false);
  t.match(await drained(Readable.from(again)), { items: [{ type: 'data' }] });
});

t.test('the debug namespace milter:codec names each packet that is written, and never its content', async (t) => {
  const lines: string[] = [];
  const { log } = createDebug;
  const before = createDebug.disable();
  createDebug.log = (...args: unknown[]) => lines.push(format(...args));
  t.teardown(() => {
    createDebug.log = log;
    createDebug.enable(before);
  });
  const send = async (): Promise<void> => {
    const encoder = createEncoder();
    encoder.end({ type: 'quarantine', reason: 'secret' });
    await buffer(encoder);
  };
  await send();
  t.strictSame(lines, []);
  createDebug.enable('milter:*');
  await send();
  t.match(lines, [/milter:codec.* write quarantine/]);
  t.notMatch(lines.join('\n'), /secret/);
});
