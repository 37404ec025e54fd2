// Ports for servers that can't be told "any free one".

import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';

/** Starts something on two ports of 127.0.0.1 that are free, with others if somebody else was faster. */
export async function onFreePorts<T>(start: (first: number, second: number) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    const [first, second] = await Promise.all([reserve(), reserve()]);
    await Promise.all([first.release(), second.release()]);
    try {
      return await start(first.port, second.port);
    } catch (error) {
      if (attempt === 3 || !String(error).includes('Address already in use')) throw error;
    }
  }
}

async function reserve(): Promise<{ port: number; release(): Promise<unknown> }> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port, release: () => once(server.close(), 'close') };
}
