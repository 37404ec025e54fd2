// TCP as tcpdump sees it: pieces in whatever order, cut and repetition, become what was said.
import * as fc from 'fast-check';
import { deepEqual } from 'node:assert/strict';
import t from 'tap';
import { readCapture, decodeConversation, type CaptureEvent, type Side } from '../../lib/capture/index.js';
import { hex, packet, u32, u8 } from '../helpers/bytes.js';
import {
  answer,
  collect,
  collectUntilError,
  connection,
  ethernet,
  ipv4,
  ipv6,
  lines,
  MILTER_PORT,
  MTA_PORT,
  OFFER,
  pcapFile,
  pcapOf,
  said,
  tcpBytes,
  type Tcp,
} from '../helpers/capture.js';

const numRuns = Number(process.env['FUZZ_RUNS'] ?? 200);
const c = packet('c');
const body = packet('B', Buffer.alloc(3000, 0x61));

const TALK: ReadonlyArray<readonly [Side, Buffer]> = [
  ['mta', OFFER],
  ['milter', answer()],
  ['mta', packet('H', 'mx.a.org')],
  ['milter', c],
  ['mta', packet('M', '<a@a.org>')],
  ['milter', c],
  ['mta', body],
  ['milter', c],
  ['mta', packet('E')],
  ['milter', Buffer.concat([packet('h', 'X', 'y'), packet('a')])],
  ['mta', packet('Q')],
];
const spoken = (side: Side): Buffer => Buffer.concat(TALK.flatMap(([from, bytes]) => (from === side ? [bytes] : [])));

const read = (segments: readonly Tcp[], port?: number): Promise<CaptureEvent[]> =>
  collect(readCapture([pcapOf(segments)], { port }));
const heard = async (segments: readonly Tcp[], port?: number): Promise<string[]> =>
  lines(await collect(decodeConversation(readCapture([pcapOf(segments)], { port }))));

const PLAIN = await heard(connection(TALK));

t.test('a connection becomes a session: its ends, what was said, its end', async (t) => {
  const events = await read(connection(TALK));
  t.match(events[0], {
    type: 'open',
    session: '1',
    time: 1_700_000_000_001,
    mta: { address: '192.0.2.1', port: MTA_PORT },
    milter: { address: '192.0.2.2', port: MILTER_PORT },
    late: undefined,
  });
  t.match(events[1], { type: 'data', time: 1_700_000_000_004, from: 'mta', bytes: OFFER });
  t.match(events.at(-1), { type: 'close', from: 'mta', error: undefined });
  t.match(PLAIN, [/^open /, 'mta negotiate', 'milter negotiate <1', 'mta helo', 'milter continue <3']);
  t.match(PLAIN.at(-1), 'close Closed by the mail server');
  t.notMatch(PLAIN.join('\n'), /not synchronised|: /);
});

