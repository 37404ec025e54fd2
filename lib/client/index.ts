/** `milter-stream/client`: the mail server's side. */
export { MilterClient } from './client.js';
export { Message, type MessageHeader } from './message.js';
export type { Envelope, Modification } from './modify.js';
export type { ClientMacros, ClientMessage, ClientOptions, ClientPeer, MessageResult, Outcome, Step } from './types.js';
export { MilterError, type MilterErrorCode } from '../errors.js';
