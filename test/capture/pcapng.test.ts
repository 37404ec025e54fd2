// pcapng as others write it: put together here by a second hand, whole and broken.
import t from 'tap';
import { decodeConversation, readCapture, type CaptureEvent } from '../../lib/capture/index.js';
import { u16, u32 } from '../helpers/bytes.js';
import { answer, collect, collectUntilError, connection, ipv4, lines, OFFER, tcpBytes } from '../helpers/capture.js';

const read = (file: Buffer): Promise<CaptureEvent[]> => collect(readCapture([file]));

type Order = 'big' | 'little';

class Pcapng {
  readonly parts: Buffer[] = [];
  constructor(readonly order: Order = 'big') {}
  u32(value: number): Buffer {
    return this.order === 'big' ? u32(value) : u32(value).swap32();
  }
  u16(value: number): Buffer {
    return this.order === 'big' ? u16(value) : u16(value).swap16();
  }
  block(type: number, ...body: Buffer[]): this {
    const all = Buffer.concat(body);
    const padding = Buffer.alloc(-all.length & 3);
    const length = this.u32(12 + all.length + padding.length);
    this.parts.push(this.u32(type), length, all, padding, length);
    return this;
  }
  section(): this {
    return this.block(0x0a0d0d0a, this.u32(0x1a2b3c4d), this.u16(1), this.u16(0), u32(0xffffffff), u32(0xffffffff));
  }
  option(code: number, value: Buffer): Buffer {
    return Buffer.concat([this.u16(code), this.u16(value.length), value, Buffer.alloc(-value.length & 3)]);
  }
  device(options: Buffer = Buffer.alloc(0), snap = 0, link = 101): this {
    return this.block(1, this.u16(link), this.u16(0), this.u32(snap), options);
  }
  enhanced(device: number, time: bigint, frame: Buffer, options: Buffer = Buffer.alloc(0)): this {
    const [high, low] = [Number(time >> 32n), Number(time & 0xffffffffn)];
    const padding = Buffer.alloc(-frame.length & 3);
    return this.block(
      6,
      ...[device, high, low, frame.length, frame.length].map((n) => this.u32(n)),
      frame,
      padding,
      options,
    );
  }
  get bytes(): Buffer {
    return Buffer.concat(this.parts);
  }
}

const frames = connection([
  ['mta', OFFER],
  ['milter', answer()],
]).map((segment) => ipv4(segment.from, tcpBytes(segment)));

