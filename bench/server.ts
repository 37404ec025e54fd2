/**
 * `npm run bench -- server`: a milter in a process of its own under the load of a mail server. AsyncFactory stands beside
 * a bare loop on Node's sockets, which is the limit, and C libmilter (Debian: gcc, libmilter-dev), which does
 * not look at what it gets while ours adds it all up.
 *
 * C libmilter sends an added header and its answer in two small writes, which over TCP costs it a delayed acknowledgement:
 * its 40 ms there are no mistake of the bench.
 *
 * The generator is Node as well and often the slower side: the CPU time of the server per message is the figure to compare.
 * Where the machine allows it, generator and server have a core each.
 */
import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SMFIF_ADDHDRS } from 'milter-stream';
import type { CounterContext } from './lib/counter.mjs';
import { compileLibmilter } from './lib/libmilter.js';
import type { Traffic } from './lib/load.js';
import type { Group, Line, Place } from './lib/measure.js';
import { expectedSums, USUAL } from './lib/message.js';
import { underLoad } from './lib/under-load.js';

interface Kind extends Traffic {
  readonly name: string;
  readonly network: 'unix' | 'inet';
  readonly variant: 'full' | 'noreply' | 'addheader';
}

const SMALL = { message: USUAL, connections: 10, perConnection: 20 };
const KINDS: readonly Kind[] = [
  { ...SMALL, name: 'Unix, 20 messages a connection', network: 'unix', variant: 'full' },
  { ...SMALL, name: 'Unix, a connection for each message', network: 'unix', variant: 'full', perConnection: 1 },
  { ...SMALL, name: 'TCP, no-reply, 20 a connection', network: 'inet', variant: 'noreply' },
  { ...SMALL, name: 'TCP, a header added, 20 a connection', network: 'inet', variant: 'addheader', addsHeader: true },
  {
    name: 'Unix, 1 MB bodies, 4 connections',
    network: 'unix',
    variant: 'full',
    message: { ...USUAL, bodyBytes: 1_000_000 },
    connections: 4,
    perConnection: 20,
  },
];

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url));

/** The command of a server that is to listen on an address. */
type Command = (kind: Kind, address: string) => readonly string[];

const ours: Command = ({ message, variant, addsHeader = false }, address) => {
  const context: CounterContext = { sums: expectedSums(message), addsHeader };
  const options = { context, smfifOptions: addsHeader ? SMFIF_ADDHDRS : 0 };
  const milter = variant === 'noreply' ? 'noreply' : 'full';
  return [process.execPath, path('lib/server.mjs'), 'async', milter, address, JSON.stringify(options)];
};

const bareLoop: Command = ({ variant }, address) => [process.execPath, path('peers/bare-loop.mjs'), variant, address];

/** libmilter cannot say which port it was given. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await once(server.close(), 'close');
  return port;
}

export const server: Group = {
  name: 'server',
  about: 'a server process, 10 connections unless said, messages of 20 headers, 2 recipients and 2 KB unless said',
  rounds: 5,
  seconds: 1.5,
  pinned: true,
  lines({ folder, prefix }: Place) {
    const compiled = compileLibmilter(folder);
    const socket = join(folder, 'server');
    const line = (kind: Kind, what: string, command: Command): Line => ({
      traffic: kind.name,
      what,
      async measure(seconds) {
        const address = kind.network === 'unix' ? `unix:${socket}` : `inet:${await freePort()}@127.0.0.1`;
        return underLoad([...prefix, ...command(kind, address)], kind, seconds);
      },
    });
    return KINDS.flatMap((kind) => [
      line(kind, 'AsyncFactory', ours),
      line(kind, 'bare Node loop (limit)', bareLoop),
      'missing' in compiled
        ? { traffic: kind.name, what: 'C libmilter', note: `not measured: ${compiled.missing}` }
        : line(kind, 'C libmilter', ({ variant }, address) => [compiled.program, variant, address]),
    ]);
  },
};
