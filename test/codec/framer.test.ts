// Frames out of arbitrary chunks: sizes, limits, ends, and what is kept in memory meanwhile.
import t from 'tap';
import { commandParser, Framer, type PacketSink } from '../../lib/codec/index.js';
import { guessPeer } from '../../lib/codec/guess.js';
import type { MilterError } from '../../lib/errors.js';
import { cut, hex, packet, u32, u8 } from '../helpers/bytes.js';
import { memoryInUse } from '../helpers/memory.js';

class Frames {
  readonly all: Buffer[] = [];
  frame(buffer: Buffer, start: number, end: number): void {
    this.all.push(buffer.subarray(start, end));
  }
}

/** The error of a call, which must throw one. */
function failure(call: () => void): MilterError {
  try {
    call();
  } catch (error) {
    return error as MilterError;
  }
  throw new Error('nothing was thrown');
}

const nowhere: PacketSink<unknown> = { packet() {} };

t.test('P3 a frame that lies whole in its chunk is handed on as a view, not as a copy', async (t) => {
  const chunk = Buffer.concat([packet('B', Buffer.from('one')), packet('B', Buffer.from('two'))]);
  const seen: Array<[boolean, number, number]> = [];
  new Framer().push(chunk, { frame: (buffer, start, end) => seen.push([buffer === chunk, start, end]) });
  t.strictSame(seen, [
    [true, 0, 8],
    [true, 8, 16],
  ]);
});

t.test('P2 a torn frame shares no memory with the chunks it came in, so that these may go', async (t) => {
  for (const size of [10, 65_535, 65_536, 300_000]) {
    const bytes = packet('B', Buffer.alloc(size, 1));
    const chunks = cut(bytes, 70_001).flatMap((chunk) => cut(chunk, Math.ceil(chunk.length / 2)));
    const frames = new Frames();
    const framer = new Framer();
    for (const chunk of chunks) framer.push(chunk, frames);
    t.equal(frames.all.length, 1, `${size} bytes`);
    for (const chunk of chunks) chunk.fill(2);
    t.ok(frames.all[0]?.equals(packet('B', Buffer.alloc(size, 1))), 'the frame is as it was');
  }
});

t.test('P2 of a chunk only as many bytes count as are said to', async (t) => {
  const bytes = Buffer.concat([packet('B', Buffer.from('one')), packet('B', Buffer.alloc(10_000, 1))]);
  for (const size of [1, 3, 5, 9, 4096, bytes.length]) {
    const frames = new Frames();
    const framer = new Framer();
    for (const piece of cut(bytes, size)) {
      framer.push(Buffer.concat([piece, Buffer.alloc(5000, 0xff)]), frames, piece.length);
    }
    t.ok(Buffer.concat(frames.all).equals(bytes), `in pieces of ${size}`);
    framer.end();
  }
  const error = failure(() => new Framer(10).push(Buffer.concat([u32(99), Buffer.of(0x42, 1)]), new Frames(), 5));
  t.equal(error.bytes?.length, 5, 'and an error shows no others');
});

t.test('P2 P3 frames of every size around the borders survive every way to cut them', async (t) => {
  const sizes = [0, 1, 3, 4, 5, 1000, 4096, 65_534, 65_535, 65_536, 70_000, 131_072, 262_143];
  const frames = sizes.map((size, i) => packet(String.fromCharCode(0x41 + i), Buffer.alloc(size, i)));
  const bytes = Buffer.concat(frames);
  for (const size of [1, 2, 3, 4, 5, 7, 1460, 4096, 65_536, 65_540, bytes.length]) {
    const got = new Frames();
    const framer = new Framer();
    for (const chunk of cut(bytes, size)) {
      framer.push(chunk, got);
      framer.push(Buffer.alloc(0), got);
    }
    framer.end();
    t.equal(got.all.length, frames.length, `pieces of ${size}`);
    t.ok(Buffer.concat(got.all).equals(bytes), 'with all of their bytes');
  }
});

