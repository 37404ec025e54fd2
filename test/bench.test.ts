// The bench: what it makes of figures and arguments, and that its generator takes nothing wrong for an answer. How fast
// anything is does not matter here.
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { AsyncFactory, MilterProtocol, SMFIF_ADDHDRS, type ProtocolClass } from 'milter-stream';
import { commandOf, readArguments, UsageError } from '../bench/lib/args.js';
import { compare, readRun, reportComparison } from '../bench/lib/compare.js';
import { Counter, QuietCounter, type CounterContext } from '../bench/lib/counter.mjs';
import { load, type Load, type Traffic } from '../bench/lib/load.js';
import { measure, median, medians } from '../bench/lib/measure.js';
import { expectedSums, USUAL, type Message } from '../bench/lib/message.js';
import { cores } from '../bench/lib/pin.js';
import { drawChart, escapeText, scale, wrap } from '../bench/lib/plot.js';
import { panels, writePlots } from '../bench/lib/plots.js';
import { align, report } from '../bench/lib/report.js';
import type { Row, Run } from '../bench/lib/row.js';
import { startServer } from '../bench/lib/server-process.js';
import { percentile } from '../bench/lib/under-load.js';
import { demandBuild } from './helpers/built.js';
import { shortFolder } from './helpers/folder.js';

demandBuild();

const ROW: Row = { group: 'server', traffic: 'Unix', what: 'ours', messagesPerSecond: 12_345.6, p50ms: 1.234 };
const run = (rows: readonly Row[], others: Partial<Run> = {}): Run => ({
  date: '2026-01-02T03:04:05.678Z',
  node: 'v20.19.0',
  machine: 'a machine',
  command: 'npm run bench',
  pinned: true,
  rows,
  ...others,
});

t.test('arguments', async (t) => {
  const known = ['codec', 'streams', 'server'];
  const read = (...args: string[]) => readArguments(args, known);
  t.match(read(), { groups: known, json: false, help: false });
  t.equal(read().rounds, undefined);
  t.same(read('server', 'codec', 'server').groups, ['codec', 'server'], 'in the order of measuring, once');
  t.match(read('--rounds', '7', '--seconds', '0.5', '--json', '--save', 'a', '--compare', 'b', '--plots', 'c'), {
    rounds: 7,
    seconds: 0.5,
    json: true,
    save: 'a',
    compare: 'b',
    plots: 'c',
  });
  for (const wrong of [
    ['proxy'],
    ['--fast'],
    ['--rounds'],
    ['--rounds', '0'],
    ['--rounds', '1.5'],
    ['--rounds', ''],
    ['--seconds', 'x'],
    ['--seconds', 'Infinity'],
    ['--json=1'],
    ['--save', '--json'],
  ]) {
    try {
      read(...wrong);
      t.fail(`${wrong.join(' ')} was taken`);
    } catch (error) {
      t.type(error, UsageError, wrong.join(' '));
      t.notMatch((error as Error).message, '\n', 'one line');
    }
  }
  t.equal(commandOf(read('--json', '--save', '/home/me/x'), known), 'npm run bench');
  t.equal(
    commandOf(read('codec', '--rounds', '3', '--seconds', '1'), known),
    'npm run bench -- codec --rounds 3 --seconds 1',
  );
});

t.test('figures', async (t) => {
  t.equal(median([3, 1, 2]), 2);
  t.same(medians([{ p50ms: 3 }, { p50ms: 1, p99ms: 123_456.7 }, { p50ms: 2 }]), { p50ms: 2, p99ms: 123_460 });
  t.equal(percentile([1, 2, 3, 4, 5], 0.5), 3);
  t.same(cores('0-2,5'), [0, 1, 2, 5]);

  const order: string[] = [];
  const line = (what: string) => ({ traffic: 'x', what, measure: () => (order.push(what), { p50ms: order.length }) });
  const rows = await measure('group', [line('a'), line('b'), { traffic: 'x', what: 'c', note: 'not here' }], 2, 1);
  t.same(order, ['a', 'b', 'a', 'b'], 'in turns');
  t.same(rows, [
    { group: 'group', traffic: 'x', what: 'a', p50ms: 3 },
    { group: 'group', traffic: 'x', what: 'b', p50ms: 4 },
    { group: 'group', traffic: 'x', what: 'c', note: 'not here' },
  ]);
  const failing = { traffic: 'x', what: 'd', measure: () => Promise.reject(new Error('broken')) };
  await t.rejects(measure('group', [failing], 1, 1), { message: 'd (x): broken' });
});

