/**
 * `npm run bench -- client`: the mail server's side. MilterClient plays messages against a milter that does nothing, the
 * bare loop of peers/, in a process of its own; beside it stands what writes prepared bytes and compares the answers, the
 * limit. Both look like Sendmail, which sends macros only where there are any.
 *
 * CPU is that of this process: what a mail server in Node pays for asking.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MilterClient, type ClientMessage } from 'milter-stream/client';
import { load, type Traffic } from './lib/load.js';
import type { Group, Line, Place } from './lib/measure.js';
import { commands, USUAL, type Message } from './lib/message.js';
import type { Figures } from './lib/row.js';
import { startServer } from './lib/server-process.js';
import { percentile } from './lib/under-load.js';

interface Kind extends Traffic {
  readonly name: string;
  readonly variant: 'full' | 'noreply';
}

const SMALL = { message: USUAL, connections: 10, perConnection: 20 };
const KINDS: readonly Kind[] = [
  { ...SMALL, name: 'Unix, 20 messages a connection', variant: 'full' },
  { ...SMALL, name: 'Unix, no-reply, 20 a connection', variant: 'noreply' },
  {
    name: 'Unix, 1 MB bodies, 4 connections',
    variant: 'full',
    message: { ...USUAL, bodyBytes: 1_000_000 },
    connections: 4,
    perConnection: 20,
  },
];

/** The same message as a file. */
function mail(message: Message): ClientMessage {
  const parts: Array<string | Buffer> = [];
  const to: string[] = [];
  for (const command of commands(message)) {
    if (command.type === 'header') parts.push(`${command.name}: ${command.value}\r\n`);
    else if (command.type === 'eoh') parts.push('\r\n');
    else if (command.type === 'body') parts.push(command.chunk);
    else if (command.type === 'rcpt') to.push(command.address);
  }
  const eml = Buffer.concat(parts.map((part) => Buffer.from(part as string)));
  return { from: '<alice@example.org>', fromArgs: ['SIZE=2048'], to, message: eml };
}

type Play = (address: string, kind: Kind, seconds: number) => Promise<readonly number[]>;

const withClient: Play = async (address, { message, connections, perConnection }, seconds) => {
  const letter = mail(message);
  const latencies: number[] = [];
  const end = performance.now() + seconds * 1000;
  const connection = async (): Promise<void> => {
    const client = new MilterClient(address, { like: 'sendmail' });
    await client.connect({ hostname: 'mx.example.org', address: '192.0.2.1' });
    for (let left = perConnection; left > 0 && performance.now() < end; left--) {
      const since = performance.now();
      const { verdict, stage } = await client.send(letter);
      if (verdict !== 'accept' || stage !== 'eob') throw new Error(`${verdict} at ${stage}`);
      latencies.push(performance.now() - since);
    }
    await client.quit();
  };
  const lane = async (): Promise<void> => {
    do await connection();
    while (performance.now() < end);
  };
  await Promise.all(Array.from({ length: connections }, lane));
  return latencies.sort((a, b) => a - b);
};

const withBytes: Play = async (address, kind, seconds) => (await load(address, kind, { seconds })).latencies;

async function measure(play: Play, command: readonly string[], kind: Kind, seconds: number): Promise<Figures> {
  const server = await startServer(command);
  try {
    await play(server.address, kind, seconds / 3);
    const start = performance.now();
    const before = process.cpuUsage();
    const latencies = await play(server.address, kind, seconds);
    const { user, system } = process.cpuUsage(before);
    return {
      messagesPerSecond: (latencies.length * 1000) / (performance.now() - start),
      cpuMicrosPerMessage: (user + system) / latencies.length,
      p50ms: percentile(latencies, 0.5),
      p99ms: percentile(latencies, 0.99),
    };
  } finally {
    await server.stop();
  }
}

export const client: Group = {
  name: 'client',
  about: 'a mail server that asks a milter which does nothing, 10 connections unless said, messages as in server',
  rounds: 5,
  seconds: 1.5,
  pinned: true,
  lines({ folder, prefix }: Place) {
    let sockets = 0; // the loop leaves its socket behind
    const loop = fileURLToPath(new URL('peers/bare-loop.mjs', import.meta.url));
    return KINDS.flatMap((kind) => {
      const command = [...prefix, process.execPath, loop, kind.variant];
      const line = (what: string, play: Play): Line => ({
        traffic: kind.name,
        what,
        measure: (seconds) => measure(play, [...command, `unix:${join(folder, `client${++sockets}`)}`], kind, seconds),
      });
      return [line('MilterClient', withClient), line('prepared bytes (limit)', withBytes)];
    });
  },
};
