// Files made to do harm: numbers that are none, lengths that are lies, and more of everything than there can be.
import * as fc from 'fast-check';
import t from 'tap';
import {
  Conversation,
  decodeConversation,
  readCapture,
  redactCapture,
  writeCapture,
  type CaptureEvent,
} from '../../lib/capture/index.js';
import { packet, u16, u32 } from '../helpers/bytes.js';
import {
  answer,
  collect,
  collectUntilError,
  connection,
  data,
  ipv4,
  lines,
  MILTER_PORT,
  OFFER,
  pcapFile,
  said,
  tcpBytes,
  type Tcp,
} from '../helpers/capture.js';
import { memoryInUse } from '../helpers/memory.js';

const MiB = 1024 * 1024;
const HEAD = '{"format":"milter-stream capture","version":1}\n';

const read = (file: Buffer | string): Promise<CaptureEvent[]> => collect(readCapture([Buffer.from(file)]));
const problems = (events: readonly CaptureEvent[]): string[] =>
  events.flatMap((event) => (event.type === 'problem' ? [event.text] : []));
const isDate = ({ time }: CaptureEvent): boolean => !Number.isNaN(new Date(time).getTime());

t.test('JSON Lines: a time that is no date is named with its line, and the rest is read', async (t) => {
  const line = (more: string): string => `{"type":"data","session":"s","from":"mta","bytes":"QUJD",${more}}\n`;
  const good = line('"time":5');
  for (const time of ['1e999', '-1e999', '8.65e15', '-8.65e15', '9e99', 'null', '"5"', '[5]']) {
    const events = await read(HEAD + good + line(`"time":${time}`) + good);
    t.strictSame(problems(events), ['Line 3: time must be a date, in ms since 1970'], time);
    t.equal(said(events, 'mta').toString(), 'ABCABC');
    t.ok(events.every(isDate));
  }
  const far = await read(HEAD + line('"time":8.64e15') + line('"time":-8.64e15'));
  t.strictSame(
    far.map(({ time }) => time),
    [8.64e15, -8.64e15],
  );
  for (const format of ['jsonl', 'pcapng'] as const) {
    t.strictSame(said(await collect(readCapture(writeCapture(far, format))), 'mta').toString(), 'ABCABC');
  }
});

const NO_TIME = 'its time is no date; it gets the one of the frame before it, and so do others';

function block(type: number, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const padding = Buffer.alloc(-body.length & 3);
  const length = u32(12 + body.length + padding.length);
  return Buffer.concat([u32(type), length, body, padding, length]);
}

const option = (code: number, value: Buffer): Buffer =>
  Buffer.concat([u16(code), u16(value.length), value, Buffer.alloc(-value.length & 3)]);
const section = block(0x0a0d0d0a, u32(0x1a2b3c4d), u16(1), u16(0), u32(0xffffffff), u32(0xffffffff));
const device = (...options: Buffer[]): Buffer => block(1, u16(101), u16(0), u32(0), ...options);
const framed = (device: number, time: bigint, frame: Buffer, comment?: string): Buffer =>
  block(
    6,
    ...[device, Number(time >> 32n), Number(time & 0xffffffffn), frame.length, frame.length].map(u32),
    frame,
    Buffer.alloc(-frame.length & 3),
    ...(comment === undefined ? [] : [option(1, Buffer.from(comment))]),
  );
const frames = connection([
  ['mta', OFFER],
  ['milter', answer()],
]).map((segment) => ipv4(segment.from, tcpBytes(segment)));