/** The same bytes in other segments: cut anywhere, some of them again (also overlapping), in another order. */
const disturbed = fc
  .record({
    sizes: fc.array(fc.integer({ min: 1, max: 1460 }), { minLength: 1, maxLength: 6 }),
    again: fc.array(fc.tuple(fc.nat(200), fc.integer({ min: 0, max: 40 })), { maxLength: 10 }),
    order: fc.array(fc.nat(1000), { minLength: 60, maxLength: 60 }),
    first: fc.record({
      mta: fc.constantFrom(0, 1000, 2 ** 31 - 100, 2 ** 32 - 1, 2 ** 32 - 500),
      milter: fc.constantFrom(5, 2 ** 32 - 10),
    }),
  })
  .map(({ sizes, again, order, first }) => {
    let k = 0;
    const pieces = TALK.flatMap(([from, bytes]): Array<readonly [Side, Buffer]> => {
      const cut: Array<readonly [Side, Buffer]> = [];
      for (let at = 0; at < bytes.length;) {
        const size = Math.max(bytes.length > 1000 ? 200 : 1, sizes[k++ % sizes.length] as number);
        cut.push([from, bytes.subarray(at, at + size)]);
        at += size;
      }
      return cut;
    });
    const segments = connection(pieces, first);
    const all = [...segments];
    for (const [which, grown] of again) {
      // A segment again; with the last bytes of the one before it, where that is of the same side.
      const index = which % segments.length;
      const segment = segments[index] as Tcp;
      const before = segments[index - 1];
      const tail =
        before?.from === segment.from && segment.data ? before.data?.subarray(-grown || Infinity) : undefined;
      const bytes = tail && Buffer.concat([tail, segment.data as Buffer]);
      all.push(bytes ? { ...segment, seq: (segment.seq - (tail as Buffer).length) >>> 0, data: bytes } : segment);
    }
    // Stable: segments move by what the numbers say, some far, some not at all.
    return all
      .map((segment, i) => ({ segment, at: i * 20 + (order[i % order.length] as number) }))
      .toSorted((a, b) => a.at - b.at)
      .map(({ segment }) => segment);
  });

t.test('any cutting, repetition and order of the segments gives the same conversation', async () => {
  await fc.assert(
    fc.asyncProperty(disturbed, async (segments) => {
      deepEqual(await heard(segments), PLAIN);
    }),
    { numRuns },
  );
});

t.test('missing bytes are told, and the other sessions are unharmed', async (t) => {
  const segments = connection(TALK);
  const lost = segments.filter(({ data }) => data?.[4] !== 0x48); // HELO
  const found = await heard(lost);
  t.match(found.slice(3, 5), [
    'garbage 14 bytes are missing here: not synchronised from here on (the mail server)',
    'milter continue',
  ]);
  const mirrored = lost.map((segment) => ipv6(segment.from, tcpBytes(segment)));
  const whole = segments.map((segment) => ipv4(segment.from, tcpBytes(segment)));
  const both = mirrored.flatMap((frame, i) => [frame, whole[i] as Buffer]);
  const all = await collect(decodeConversation(readCapture([pcapFile([...both, ...whole.slice(mirrored.length)])])));
  t.strictSame(lines(all.filter(({ session }) => session === '2')), PLAIN, 'the session beside it');
  t.match(lines(all.filter(({ session }) => session === '1'))[3], /missing here/);
});

t.test('missing bytes are not waited for longer than for 64 segments, if their receiver has them', async (t) => {
  const talk = Array.from({ length: 100 }, (): readonly [Side, Buffer] => ['mta', packet('H', 'x')]);
  const segments = connection([['mta', OFFER], ['milter', answer()], ...talk]);
  const without = segments.filter((_, i) => i !== 6);
  const open = without.slice(0, 90);
  t.equal((await read(open)).filter(({ type }) => type === 'gap').length, 1, 'at the end it is given up');
  const late = [...open, segments[6] as Tcp, ...without.slice(90)];
  t.notOk(
    (await read(late)).some(({ type }) => type === 'gap'),
    'unless it may still lack them',
  );
  const ack: Tcp = { from: 'milter', seq: (segments[4] as Tcp).seq + 17, ack: (segments[40] as Tcp).seq };
  const events = await read([...open.slice(0, 30), ack, ...open.slice(30), ...without.slice(90)]);
  const gap = events.findIndex(({ type }) => type === 'gap');
  t.match(events[gap], { from: 'mta', missing: 7 });
  t.equal(said(events, 'mta').length, 17 + 99 * 7, 'nothing else is missing');
  t.ok(gap > 0 && (events[gap] as CaptureEvent).time < (events.at(-1) as CaptureEvent).time);
});

