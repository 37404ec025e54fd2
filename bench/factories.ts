/**
 * `npm run bench -- factories`: what the three factories cost. The same milter, which looks at everything that it is
 * given, behind each of them, with one worker and with two; with an eob() that does nothing else, answered and no-reply, and
 * with one that computes for 5 ms. 10 connections over a Unix socket, which stay.
 *
 * The generator shares the machine with the server and its workers, and nobody is pinned.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CounterContext } from './lib/counter.mjs';
import type { Traffic } from './lib/load.js';
import type { Group, Line } from './lib/measure.js';
import { expectedSums, USUAL } from './lib/message.js';
import { underLoad } from './lib/under-load.js';

const TRAFFIC: Traffic = { message: USUAL, connections: 10, perConnection: Infinity };
const program = fileURLToPath(new URL('./lib/server.mjs', import.meta.url));

const FACTORIES: ReadonlyArray<readonly [what: string, factory: string, options: object]> = [
  ['AsyncFactory', 'async', {}],
  ['ThreadFactory, 1 worker', 'thread', { workers: 1 }],
  ['ThreadFactory, 2 workers', 'thread', { workers: 2 }],
  ['ForkFactory, 1 worker', 'fork', { workers: 1 }],
  ['ForkFactory, 2 workers', 'fork', { workers: 2 }],
  ["ForkFactory, socket: 'child', 1 worker", 'fork', { workers: 1, socket: 'child' }],
  ["ForkFactory, socket: 'child', 2 workers", 'fork', { workers: 2, socket: 'child' }],
];

const KINDS: ReadonlyArray<readonly [traffic: string, milter: string, burn: number]> = [
  ['answered, eob() does nothing', 'full', 0],
  ['no-reply, eob() does nothing', 'noreply', 0],
  ['answered, eob() computes for 5 ms', 'full', 5],
];

export const factories: Group = {
  name: 'factories',
  about: '10 lasting connections over a Unix socket, messages of 20 headers, 2 recipients and 2 KB',
  rounds: 3,
  seconds: 1.5,
  lines: ({ folder }) =>
    KINDS.flatMap(([traffic, milter, burn]) =>
      FACTORIES.map(([what, factory, others]): Line => {
        const context: CounterContext = { sums: expectedSums(USUAL), burn };
        const options = JSON.stringify({ ...others, context });
        const command = [process.execPath, program, factory, milter, `unix:${join(folder, 'factory')}`, options];
        return { traffic, what, measure: (seconds) => underLoad(command, TRAFFIC, seconds) };
      }),
    ),
};
