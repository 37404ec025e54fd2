// A private Redis: on a Unix socket in its own folder, nothing written to disk.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { runProgram, type Running } from './example.js';
import { demand } from './real.js';
import { run } from './run.js';

export interface Redis {
  readonly url: string;
  /** What redis-cli says to a command. */
  cli(...command: string[]): Promise<string>;
  /** Starts it again, empty, after kill(). */
  start(): Promise<void>;
  /** Ends it at once; resolves when it is gone. */
  kill(): Promise<void>;
  /** It keeps its connections and does not answer any more, until thaw(). */
  freeze(): void;
  thaw(): void;
  /** Ends it, and its folder. */
  stop(): Promise<void>;
}

export async function startRedis(): Promise<Redis> {
  demand('redis');
  const dir = await mkdtemp(join(tmpdir(), 'milter-redis-'));
  const socket = join(dir, 's');
  let server: Running | undefined;
  const redis: Redis = {
    url: `unix://${socket}`,
    cli: async (...command) => (await run('/usr/bin/redis-cli', ['-s', socket, ...command])).trimEnd(),
    async start() {
      const args = ['--port', '0', '--unixsocket', socket, '--save', '', '--appendonly', 'no', '--dir', dir];
      server = runProgram('/usr/bin/redis-server', args);
      await server.printed('ready to accept connections at');
    },
    async kill() {
      server?.kill('SIGKILL');
      await server?.ended;
    },
    freeze: () => server?.kill('SIGSTOP'),
    thaw: () => server?.kill('SIGCONT'),
    async stop() {
      await redis.kill();
      await rm(dir, { recursive: true, force: true });
    },
  };
  await redis.start();
  return redis;
}
