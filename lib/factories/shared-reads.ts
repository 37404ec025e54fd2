/**
 * Reads every connection of a thread into one buffer. A socket's 'data' events bring new memory with each read, which costs
 * about as much as the read itself; net.Socket can read into memory of ours instead (its `onread` option), but net.Server
 * does not pass that on. So the connection of an accepted socket is given to a second Socket, by way of `handle`, an
 * undocumented option of the same constructor. All that is undocumented is in this file, and looked for before it is used:
 * where it is not as expected, the accepted socket is left as it is and its 'data' events are listened to.
 */
import createDebug from 'debug';
import { Socket, type SocketConstructorOpts } from 'node:net';

const debug = createDebug('milter:factory');

/**
 * Takes the bytes that have come, of a buffer that is used again for the next ones; false: read no more before resume().
 */
export type OnBytes = (bytes: Buffer) => boolean;

/**
 * Room for the largest packet that a server may send without asking (64 KiB and 5 bytes) and another one: so a chunk of a
 * body comes with one read.
 */
const SIZE = 128 * 1024;
let shared: Buffer | undefined;

/** What accepted sockets are made of. */
interface Insides {
  _handle?: { useUserBuffer?: unknown; readStart?: unknown } | null;
  _server?: unknown;
  server?: unknown;
}

/**
 * A socket for the same connection, which reads into the shared buffer; undefined where that does not work. The given one
 * must not have been read from, and is of no use afterwards.
 */
export function shareReads(accepted: Socket, onBytes: OnBytes): Socket | undefined {
  const old = accepted as unknown as Insides;
  const handle = old._handle;
  if (typeof handle?.useUserBuffer !== 'function' || accepted.readableLength > 0 || accepted.destroyed) {
    debug('this connection cannot be read into the shared buffer');
    return undefined;
  }
  const buffer = (shared ??= Buffer.allocUnsafeSlow(SIZE));
  const callback = (length: number): boolean => onBytes(buffer.subarray(0, length));
  // The server counts its connections by these.
  const { _server, server } = old;
  old._handle = old._server = old.server = null;
  const options = { handle, allowHalfOpen: true, onread: { buffer, callback } };
  return Object.assign(new Socket(options as unknown as SocketConstructorOpts), { _server, server });
}
