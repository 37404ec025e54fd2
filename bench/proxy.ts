/**
 * `npm run bench -- proxy`: what standing in between costs. A transparent proxy in a process of its own, C libmilter
 * (Debian: gcc, libmilter-dev) or the bare loop behind it, and the generator in front; beside it the same milter without
 * a proxy. CPU is that of the proxy's process, and of the milter's where there is no proxy.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { usage } from './lib/cpu.js';
import { compileLibmilter } from './lib/libmilter.js';
import { load, type Traffic } from './lib/load.js';
import type { Group, Line, Place } from './lib/measure.js';
import { USUAL } from './lib/message.js';
import type { Figures } from './lib/row.js';
import { startServer } from './lib/server-process.js';
import { fromOutside, underLoad } from './lib/under-load.js';

interface Kind extends Traffic {
  readonly name: string;
  readonly variant: 'full' | 'noreply';
}

const KINDS: readonly Kind[] = [
  { message: USUAL, connections: 10, perConnection: 20, name: 'Unix, 20 messages a connection', variant: 'full' },
  { message: USUAL, connections: 10, perConnection: 20, name: 'Unix, no-reply, 20 a connection', variant: 'noreply' },
  {
    name: 'Unix, 1 MB bodies, 4 connections',
    variant: 'full',
    message: { ...USUAL, bodyBytes: 1_000_000 },
    connections: 4,
    perConnection: 20,
  },
];

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url));

/** The milter, a proxy in front of it, and the load on that. */
async function behindProxy(
  milter: readonly string[],
  prefix: readonly string[],
  at: string,
  kind: Kind,
  seconds: number,
) {
  const behind = await startServer(milter);
  try {
    const proxy = await startServer([...prefix, process.execPath, path('lib/proxy.mjs'), at, behind.address]);
    try {
      await load(proxy.address, kind, { seconds: seconds / 3 });
      const before = usage(proxy.pid);
      const result = await load(proxy.address, kind, { seconds });
      const after = usage(proxy.pid);
      const cpu =
        before === undefined || after === undefined
          ? {}
          : { cpuMicrosPerMessage: ((after.seconds - before.seconds) * 1e6) / result.messages, peakMiB: after.peakMiB };
      return { ...fromOutside(result), ...cpu } satisfies Figures;
    } finally {
      await proxy.stop();
    }
  } finally {
    await behind.stop();
  }
}

export const proxy: Group = {
  name: 'proxy',
  about: 'a milter with a transparent proxy in front and without, 10 connections unless said, messages as in server',
  rounds: 5,
  seconds: 1.5,
  pinned: true,
  lines({ folder, prefix }: Place) {
    const compiled = compileLibmilter(folder);
    let sockets = 0; // the loop leaves its socket behind
    const socket = (): string => `unix:${join(folder, `proxy${++sockets}`)}`;
    return KINDS.flatMap((kind) => {
      const loop = (): readonly string[] => [
        ...prefix,
        process.execPath,
        path('peers/bare-loop.mjs'),
        kind.variant,
        socket(),
      ];
      const line = (what: string, measure: Line['measure']): Line => ({
        traffic: kind.name,
        what,
        ...(measure && { measure }),
      });
      const pair = (what: string, milter: () => readonly string[]): Line[] => [
        line(`proxy, ${what} behind it`, (seconds) => behindProxy(milter(), prefix, socket(), kind, seconds)),
        line(`${what} alone`, (seconds) => underLoad(milter(), kind, seconds)),
      ];
      const libmilter: Line[] =
        'missing' in compiled
          ? [{ traffic: kind.name, what: 'C libmilter', note: `not measured: ${compiled.missing}` }]
          : pair('C libmilter', () => [...prefix, compiled.program, kind.variant, socket()]);
      return libmilter.concat(pair('bare Node loop', loop));
    });
  },
};
