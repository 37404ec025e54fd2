/** The small parts that the factories with workers are made of, each by itself. */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import t from 'tap';
import { encodeReply } from '../../lib/codec/index.js';
import { MilterError } from '../../lib/errors.js';
import { HeldEdits } from '../../lib/factories/held-edits.js';
import { Memo } from '../../lib/factories/memo.js';
import { alone, arrived } from '../../lib/factories/messages.js';
import { Pieces } from '../../lib/factories/pieces.js';
import { packDetails, packError, unpackDetails, unpackError, unpackMilterError } from '../../lib/factories/portable.js';
import { inheritedVariables } from '../../lib/factories/worker-environment.js';
import { shortFolder } from '../helpers/folder.js';
import { say } from '../helpers/mta.js';
import { allClosed, openFiles, skip } from '../helpers/open-files.js';
import { bytesOf } from '../helpers/relay.js';
import { settled } from '../helpers/streams.js';
import { until } from '../helpers/until.js';

t.test('pieces that lie one behind the other are one', (t) => {
  const pieces = new Pieces();
  t.ok(pieces.empty);
  const [a, b] = [Buffer.from('abcdef'), Buffer.from('xyz')];
  pieces.add(a, 0, 2);
  pieces.add(a, 2, 4);
  pieces.add(a, 5, 6);
  pieces.add(b, 0, 1);
  pieces.add(a, 0, 1);
  t.notOk(pieces.empty);
  t.strictSame(pieces.take().map(String), ['abcd', 'f', 'x', 'a']);
  t.strictSame([pieces.take(), pieces.empty], [[], true]);
  t.end();
});

t.test('the memo: macros wait for their command, and a packet replaces the one of its letter', (t) => {
  const memo = new Memo();
  const frame = (command: Parameters<typeof bytesOf>[0]): { buffer: Buffer; start: number; end: number } => {
    const buffer = Buffer.concat([Buffer.from('xx'), bytesOf(command), Buffer.from('yy')]);
    return { buffer, start: 2, end: buffer.length - 2 };
  };
  const taken = (): Buffer =>
    Buffer.concat(memo.takeMacros().map(({ buffer, start, end }) => buffer.subarray(start, end)));
  const [c, h, m, m2] = [
    say.macros('C', { j: 'a' }),
    say.macros('H', { t: '1' }),
    say.macros('M', { i: '1' }),
    say.macros('M', { i: '2' }),
  ];
  for (const macros of [m, c, h]) memo.macros(frame(macros));
  const torn = frame(m2);
  memo.macros(torn);
  memo.keepMacros();
  torn.buffer.fill(0);
  t.strictSame(taken(), bytesOf(c, h, m2), 'the chunk they came in may go');
  t.strictSame(memo.takeMacros(), []);
  memo.macros({ buffer: Buffer.from('0000000144', 'hex'), start: 0, end: 5 });
  t.equal(memo.takeMacros().length, 1, 'one without a letter: a session says so');

  memo.command('negotiate', frame(say.data()));
  memo.command('connect', frame(say.connect()));
  memo.command('helo', frame(say.helo()));
  memo.command('mailFrom', frame(say.mail()));
  t.strictSame(memo.offer, bytesOf(say.data()));
  const before = (command?: string): unknown[] => [
    Buffer.concat(memo.before(command).bytes),
    memo.before(command).stages,
  ];
  const offer = say.data();
  t.strictSame(before('negotiate'), [Buffer.alloc(0), []]);
  t.strictSame(before('connect'), [bytesOf(offer), ['negotiate']]);
  t.strictSame(before('helo'), [bytesOf(offer, c, say.connect()), ['negotiate', 'connect']]);
  t.strictSame(before('mailFrom'), [bytesOf(offer, c, say.connect(), h, say.helo()), ['negotiate', 'connect', 'helo']]);
  t.strictSame(before(), before('mailFrom'));
  memo.nextConnection();
  t.strictSame(before(), [bytesOf(offer), ['negotiate']]);
  memo.macros(frame(h));
  t.strictSame(before(), [bytesOf(offer, h), ['negotiate']], 'macros of a HELO that is not sent');
  const bytes = Buffer.from('abc');
  memo.addBeforeAgreement(bytes);
  bytes.fill(0);
  t.strictSame(memo.beforeAgreement.map(String), ['abc']);
  t.end();
});

const body = (text: string): Buffer => encodeReply({ type: 'replBody', chunk: Buffer.from(text) }, 0xffffff);
const edit = Buffer.from('edit');

async function all(edits: HeldEdits): Promise<string> {
  const parts: Buffer[] = [];
  for await (const bytes of edits.chunks()) parts.push(bytes);
  return Buffer.concat(parts).toString('latin1');
}

t.test('held edits: the body first; in memory up to the limit, then in a file', { skip }, async (t) => {
  const small = new HeldEdits(20, () => {});
  t.ok(small.empty);
  t.ok(small.add(edit, false));
  t.ok(small.add(body('one'), true));
  t.ok(small.add(body('two'), true));
  t.notOk(small.empty);
  t.strictSame(small.take(), [body('one'), body('two'), edit]);
  t.ok(small.empty);
  t.strictSame(small.take(), []);

  let drained = 0;
  const large = new HeldEdits(10, () => drained++);
  const text = 'x'.repeat(60_000);
  large.add(body('one'), true);
  t.notOk(large.add(body(text), true), 'wait');
  await until('room', () => drained === 1);
  large.add(edit, false);
  t.notOk(large.empty);
  t.equal(large.take(), undefined);
  await until('the file', () => openFiles('milter-stream-').length === 1);
  t.equal(await all(large), Buffer.concat([body('one'), body(text), edit]).toString('latin1'));
  t.ok(large.empty);
  await allClosed(t, 'milter-stream-');
  const before = drained;
  large.add(body('again'), true);
  large.discard();
  t.ok(large.empty);
  large.add(body(text), true);
  large.discard();
  await settled();
  t.equal(drained, before, 'nobody waits for what is discarded');
  await allClosed(t, 'milter-stream-');
});

