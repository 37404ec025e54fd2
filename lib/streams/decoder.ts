/**
 * The streams that read: bytes in, packet objects out. A shell around the parser of the codec, so that whoever pipes
 * a socket gets what the session gets.
 *
 * The packets before a broken one are still delivered: an error waits until they have been read, and then destroys the
 * stream. readable-stream's Transform is not an instance of node:stream's; it works with pipeline, compose and finished.
 */
import createDebug from 'debug';
import { Transform } from 'readable-stream';
import type { Command } from '../codec/commands.js';
import { commandParser, replyParser, type OddPacket, type Parser, type ParserOptions } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import type { PacketBase } from '../codec/table.js';
import type { ObjectDecoder } from './types.js';

const debug = createDebug('milter:codec');

export interface DecoderOptions extends ParserOptions {
  /** How many packets may wait before the stream stops reading; default 16. */
  highWaterMark?: number | undefined;
}

class Decoder<U extends PacketBase> extends Transform {
  readonly #parser: Parser<U>;
  #failure: Error | undefined;

  constructor(parser: Parser<U>, highWaterMark: number | undefined) {
    super({ readableObjectMode: true, ...(highWaterMark !== undefined && { readableHighWaterMark: highWaterMark }) });
    this.#parser = parser;
  }

  packet(packet: U | OddPacket): void {
    if (debug.enabled) debug('read %s', packet.type);
    this.push(packet);
  }

  override _transform(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    try {
      this.#parser.parse(chunk, this);
    } catch (error) {
      this.#fail(error as Error);
      return;
    }
    done();
  }

  override _flush(done: (error?: Error) => void): void {
    try {
      this.#parser.end();
    } catch (error) {
      this.#fail(error as Error);
      return;
    }
    done();
  }

  /** Every packet that waited leaves through here; behind the last one comes the failure. */
  override read(size?: number): U | OddPacket | null {
    const packet = super.read(size) as U | OddPacket | null;
    this.#failNow();
    return packet;
  }

  /** The callback of the chunk is never called: nothing more is taken in. */
  #fail(error: Error): void {
    this.#failure = error;
    this.#failNow();
  }

  #failNow(): void {
    if (this.#failure !== undefined && this.readableLength === 0) this.destroy(this.#failure);
  }
}

/**
 * A Transform that turns the bytes a mail server sends into Command objects.
 * With `lenient`, what cannot be read comes as `unrecognized` or `malformed` objects.
 *
 * The stream fails with a MilterError: ERR_MILTER_EMPTY_PACKET, ERR_MILTER_PACKET_TOO_LARGE, ERR_MILTER_TRUNCATED (the
 * bytes ended inside a packet), and unless lenient ERR_MILTER_UNKNOWN_CODE and ERR_MILTER_MALFORMED.
 */
export function createDecoder(options: DecoderOptions & { lenient: true }): ObjectDecoder<Command | OddPacket>;
export function createDecoder(options?: DecoderOptions): ObjectDecoder<Command>;
export function createDecoder(options: DecoderOptions = {}): ObjectDecoder<Command | OddPacket> {
  return new Decoder(commandParser(options), options.highWaterMark);
}

/** createDecoder() for the other direction: the bytes a milter answers become Reply objects. */
export function createReplyDecoder(options: DecoderOptions & { lenient: true }): ObjectDecoder<Reply | OddPacket>;
export function createReplyDecoder(options?: DecoderOptions): ObjectDecoder<Reply>;
export function createReplyDecoder(options: DecoderOptions = {}): ObjectDecoder<Reply | OddPacket> {
  return new Decoder(replyParser(options), options.highWaterMark);
}