t.test('P4 a length of 0 is an error that says where, in whatever pieces it comes', async (t) => {
  const bytes = Buffer.concat([packet('N'), hex('00 00 00 00 00 00 00 01 4e')]);
  for (const size of [1, 2, 3, 4, 8, bytes.length]) {
    const got = new Frames();
    const framer = new Framer();
    const error = failure(() => {
      for (const chunk of cut(bytes, size)) framer.push(chunk, got);
    });
    t.match(error, { code: 'ERR_MILTER_EMPTY_PACKET', offset: 5, message: /^A packet of length 0/ }, `${size}`);
    t.equal(got.all.length, 1, 'what was before it has been delivered');
    t.ok(
      bytes
        .subarray(5)
        .toString('hex')
        .startsWith((error.bytes as Buffer).toString('hex')),
      'it shows the bytes',
    );
  }
});

t.test('P4 after an error nothing is read any more: every further call fails with the same error', async (t) => {
  for (const bad of [hex('00 00 00 00'), u32(0xffff_ffff), hex('00 00 00 01 7a'), hex('00 00 00 01 48')]) {
    for (const size of [1, 64]) {
      const seen: unknown[] = [];
      const parser = commandParser();
      const sink: PacketSink<unknown> = { packet: (each) => seen.push(each) };
      const error = failure(() => {
        for (const chunk of cut(Buffer.concat([bad, packet('N')]), size)) parser.parse(chunk, sink);
      });
      t.equal(
        failure(() => parser.parse(packet('N'), sink)),
        error,
        error.code,
      );
      t.equal(
        failure(() => parser.end()),
        error,
      );
      t.strictSame(seen, [], 'no packet was made of bytes that cannot be trusted');
    }
  }
});

t.test('P4 what the sink throws ends the reading as well', async (t) => {
  const framer = new Framer();
  const thrown = new Error('no');
  const sink = {
    frame(): void {
      throw thrown;
    },
  };
  t.equal(
    failure(() => framer.push(packet('N'), sink)),
    thrown,
  );
  t.equal(
    failure(() => framer.push(packet('N'), new Frames())),
    thrown,
  );
});

t.test('P5 a length above maxPayload is refused at its fourth byte, before any of the payload', async (t) => {
  for (const limit of [0, 10, 65_535, 1_048_575]) {
    const most = new Frames();
    new Framer(limit).push(packet('B', Buffer.alloc(limit)), most);
    t.equal(most.all.length, 1, `${limit} bytes pass`);
    const length = u32(limit + 2);
    for (const pieces of [[length], cut(length, 1), [length.subarray(0, 3), length.subarray(3)]]) {
      const framer = new Framer(limit);
      const last = pieces.pop() as Buffer;
      for (const piece of pieces) framer.push(piece, most);
      const error = failure(() => framer.push(last, most));
      t.match(error, { code: 'ERR_MILTER_PACKET_TOO_LARGE', offset: 0, bytes: length });
      t.match(
        error.message,
        `a payload of ${limit + 1} bytes, more than the limit of ${limit} (stream offset 0, begins`,
      );
    }
  }
});

t.test('P5 the limit is 1,048,575 bytes where none is given, and may change between two packets', async (t) => {
  t.equal(new Framer().maxPayload, 1_048_575);
  const frames = new Frames();
  const framer = new Framer(10);
  framer.push(packet('B', Buffer.alloc(10)), frames);
  framer.maxPayload = 11;
  framer.push(packet('B', Buffer.alloc(11)), frames);
  t.equal(frames.all.length, 2);
  t.throws(() => framer.push(packet('B', Buffer.alloc(12)), frames), {
    code: 'ERR_MILTER_PACKET_TOO_LARGE',
    offset: 31,
  });
});