t.test('pcapng: whatever the clock of an interface is, times are dates, and no frame is lost', async (t) => {
  const clock = fc.record({
    resolution: fc.nat(255),
    offset: fc.constantFrom(0n, 1n, -1n, 2n ** 63n - 1n, -(2n ** 63n)),
    time: fc.constantFrom(0n, 1n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n),
  });
  await fc.assert(
    fc.asyncProperty(clock, async ({ resolution, offset, time }) => {
      const seconds = Buffer.alloc(8);
      seconds.writeBigInt64BE(offset);
      const its = device(option(9, Buffer.of(resolution)), option(14, seconds));
      const bytes = Buffer.concat([
        section,
        device(),
        its,
        ...frames.map((each, i) => framed(i === 0 ? 0 : 1, time >> (i === 0 ? 20n : 0n), each)),
      ]);
      const events = await read(bytes);
      t.ok(events.every(isDate));
      t.strictSame([said(events, 'mta'), said(events, 'milter')], [OFFER, answer()]);
      t.ok(problems(events).every((text) => text === `Frame 2: ${NO_TIME}`));
      for (const format of ['jsonl', 'pcapng'] as const) await collect(writeCapture(events, format));
    }),
  );
  const bad = Buffer.concat([
    section,
    device(option(9, Buffer.of(0))),
    ...frames.map((each) => framed(0, 2n ** 60n, each)),
  ]);
  t.strictSame(problems(await read(bad)), [`Frame 1: ${NO_TIME}`], 'said once');
});

t.test('pcapng: ends in a comment that are none are left out', async (t) => {
  const says = async (mta: string): Promise<unknown> => {
    const comment = `milter-stream {"session":"x","from":"mta","mta":${mta}}`;
    const file = Buffer.concat([section, device(), ...frames.map((each) => framed(0, 0n, each, comment))]);
    const [open] = await read(file);
    return open?.type === 'open' && open.mta;
  };
  t.strictSame(await says('{"address":"/run/x","port":0}'), { address: '/run/x', port: 0 });
  for (const port of ['1e999', '-1', '1.5', '"1"']) {
    t.match(await says(`{"address":"/run/x","port":${port}}`), { address: '192.0.2.1', port: 40_000 }, port);
  }
});

