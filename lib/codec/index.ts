/** `milter-stream/codec`: packets as pure functions, both directions, without any stream. */
import { MILTER_MDS_1M, MILTER_MDS_64K } from '../constants.js';
import { MilterError } from '../errors.js';
import { commandCodec, type Command } from './commands.js';
import { Framer } from './framer.js';
import { checkMaxPayload } from './limit.js';
import { replyCodec, type Reply } from './replies.js';
import type { Codec, PacketBase } from './table.js';

export type * from './commands.js';
export type * from './replies.js';
export type { MacroPair, SymbolList } from './fields.js';
export { Framer, type FrameSink } from './framer.js';
export {
  commandParser,
  replyParser,
  type MalformedPacket,
  type OddPacket,
  type PacketSink,
  type Parser,
  type ParserOptions,
  type UnrecognizedPacket,
} from './parser.js';
export { plainAddress } from './peer.js';
export { formatSmtpReply, parseSmtpReply, type SmtpReply } from './smtp-reply.js';
export { toBytes, toText } from './text.js';
export { MilterError, type MilterErrorCode } from '../errors.js';

/**
 * The bytes of a command, length included.
 * @param maxPayload largest payload allowed, in bytes without the code; 65,535 unless more was negotiated
 * @throws MilterError ERR_MILTER_VALUE for a field no packet can carry, ERR_MILTER_TEXT, ERR_MILTER_PACKET_TOO_LARGE,
 *   ERR_MILTER_OPTION for maxPayload
 */
export function encodeCommand(command: Command, maxPayload: number = MILTER_MDS_64K): Buffer {
  return commandCodec.write(command, checkMaxPayload(maxPayload));
}

/**
 * The bytes of a reply, length included.
 * @param maxPayload largest payload allowed, in bytes without the code; 65,535 unless more was negotiated
 * @throws MilterError ERR_MILTER_VALUE for a field no packet can carry, ERR_MILTER_TEXT, ERR_MILTER_PACKET_TOO_LARGE,
 *   ERR_MILTER_OPTION for maxPayload
 */
export function encodeReply(reply: Reply, maxPayload: number = MILTER_MDS_64K): Buffer {
  return replyCodec.write(reply, checkMaxPayload(maxPayload));
}

/**
 * The command in a buffer that holds exactly one.
 * @throws MilterError ERR_MILTER_TRUNCATED, ERR_MILTER_MALFORMED, ERR_MILTER_UNKNOWN_CODE, ERR_MILTER_EMPTY_PACKET,
 *   ERR_MILTER_PACKET_TOO_LARGE for what is no packet at all
 */
export function decodeCommand(bytes: Buffer): Command {
  return decodeOne(commandCodec, bytes);
}

/**
 * The reply in a buffer that holds exactly one.
 * @throws MilterError ERR_MILTER_TRUNCATED, ERR_MILTER_MALFORMED, ERR_MILTER_UNKNOWN_CODE, ERR_MILTER_EMPTY_PACKET,
 *   ERR_MILTER_PACKET_TOO_LARGE for what is no packet at all
 */
export function decodeReply(bytes: Buffer): Reply {
  return decodeOne(replyCodec, bytes);
}

function decodeOne<U extends PacketBase>(codec: Codec<U>, bytes: Buffer): U {
  const framer = new Framer(Math.max(bytes.length, MILTER_MDS_1M));
  const packets: U[] = [];
  framer.push(bytes, { frame: (buffer, start, end) => packets.push(codec.read(buffer, start, end)) });
  framer.end();
  if (packets.length !== 1) {
    throw new MilterError('ERR_MILTER_MALFORMED', `Expected the bytes of one packet, got ${packets.length}`, { bytes });
  }
  return packets[0] as U;
}