t.test('P5 a limit that is no whole number is refused when the framer is made', async (t) => {
  for (const limit of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 32, '1M' as unknown as number]) {
    t.throws(() => new Framer(limit), { code: 'ERR_MILTER_OPTION', message: /^maxPayload must be a whole number/ });
  }
});

t.test('P6 lengths with the highest bit are large, not negative', async (t) => {
  for (const length of [0x8000_0000, 0x8000_0001, 0xffff_ffff]) {
    for (const size of [1, 5]) {
      const error = failure(() => {
        const framer = new Framer();
        for (const chunk of cut(Buffer.concat([u32(length), u8(0x42)]), size)) framer.push(chunk, new Frames());
      });
      t.match(error, { code: 'ERR_MILTER_PACKET_TOO_LARGE', message: `a payload of ${length - 1} bytes` });
    }
  }
});

t.test('P7 an end between packets is clean, an end inside one is an error that counts what is missing', async (t) => {
  new Framer().end();
  const bytes = packet('B', Buffer.alloc(70_000, 7));
  for (const size of [1, 2, 3, 4, 5, 40, 1000, 70_004]) {
    const framer = new Framer();
    framer.push(packet('N'), new Frames());
    framer.end();
    for (const chunk of cut(bytes.subarray(0, size), 999)) framer.push(chunk, new Frames());
    const error = failure(() => framer.end());
    t.match(error, { code: 'ERR_MILTER_TRUNCATED', offset: 5 });
    t.strictSame(error.bytes, bytes.subarray(0, Math.min(size, 32)), 'it shows the first bytes');
    t.match(error.message, size < 4 ? 'the rest of its length missing' : `${70_005 - size} of its 70005 bytes missing`);
  }
  const small = new Framer();
  small.push(packet('B', Buffer.alloc(9)).subarray(0, 8), new Frames());
  t.throws(() => small.end(), { message: /: 6 of its 14 bytes missing \(stream offset 0, begins 0000000a42000000\)/ });
});

t.test('P5 memory follows the bytes received, never the length claimed', async (t) => {
  const framers: Framer[] = [];
  const frames = new Frames();
  const begin = packet('B', Buffer.alloc(100)).subarray(4);
  const before = await memoryInUse();
  for (let i = 0; i < 200; i++) {
    const framer = new Framer();
    framer.push(u32(1_048_576), frames);
    framer.push(begin, frames);
    framers.push(framer);
  }
  const each = ((await memoryInUse()) - before) / framers.length;
  t.ok(each < 16_384, `a claim of 1 MiB with 100 bytes behind it costs ${Math.round(each)} bytes`);
});

t.test('P5 a large packet that drips in byte by byte costs no more than about twice its bytes', async (t) => {
  const bytes = packet('B', Buffer.alloc(300_000, 3));
  const framer = new Framer();
  const frames = new Frames();
  const before = await memoryInUse();
  // Each byte in a chunk of its own, as a socket would give it.
  for (const byte of bytes.subarray(0, -1)) framer.push(Buffer.of(byte), frames);
  const cost = (await memoryInUse()) - before;
  t.ok(cost < 3 * bytes.length, `${bytes.length} bytes cost ${cost}`);
  framer.push(bytes.subarray(-1), frames);
  t.ok(frames.all[0]?.equals(bytes));
});

