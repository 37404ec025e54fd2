/**
 * Where callbacks run that are marked with callInThread: each protocol object has a double in another thread, which the
 * marked callbacks are called on.
 */
import type { MacroPair } from '../codec/fields.js';
import type { Reply } from '../codec/replies.js';
import type { StageCommand } from '../stages.js';
import type { Answer, HostSession } from './host.js';
import type { MacroDict } from './macro-dict.js';

export interface Elsewhere {
  /** The double of an object; made when it is first needed. */
  open(session: HostSession): RemoteMilter;
}

/** What came of a callback. */
export interface RemoteAnswer {
  readonly answer: Answer;
  readonly edits?: { readonly replies: readonly Reply[]; readonly body: Buffer[] | undefined };
}

export interface RemoteMilter {
  /**
   * Calls a callback.
   * @param live all macros that macro() finds
   */
  call(command: StageCommand, macros: MacroDict, live: readonly MacroPair[]): Promise<RemoteAnswer>;
  abort(interrupted: boolean): Promise<void>;
  close(): Promise<void>;
  /** Nobody waits for what it is at work on. */
  giveUp(): void;
  /** Nobody calls it any more. */
  end(): void;
}
