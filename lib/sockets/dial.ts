/** Connects to where a milter listens. */
import { connect, type Socket } from 'node:net';
import { formatAddress, type SocketAddress } from '../address.js';
import { MilterError } from '../errors.js';

export interface DialOptions {
  /** How long that may take, in ms. */
  readonly connectTimeout: number;
  readonly signal?: AbortSignal | undefined;
}

/** @throws MilterError ERR_MILTER_CONNECTION, ERR_MILTER_ABORTED */
export function dial(address: SocketAddress, { connectTimeout, signal }: DialOptions): Promise<Socket> {
  const socket = address.kind === 'unix' ? connect(address.path) : connect(address.port, address.host);
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
      socket.removeAllListeners('error');
    };
    const fail = (cause: Error, code: 'ERR_MILTER_CONNECTION' | 'ERR_MILTER_ABORTED' = 'ERR_MILTER_CONNECTION') => {
      settle();
      socket.on('error', () => {});
      socket.destroy();
      // Where a name has several addresses and none answers, the error has no message of its own.
      const why = [cause.message, (cause as NodeJS.ErrnoException).code].find(Boolean);
      const what = `Cannot connect to ${formatAddress(address)}: ${why}`;
      reject(new MilterError(code, what, { cause, stage: 'negotiate' }));
    };
    const stop = (): void =>
      fail(new Error('the caller has given up', { cause: signal?.reason }), 'ERR_MILTER_ABORTED');
    const timer = setTimeout(() => fail(new Error(`nothing within ${connectTimeout} ms`)), connectTimeout);
    if (signal?.aborted === true) queueMicrotask(stop);
    signal?.addEventListener('abort', stop, { once: true });
    socket.once('error', (error: Error) => fail(error));
    socket.once('connect', () => {
      settle();
      socket.setNoDelay(true);
      resolve(socket);
    });
  });
}
