/**
 * A batch of messages as it travels between a factory and a worker. The bytes of all its packets go as one piece of memory:
 * cloning each on its own costs more than everything else about it.
 */
import type { FromWorker, ToWorker } from './messages.js';

/** The name keeps it apart from what a milter's own code sends. */
export interface Envelope<M extends ToWorker | FromWorker> {
  /** The messages; of those that are bytes two numbers, the tenant and how many bytes. */
  readonly milterStream: ReadonlyArray<M | number>;
  /** The bytes, one after the other. */
  readonly bytes?: Uint8Array;
  /** It answers a batch, one for one. */
  readonly answer?: boolean;
}

export function isEnvelope<M extends ToWorker | FromWorker>(message: unknown): message is Envelope<M> {
  return typeof message === 'object' && message !== null && Array.isArray((message as Envelope<M>).milterStream);
}

export function pack<M extends ToWorker | FromWorker>(batch: readonly M[], answer?: boolean): Envelope<M> {
  let size = 0;
  for (const message of batch) if (message[0] === 'bytes') size += message[2].length;
  const said = answer === undefined ? {} : { answer };
  if (size === 0) return { milterStream: batch, ...said };
  const bytes = Buffer.allocUnsafeSlow(size);
  const milterStream: Array<M | number> = [];
  let at = 0;
  for (const message of batch) {
    if (message[0] === 'bytes') {
      const [, tenant, chunk] = message;
      bytes.set(chunk, at);
      at += chunk.length;
      milterStream.push(tenant, chunk.length);
    } else {
      milterStream.push(message);
    }
  }
  return { milterStream, bytes, ...said };
}

/** The memory that moves with it instead of being copied once more, where that is possible. */
export function memoryOf({ bytes }: { readonly bytes?: Uint8Array }): ArrayBuffer[] {
  return bytes === undefined ? [] : [bytes.buffer as ArrayBuffer];
}

/** The messages of a batch; bytes are views of what has come. */
export function unpack<M extends ToWorker | FromWorker>({ milterStream, bytes }: Envelope<M>): readonly M[] {
  if (bytes === undefined) return milterStream as readonly M[];
  const memory = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const batch: M[] = [];
  let at = 0;
  for (let i = 0; i < milterStream.length; i++) {
    const next = milterStream[i] as M | number;
    if (typeof next === 'number') {
      const end = at + (milterStream[++i] as number);
      batch.push(['bytes', next, memory.subarray(at, end)] as unknown as M);
      at = end;
    } else {
      batch.push(next);
    }
  }
  return batch;
}