t.test('tables', async (t) => {
  t.equal(
    align(
      [
        ['a', 'b', 'c'],
        ['aaa', '1', '1,000'],
      ],
      1,
    ),
    'a    b      c\naaa  1  1,000',
  );
  const peer: Row = { group: 'server', traffic: 'Unix', what: 'C libmilter', note: 'not measured: there is no gcc' };
  t.equal(
    report([ROW, peer, { ...peer, traffic: 'TCP' }]),
    [
      'traffic  what         msgs/s  p50 ms',
      'Unix     ours         12,346    1.23',
      'Unix     C libmilter       -       -',
      'TCP      C libmilter       -       -',
      'C libmilter: not measured: there is no gcc',
    ].join('\n'),
  );
});

t.test('comparison', async (t) => {
  const then = [
    { ...ROW, messagesPerSecond: 10_000, p50ms: 2.468, peakMiB: 3 },
    { ...ROW, what: 'gone' },
    { ...ROW, group: 'codec' },
  ];
  const now = [
    { ...ROW, messagesPerSecond: 11_000 },
    { ...ROW, what: 'new' },
  ];
  const compared = compare(then, now);
  t.same(compared, [
    { group: 'server', traffic: 'Unix', what: 'ours', messagesPerSecond: 1.1, p50ms: 0.5 },
    { group: 'server', traffic: 'Unix', what: 'new', only: 'now' },
    { group: 'server', traffic: 'Unix', what: 'gone', only: 'before' },
  ]);
  const text = reportComparison(run(then), run(now, { node: 'v24.0.0' }), compared);
  t.match(text, /msgs\/s ↑ +p50 ms ↓/);
  t.match(text, /ours +1\.10x +0\.50x/);
  t.match(text, /new: not in the saved run/);
  t.match(text, "'node' differs: v20.19.0 then, v24.0.0 now");
  t.notMatch(text, "'machine'");

  const file = join(shortFolder(t), 'run.json');
  t.throws(() => readRun(file), /cannot read the saved run .*ENOENT/);
  writeFileSync(file, '{');
  t.throws(() => readRun(file), /is no JSON/);
  for (const other of ['null', '[]', '{}', JSON.stringify(run([{ ...ROW, p50ms: '1' } as unknown as Row]))]) {
    writeFileSync(file, other);
    t.throws(() => readRun(file), /no saved run of this bench/);
  }
  writeFileSync(file, JSON.stringify(run(then)));
  t.same(readRun(file), run(then));
});

t.test('plots', async (t) => {
  t.equal(escapeText(`<a href="x">&'\0\ud800`), '&lt;a href=&quot;x&quot;&gt;&amp;&apos;?\ufffd');
  t.same(wrap('aa bb cc dddddd', 5), ['aa bb', 'cc', 'dddddd']);
  const bar = { label: 'x', text: 'x', value: 10, kind: 'own' as const };
  t.equal(scale([bar, { ...bar, value: 15, kind: 'limit' }]), 15);
  t.equal(scale([bar, { ...bar, value: 1_000, kind: 'limit' }]), 20, 'a limit far away is cut');
  t.equal(scale([{ ...bar, value: 1_000, kind: 'limit' }]), 1_000);
  t.equal(scale([{ ...bar, value: 0 }]), 1);

  const svg = drawChart({ title: 'a < b', units: 'u & v', panels: [{ label: '<p>', bars: [bar] }], notes: ['"n"'] });
  t.match(svg, /^<svg xmlns/);
  t.match(svg, 'prefers-color-scheme: dark');
  for (const escaped of ['a &lt; b', 'u &amp; v', '&lt;p&gt;', '&quot;n&quot;']) t.match(svg, escaped);

  t.same(panels([{ ...ROW, cpuMicrosPerMessage: 1_234.5 }, ROW], 'cpuMicrosPerMessage'), [
    { label: 'Unix', bars: [{ label: 'ours', value: 1_234.5, text: '1,235', kind: 'own' }] },
  ]);
  const place = join(shortFolder(t), 'deep', 'plots');
  const drawn = writePlots(place, run([{ ...ROW, cpuMicrosPerMessage: 1 }]));
  t.same(drawn, [join(place, 'server.svg')], 'only what there are figures for');
  t.match(readFileSync(join(place, 'server.svg'), 'utf8'), 'a machine');
});

