/**
 * Joins a mail server's socket and a session, as `socket.pipe(session).pipe(socket)` would: same order, same
 * back-pressure both ways, same end.
 */
import type { Socket } from 'node:net';
import type { MilterError } from '../errors.js';
import type { MilterClass } from '../session/milter-class.js';
import { Output } from '../session/output.js';
import type { SessionExtras } from '../session/port.js';
import { Session } from '../session/session.js';
import { readSocket } from '../sockets/shared-reads.js';

/** A connection that is served. */
export interface Served {
  /** Finish the message in progress, refuse the next one for now. */
  drain(): void;
  /** End at once. */
  destroy(): void;
}

export interface ConnectionEvents {
  /** A failure that the session has survived, or its last one. */
  report(error: MilterError): void;
  /** Socket and session are both over. */
  closed(): void;
}

/**
 * Serves one connection, of a socket that has not been read from.
 * @param sharedReads whether it may be read into memory that other connections use too
 */
export function serve(
  socket: Socket,
  milterClass: MilterClass,
  extras: SessionExtras,
  events: ConnectionEvents,
  sharedReads: boolean,
): Served {
  const output = new Output();
  const feed = (bytes: Buffer, length: number): boolean => session.feed(bytes, length);
  const reusedChunks = readSocket(socket, sharedReads, feed);
  const write = (bytes: Buffer): boolean => socket.write(bytes);
  let sessionOver = false;
  let socketOver = false;
  const session = new Session(
    milterClass,
    {
      reply: (reply) => output.reply(reply),
      flush: () => output.flush(write),
      agreed(maxPayload) {
        output.maxPayload = maxPayload;
      },
      resume: () => socket.resume(),
      report: (error) => events.report(error),
      close(error) {
        sessionOver = true;
        if (error === undefined) socket.end(() => socket.destroy());
        else socket.destroy();
        if (socketOver) events.closed();
      },
    },
    { ...extras, reusedChunks },
  );
  socket.setNoDelay(true);
  socket.setKeepAlive(true);
  socket.on('drain', () => session.drained());
  socket.on('end', () => session.end());
  socket.on('error', (error) => session.lost(error));
  socket.on('close', () => {
    socketOver = true;
    if (sessionOver) events.closed();
  });
  socket.resume();
  return {
    drain: () => session.drain(),
    destroy() {
      session.destroy();
      // What the system has not taken by now is given up: the client may never read it.
      if (socket.writableLength > 0) socket.destroy();
    },
  };
}
