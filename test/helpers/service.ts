/** test/fixtures/service.mjs: a milter that runs as a service, in a process of its own, with the built package. */
import type { Test } from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import { root } from './built.js';
import { runProgram, type Running } from './example.js';
import { until } from './until.js';

/** The words of its command line. */
export function serviceLine(factory: string, socket: string, options: object = {}): [node: string, ...args: string[]] {
  return [process.execPath, `${root}test/fixtures/service.mjs`, factory, socket, JSON.stringify(options)];
}

/** Starts it; it is gone when the test is over. */
export function startService(
  t: Test,
  [node, ...args]: readonly [string, ...string[]],
  env: Record<string, string> = {},
  fds: readonly number[] = [],
): Running {
  const program = runProgram(node, args, env, fds);
  t.teardown(() => program.kill('SIGKILL'));
  return program;
}

/** The rest of the first line that begins so, when it has been printed. */
export async function lineOf(program: Running, beginning: string): Promise<string> {
  await program.printed(beginning);
  const line = await until(`a line after ${beginning}`, () =>
    program
      .out()
      .split(/(?<=\n)/)
      .find((each) => each.startsWith(beginning) && each.endsWith('\n')),
  );
  return line.slice(beginning.length, -1);
}

/** Plays a message to it; it must mark it. */
export async function marksAMessage(t: Test, socket: string): Promise<void> {
  const client = new MilterClient(socket);
  await client.connect();
  const { message } = await client.send({ from: '', to: ['<b@example.com>'], message: 'A: b\n\n' });
  t.equal(message.toString(), 'A: b\r\nX-Milter: seen\r\n\r\n');
  await client.quit();
}
