/**
 * Bytes in, packets out: the plain object inside the decoder streams and the session. It knows no stream, makes no
 * closure and no promise; `parse` calls the sink for each packet while it runs.
 */
import type { MilterError } from '../errors.js';
import { commandCodec, type Command } from './commands.js';
import { Framer, type FrameSink } from './framer.js';
import { replyCodec, type Reply } from './replies.js';
import type { Codec, PacketBase } from './table.js';

/** A packet whose code this direction does not have: only from a lenient parser. */
export interface UnrecognizedPacket extends PacketBase {
  readonly type: 'unrecognized';
  /** The code byte. */
  readonly code: number;
  readonly payload: Buffer;
}

/** A packet in a good frame whose content is wrong: only from a lenient parser. */
export interface MalformedPacket extends PacketBase {
  readonly type: 'malformed';
  /** The code byte. */
  readonly code: number;
  /** What is wrong with it. */
  readonly error: MilterError;
}

/** What a lenient parser gives besides the packets of its direction. */
export type OddPacket = UnrecognizedPacket | MalformedPacket;

/** Takes the packets, in order. */
export interface PacketSink<P> {
  packet(packet: P): void;
}

export interface ParserOptions {
  /** Largest payload that is read, in bytes; default 1,048,575, the largest that can be negotiated. */
  maxPayload?: number | undefined;
  /**
   * A packet that cannot be read is an error (false, the default), or comes as `unrecognized` or `malformed` (true).
   * Frames that cannot be cut are an error in any case.
   */
  lenient?: boolean | undefined;
  /**
   * The memory of the chunks is used again once parse() has returned (true), so nothing of a packet may be a view of it:
   * bytes are copied, once, and packets have no `raw`. Default false: the chunks belong to the packets from then on.
   */
  reusedChunks?: boolean | undefined;
}

/** Reads one direction of a conversation. */
export class Parser<U extends PacketBase> implements FrameSink {
  readonly #codec: Codec<U>;
  readonly #framer: Framer;
  readonly #lenient: boolean;
  readonly #reusedChunks: boolean;
  #chunk: Buffer | undefined;
  #sink: PacketSink<U | OddPacket> | undefined;

  constructor(codec: Codec<U>, options: ParserOptions = {}) {
    this.#codec = codec;
    this.#framer = new Framer(options.maxPayload);
    this.#lenient = options.lenient === true;
    this.#reusedChunks = options.reusedChunks === true;
  }

  /**
   * Reads a chunk; the packets that end in it go to the sink. Without `reusedChunks` the chunk belongs to them from now
   * on, and must not be written to any more.
   * @param length how many of the chunk's bytes count; default: all
   */
  parse(chunk: Buffer, sink: PacketSink<U | OddPacket>, length = chunk.length): void {
    this.#sink = sink;
    this.#chunk = chunk;
    try {
      this.#framer.push(chunk, this, length);
    } finally {
      this.#sink = this.#chunk = undefined;
    }
  }

  /** Says that no more bytes come. @throws MilterError ERR_MILTER_TRUNCATED inside a packet */
  end(): void {
    this.#framer.end();
  }

  /** What has come of a packet that is not whole yet: a copy. */
  unfinished(): Buffer {
    return this.#framer.unfinished();
  }

  /** What the framer calls. */
  frame(buffer: Buffer, start: number, end: number): void {
    const sink = this.#sink as PacketSink<U | OddPacket>;
    const passing = this.#reusedChunks && buffer === this.#chunk; // a torn packet was gathered into memory of its own
    sink.packet(
      this.#lenient
        ? this.#readLeniently(buffer, start, end, passing)
        : this.#codec.read(buffer, start, end, false, passing),
    );
  }

  #readLeniently(buffer: Buffer, start: number, end: number, passing: boolean): U | OddPacket {
    const code = buffer[start + 4] as number;
    const view = buffer.subarray(start, end);
    if (this.#codec.typeOf(code) === undefined) {
      const bytes = passing ? Buffer.from(view) : view;
      return withRaw({ type: 'unrecognized', code, payload: bytes.subarray(5) }, bytes, passing);
    }
    try {
      return this.#codec.read(buffer, start, end, true, passing);
    } catch (error) {
      return withRaw({ type: 'malformed', code, error: error as MilterError }, view, passing);
    }
  }
}

function withRaw<P extends OddPacket>(packet: P, raw: Buffer, passing: boolean): P {
  return passing ? packet : Object.defineProperty(packet, 'raw', { value: raw });
}

/** A parser of what a mail server sends. */
export function commandParser(options?: ParserOptions): Parser<Command> {
  return new Parser(commandCodec, options);
}

/** A parser of what a milter answers. */
export function replyParser(options?: ParserOptions): Parser<Reply> {
  return new Parser(replyCodec, options);
}
