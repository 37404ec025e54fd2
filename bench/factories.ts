/**
 * `npm run bench:factories`: what the three factories cost. The same milter, which looks at everything that it is given,
 * behind each of them, with one worker and with two; with an eob() that does nothing else, and with one that computes for
 * 5 ms. 10 connections over a Unix socket send messages of 20 headers, 2 recipients and 2 KB, each command answered.
 *
 * The rounds of all lines are interleaved and the median counts: compare within one run. The generator is a process of
 * its own kind and shares the machine with the server. Linux only: processor time is read from /proc.
 *
 *   npm run bench:factories -- --json      for machines
 *   npm run bench:factories -- --rounds 5 --seconds 2
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { usage } from './lib/cpu.js';
import { load } from './lib/load.js';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1.5' },
  },
});
const SECONDS = Number(options.seconds);
const CONNECTIONS = 10;
const TRAFFIC = { headers: 20, recipients: 2, bodyBytes: 2_048 };

interface Line {
  readonly name: string;
  readonly factory: string;
  readonly options: object;
  readonly burn: number;
}

const VARIANTS: ReadonlyArray<readonly [name: string, factory: string, options: object]> = [
  ['AsyncFactory', 'async', {}],
  ['ThreadFactory, 1 worker', 'thread', { workers: 1 }],
  ['ThreadFactory, 2 workers', 'thread', { workers: 2 }],
  ['ForkFactory, 1 worker', 'fork', { workers: 1 }],
  ['ForkFactory, 2 workers', 'fork', { workers: 2 }],
  ["ForkFactory, socket: 'child', 1 worker", 'fork', { workers: 1, socket: 'child' }],
  ["ForkFactory, socket: 'child', 2 workers", 'fork', { workers: 2, socket: 'child' }],
];

const lines: Line[] = [0, 5].flatMap((burn) =>
  VARIANTS.map(([name, factory, others]) => ({ name, factory, burn, options: { ...others, context: { burn } } })),
);

interface Result {
  readonly perSecond: number;
  readonly cpuMicros: number;
  readonly p50: number;
  readonly p99: number;
  readonly peakMiB: number;
}

const folder = mkdtempSync(join(tmpdir(), 'milter-bench-'));
const program = fileURLToPath(new URL('./lib/server.mjs', import.meta.url));

/** Starts a server, puts it under load, and looks at what it has used meanwhile. */
async function measure({ factory, options: settings }: Line): Promise<Result> {
  const args = [program, factory, join(folder, 's'), JSON.stringify(settings)];
  const server = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const [address] = (await once(createInterface(server.stdout), 'line')) as [string];
  const pid = server.pid as number;
  await load(address, TRAFFIC, CONNECTIONS, SECONDS / 3); // until the compiler has done its work
  const before = usage(pid);
  const { messages, seconds, latencies } = await load(address, TRAFFIC, CONNECTIONS, SECONDS);
  const after = usage(pid);
  const ended = once(server, 'exit');
  server.stdin.end();
  await ended;
  const at = (share: number): number => latencies[Math.floor((latencies.length - 1) * share)] ?? NaN;
  return {
    perSecond: messages / seconds,
    cpuMicros: ((after.seconds - before.seconds) * 1e6) / messages,
    p50: at(0.5),
    p99: at(0.99),
    peakMiB: after.peakMiB,
  };
}

function median(results: readonly Result[], key: keyof Result): number {
  const values = results.map((result) => result[key]).sort((a, b) => a - b);
  return values[Math.floor(values.length / 2)] as number;
}

const results = lines.map((): Result[] => []);
try {
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const [i, line] of lines.entries()) results[i]?.push(await measure(line));
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}

const table = lines.map(({ name, burn }, i) => {
  const own = results[i] as Result[];
  return {
    factory: name,
    eob: burn === 0 ? 'nothing' : `${burn} ms`,
    messagesPerSecond: Math.round(median(own, 'perSecond')),
    cpuMicrosPerMessage: Math.round(median(own, 'cpuMicros')),
    p50ms: Number(median(own, 'p50').toFixed(2)),
    p99ms: Number(median(own, 'p99').toFixed(2)),
    peakMiB: Math.round(median(own, 'peakMiB')),
  };
});

if (options.json) {
  const cores = availableParallelism();
  console.log(JSON.stringify({ node: process.version, cores, date: new Date().toISOString(), table }, undefined, 2));
} else {
  console.log('eob()    factory                                   msgs/s  CPU µs/msg  p50 ms  p99 ms  peak MiB');
  for (const row of table) {
    console.log(
      row.eob.padEnd(9) +
        row.factory.padEnd(40) +
        String(row.messagesPerSecond).padStart(8) +
        String(row.cpuMicrosPerMessage).padStart(12) +
        row.p50ms.toFixed(2).padStart(8) +
        row.p99ms.toFixed(2).padStart(8) +
        String(row.peakMiB).padStart(10),
    );
  }
}
