/**
 * What a factory and its workers say to each other. A message is a batch: everything that one turn of the event loop
 * brought, in order. The worker answers each batch with one of its own, if only an empty one, so that the factory sees
 * whether it is still at work. A number names the tenant: the session, or the object of a callInThread, it is about.
 */
import type { MacroPair } from '../codec/fields.js';
import type { Reply } from '../codec/replies.js';
import type { Answer } from '../session/host.js';
import type { Agreement } from '../session/negotiate.js';
import type { CheckedOptions, Logger } from '../session/options.js';
import type { StageCommand } from '../stages.js';
import type { PackedDetails, PackedError } from './portable.js';

/** What a worker is told first. */
export interface WorkerStart {
  /** The URL of the module that has the class. */
  readonly module: string;
  /** The class's name. */
  readonly className: string;
  /** Whether the connections that it reads itself may be read into one buffer. */
  readonly sharedReads: boolean;
  /** What the worker is called in log lines. */
  readonly worker: string;
  readonly options: Omit<CheckedOptions, 'log'> & { readonly log: undefined };
}

/** A callback to be run, and what it may ask its session. */
export interface RemoteCall {
  readonly number: number;
  readonly command:
    StageCommand | { readonly type: 'abort'; readonly interrupted: boolean } | { readonly type: 'close' };
  /** The macros of the command. */
  readonly macros: readonly MacroPair[];
  /** All macros that are live. */
  readonly live: readonly MacroPair[];
  readonly agreement: Agreement | undefined;
  readonly bodySkipped: boolean;
}

/** What came of it. */
export interface RemoteResult {
  readonly answer: Answer;
  readonly edits?: { readonly replies: readonly Reply[]; readonly body: readonly Uint8Array[] | undefined };
}

/** How a session begins in a worker. */
export interface SessionStart {
  /** What an earlier worker has agreed on with the mail server. */
  readonly agreement?: Agreement;
}

export type ToWorker =
  | readonly ['start', WorkerStart]
  /** A session whose bytes the factory passes on. */
  | readonly ['open', tenant: number, SessionStart]
  /** A session whose socket comes with this message. */
  | readonly ['socket', tenant: number]
  /** Whole packets from the mail server. */
  | readonly ['bytes', tenant: number, Uint8Array]
  /** So many bytes of replies have been passed on. */
  | readonly ['taken', tenant: number, bytes: number]
  | readonly ['end', tenant: number]
  | readonly ['lost', tenant: number, why: PackedError]
  | readonly ['drain', tenant: number]
  | readonly ['destroy', tenant: number]
  /** An object for callInThread. */
  | readonly ['object', tenant: number]
  | readonly ['call', tenant: number, RemoteCall]
  /** Nothing waits for what the object is at work on. */
  | readonly ['detach', tenant: number]
  /** The object is not needed any more. */
  | readonly ['forget', tenant: number]
  /** To be answered, like every batch. */
  | readonly ['pulse']
  | readonly ['stop'];

export type FromWorker =
  | readonly ['ready']
  /** It could not start. */
  | readonly ['failed', PackedError]
  /** teardown() failed. */
  | readonly ['unclean', PackedError]
  /** What it is about to die of. */
  | readonly ['dying', PackedError]
  | readonly ['log', level: keyof Logger, details: PackedDetails, text: string]
  | FromTenant;

export type FromTenant =
  /** Whole packets for the mail server. */
  | readonly ['bytes', tenant: number, Uint8Array]
  /** So many bytes of commands have been handled. */
  | readonly ['taken', tenant: number, bytes: number]
  /** The socket has arrived. */
  | readonly ['took', tenant: number]
  | readonly ['report', tenant: number, PackedError]
  | readonly ['closed', tenant: number, PackedError | undefined]
  | readonly ['progress', tenant: number]
  | readonly ['returned', tenant: number, call: number, RemoteResult]
  | readonly ['threw', tenant: number, call: number, PackedError];

/** Bytes that travel alone: a view would take the whole chunk with it, which it was cut from. */
export function alone(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}

/** Bytes that have arrived. */
export function arrived(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
