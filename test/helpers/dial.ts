/** A factory on a real socket, and mail servers that dial it. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Test } from 'tap';
import { AsyncFactory, type FactoryOptions, type ProtocolClass, type SocketAddress } from '../../lib/index.js';
import type { MilterError } from '../../lib/errors.js';
import { Mta } from './mta.js';

export interface Served {
  readonly factory: AsyncFactory;
  /** What sessions failed with. */
  readonly errors: MilterError[];
}

/** A factory that runs until the test is over. */
export async function serve(
  t: Test,
  MyMilter: ProtocolClass,
  options: FactoryOptions = {},
  where = 'inet:0@127.0.0.1',
): Promise<Served> {
  const factory = new AsyncFactory(where, MyMilter, options);
  const errors: MilterError[] = [];
  factory.on('sessionError', (error) => errors.push(error));
  t.teardown(() => Promise.all([factory.close(), factory.close()]));
  await factory.run();
  return { factory, errors };
}

export interface Dialled {
  readonly mta: Mta;
  readonly socket: Socket;
}

/** What net.connect() makes of an address. */
export function reach(address: SocketAddress | undefined): { path: string } | { host: string; port: number } {
  if (address === undefined) throw new Error('nobody listens');
  return address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port };
}

/** What a factory, of whichever kind, tells of its connections. */
interface Reachable {
  readonly address: SocketAddress | undefined;
  readonly connections: number;
}

/** A mail server that is connected to a factory. */
export async function dial(t: Test, factory: Reachable): Promise<Dialled> {
  const socket = connect(reach(factory.address));
  t.teardown(() => void socket.destroy());
  const mta = new Mta(socket);
  await once(socket, 'connect');
  return { mta, socket };
}

/** Resolves when a factory has as many connections. */
export async function connections(factory: Reachable, count: number): Promise<void> {
  while (factory.connections !== count) await new Promise(setImmediate);
}
