/** Small things for the tests of streams. */
import { Readable } from 'node:stream';

/**
 * Resolves when everything that streams would do by themselves has been done: they work in microtasks and ticks, and
 * none of the streams in question waits for a timer or the system.
 */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
}

export interface CountedSource {
  readonly stream: Readable;
  /** How many chunks have been taken from it. */
  readonly given: () => number;
}

/** A source that makes a chunk when it is asked for one, and counts. */
export function countedSource(chunk: Buffer, chunks: number): CountedSource {
  let given = 0;
  const stream = new Readable({
    highWaterMark: 1,
    read() {
      this.push(given++ < chunks ? chunk : null);
    },
  });
  return { stream, given: () => given };
}

/** Everything that comes out of a stream, and the error if it ended with one. */
export async function drained<T>(stream: AsyncIterable<T>): Promise<{ items: T[]; error: unknown }> {
  const items: T[] = [];
  try {
    for await (const item of stream) items.push(item);
  } catch (error) {
    return { items, error };
  }
  return { items, error: undefined };
}
