// Real milters, run privately: each in the foreground, on a Unix socket in the test's own folder, gone with the test.

import { once } from 'node:events';
import { connect } from 'node:net';
import type { Test } from 'tap';

import { runProgram } from './example.js';
import { until } from './until.js';

/**
 * Starts a program that listens on a Unix socket, and ends it when the test is over: at once, for there is nothing it
 * would have to bring to an end.
 * @returns the socket as a mail server is told of it, once somebody listens there
 */
export async function startListener(t: Test, socket: string, file: string, args: readonly string[]): Promise<string> {
  const program = runProgram(file, args);
  t.teardown(async () => {
    program.kill('SIGKILL');
    await program.ended;
  });
  let over = false;
  void program.ended.then(() => (over = true));
  await until(`${file} to listen`, async () => {
    if (over) throw new Error(`${file} ended:\n${program.err()}${program.out()}`);
    return listens(socket);
  });
  return `unix:${socket}`;
}

async function listens(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
