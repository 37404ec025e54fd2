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
}

/** Reads one direction of a conversation. */
export class Parser<U extends PacketBase> implements FrameSink {
  readonly #codec: Codec<U>;
  readonly #framer: Framer;
  readonly #lenient: boolean;
  #sink: PacketSink<U | OddPacket> | undefined;

  constructor(codec: Codec<U>, options: ParserOptions = {}) {
    this.#codec = codec;
    this.#framer = new Framer(options.maxPayload);
    this.#lenient = options.lenient === true;
  }

  /** Reads a chunk; the packets that end in it go to the sink. The chunk now belongs to them: it must not be reused. */
  parse(chunk: Buffer, sink: PacketSink<U | OddPacket>): void {
    this.#sink = sink;
    this.#framer.push(chunk, this);
    this.#sink = undefined;
  }

  /** Says that no more bytes come. @throws MilterError ERR_MILTER_TRUNCATED inside a packet */
  end(): void {
    this.#framer.end();
  }

  /** What the framer calls. */
  frame(buffer: Buffer, start: number, end: number): void {
    const sink = this.#sink as PacketSink<U | OddPacket>;
    sink.packet(this.#lenient ? this.#readLeniently(buffer, start, end) : this.#codec.read(buffer, start, end));
  }

  #readLeniently(buffer: Buffer, start: number, end: number): U | OddPacket {
    const code = buffer[start + 4] as number;
    if (this.#codec.typeOf(code) === undefined) {
      return withRaw({ type: 'unrecognized', code, payload: buffer.subarray(start + 5, end) }, buffer, start, end);
    }
    try {
      return this.#codec.read(buffer, start, end, true);
    } catch (error) {
      return withRaw({ type: 'malformed', code, error: error as MilterError }, buffer, start, end);
    }
  }
}

function withRaw<P extends OddPacket>(packet: P, buffer: Buffer, start: number, end: number): P {
  return Object.defineProperty(packet, 'raw', { value: buffer.subarray(start, end) });
}

/** A parser of what a mail server sends. */
export function commandParser(options?: ParserOptions): Parser<Command> {
  return new Parser(commandCodec, options);
}

/** A parser of what a milter answers. */
export function replyParser(options?: ParserOptions): Parser<Reply> {
  return new Parser(replyCodec, options);
}
