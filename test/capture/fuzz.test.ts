// Anything at all in a file: events and problems, and at most one error of ours; never a hang, never another error.
import * as fc from 'fast-check';
import { equal } from 'node:assert/strict';
import t from 'tap';
import {
  decodeConversation,
  MilterError,
  readCapture,
  redactCapture,
  writeCapture,
  type CaptureEvent,
} from '../../lib/capture/index.js';
import { hex, packet } from '../helpers/bytes.js';
import {
  answer,
  collect,
  collectUntilError,
  connection,
  data,
  ethernet,
  ipv4,
  ipv6,
  OFFER,
  pcapFile,
  pcapOf,
  said,
  tcpBytes,
} from '../helpers/capture.js';

const numRuns = Number(process.env['FUZZ_RUNS'] ?? 400);

const TALK = [
  ['mta', OFFER],
  ['milter', answer()],
  ['mta', packet('H', 'x')],
  ['milter', packet('c')],
] as const;
const events: CaptureEvent[] = [
  {
    type: 'open',
    session: 's',
    time: 1,
    mta: { address: '192.0.2.1', port: 1 },
    milter: { address: '192.0.2.2', port: 2 },
  },
  ...TALK.map(([from, bytes]) => data(from, bytes, 2)),
  { type: 'close', session: 's', time: 3 },
];
const segments = connection(TALK);
const files = {
  jsonl: Buffer.concat(await collect(writeCapture(events, 'jsonl'))),
  pcapng: Buffer.concat(await collect(writeCapture(events, 'pcapng'))),
  pcap: pcapOf(segments),
  ethernet: pcapFile(
    segments.map((each) => ethernet(0x86dd, ipv6(each.from, tcpBytes(each), 0, hex('06 00 0000 00000000')))),
    { linkType: 1, little: true },
  ),
};

/** Reads everything that can be made of a file. */
async function readAll(file: Buffer): Promise<MilterError | undefined> {
  const { all, error } = await collectUntilError(readCapture([file]));
  const records = await collect(decodeConversation(all));
  await collect(redactCapture(all));
  for (const format of ['jsonl', 'pcapng'] as const) await collect(writeCapture(all, format));
  const shown = records.flatMap((record) => {
    if (record.from !== 'mta') return [];
    return record.type === 'packet' ? [record.raw] : (record.bytes ?? []);
  });
  const sessions = [...new Set(all.map(({ session }) => session))];
  const total = sessions.reduce((sum, session) => sum + said(all, 'mta', session).length, 0);
  equal(Buffer.concat(shown).length, total, 'no byte is left out');
  if (error !== undefined && !(error instanceof MilterError && error.code === 'ERR_MILTER_CAPTURE')) throw error;
  return error;
}

for (const [name, file] of Object.entries(files)) {
  t.test(`${name} cut anywhere is read up to the cut, and what is missing is told`, async (t) => {
    t.equal(await readAll(file), undefined);
    const whole = new Set<number>();
    for (let size = 0; size < file.length; size++) {
      if ((await readAll(file.subarray(0, size))) === undefined) whole.add(size);
    }
    // Nobody can tell when a file ends between two of its frames or lines.
    t.ok(whole.size < 25, `${whole.size} of ${file.length}`);
  });

  t.test(`${name} with any bytes changed`, async () => {
    const change = fc.tuple(fc.nat(file.length - 1), fc.nat(255));
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 8 }), async (changes) => {
        const bytes = Buffer.from(file);
        for (const [at, value] of changes) bytes[at] = value;
        await readAll(bytes);
      }),
      { numRuns },
    );
  });
}

t.test('any bytes, behind any beginning', async () => {
  const head = fc.constantFrom(
    Buffer.alloc(0),
    ...Object.values(files).map((file) => file.subarray(0, 24)),
    files.jsonl.subarray(0, files.jsonl.indexOf(0x0a) + 1),
    files.pcapng.subarray(0, 60),
  );
  await fc.assert(
    fc.asyncProperty(head, fc.uint8Array({ maxLength: 300 }), async (first, rest) => {
      await readAll(Buffer.concat([first, rest]));
    }),
    { numRuns: 2 * numRuns },
  );
});

t.test('any bytes of one side, cut anywhere', async () => {
  const side = fc.constantFrom('mta' as const, 'milter' as const);
  const head = fc.constantFrom(Buffer.alloc(0), OFFER, packet('H', 'x'), packet('c'));
  await fc.assert(
    fc.asyncProperty(side, head, fc.uint8Array({ maxLength: 300 }), fc.nat(300), async (from, first, rest, at) => {
      const bytes = Buffer.concat([first, rest]);
      const pieces = [bytes.subarray(0, at), bytes.subarray(at)];
      const { all, error } = await collectUntilError(readCapture(pieces, { from }));
      if (error !== undefined) return; // it looks like a capture
      equal(said(all, from).length, bytes.length);
      await collect(decodeConversation(all));
    }),
    { numRuns },
  );
});

t.test('any segments, in any order, whatever they acknowledge', async () => {
  const number = fc.oneof(fc.nat(50), fc.nat(0xffff_ffff), fc.constant(2_000_000));
  const segment = fc.record({
    from: fc.constantFrom('mta' as const, 'milter' as const),
    seq: number,
    ack: fc.oneof(fc.constant(0), number),
    flags: fc.constantFrom('', '', '', 'S', 'F', 'R', 'SF'),
    data: fc.uint8Array({ maxLength: 30 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(segment, { maxLength: 150 }), async (all) => {
      await readAll(pcapOf(all));
    }),
    { numRuns },
  );
});

t.test('any frames of any link', async () => {
  const whole = segments.map((each) => ipv4(each.from, tcpBytes(each)));
  const frame = fc.oneof(
    fc.uint8Array({ maxLength: 80 }).map((bytes) => Buffer.from(bytes)),
    fc.tuple(fc.constantFrom(...whole), fc.nat(60), fc.nat(255), fc.nat(120)).map(([bytes, at, value, size]) => {
      const changed = Buffer.from(bytes);
      changed[at] = value;
      return changed.subarray(0, size);
    }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(frame, { maxLength: 20 }),
      fc.constantFrom(0, 1, 12, 101, 108, 113, 276),
      async (all, linkType) => {
        await readAll(pcapFile(all, { linkType }));
      },
    ),
    { numRuns },
  );
});
