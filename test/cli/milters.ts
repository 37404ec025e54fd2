/** Milters that listen, for the command line to talk to. */
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { once } from 'node:events';
import type { Test } from 'tap';
import { AsyncFactory, formatAddress, SMFIF_ALLOPTS, type FactoryOptions } from '../../lib/index.js';
import { fakeMilter, type Script as Says } from '../helpers/fake-milter.js';
import { milter, type Script, type Statics } from '../helpers/milter.js';

/** A milter of these callbacks; its address. */
export async function serving(
  t: Test,
  script: Script,
  { address = 'inet:0', statics = {}, ...options }: FactoryOptions & { address?: string; statics?: Statics } = {},
): Promise<string> {
  const { MyMilter } = milter(script, statics);
  const factory = new AsyncFactory(address, MyMilter, { smfifOptions: SMFIF_ALLOPTS, ...options });
  await factory.run();
  t.teardown(() => factory.close());
  return formatAddress(factory.address!);
}

/** A milter that says what a script tells it to, byte by byte; its address. */
export function saying(t: Test, script: Says): Promise<string> {
  return answering(t, (socket) => {
    const { stream } = fakeMilter(script);
    stream.on('error', () => socket.destroy());
    socket.pipe(stream).pipe(socket);
  });
}

/** A server of any kind; its address. */
export async function answering(t: Test, serve: (socket: Socket) => void, path?: string): Promise<string> {
  const open = new Set<Socket>();
  const server: Server = createServer((socket) => {
    open.add(socket.on('error', () => {}));
    serve(socket);
  });
  if (path === undefined) server.listen(0, '127.0.0.1');
  else server.listen(path);
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return path === undefined ? `inet:${(server.address() as AddressInfo).port}@127.0.0.1` : `unix:${path}`;
}