t.test('held edits: a file that cannot be made holds nobody up, and is told of at the end', async (t) => {
  const { TMPDIR = '/tmp' } = process.env;
  t.teardown(() => (process.env['TMPDIR'] = TMPDIR));
  process.env['TMPDIR'] = join(shortFolder(t), 'none');
  let drained = 0;
  const edits = new HeldEdits(0, () => drained++);
  const large = body('x'.repeat(60_000));
  t.notOk(edits.add(large, true));
  // oxlint-disable-next-line no-unmodified-loop-condition -- it is, when the stream has drained
  while (drained < 1) await new Promise<void>((resolve) => process.nextTick(resolve));
  t.notOk(edits.add(large, true));
  await until('its end', () => drained === 2);
  t.ok(edits.add(large, true));
  await t.rejects(all(edits), { code: 'ENOENT' });
  edits.discard();
});

t.test('held edits: a file that cannot be read to its end gives whole packets', async (t) => {
  const edits = new HeldEdits(0, () => {});
  const packet = body('x'.repeat(50_000));
  for (let i = 0; i < 3; i++) edits.add(packet, true);
  const file = await open('/dev/null');
  const prototype = Object.getPrototypeOf(file) as { createReadStream(): Readable };
  await file.close();
  t.intercept(prototype, 'createReadStream', {
    value: () =>
      Readable.from(
        (function* () {
          yield Buffer.concat([packet, packet.subarray(0, 100)]);
          throw new Error('the disk is broken');
        })(),
      ),
  });
  const parts: Buffer[] = [];
  await t.rejects(
    (async () => {
      for await (const bytes of edits.chunks()) parts.push(bytes);
    })(),
    { message: 'the disk is broken' },
  );
  t.strictSame(parts, [packet]);
  edits.discard();
});

t.test('errors arrive as what they were, as far as that can be', (t) => {
  const there = (thrown: unknown): unknown => unpackError(structuredClone(packError(thrown)));
  const odd = new MilterError('ERR_MILTER_MALFORMED', 'odd', {
    packet: 'rcpt',
    offset: 7,
    bytes: Buffer.from('a'),
    stage: 'rcpt',
  });
  const back = there(odd) as MilterError;
  t.ok(back instanceof MilterError);
  t.match(back, {
    code: 'ERR_MILTER_MALFORMED',
    message: 'odd',
    packet: 'rcpt',
    offset: 7,
    stage: 'rcpt',
    stack: odd.stack ?? '',
  });
  t.strictSame(back.bytes, Buffer.from('a'));
  const type = Object.assign(new TypeError('no', { cause: 'because' }), { code: 'E', stage: {}, extra: 1 });
  t.match(there(type), {
    name: 'TypeError',
    message: 'no',
    code: 'E',
    cause: 'because',
    extra: undefined,
    stage: undefined,
  });
  t.ok(there(type) instanceof Error);
  t.strictSame([there('text'), there(5), there(undefined)], ['text', '5', 'undefined']);
  const strange = Object.assign(new Error('x'), { name: Symbol('s'), message: () => {}, stack: undefined });
  t.match(there(strange), { name: 'Symbol(s)', message: 'function message' });
  t.match(there(Object.assign(new Error('x'), { name: '' })), { name: 'Error', message: 'x' });
  const circle = new Error('round');
  circle.cause = circle;
  let depth = 0;
  for (let at = there(circle) as Error; at.cause !== undefined; at = at.cause as Error) depth++;
  t.equal(depth, 8);
  t.equal(unpackMilterError(packError(odd), 'ERR_MILTER_CALLBACK', 'It failed').code, 'ERR_MILTER_MALFORMED');
  t.match(unpackMilterError(packError('boo'), 'ERR_MILTER_CALLBACK', 'It failed'), {
    code: 'ERR_MILTER_CALLBACK',
    message: 'It failed: boo',
    cause: 'boo',
  });
  const bare = { name: 'Error', message: 'bare' };
  t.match(unpackError(bare), { message: 'bare' });
  t.end();
});

t.test('details of log lines: what cannot travel goes as its picture', (t) => {
  const details = { err: new RangeError('far'), code: 'E', queueId: undefined, call: () => {}, list: [1] };
  t.match(unpackDetails(structuredClone(packDetails(details))), {
    err: { name: 'RangeError', message: 'far' },
    code: 'E',
    queueId: undefined,
    call: 'function call',
    list: [1],
  });
  t.end();
});

t.test('bytes travel alone', (t) => {
  const chunk = Buffer.from('abcdef');
  const sent = alone(chunk.subarray(2, 4));
  t.equal(sent.buffer.byteLength, 2);
  t.strictSame(arrived(sent), Buffer.from('cd'));
  t.end();
});

t.test('what a service manager tells the main process is not meant for workers', (t) => {
  const env = {
    PATH: '/bin',
    LISTEN_FDS: '1',
    LISTEN_PID: '2',
    LISTEN_FDNAMES: 'a',
    NOTIFY_SOCKET: '/x',
    WATCHDOG_USEC: '1',
    WATCHDOG_PID: '1',
  };
  t.strictSame(inheritedVariables(env), { PATH: '/bin' });
  t.end();
});
