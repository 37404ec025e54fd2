/**
 * Node's stream types with the objects that pass through. The streams come from readable-stream, whose classes are not
 * node:stream's: they do what these types say, but never test one with instanceof.
 *
 * Node's own interfaces want bytes from every stream (NodeJS.ReadableStream, NodeJS.WritableStream), and pipe() and
 * pipeline() want these interfaces. So some methods below have one more signature, for the comparison alone: reading
 * also gives whatever the other side wants, writing also takes `never`, which no call can have. Calls, `for await` and
 * pipeline() see the packets: a `Command & Wanted` is a Command.
 */
import type { Readable, Transform, Writable } from 'node:stream';

/* oxlint-disable typescript/no-explicit-any -- Node's own listener types say any, and these must stay assignable to them */
type Listener = (...args: any[]) => void;
type Done = (error?: Error | null) => void;

interface TypedReading<T> {
  on(event: 'data', listener: (packet: T) => void): this;
  on(event: string | symbol, listener: Listener): this;
  once(event: 'data', listener: (packet: T) => void): this;
  once(event: string | symbol, listener: Listener): this;
  addListener(event: 'data', listener: (packet: T) => void): this;
  addListener(event: string | symbol, listener: Listener): this;
  prependListener(event: 'data', listener: (packet: T) => void): this;
  prependListener(event: string | symbol, listener: Listener): this;
  off(event: 'data', listener: (packet: T) => void): this;
  off(event: string | symbol, listener: Listener): this;
  removeListener(event: 'data', listener: (packet: T) => void): this;
  removeListener(event: string | symbol, listener: Listener): this;
  pause(): this;
  resume(): this;
  read(size?: number): T | null;
  read(size?: number): any;
  toArray(options?: { signal?: AbortSignal | undefined }): Promise<T[]>;
  iterator(options?: { destroyOnReturn?: boolean | undefined }): NodeJS.AsyncIterator<T>;
  [Symbol.asyncIterator](): NodeJS.AsyncIterator<T>;
  [Symbol.asyncIterator]<Wanted>(): NodeJS.AsyncIterator<Wanted>;
  // Once more, because inference looks at the last signature and a call at the first.
  [Symbol.asyncIterator](): NodeJS.AsyncIterator<T>;
}

interface TypedWriting<T> {
  write(packet: T, callback?: Done): boolean;
  write(packet: T, encoding: BufferEncoding | undefined, callback?: Done): boolean;
  write(packet: never, callback?: Done): boolean;
  write(packet: never, encoding?: BufferEncoding, callback?: Done): boolean;
  end(callback?: () => void): this;
  end(packet: T, callback?: () => void): this;
  end(packet: T, encoding: BufferEncoding | undefined, callback?: () => void): this;
  end(packet: never, callback?: () => void): this;
  end(packet: never, encoding?: BufferEncoding, callback?: () => void): this;
}

type Rest<S, Typed> = Omit<S, keyof Typed>;

/** A Transform from bytes to objects: typed 'data' and async iteration. */
export interface ObjectDecoder<T> extends Rest<Transform, TypedReading<T>>, TypedReading<T> {}

/** A Transform from objects to bytes: typed write() and end(). */
export interface ObjectEncoder<T> extends Rest<Transform, TypedWriting<T>>, TypedWriting<T> {}

/** A Readable of objects. */
export interface ObjectReadable<T> extends Rest<Readable, TypedReading<T>>, TypedReading<T> {}

/** A Writable of objects. */
export interface ObjectWritable<T> extends Rest<Writable, TypedWriting<T>>, TypedWriting<T> {}
/* oxlint-enable typescript/no-explicit-any */
