/** The servers of a test, which the library keeps to itself. */
import { Server } from 'node:net';
import type { Test } from 'tap';

/** Collects every server that listens from now on, until the test is over. */
export function listeningServers(t: Test): Server[] {
  const listen = Reflect.get(Server.prototype, 'listen') as (...args: unknown[]) => Server;
  const servers: Server[] = [];
  t.intercept(Server.prototype, 'listen', {
    value(this: Server, ...args: unknown[]) {
      servers.push(this);
      return listen.apply(this, args);
    },
  });
  return servers;
}
