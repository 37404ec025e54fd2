// Running a program to its end.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';

/** Resolves with what the program printed; rejects with its complaint when it fails. */
export async function run(program: string, args: string[], input: Buffer | string = ''): Promise<string> {
  const child = spawn(program, args, { stdio: 'pipe' });
  // A program that doesn't read its input must not bring the test down with EPIPE.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  if (code === 0) return stdout;
  throw new Error(`${program} ${args.join(' ')}: ${String(signal ?? `exit code ${String(code)}`)}\n${stderr}${stdout}`);
}
