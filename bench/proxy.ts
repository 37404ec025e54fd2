/**
 * `npm run bench -- proxy`: what standing in between costs. A transparent proxy in a process of its own, C libmilter
 * (Debian: gcc, libmilter-dev) or the bare loop behind it, and the generator in front; beside it the same milter without
 * a proxy, and behind one that only joins two sockets with pipe(), the least that Node can do. CPU is that of the proxy's
 * process, and of the milter's where there is no proxy. What a proxy adds to the latency shows where nobody waits for a
 * processor: in the traffic with pauses, answer by answer.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileLibmilter } from './lib/libmilter.js';
import type { Traffic } from './lib/load.js';
import type { Group, Line, Place } from './lib/measure.js';
import { USUAL } from './lib/message.js';
import type { Figures } from './lib/row.js';
import { startServer } from './lib/server-process.js';
import { underLoad } from './lib/under-load.js';

interface Kind extends Traffic {
  readonly name: string;
  readonly variant: 'full' | 'noreply';
}

const KINDS: readonly Kind[] = [
  { message: USUAL, connections: 10, perConnection: 20, name: 'Unix, 20 messages a connection', variant: 'full' },
  { message: USUAL, connections: 10, perConnection: 20, name: 'Unix, no-reply, 20 a connection', variant: 'noreply' },
  {
    name: 'Unix, pauses; ms of each answer',
    variant: 'full',
    message: USUAL,
    connections: 10,
    perConnection: 1_000,
    pause: 50,
    eachAnswer: true,
  },
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
  command: readonly string[],
  kind: Kind,
  seconds: number,
): Promise<Figures> {
  const behind = await startServer(milter);
  try {
    return await alone([...command, behind.address], kind, seconds);
  } finally {
    await behind.stop();
  }
}

/** How many bytes of bodies pass, where that is the point. */
function bodies({ message: { bodyBytes } }: Kind, messagesPerSecond: number): Figures {
  return bodyBytes < 1_000_000 ? {} : { mbPerSecond: (messagesPerSecond * bodyBytes) / 1e6 };
}

async function alone(milter: readonly string[], kind: Kind, seconds: number): Promise<Figures> {
  const figures = await underLoad(milter, kind, seconds);
  return { ...figures, ...bodies(kind, figures.messagesPerSecond as number) };
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
      const through = (file: string, milter: readonly string[], seconds: number): Promise<Figures> =>
        behindProxy(milter, [...prefix, process.execPath, path(file), socket()], kind, seconds);
      const lines = (what: string, milter: () => readonly string[]): Line[] => [
        line(`proxy, ${what} behind it`, (seconds) => through('lib/proxy.mjs', milter(), seconds)),
        line(`pipe(), ${what} behind it`, (seconds) => through('peers/pipe.mjs', milter(), seconds)),
        line(`${what} alone`, (seconds) => alone(milter(), kind, seconds)),
      ];
      const libmilter: Line[] =
        'missing' in compiled
          ? [{ traffic: kind.name, what: 'C libmilter', note: `not measured: ${compiled.missing}` }]
          : lines('C libmilter', () => [...prefix, compiled.program, kind.variant, socket()]);
      return libmilter.concat(lines('bare Node loop', loop));
    });
  },
};