/** A few messages past a milter. */
async function send(MyMilter: ProtocolClass<CounterContext>, traffic: Traffic, sums?: Message): Promise<Load> {
  const { addsHeader = false, message } = traffic;
  const context = { sums: expectedSums(sums ?? message), addsHeader };
  const options = { context, smfifOptions: addsHeader ? SMFIF_ADDHDRS : 0 };
  const address = `unix:${join(shortFolder(t), 's')}`;
  const factory = new AsyncFactory(address, MyMilter, options);
  await factory.run();
  try {
    return await load(address, traffic, { messages: 5 });
  } finally {
    await factory.close();
  }
}

const TRAFFIC: Traffic = { message: USUAL, connections: 2, perConnection: 20 };

t.test('the generator and a milter understand each other', async (t) => {
  const large = { ...USUAL, bodyBytes: 150_000 };
  for (const MyMilter of [Counter, QuietCounter]) {
    for (const traffic of [
      TRAFFIC,
      { ...TRAFFIC, perConnection: 1 },
      { ...TRAFFIC, addsHeader: true },
      { ...TRAFFIC, message: large },
    ]) {
      const { messages, latencies } = await send(MyMilter, traffic);
      t.ok(messages >= 5 && messages <= 6, `${messages} messages`);
      t.equal(latencies.length, messages);
    }
  }
});

t.test('a wrong answer is an error', async (t) => {
  class Refusing extends Counter {
    override rcpt() {
      return this.setReply(550, '5.1.1', 'nobody');
    }
  }
  await t.rejects(send(Refusing, TRAFFIC), /unexpected answer: .*5\.1\.1 nobody.* to rcpt of message 1/);
  await t.rejects(send(Counter, TRAFFIC, { ...USUAL, headers: 19 }), /The sum is .* to eob of message 1/);
  class Empty extends MilterProtocol<CounterContext> {}
  await t.rejects(send(Empty, TRAFFIC), /does not want it all/);
  class Silent extends Counter {
    override eob() {}
  }
  await t.rejects(send(Silent, { ...TRAFFIC, addsHeader: true }), /unexpected answer: .*continue.* to eob/);
});

t.test('no answer is an error', async (t) => {
  const servers: ReadonlyArray<readonly [RegExp, (socket: Socket) => void]> = [
    [/^connection lost.*, waiting for the answer to the offer/, (socket) => socket.end()],
    [/^nothing came for 0\.1 s, waiting for the answer to the offer/, () => {}],
  ];
  for (const [message, serve] of servers) {
    const server = createServer((socket) => serve(socket.resume().on('error', () => {})));
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const address = `inet:${(server.address() as AddressInfo).port}@127.0.0.1`;
    await t.rejects(load(address, TRAFFIC, { messages: 5 }, 100), { message }, String(message));
    await once(server.close(), 'close');
    await t.rejects(load(address, TRAFFIC, { messages: 5 }), /connection lost \(ECONNREFUSED\)/);
  }
});

t.test('the bare loop answers as a milter does', async (t) => {
  const program = fileURLToPath(new URL('../bench/peers/bare-loop.mjs', import.meta.url));
  for (const variant of ['full', 'noreply', 'addheader']) {
    const server = await startServer([process.execPath, program, variant, `unix:${join(shortFolder(t), 's')}`]);
    const traffic = { ...TRAFFIC, message: { ...USUAL, bodyBytes: 150_000 }, addsHeader: variant === 'addheader' };
    const { messages } = await load(server.address, traffic, { messages: 5 });
    t.ok(messages >= 5, variant);
    await server.stop();
  }
  const behind = await startServer([process.execPath, program, 'full', `unix:${join(shortFolder(t), 's')}`]);
  for (const between of ['../bench/peers/pipe.mjs', '../bench/lib/proxy.mjs']) {
    const file = fileURLToPath(new URL(between, import.meta.url));
    const proxy = await startServer([process.execPath, file, `unix:${join(shortFolder(t), 's')}`, behind.address]);
    const paced = { ...TRAFFIC, pause: 1, eachAnswer: true };
    const { messages, latencies } = await load(proxy.address, paced, { messages: 5 });
    t.ok(messages >= 5, 'nor does it matter who is in between, or that messages take their time');
    t.ok(latencies.length > messages * 10, 'each answer has its latency');
    await proxy.stop();
  }
  await behind.stop();
  await t.rejects(startServer([process.execPath, '-e', 'process.exit(3)']), /does not listen: it ended with status 3/);
  await t.rejects(startServer([join(shortFolder(t), 'nothing')]), /does not listen: .*ENOENT/);
});