t.test('no more than 4 MiB wait for missing bytes', async (t) => {
  const large = Array.from({ length: 100 }, (): readonly [Side, Buffer] => ['mta', Buffer.alloc(60_000, 0x61)]);
  const segments = connection([['mta', OFFER], ...large]).filter((_, i) => i !== 4);
  const given: number[] = [];
  let frames = 0;
  async function* counted(): AsyncGenerator<Buffer> {
    const whole = pcapOf(segments);
    for (let at = 0; at < whole.length; at += 60_088) {
      frames++;
      yield whole.subarray(at, at + 60_088);
    }
  }
  for await (const event of readCapture(counted())) if (event.type === 'gap') given.push(frames);
  t.equal(given.length, 1);
  t.ok((given[0] as number) > 60 && (given[0] as number) < 80, `given up after ${given[0]} of ${frames} pieces`);
});

t.test('P146 a capture that begins in the middle of a connection', async (t) => {
  const middle = connection(TALK).slice(6); // without handshake and offers
  const found = await heard(middle);
  t.match(found[0], 'open 192.0.2.1:40000 to 192.0.2.2:8891, seen from the middle on');
  t.match(found.slice(1, 3), [/^garbage Not synchronised/, /^garbage Not synchronised/]);
  t.notMatch(found.join(), /mailFrom|continue/);
  const withOffer = connection(TALK).slice(3);
  t.match(await heard(withOffer), [/seen from the middle/, ...PLAIN.slice(1)], 'but for one whose offer is there');
  t.match(
    (await read(connection(TALK).slice(3).toReversed()))[0],
    { mta: { port: MTA_PORT } },
    'the offer tells who is who',
  );
  const swapped = middle.map((segment): Tcp => ({ ...segment, from: segment.from === 'mta' ? 'milter' : 'mta' }));
  t.match((await read(swapped))[0], { mta: { port: MTA_PORT } }, 'else the lower port is the milter');
  t.match((await read(swapped, MTA_PORT))[0], { milter: { port: MTA_PORT } }, 'unless the port is given');
  t.match((await read(connection(TALK), MTA_PORT))[0], { milter: { port: MTA_PORT } }, 'which says more than a SYN');
  t.strictSame(await read(connection(TALK), 1), [], 'connections to other ports are left out');
  const answered = connection(TALK).slice(1);
  t.match((await read(answered))[0], { mta: { port: MTA_PORT }, late: true }, 'the second SYN is of who listens');
  const long = await heard([...middle, ...Array.from({ length: 70 }, () => middle[0] as Tcp)]);
  t.strictSame(long, found);
});

t.test('one direction alone is read, and so are two that wait for each other', async (t) => {
  const alone = connection(TALK).filter(({ from }) => from === 'mta');
  const events = await read([...alone, ...alone, ...alone, ...alone, ...alone, ...alone]);
  t.strictSame(said(events, 'mta'), spoken('mta'));
  const again = connection(TALK).slice(0, 4);
  const later = { ...(again[3] as Tcp), ack: 2_000_500 };
  t.notMatch(
    (await heard([...again.slice(0, 3), later, again[3] as Tcp])).join(),
    /missing/,
    'sent again, it says more',
  );
  const [one, two] = [OFFER, answer()];
  const crossed = await read([
    ...connection([]).slice(0, 3),
    { from: 'mta', seq: 1001, ack: 2_000_001 + two.length, data: one },
    { from: 'milter', seq: 2_000_001, ack: 1001 + one.length, data: two },
  ]);
  t.strictSame([said(crossed, 'mta'), said(crossed, 'milter')], [one, two]);
});

