export * from './constants.js';
export * from './names.js';
export { MilterError, type MilterErrorCode, type MilterErrorDetails } from './errors.js';
export { createDecoder, createReplyDecoder, type DecoderOptions } from './streams/decoder.js';
export { createCommandEncoder, createEncoder, type EncoderOptions } from './streams/encoder.js';
export type { ObjectDecoder, ObjectEncoder, ObjectReadable, ObjectWritable } from './streams/types.js';
export { toBytes, toText } from './codec/text.js';
export type * from './codec/commands.js';
export type * from './codec/replies.js';
export type { MalformedPacket, OddPacket, UnrecognizedPacket } from './codec/parser.js';
export { bareAddress } from './envelope.js';
export { createSession, type SessionStream } from './session/duplex.js';
export type { BodyOptions, BodySource } from './session/edits.js';
export type { MacroDict } from './session/macro-dict.js';
export { callInThread, noCallback, noReply } from './session/marks.js';
export type { ErrorPolicy, Logger, SessionOptions } from './session/options.js';
export {
  ForkMixin,
  MilterProtocol,
  ThreadMixin,
  type Family,
  type Lines,
  type MacroRequest,
  type ProtocolClass,
  type Result,
} from './session/protocol.js';
export type { ByteStream } from './session/spool.js';
export type { Stage } from './stages.js';
export {
  formatAddress,
  formatForPostfix,
  parseAddress,
  type InheritedSocket,
  type ListenAddress,
  type SocketAddress,
} from './address.js';
export { AsyncFactory } from './factories/async.js';
export { ForkFactory } from './factories/fork.js';
export { ThreadFactory } from './factories/thread.js';
export type { FactoryEvents } from './factories/factory.js';
export type { FactoryOptions } from './factories/options.js';
export { runFilter, type RunFilterOptions, type RunnableFactory } from './factories/service.js';
export { isMilterWorker } from './factories/worker-context.js';
