/** The factories that a suite is run with: each in one shape, so that a test names none of them. */
import {
  AsyncFactory,
  ForkFactory,
  ThreadFactory,
  type FactoryEvents,
  type FactoryOptions,
  type ProtocolClass,
} from '../../lib/index.js';
import type { Factory } from '../../lib/factories/factory.js';
import { FAST } from './workers.js';

export type { Factory, FactoryEvents };

export interface Variant {
  readonly name: string;
  /** What runs the callbacks: this process, threads or processes. */
  readonly runtime: 'here' | 'thread' | 'process';
  /** Who reads the socket: this process, or the worker itself. */
  readonly reader: 'parent' | 'child';
  /** Makes a factory that does not run yet. The class is an export of the module that it says. */
  make<C, S>(socket: string, Milter: ProtocolClass<C, S>, options?: FactoryOptions<C>): Factory<C, S>;
}

/** The same class in another factory. */
type FactoryClass = new <C, S>(
  socket: string,
  Milter: ProtocolClass<C, S>,
  options: FactoryOptions<C>,
) => Factory<C, S>;

export const asyncVariant: Variant = {
  name: 'AsyncFactory',
  runtime: 'here',
  reader: 'parent',
  make: (socket, Milter, options = {}) => new AsyncFactory(socket, Milter, options),
};

/** What AsyncFactory does where sockets cannot be read into one buffer. */
export const dataVariant: Variant = {
  ...asyncVariant,
  name: "AsyncFactory on 'data' events",
  make: (socket, Milter, options = {}) => new AsyncFactory(socket, Milter, { ...options, sharedReads: false }),
};

/** One worker, unless a test says otherwise: each costs a start, and most tests have one connection. */
function pooled(Factory: FactoryClass, runtime: Variant['runtime'], reader: Variant['reader']): Variant {
  return {
    name: reader === 'child' ? `${Factory.name} with socket 'child'` : Factory.name,
    runtime,
    reader,
    make: (socket, Milter, options) => new Factory(socket, Milter, { ...FAST, workers: 1, socket: reader, ...options }),
  };
}

export const threadVariant = pooled(ThreadFactory, 'thread', 'parent');
export const forkVariant = pooled(ForkFactory, 'process', 'parent');
export const childVariant = pooled(ForkFactory, 'process', 'child');