t.test('a connection that is reset, one that is followed by another, one without an end', async (t) => {
  const segments = connection(TALK);
  const reset: Tcp = { from: 'milter', seq: (segments[5] as Tcp).seq, flags: 'R' };
  t.match(await heard([...segments.slice(0, 6), reset, ...segments.slice(6)]), [
    ...PLAIN.slice(0, 4),
    'close Closed by the milter: reset by the milter; not answered: 3 (helo)',
  ]);
  const next = connection(TALK, { mta: 77, milter: 88 });
  t.strictSame(await heard([...segments, ...next]), [...PLAIN, ...PLAIN]);
  t.match(await heard([...segments.slice(0, 6), ...next]), [
    ...PLAIN.slice(0, 4),
    'close Closed: its end is not in the capture; not answered: 3 (helo)',
    ...PLAIN,
  ]);
  t.strictSame(await heard([...segments.slice(0, 1), ...next]), PLAIN, 'one that came to nothing');
  const late = [...segments.slice(4, 8), ...Array.from({ length: 70 }, () => segments[7] as Tcp), ...next];
  t.match((await heard(late)).slice(-PLAIN.length), PLAIN, 'one that was seen from the middle on');
  const names = (await read([...segments, ...next])).map(({ session }) => session);
  t.strictSame([...new Set(names)], ['1', '2']);
  t.match((await heard(segments.slice(0, 6))).at(-1), /still open; not answered: 3 \(helo\)/);
  t.strictSame(
    await read([{ from: 'mta', seq: 1, ack: 1 }, reset]),
    [],
    'an acknowledgement and a refusal are no connection',
  );
  t.match(await read([...connection([]).slice(0, 3), reset]), [{ type: 'open' }, { type: 'close' }]);
  const fin = segments.at(-3) as Tcp;
  t.strictSame(
    await heard([fin, ...segments.filter((segment) => segment !== fin)]),
    PLAIN,
    'an end that comes before everything else',
  );
  const half = segments.slice(0, -2);
  t.notOk(
    (await read(half)).some(({ type }) => type === 'close'),
    'one end may still speak',
  );
});

t.test('many connections, one after the other: those that are over are forgotten at last', async (t) => {
  const all: Buffer[] = [];
  for (let i = 0; i < 1100; i++) {
    for (const segment of connection([['mta', OFFER]])) {
      const bytes = tcpBytes(segment);
      bytes.writeUInt16BE(10_000 + i, segment.from === 'mta' ? 0 : 2);
      all.push(ipv4(segment.from, bytes));
    }
  }
  const events = await collect(readCapture([pcapFile([...all, all[3] as Buffer])], { port: MILTER_PORT }));
  t.equal(events.filter(({ type }) => type === 'open').length, 1101, 'the first one is not known any more');
  const still = await collect(readCapture([pcapFile([...all, all.at(-4) as Buffer])], { port: MILTER_PORT }));
  t.equal(still.filter(({ type }) => type === 'open').length, 1100, 'the last one is');
  t.equal(events.filter(({ type }) => type === 'close').length, 1100);
});