t.test('pcapng: more interfaces than there can be', async (t) => {
  const many = Buffer.concat([section, ...Array.from({ length: 65_537 }, () => device())]);
  const { error } = await collectUntilError(readCapture([many]));
  t.match(error, {
    code: 'ERR_MILTER_CAPTURE',
    message: /^The file is broken: more than 65536 interfaces \(frame 1, /,
  });
});

t.test('JSON Lines: more sessions at once than there can be are an error that names the line', async (t) => {
  const opened = (i: number): string => `{"type":"open","session":"${i}","time":1}\n`;
  const closed = (i: number): string => `{"type":"close","session":"${i}","time":1}\n`;
  const all = Array.from({ length: 65_537 }, (_, i) => opened(i));
  const { all: events, error } = await collectUntilError(readCapture([Buffer.from(HEAD + all.join(''))]));
  t.equal(events.length, 65_536, 'all before it is given');
  t.match(error, {
    code: 'ERR_MILTER_CAPTURE',
    message: 'More than 65536 sessions are open at once (line 65538)',
  });
  all.splice(30_000, 0, closed(7));
  t.equal((await read(HEAD + all.join(''))).length, 65_538, 'those that are over do not count');
});

/** A frame of TCP from one of very many clients. */
function fromClient(client: number, segment: Tcp): Buffer {
  const tcp = tcpBytes(segment);
  tcp.writeUInt16BE(1024 + (client % 60_000), segment.from === 'mta' ? 0 : 2);
  const frame = ipv4(segment.from, tcp);
  frame[segment.from === 'mta' ? 12 : 16] = 10 + Math.floor(client / 60_000);
  return frame;
}

t.test('TCP: of more connections than there can be the one that was silent for longest is given up', async (t) => {
  const [syn, , , offer] = connection([['mta', OFFER]]) as [Tcp, Tcp, Tcp, Tcp];
  async function* file(): AsyncGenerator<Buffer> {
    const whole = (all: Buffer[]): Buffer => pcapFile(all, {});
    yield whole([0, 1].map((client) => fromClient(client, syn)));
    for (let client = 2; client <= 65_536; client++) {
      const all = [fromClient(client, syn)];
      if (client === 1000) all.unshift(fromClient(0, offer));
      yield whole(all).subarray(24);
    }
    yield whole(
      [1, 0].map((client) => fromClient(client, { ...offer, seq: 1001 + (client === 0 ? OFFER.length : 0) })),
    ).subarray(24);
  }
  const events = await collect(readCapture(file(), { port: MILTER_PORT }));
  const given = events.filter(({ type }) => type === 'data');
  t.strictSame(
    given.map(({ session }) => session).toSorted(),
    ['1', '1', '65538'],
    'the first one is known, the second one has been forgotten',
  );
});

type Reader = (events: AsyncIterable<CaptureEvent>) => AsyncIterable<unknown>;

/** Reads a file, and asks now and then how much more is in memory than before. */
async function growth(file: AsyncIterable<Buffer>, reader: Reader = decodeConversation): Promise<number> {
  const before = await memoryInUse();
  let [most, next] = [0, 0];
  let count = 0;
  async function* measured(): AsyncGenerator<Buffer> {
    for await (const chunk of file) {
      count += chunk.length;
      if (count >= next) {
        most = Math.max(most, (await memoryInUse()) - before);
        next = count + 16 * MiB;
      }
      yield chunk;
    }
  }
  for await (const record of reader(readCapture(measured()))) void record;
  return most;
}

t.test('memory: what is held is what is open and torn, not the file', async (t) => {
  const talk = packet('B', Buffer.alloc(60_000, 0x61));
  async function* lines(): AsyncGenerator<Buffer> {
    yield Buffer.from(HEAD);
    for (let i = 0; i < 1000; i++) {
      const bytes = (i === 0 ? Buffer.concat([OFFER, talk]) : talk).toString('base64');
      yield Buffer.from(
        `{"type":"data","session":"${i % 2 === 0 ? 's' : i}","time":1,"from":"mta","bytes":"${bytes}"}\n`,
      );
      if (i % 2 === 1) yield Buffer.from(`{"type":"close","session":"${i}","time":1}\n`);
    }
  }
  t.ok((await growth(lines())) < 8 * MiB, 'JSON Lines');
  async function* segments(): AsyncGenerator<Buffer> {
    const all = connection([['mta', OFFER], ...Array.from({ length: 1000 }, () => ['mta', talk] as const)]);
    yield pcapFile([]);
    for (const segment of all.slice(0, -3)) yield pcapFile([ipv4(segment.from, tcpBytes(segment))]).subarray(24);
  }
  t.ok((await growth(segments())) < 8 * MiB, 'pcap');
});

t.test('memory: a few bytes that wait do not keep the file that they came in', async (t) => {
  const rest = ipv4('mta', Buffer.alloc(65_000)).fill(17, 9, 10); // UDP
  async function* file(): AsyncGenerator<Buffer> {
    yield pcapFile([0, 1, 2].map((client) => fromClient(client, { from: 'mta', seq: 1000, flags: 'S' })));
    for (let i = 0; i < 1000; i++) {
      const behind = fromClient(0, { from: 'mta', seq: 2000 + 2 * i, data: Buffer.from('x') });
      const early = fromClient(1, { from: 'mta', seq: 1001 + i, ack: 77, data: Buffer.from('x') });
      yield pcapFile([behind, early, rest]).subarray(24);
    }
  }
  t.ok((await growth(file())) < 4 * MiB);
});

t.test('memory: a session that is open does not keep the file that its last bytes came in', async (t) => {
  const rest = ipv4('mta', Buffer.alloc(65_000)).fill(17, 9, 10); // UDP
  const torn = [packet('H', 'x'), packet('B', Buffer.alloc(200)), packet('B', Buffer.alloc(70_000))];
  async function* file(): AsyncGenerator<Buffer> {
    yield pcapFile([]);
    for (let i = 0; i < 1500; i++) {
      const last = torn[i % 4]?.subarray(0, [2, 100, 300][i % 4]) ?? packet('N');
      const talk = connection([
        ['mta', OFFER],
        ['milter', answer()],
        ['mta', last],
      ]).slice(0, -3);
      yield pcapFile([...talk.map((each) => fromClient(i, each)), rest]).subarray(24);
    }
  }
  t.ok((await growth(file())) < 16 * MiB, 'decoded');
  t.ok((await growth(file(), redactCapture)) < 16 * MiB, 'redacted');
  for (const format of ['jsonl', 'pcapng'] as const) {
    t.ok((await growth(file(), (events) => writeCapture(events, format))) < 16 * MiB, format);
  }
});

t.test('memory: many connections that each wait for something wait for no more than 64 MiB', async (t) => {
  const bytes = Buffer.alloc(60_000, 0x61);
  async function* file(): AsyncGenerator<Buffer> {
    yield pcapFile([]);
    for (let i = 0; i < 3000; i++) {
      const syn = fromClient(i % 60, { from: 'mta', seq: 1000, flags: 'S' });
      const behind = fromClient(i % 60, { from: 'mta', seq: 2000 + i * 1000, data: bytes });
      yield pcapFile(i < 60 ? [syn, behind] : [behind]).subarray(24);
    }
  }
  t.ok((await growth(file())) < 80 * MiB);
});

t.test('memory: what waits behind the end of a connection is let go of with it', async (t) => {
  async function* file(): AsyncGenerator<Buffer> {
    yield pcapFile([]);
    for (let i = 0; i < 1000; i++) {
      const [syn, answered, ack, fin, end] = connection([]) as [Tcp, Tcp, Tcp, Tcp, Tcp];
      const behind: Tcp = { from: 'mta', seq: 5000, data: Buffer.alloc(60_000) };
      yield pcapFile([syn, answered, ack, behind, fin, end].map((each) => fromClient(i, each))).subarray(24);
    }
  }
  t.ok((await growth(file())) < 8 * MiB);
});

t.test('many packets in one line, or one frame, come in parts', async (t) => {
  const small = Buffer.concat(Array.from({ length: 500_000 }, () => packet('N')));
  const bytes = Buffer.concat([OFFER, small]);
  const line = `{"type":"data","session":"s","time":1,"from":"mta","bytes":"${bytes.toString('base64')}"}\n`;
  const syn = ipv4('mta', tcpBytes({ from: 'mta', seq: 1000, flags: 'S' }));
  const large = ipv4('mta', tcpBytes({ from: 'mta', seq: 1001, data: bytes }), { length: 0 });
  for (const [what, file, options] of [
    ['a line', Buffer.from(HEAD + line), {}],
    ['a frame', pcapFile([syn, large]), {}],
    ['bare bytes', bytes, { from: 'mta' }],
  ] as const) {
    const events = await collect(readCapture([file], options));
    const parts = events.flatMap((event) => (event.type === 'data' ? [event.bytes.length] : []));
    t.ok(parts.length >= 3 && parts.every((size) => size <= MiB), what);
    t.ok(said(events, 'mta').equals(bytes), what);
  }
});

t.test('commands that nobody answers: more than can be are not waited for, and not all are named', async (t) => {
  const conversation = new Conversation('s');
  const take = (bytes: Buffer): string[] => lines(conversation.take(data('mta', bytes)));
  take(OFFER);
  conversation.take(data('milter', answer()));
  const some = take(Buffer.concat(Array.from({ length: 12 }, () => packet('N'))));
  t.equal(some.at(-1), 'mta eoh');
  const named = '3 (eoh), 4 (eoh), 5 (eoh), 6 (eoh), 7 (eoh), 8 (eoh), 9 (eoh), 10 (eoh), 11 (eoh), 12 (eoh)';
  const early = new Conversation('s');
  early.take(data('mta', OFFER));
  early.take(data('milter', answer()));
  early.take(data('mta', Buffer.concat(Array.from({ length: 12 }, () => packet('N')))));
  t.equal(
    lines(early.end())[0],
    `close The capture ends here, and the connection was still open; not answered: ${named} and 2 more`,
  );

  const many = take(Buffer.concat(Array.from({ length: 9996 }, () => packet('N'))));
  t.strictSame(
    many.filter((each) => each !== 'mta eoh'),
    ['mta eoh: More than 10000 commands wait: from here on nobody is said to answer anything'],
  );
  t.strictSame(lines(conversation.take(data('milter', packet('c')))), ['milter continue']);
  t.equal(lines(conversation.end()).at(-1), 'close The capture ends here, and the connection was still open');
});

t.test('headers that never end: extensions of IPv6, tags of VLANs', async (t) => {
  const extensions = Buffer.alloc(60_000);
  for (let at = 0; at < extensions.length; at += 8) extensions[at] = 60;
  const head = Buffer.alloc(40);
  head[0] = 0x60;
  head[6] = 60;
  const six = Buffer.concat([head, extensions]);
  t.strictSame(problems(await read(pcapFile([six]))), ['Frame 1: it ends inside a header, after 60040 bytes']);
  const tags = Buffer.alloc(60_000, Buffer.of(0x81, 0));
  t.strictSame(problems(await read(pcapFile([tags], { linkType: 1 }))), [
    'Frame 1: it ends inside a header, after 60000 bytes',
  ]);
});

t.test('segments that overlap and differ: what came first stands, also where numbers begin anew', async (t) => {
  const first = 2 ** 32 - 3;
  const talk: Tcp[] = [
    { from: 'mta', seq: first - 1, flags: 'S' },
    { from: 'mta', seq: 2, data: Buffer.from('FGH') },
    { from: 'mta', seq: first, data: Buffer.from('ABCDE') },
    { from: 'mta', seq: first + 2, data: Buffer.from('xxxxxxI') },
    { from: 'mta', seq: 0, data: Buffer.from('yyyyyyJ') },
  ];
  const events = await read(
    pcapFile(talk.map((segment) => ipv4('mta', tcpBytes({ ...segment, seq: segment.seq >>> 0 })))),
  );
  t.equal(said(events, 'mta').toString(), 'ABCDEFGHIJ');
});

t.test('JSON Lines: a version that is no version', async (t) => {
  for (const [version, shown] of [
    ['2', '2'],
    ['"1"', '"1"'],
    ['null', 'null'],
    ['{"toString":1,"constructor":{"name":{}}}', 'an object'],
    ['[1]', 'an array of 1'],
  ] as const) {
    const { error } = await collectUntilError(
      readCapture([Buffer.from(`{"format":"milter-stream capture","version":${version}}\n`)]),
    );
    t.match(error, {
      code: 'ERR_MILTER_CAPTURE',
      message: `The capture is of version ${shown}; version 1 is read here (line 1)`,
    });
  }
});

t.test('what is hostile can be redacted and written as well', async (t) => {
  const file = Buffer.from(
    HEAD +
      '{"type":"open","session":"__proto__","time":1,"mta":{"address":"__proto__","port":9007199254740991},"milter":{"address":"","port":0}}\n' +
      '{"type":"data","session":"__proto__","time":1,"from":"mta","offset":9007199254740991,"bytes":"QUJD"}\n' +
      '{"type":"gap","session":"__proto__","time":1,"from":"mta","missing":9007199254740991}\n' +
      '{"type":"gap","session":"__proto__","time":-8.64e15,"from":"mta","missing":9007199254740991}\n' +
      '{"type":"data","session":"__proto__","time":8.64e15,"from":"mta","bytes":"QUJD"}\n' +
      '{"type":"close","session":"","time":8.64e15,"from":"me","error":"\\u0000"}\n',
  );
  for (const format of ['jsonl', 'pcapng'] as const) {
    const copy = Buffer.concat(await collect(writeCapture(redactCapture(readCapture([file])), format)));
    t.ok((await collectUntilError(decodeConversation(readCapture([copy])))).error === undefined, format);
  }
  // Where the end of an address is looked for again and again this takes minutes.
  const address = `${'%'.repeat(2_000_000)}\n`;
  const ends = { mta: { address, port: 1 }, milter: { address, port: 2 } };
  await collect(writeCapture([{ type: 'open', session: 's', time: 1, ...ends }], 'pcapng'));
});
