/** `milter-stream/client`: the mail server's side. */
export { MilterClient } from './client.js';
export { MilterChain, type ChainedMilter } from './chain.js';
export { smtpReply } from './default-action.js';
export { MailSession } from './mail-session.js';
export { Message, type MessageHeader } from './message.js';
export type { Body } from './body.js';
export type { Envelope, Modification } from './modify.js';
export type {
  ClientMacros,
  ClientMessage,
  ClientOptions,
  ClientPeer,
  MessageExtras,
  MessageResult,
  MessageSource,
  Outcome,
  StageExtras,
  StageResult,
  Step,
} from './types.js';
export type { SmtpReply } from '../codec/smtp-reply.js';
export { MilterError, type MilterErrorCode } from '../errors.js';
