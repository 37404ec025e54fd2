/** How bytes are written: as they are, or in small pieces, each in a packet of its own where the system allows it. */
import type { Duplex } from 'node:stream';

export interface Pen {
  write(stream: Duplex, bytes: Buffer): void;
  /** Ends the stream behind what has been written. */
  end(stream: Duplex): void;
}

export const plain: Pen = {
  write: (stream, bytes) => void stream.write(bytes),
  end: (stream) => void stream.end(),
};

/** How a bad network would bring them. */
export function trickling(size: number): Pen {
  const waiting = new WeakMap<Duplex, Array<Buffer | 'end'>>();
  const next = (stream: Duplex, pieces: Array<Buffer | 'end'>): void => {
    const piece = pieces.shift();
    if (piece === undefined || stream.destroyed) waiting.delete(stream);
    else if (piece === 'end') stream.end();
    else stream.write(piece, () => setImmediate(next, stream, pieces));
  };
  const add = (stream: Duplex, pieces: Array<Buffer | 'end'>): void => {
    const before = waiting.get(stream);
    if (before !== undefined) {
      before.push(...pieces);
      return;
    }
    waiting.set(stream, pieces);
    next(stream, pieces);
  };
  return {
    write(stream, bytes) {
      const pieces: Buffer[] = [];
      for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.subarray(at, at + size));
      add(stream, pieces);
    },
    end: (stream) => add(stream, ['end']),
  };
}