t.test('pcapng of others: sections, interfaces, resolutions of time, blocks of every kind', async (t) => {
  const times = async (file: Pcapng): Promise<number[]> => (await read(file.bytes)).map(({ time }) => time);
  const ns = new Pcapng().section().device(new Pcapng().option(9, Buffer.of(9)));
  for (const frame of frames) ns.enhanced(0, 1_700_000_000_123_456_789n, frame);
  t.strictSame(
    [...new Set(await times(ns))].map((time) => time.toFixed(3)),
    ['1700000000123.457'],
  );
  const little = new Pcapng('little').section();
  const offset = Buffer.concat([
    little.option(14, Buffer.from([0x9c, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
    little.option(0, Buffer.alloc(0)),
  ]);
  little.device(Buffer.concat([little.option(2, Buffer.from('lo')), little.option(9, Buffer.of(0x8a)), offset]));
  for (const frame of frames) little.enhanced(0, 1024n * 200n + 512n, frame);
  t.strictSame([...new Set(await times(little))], [100_500], 'in parts of 1/1024, 100 s later');
  const positive = new Pcapng().section().device(new Pcapng().option(14, Buffer.from([0, 0, 0, 0, 0, 0, 0, 5])));
  for (const frame of frames) positive.enhanced(0, 0n, frame);
  t.strictSame([...new Set(await times(positive))], [5000]);

  const mixed = new Pcapng().section().block(5, u32(0)).device().block(0x0bad, u32(1), Buffer.from('custom'));
  mixed.block(3, u32((frames[0] as Buffer).length), frames[0] as Buffer);
  const old = frames[1] as Buffer;
  mixed.block(2, u16(0), u16(0), u32(0), u32(7000), u32(old.length), u32(old.length), old);
  const second = new Pcapng('little').section().device().device();
  for (const frame of frames.slice(2)) second.enhanced(1, 9000n, frame, second.option(1, Buffer.from('by hand')));
  const all = await collect(decodeConversation(readCapture([Buffer.concat([mixed.bytes, second.bytes])])));
  t.match(lines(all), [/open 192.0.2.1/, 'mta negotiate', 'milter negotiate <1', /close/]);
  const snapped = new Pcapng()
    .section()
    .device(Buffer.alloc(0), 60)
    .block(3, u32((frames[3] as Buffer).length), frames[3] as Buffer);
  t.match(await read(snapped.bytes), [{ type: 'problem', text: /in part alone/ }, { type: 'open' }, { type: 'data' }]);
});

t.test('comments are believed as far as they say something', async (t) => {
  const says = async (...comments: string[]): Promise<CaptureEvent[]> => {
    const file = new Pcapng().section().device();
    for (const [i, frame] of frames.entries()) {
      const comment = comments[i];
      file.enhanced(0, 0n, frame, comment === undefined ? Buffer.alloc(0) : file.option(1, Buffer.from(comment)));
    }
    return read(file.bytes);
  };
  t.match((await says('anything'))[0], { session: '1' });
  t.match((await says('milter-stream {'))[0], { session: '1' });
  t.match((await says('milter-stream 5'))[0], { session: '1' });
  t.match((await says('milter-stream {"session":"x"}'))[0], { session: '1' });
  t.match((await says('milter-stream {"session":"x","from":"mta","mta":{"address":1},"milter":null}'))[0], {
    session: 'x',
    mta: { port: 40_000 },
  });
  t.match((await says('milter-stream {"session":"x","from":"milter"}'))[0], { session: 'x', milter: { port: 40_000 } });
  const named = (name: string): Pcapng => {
    const file = new Pcapng().section().device();
    const comment = file.option(1, Buffer.from(`milter-stream {"session":"${name}","from":"mta"}`));
    for (const port of [1000, 2000, 3000]) {
      for (const segment of connection([['mta', OFFER]]).slice(0, 4)) {
        const tcp = tcpBytes(segment);
        tcp.writeUInt16BE(port, segment.from === 'mta' ? 0 : 2);
        file.enhanced(0, 0n, ipv4(segment.from, tcp), segment.flags === 'S' && port < 3000 ? comment : Buffer.alloc(0));
      }
    }
    return file;
  };
  const sessions = async (file: Pcapng): Promise<string[]> => [
    ...new Set((await read(file.bytes)).map(({ session }) => session)),
  ];
  t.strictSame(await sessions(named('x')), ['x', '1', '2'], 'two of one name');
  t.strictSame(await sessions(named('1')), ['1', '2', '3'], 'and of a name that is a number');
});

t.test('a broken pcapng is an error that names frame and offset, behind all that was before', async (t) => {
  const start = (): Pcapng => {
    const file = new Pcapng().section().device();
    for (const frame of frames.slice(0, 4)) file.enhanced(0, 0n, frame);
    return file;
  };
  const size = start().bytes.length;
  const fails = async (rest: Buffer): Promise<string> => {
    const { all, error } = await collectUntilError(
      decodeConversation(readCapture([Buffer.concat([start().bytes, rest])])),
    );
    t.match(lines(all), [/open/, 'mta negotiate', /close The capture ends here/]);
    t.match(error, { code: 'ERR_MILTER_CAPTURE', offset: size });
    return (error as Error).message;
  };
  const where = `(frame 5, offset ${size})`;
  t.equal(await fails(Buffer.alloc(5)), `The file is cut inside the header of a block ${where}`);
  t.equal(
    await fails(Buffer.concat([u32(6), u32(64), u32(0)])),
    `The file is cut: a block has 12 of its 64 bytes ${where}`,
  );
  for (const length of [8, 14, 0xffff_fffc]) {
    t.equal(
      await fails(Buffer.concat([u32(6), u32(length), u32(0)])),
      `The file is broken: a block of ${length} bytes ${where}`,
    );
  }
  t.equal(
    await fails(Buffer.concat([u32(6), u32(12), u32(16)])),
    `The file is broken: a block has two lengths ${where}`,
  );
  t.equal(
    await fails(Buffer.concat([u32(0x0a0d0d0a), u32(28), u32(1)])),
    `The file is broken: no order of bytes ${where}`,
  );
  t.equal(
    await fails(new Pcapng().block(1, u32(0)).bytes),
    `The file is broken: a block of 16 bytes is too short ${where}`,
  );
  t.equal(await fails(new Pcapng().block(3).bytes), `The file is broken: a block of 12 bytes is too short ${where}`);
  t.equal(
    await fails(new Pcapng().enhanced(1, 0n, Buffer.alloc(0)).bytes),
    `The file is broken: it has no interface 1 ${where}`,
  );
  const long = new Pcapng().block(6, u32(0), u32(0), u32(0), u32(100), u32(100), Buffer.alloc(50)).bytes;
  t.match(await fails(long), 'is too short');
});