t.test('the links and networks that a capture may be of', async (t) => {
  const segments = connection(TALK);
  const four = segments.map((segment) => ipv4(segment.from, tcpBytes(segment)));
  const six = segments.map((segment) => ipv6(segment.from, tcpBytes(segment)));
  const same = async (linkType: number, frames: readonly Buffer[], what: string): Promise<void> => {
    for (const options of [{ linkType }, { linkType, little: true, nano: true }]) {
      const all = await collect(decodeConversation(readCapture([pcapFile(frames, options)])));
      t.strictSame(lines(all).slice(1), PLAIN.slice(1), what);
    }
  };
  const on = (frames: readonly Buffer[], ...before: Buffer[]): Buffer[] =>
    frames.map((frame) => Buffer.concat([...before, frame]));
  await same(
    1,
    four.map((frame) => ethernet(0x800, frame)),
    'Ethernet',
  );
  await same(
    1,
    six.map((frame) => ethernet(0x86dd, frame)),
    'Ethernet and IPv6',
  );
  await same(
    1,
    on(
      four.map((frame) => ethernet(0x800, frame)).map((frame) => frame.subarray(12)),
      Buffer.alloc(12),
      hex('8100 0001 88a8 0002'),
    ),
    'VLANs',
  );
  await same(
    1,
    four.map((frame) => Buffer.concat([ethernet(0x800, frame), Buffer.alloc(20)])),
    'padding',
  );
  await same(12, four, 'raw');
  await same(101, [...six.slice(0, 5), ...six.slice(5)], 'raw IPv6');
  await same(228, four, 'raw IPv4');
  await same(229, six, 'raw IPv6');
  await same(113, on(four, Buffer.alloc(14), hex('0800')), 'Linux cooked');
  await same(276, on(six, hex('86dd'), Buffer.alloc(18)), 'Linux cooked, version 2');
  await same(0, on(four, hex('02000000')), 'null, of a little-endian machine');
  await same(0, on(six, hex('0000001e')), 'null, of a big-endian machine');
  await same(108, on(six, hex('00000018')), 'loop');
  const zero = segments.map((segment) => ipv4(segment.from, tcpBytes(segment), { length: 0 }));
  await same(
    1,
    zero.map((frame) => ethernet(0x800, frame)),
    'no length yet (segmentation offload)',
  );
  const noLength = six.map((frame) => Buffer.concat([frame.subarray(0, 4), Buffer.alloc(2), frame.subarray(6)]));
  await same(
    1,
    noLength.map((frame) => ethernet(0x86dd, frame)),
    'and in IPv6',
  );
  const extended = segments.map((segment) =>
    ipv6(
      segment.from,
      tcpBytes(segment),
      0,
      Buffer.concat([
        hex('3c00 010400000000'), // hop by hop, then destination options
        hex('33 01 0104 00000000 0000000000000000'), // of 16 bytes, then authentication
        hex('2c 04 0000 00000000 0000000000000000 0000000000000000'), // of 24, then fragment
        hex('06 00 0000 00000000'), // the whole, then TCP
      ]),
    ),
  );
  await same(101, extended, 'extension headers');
  const address = (await collect(readCapture([pcapFile(six)])))[0];
  t.match(address, { mta: { address: '2001:db8::1' }, milter: { address: '2001:db8::2' } });
});

t.test('IPv6 addresses are written as everybody writes them', async (t) => {
  const shown = async (text: string): Promise<string> => {
    const [frame] = connection([]).map((segment) => ipv6(segment.from, tcpBytes(segment)));
    const bytes = Buffer.from(frame as Buffer);
    hex(text).copy(bytes, 8);
    const reset = { ...(connection([])[0] as Tcp), flags: 'R', ack: 1 };
    const end = ipv6('mta', tcpBytes(reset));
    hex(text).copy(end, 8);
    const [event] = await collect(readCapture([pcapFile([bytes, end])]));
    return (event as { mta: { address: string } }).mta.address;
  };
  t.equal(await shown('0000 0000 0000 0000 0000 0000 0000 0000'), '::');
  t.equal(await shown('0000 0000 0000 0000 0000 0000 0000 0001'), '::1');
  t.equal(await shown('fe80 0000 0000 0000 0001 0000 0000 0000'), 'fe80::1:0:0:0');
  t.equal(await shown('2001 0db8 0000 0001 0002 0003 0004 0000'), '2001:db8:0:1:2:3:4:0');
  t.equal(await shown('2001 0000 0000 0001 0000 0000 0000 1230'), '2001:0:0:1::1230');
  t.equal(await shown('0001 0002 0003 0004 0005 0006 0000 0000'), '1:2:3:4:5:6::');
});

