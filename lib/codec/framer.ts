/**
 * Cuts a stream of bytes into frames: four bytes of length (big-endian, of what follows), a code byte, the payload.
 *
 * A frame that lies whole in the chunk it came with is handed on where it is, without a copy. Only a torn frame is
 * gathered, and keeps nothing of its chunks: up to what a server may send without asking (64 KiB) in one buffer of its
 * exact size, above that in parts that each double what has come (a BufferList holds the full ones), so that memory
 * follows the bytes received and neither the length claimed nor the number of chunks. The limit is checked when the
 * length is read. An error ends the reading for good: a stream of frames cannot be picked up again in the middle.
 */
import { BufferList } from 'bl';
import { MILTER_MDS_1M, MILTER_MDS_64K } from '../constants.js';
import { MilterError } from '../errors.js';
import { guessPeer } from './guess.js';
import { checkMaxPayload } from './limit.js';

/** Takes the frames, in order: the bytes of `buffer` from `start` (the length) to `end`. */
export interface FrameSink {
  frame(buffer: Buffer, start: number, end: number): void;
}

/** The largest torn frame that gets its buffer at once. */
const GATHERED_AT_ONCE = 4 + 1 + MILTER_MDS_64K;
/** The smallest part of a larger one. */
const PART = 4096;
const nothing = Buffer.alloc(0);
/** How much of what is wrong an error shows. */
const SHOWN = 32;

export class Framer {
  /** Largest payload that is read, in bytes, the code not counted. */
  maxPayload: number;

  /** The first bytes of a torn frame, while there are fewer than the four that say how long it is. */
  readonly #length = Buffer.alloc(4);
  #lengthBytes = 0;
  /** How long the torn frame is; 0 while there is none, or its length is not known yet. */
  #size = 0;
  /** The part of it that is being filled, and the parts that are full. */
  #part: Buffer = nothing;
  #filled = 0;
  #parts: BufferList | undefined;

  #offset = 0;
  #frames = 0;
  #failure: { readonly error: unknown } | undefined;

  /** @throws MilterError ERR_MILTER_OPTION */
  constructor(maxPayload: number = MILTER_MDS_1M) {
    this.maxPayload = checkMaxPayload(maxPayload);
  }

  /**
   * Takes the next bytes and hands on every frame that they complete. After an error, the same error again.
   * @param length how many of the chunk's bytes count
   * @throws MilterError ERR_MILTER_EMPTY_PACKET, ERR_MILTER_PACKET_TOO_LARGE, and what the sink throws
   */
  push(chunk: Buffer, sink: FrameSink, length = chunk.length): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    try {
      this.#cut(chunk, length, sink);
    } catch (error) {
      this.#failure = { error };
      throw error;
    }
  }

  /**
   * Says that no more bytes will come.
   * @throws MilterError ERR_MILTER_TRUNCATED inside a frame, or the error that push() threw
   */
  end(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    if (!this.#torn) return;
    const has = (this.#parts?.length ?? 0) + this.#filled;
    const missing = this.#size === 0 ? 'the rest of its length' : `${this.#size - has} of its ${this.#size} bytes`;
    const bytes = this.#firstBytes();
    throw new MilterError(
      'ERR_MILTER_TRUNCATED',
      `The stream ended inside a packet: ${missing} missing (stream offset ${this.#offset}, begins ${bytes.toString('hex')})`,
      { offset: this.#offset, bytes },
    );
  }

  /** What has come of a frame that is not whole yet: a copy. */
  unfinished(): Buffer {
    if (this.#size === 0) return this.#firstBytes();
    return Buffer.concat([
      ...(this.#parts === undefined ? [] : [this.#parts.slice()]),
      this.#part.subarray(0, this.#filled),
    ]);
  }

  get #torn(): boolean {
    return this.#lengthBytes > 0;
  }

  #cut(chunk: Buffer, end: number, sink: FrameSink): void {
    let at = this.#torn ? this.#gather(chunk, 0, end, sink) : 0;
    while (end - at >= 4) {
      const length = chunk.readUInt32BE(at);
      if (!this.#acceptable(length))
        throw this.#refusal(length, Buffer.from(chunk.subarray(at, Math.min(at + SHOWN, end))));
      const size = 4 + length;
      if (end - at < size) break;
      this.#frames++;
      sink.frame(chunk, at, at + size);
      at += size;
      this.#offset += size;
    }
    if (at < end) this.#gather(chunk, at, end, sink);
  }

  /** Adds to the torn frame, or begins one; returns where in the chunk it ends. */
  #gather(chunk: Buffer, start: number, end: number, sink: FrameSink): number {
    let at = start;
    if (this.#size === 0) {
      const taken = chunk.copy(this.#length, this.#lengthBytes, at, end);
      this.#lengthBytes += taken;
      at += taken;
      if (this.#lengthBytes < 4) return at;
      const length = this.#length.readUInt32BE(0);
      if (!this.#acceptable(length)) {
        throw this.#refusal(length, Buffer.concat([this.#length, chunk.subarray(at, Math.min(at + SHOWN - 4, end))]));
      }
      this.#size = 4 + length;
      this.#part = this.#newPart(4 + end - at);
      this.#filled = this.#length.copy(this.#part);
    }
    while (at < end) {
      const taken = chunk.copy(this.#part, this.#filled, at, end);
      this.#filled += taken;
      at += taken;
      if (this.#filled < this.#part.length) break;
      if ((this.#parts?.length ?? 0) + this.#filled === this.#size) {
        this.#finish(sink);
        break;
      }
      this.#parts = (this.#parts ?? new BufferList()).append(this.#part);
      this.#part = this.#newPart(end - at);
      this.#filled = 0;
    }
    return at;
  }

  /** Memory for what is missing of the torn frame: all of it, or for a large one as much as has come or is at hand. */
  #newPart(atHand: number): Buffer {
    const has = this.#parts?.length ?? 0;
    const missing = this.#size - has;
    const large = this.#size > GATHERED_AT_ONCE;
    return Buffer.allocUnsafeSlow(large ? Math.min(missing, Math.max(PART, has, atHand)) : missing);
  }

  #finish(sink: FrameSink): void {
    const frame = this.#parts === undefined ? this.#part : this.#parts.append(this.#part).slice();
    this.#lengthBytes = 0;
    this.#size = 0;
    this.#part = nothing;
    this.#filled = 0;
    this.#parts = undefined;
    this.#frames++;
    sink.frame(frame, 0, frame.length);
    this.#offset += frame.length;
  }

  #acceptable(length: number): boolean {
    return length > 0 && length - 1 <= this.maxPayload;
  }

  #refusal(length: number, bytes: Buffer): MilterError {
    const where = `(stream offset ${this.#offset}, begins ${bytes.toString('hex')})`;
    const details = { offset: this.#offset, bytes };
    if (length === 0) {
      return new MilterError('ERR_MILTER_EMPTY_PACKET', `A packet of length 0, which has no code ${where}`, details);
    }
    const guess = this.#frames === 0 ? guessPeer(bytes) : '';
    return new MilterError(
      'ERR_MILTER_PACKET_TOO_LARGE',
      `A packet claims a payload of ${length - 1} bytes, more than the limit of ${this.maxPayload} ${where}${guess}`,
      details,
    );
  }

  #firstBytes(): Buffer {
    if (this.#size === 0) return Buffer.from(this.#length.subarray(0, this.#lengthBytes));
    const first = this.#parts?.slice(0, SHOWN) ?? this.#part.subarray(0, Math.min(this.#filled, SHOWN));
    return Buffer.from(first);
  }
}