t.test('a first packet that is none says what the peer seems to be, however its bytes were cut', async (t) => {
  const cases: ReadonlyArray<readonly [string | Buffer, string | RegExp]> = [
    ['EHLO mx.example.org\r\n', 'an SMTP client'],
    ['helo a\r\n', 'an SMTP client'],
    ['QUIT\r\n', 'an SMTP client'],
    ['220 mx.example.org ESMTP\r\n', 'an SMTP server'],
    ['220-mx.example.org\r\n', 'an SMTP server'],
    ['GET /ping HTTP/1.1\r\nHost: a\r\n', 'an HTTP client'],
    ['OPTIONS * HTTP/1.1\r\n', 'an HTTP client'],
    ['HTTP/1.1 400 Bad Request\r\n', 'an HTTP server'],
    ['zINSTREAM\0', 'a client of clamd'],
    ['nPING\n', 'a client of clamd'],
    ['PING', 'a client of clamd'],
    ['UNKNOWN COMMAND\n', 'clamd, the virus scanner'],
    ['PONG\n', 'clamd, the virus scanner'],
    ['stream: OK', 'clamd, the virus scanner'],
    ['PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n', 'a proxy that sends a PROXY protocol header'],
    [hex('0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a 21 11 00 0c'), 'a proxy that sends a PROXY protocol header'],
    ['SSH-2.0-OpenSSH_9.7\r\n', 'an SSH peer'],
    [hex('16 03 01 02 00 01 00 01 fc 03 03'), /; the peer seems to speak TLS$/],
    ['Hello, world', /; the peer speaks text: "Hello, world"$/],
    [hex('7f 80 81 82 83'), /begins 7f80818283\)$/],
  ];
  for (const [bytes, wanted] of cases) {
    const all = typeof bytes === 'string' ? Buffer.from(bytes) : bytes;
    const error = failure(() => new Framer().push(all, new Frames()));
    t.equal(error.code, 'ERR_MILTER_PACKET_TOO_LARGE');
    t.match(
      error.message,
      typeof wanted === 'string' ? `; the peer seems to be ${wanted}` : wanted,
      all.toString('latin1'),
    );
    // The rest behind the first two bytes: four bytes of length, and not one of them shown twice.
    const torn = new Framer();
    torn.push(all.subarray(0, 2), new Frames());
    t.equal(failure(() => torn.push(all.subarray(2), new Frames())).message, error.message);
  }
});

t.test('a guess is made of four bytes too, and only about the first packet', async (t) => {
  const framer = new Framer();
  t.throws(
    () => {
      for (const chunk of cut(Buffer.from('EHLO a'), 1)) framer.push(chunk, new Frames());
    },
    { message: /begins 45484c4f\); the peer seems to be an SMTP client$/, bytes: Buffer.from('EHLO') },
  );
  const later = new Framer();
  later.push(packet('N'), new Frames());
  t.match(failure(() => later.push(Buffer.from('EHLO a\r\n'), new Frames())).message, /begins 45484c4f20610d0a\)$/);
  t.equal(guessPeer(Buffer.alloc(0)), '');
  t.equal(guessPeer(Buffer.of(0x16, 0x02)), '', 'not TLS');
});

t.test('P7 a parser keeps its packets in order over a truncated end', async (t) => {
  const parser = commandParser();
  const seen: string[] = [];
  parser.parse(Buffer.concat([packet('N'), packet('T'), packet('H', 'a').subarray(0, 6)]), {
    packet: ({ type }) => seen.push(type),
  });
  t.throws(() => parser.end(), { code: 'ERR_MILTER_TRUNCATED', offset: 10 });
  t.strictSame(seen, ['eoh', 'data']);
  parser.parse(Buffer.alloc(0), nowhere);
});

t.test('P134 what has come of a packet that is not whole yet can be had, however large and however cut', async (t) => {
  const large = packet('B', Buffer.alloc(300_000, 'abc'));
  for (const [whole, at] of [
    [packet('H', 'x'), 0],
    [packet('H', 'x'), 3],
    [packet('H', 'x'), 6],
    [large, 100],
    [large, 200_001],
  ] as const) {
    for (const size of [1000, 70_000]) {
      const framer = new Framer();
      for (const chunk of cut(whole.subarray(0, at), size)) framer.push(chunk, new Frames());
      t.ok(framer.unfinished().equals(whole.subarray(0, at)), `${at} of ${whole.length} bytes, ${size} at a time`);
    }
  }
  const parser = commandParser();
  parser.parse(large.subarray(0, 9), nowhere);
  t.equal(parser.unfinished().length, 9);
});
