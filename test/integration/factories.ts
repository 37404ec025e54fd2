// What the suite runs milters with: each factory in one shape, so that a test names none of them.
import {
  AsyncFactory,
  type FactoryOptions,
  type MilterError,
  type ProtocolClass,
  type SocketAddress,
} from '../../lib/index.js';

export interface RunningMilter {
  /** Where it listens, with the port that was found for port 0. */
  readonly address: SocketAddress;
  /** What its sessions have failed with so far. */
  readonly errors: readonly MilterError[];
  /** Resolves when the last session is over; called again, it ends them. */
  close(): Promise<void>;
}

export interface FactoryUnderTest {
  readonly name: string;
  start(socket: string, Milter: ProtocolClass, options: FactoryOptions): Promise<RunningMilter>;
}

export const asyncFactory: FactoryUnderTest = {
  name: 'AsyncFactory',
  async start(socket, Milter, options) {
    const factory = new AsyncFactory(socket, Milter, options);
    const errors: MilterError[] = [];
    factory.on('sessionError', (error) => errors.push(error));
    await factory.run();
    return { address: factory.address as SocketAddress, errors, close: () => factory.close() };
  },
};
