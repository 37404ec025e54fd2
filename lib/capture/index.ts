/**
 * `milter-stream/capture`: what mail server and milter said to each other, kept in a file and read back.
 *
 *   readCapture(file)  ->  CaptureEvent  ->  decodeConversation()  ->  ConversationRecord
 *                              |
 *                        redactCapture(), writeCapture()
 *
 * Everything streams: what is held is what is torn, missing or open, never the file.
 */
export { Conversation, decodeConversation, type ConversationOptions } from './conversation.js';
export { readCapture, type ReadCaptureOptions } from './open.js';
export { redactCapture, type RedactOptions } from './redact.js';
export { nameOf, packetToJson, showEndpoint } from './show.js';
export { captureWriter, writeCapture, type CaptureFormat, type CaptureWriter } from './write.js';
export type * from './types.js';
export { MilterError, type MilterErrorCode } from '../errors.js';
