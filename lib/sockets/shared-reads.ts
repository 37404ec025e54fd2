/**
 * Reads every connection of a thread into one buffer. A socket's 'data' events bring new memory with each read, which costs
 * about as much as the read itself. A net.Socket that is made with the option `onread` reads into memory of ours instead,
 * but net.Server makes its sockets without. So an accepted socket gets here what that option would have given it.
 *
 * All that is undocumented about it is in this file, and looked for before it is used: where it is not as expected, the
 * socket is left as it is, and its 'data' events are listened to.
 */
import createDebug from 'debug';
import { Socket } from 'node:net';

const debug = createDebug('milter:factory');

/**
 * Takes the bytes that have come: the first `length` ones of a buffer that is used again for the next ones. False: read no
 * more before resume().
 */
export type OnBytes = (buffer: Buffer, length: number) => boolean;

/**
 * Room for the largest packet that a server may send without asking (64 KiB and 5 bytes) and another one: so a chunk of a
 * body comes with one read.
 */
const SIZE = 128 * 1024;
let shared: Buffer | undefined;

function firstBuffer(): Buffer {
  keepFreedMemory();
  return Buffer.allocUnsafeSlow(SIZE);
}

/**
 * Chunks of bodies are copied, and the copies are freed in heaps. glibc gives such memory back to the system and asks for
 * it again, page by page, which costs more than all the rest. It stops doing so when one large block has been freed:
 * mallopt(3), "dynamic mmap threshold", which ends at 32 MiB. The block is never touched, so it takes no memory.
 */
export function keepFreedMemory(allocate = (size: number): unknown => Buffer.allocUnsafeSlow(size)): void {
  try {
    allocate(31 * 1024 * 1024);
  } catch (error) {
    debug('no large block: %s', error); // it is only slower then
  }
}

/** Where a socket keeps the two halves of `onread`. */
const [kBuffer, kBufferCb] = ['kBuffer', 'kBufferCb'].map((name) =>
  Object.getOwnPropertySymbols(new Socket()).find(({ description }) => description === name),
);

/** What accepted sockets are made of. */
interface Insides {
  _handle?: { useUserBuffer?: (buffer: Buffer) => void } | null;
  [name: symbol]: unknown;
}

/**
 * Has a socket read into the shared buffer; false where that does not work. It must not have been read from. Its 'data'
 * events never come; everything else is as ever.
 */
export function shareReads(socket: Socket, onBytes: OnBytes): boolean {
  const insides = socket as unknown as Insides;
  const handle = insides._handle;
  if (
    kBuffer === undefined ||
    kBufferCb === undefined ||
    typeof handle?.useUserBuffer !== 'function' ||
    insides[kBuffer] !== null ||
    socket.readableLength > 0
  ) {
    debug('this connection cannot be read into the shared buffer');
    return false;
  }
  const buffer = (shared ??= firstBuffer());
  insides[kBuffer] = buffer;
  insides[kBufferCb] = (length: number) => onBytes(buffer, length);
  handle.useUserBuffer(buffer);
  return true;
}

/**
 * Has the bytes of a socket go to `onBytes`, from the shared buffer if that is wanted and works.
 * @returns whether they lie in memory that is used again
 */
export function readSocket(socket: Socket, wanted: boolean, onBytes: OnBytes): boolean {
  const reused = wanted && shareReads(socket, onBytes);
  socket.on('data', (chunk) => {
    if (!onBytes(chunk, chunk.length)) socket.pause();
  });
  return reused;
}
