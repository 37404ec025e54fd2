/**
 * A server in a process of its own. All servers of the bench behave alike: the first line they print is the address they
 * listen on, and they end when their standard input does, so also when the bench is killed.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

export interface Server {
  readonly address: string;
  readonly pid: number;
  stop(): Promise<void>;
}

/** How long one may take to listen, and to end, in ms. */
const PATIENCE = 30_000;

export async function startServer(command: readonly string[]): Promise<Server> {
  const [program, ...args] = command as [string, ...string[]];
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (status, signal) => resolve(`it ended with ${signal ?? `status ${status}`}`));
  });
  child.stdin.on('error', () => {}); // it has ended already
  const patience = setTimeout(() => child.kill('SIGKILL'), PATIENCE);
  const listening = once(createInterface(child.stdout), 'line') as Promise<[string]>;
  const first = await Promise.race([listening, ended]);
  clearTimeout(patience);
  if (typeof first === 'string') throw new Error(`the server does not listen: ${first}`);
  return {
    address: first[0],
    pid: child.pid as number,
    async stop() {
      const impatience = setTimeout(() => child.kill('SIGKILL'), PATIENCE);
      child.stdin.end();
      await ended;
      clearTimeout(impatience);
    },
  };
}
