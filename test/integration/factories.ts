// What the suite runs milters with: each factory in one shape, so that a test names none of them.
import type { FactoryOptions, MilterError, ProtocolClass, SocketAddress } from '../../lib/index.js';
import { asyncVariant, childVariant, forkVariant, threadVariant, type Variant } from '../helpers/variants.js';

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

function underTest(variant: Variant): FactoryUnderTest {
  return {
    name: variant.name,
    async start(socket, Milter, options) {
      const factory = variant.make(socket, Milter, options);
      const errors: MilterError[] = [];
      factory.on('sessionError', (error) => errors.push(error));
      await factory.run();
      return { address: factory.address as SocketAddress, errors, close: () => factory.close() };
    },
  };
}

export const asyncFactory = underTest(asyncVariant);
export const threadFactory = underTest(threadVariant);
export const forkFactory = underTest(forkVariant);
/** The processes read the mail server's socket themselves. */
export const childFactory = underTest(childVariant);