t.test('a frame that cannot be read is named, and the others are read', async (t) => {
  const segments = connection(TALK).map((segment) => ipv4(segment.from, tcpBytes(segment)));
  const reads = async (odd: Buffer, linkType = 101): Promise<string[]> => {
    const all = await collect(
      decodeConversation(
        readCapture([pcapFile([...segments.slice(0, 4), odd, odd, ...segments.slice(4)], { linkType })]),
      ),
    );
    if (linkType === 101) t.strictSame(lines(all.filter(({ type }) => type !== 'problem')), PLAIN);
    return all.flatMap((record) => (record.type === 'problem' ? [record.text] : []));
  };
  const tcp = tcpBytes({ from: 'mta', seq: 1 });
  const first = async (odd: Buffer): Promise<string | undefined> => (await reads(odd))[0];
  t.equal(
    await first(ipv4('mta', tcp, { fragment: 0x2000 })),
    'Frame 5: a fragment of an IPv4 packet: these are not put together here',
  );
  t.match(await first(ipv6('mta', tcp, 44, hex('06 00 0009 00000000'))), /a fragment of an IPv6 packet/);
  t.equal(await first(u8(0x50)), 'Frame 5: IP of version 5');
  t.equal(await first(Buffer.alloc(0)), 'Frame 5: it ends inside a header, after 0 bytes');
  t.equal(await first(ipv4('mta', tcp).subarray(0, 13)), 'Frame 5: it ends inside a header, after 13 bytes');
  t.match(await first(ipv4('mta', tcp).subarray(0, 30)), /it ends inside a header/);
  t.equal(await first(u8(0x41)), 'Frame 5: an IPv4 header of 4 bytes');
  t.equal(await first(ipv4('mta', Buffer.alloc(20))), 'Frame 5: a TCP header of 0 bytes');
  t.equal(await first(ipv4('mta', tcp, { length: 30 })), 'Frame 5: it ends inside a header, after 48 bytes');
  t.equal(await first(ipv4('mta', tcp, { length: 46 })), 'Frame 5: a TCP header of 24 bytes');
  t.strictSame(await reads(Buffer.from(ipv4('mta', tcp)).fill(17, 9, 10)), [], 'UDP is nothing to tell of');
  t.strictSame(await reads(ipv6('mta', Buffer.alloc(8), 17)), []);
  t.match(await reads(tcp, 147), ['Frame 1: link type 147 is not read here'], 'told once');
  t.strictSame(await collect(readCapture([pcapFile([ethernet(0x806, Buffer.alloc(28))], { linkType: 1 })])), [], 'ARP');
  t.strictSame(await collect(readCapture([pcapFile([hex('00000007 00')], { linkType: 0 })])), [], 'OSI');
  t.match(await collect(readCapture([pcapFile([hex('0000')], { linkType: 0 })])), [{ type: 'problem', session: '' }]);
});

t.test('what was captured in part alone is read as far as it is there', async (t) => {
  const whole = connection(TALK);
  const all = await collect(decodeConversation(readCapture([pcapOf(whole, { snap: 100 })])));
  t.match(lines(all)[0], /open/);
  const problem = all.filter(({ type }) => type === 'problem');
  t.match(lines(problem), [
    'problem Frame 10: packets were captured in part alone; tcpdump takes all with -s 0 (here 52 bytes of 3005)',
  ]);
  t.match(lines(all).join('\n'), /2953 bytes are missing here: not synchronised/);
});

t.test('a file that is cut is read up to the cut, and says so', async (t) => {
  const file = pcapOf(connection(TALK));
  for (const size of [10, 24 + 8, file.length - 3]) {
    const { all, error } = await collectUntilError(decodeConversation(readCapture([file.subarray(0, size)])));
    t.match(error, { code: 'ERR_MILTER_CAPTURE', message: /^The file is cut.*offset \d+/ });
    if (size > 100) t.strictSame(lines(all), PLAIN, 'all that was whole');
  }
  const broken = Buffer.concat([file, u32(0), u32(0), u32(0xffff_ffff), u32(0)]);
  const { all, error } = await collectUntilError(decodeConversation(readCapture([broken])));
  t.match(error, {
    message: `The file is broken: a frame of 4294967295 bytes (frame 18, offset ${file.length})`,
    offset: file.length,
  });
  t.strictSame(lines(all), PLAIN);
});
