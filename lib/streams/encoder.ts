/** The streams that write: packet objects in, bytes out. */
import createDebug from 'debug';
import { Transform } from 'readable-stream';
import { commandCodec, type Command } from '../codec/commands.js';
import { checkMaxPayload } from '../codec/limit.js';
import { replyCodec, type Reply } from '../codec/replies.js';
import type { Codec, PacketBase } from '../codec/table.js';
import { MILTER_MDS_64K } from '../constants.js';
import type { ObjectEncoder } from './types.js';

const debug = createDebug('milter:codec');

export interface EncoderOptions {
  /** Largest payload that is written, in bytes without the code; default 65,535, what a peer takes without asking. */
  maxPayload?: number | undefined;
  /** How many packets may wait before write() returns false; default 16. */
  highWaterMark?: number | undefined;
}

class Encoder<U extends PacketBase> extends Transform {
  readonly #codec: Codec<U>;
  readonly #maxPayload: number;

  constructor(codec: Codec<U>, { maxPayload = MILTER_MDS_64K, highWaterMark }: EncoderOptions) {
    super({ writableObjectMode: true, ...(highWaterMark !== undefined && { writableHighWaterMark: highWaterMark }) });
    this.#codec = codec;
    this.#maxPayload = checkMaxPayload(maxPayload);
  }

  override _transform(packet: U, _encoding: string, done: (error: Error | null, bytes?: Buffer) => void): void {
    let bytes: Buffer;
    try {
      bytes = this.#codec.write(packet, this.#maxPayload);
    } catch (error) {
      done(error as Error);
      return;
    }
    if (debug.enabled) debug('write %s', packet.type);
    done(null, bytes);
  }
}

/**
 * A Transform that turns Reply objects into the bytes a milter sends. `raw` is not looked at: the fields are encoded.
 *
 * The stream fails with a MilterError: ERR_MILTER_VALUE (a type or a field that no packet can carry), ERR_MILTER_TEXT,
 * ERR_MILTER_PACKET_TOO_LARGE.
 */
export function createEncoder(options: EncoderOptions = {}): ObjectEncoder<Reply> {
  return new Encoder(replyCodec, options);
}

/** createEncoder() for the other direction: Command objects become the bytes a mail server sends. */
export function createCommandEncoder(options: EncoderOptions = {}): ObjectEncoder<Command> {
  return new Encoder(commandCodec, options);
}
