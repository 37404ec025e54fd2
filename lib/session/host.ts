/**
 * What stands between a session and one protocol object: which callback runs, what it has said and gathered so far.
 * A detached host refuses everything: the session has given up on its object.
 */
import { formatSmtpReply } from '../codec/smtp-reply.js';
import { CONTINUE, REJECT, SKIP, TEMPFAIL, type Verdict } from '../constants.js';
import { MilterError } from '../errors.js';
import { Edits } from './edits.js';
import type { MacroStore } from './macros.js';
import type { Agreement } from './negotiate.js';
import type { CheckedOptions } from './options.js';
import type { Host, Lines } from './protocol.js';
import type { Stage } from '../stages.js';

/** What a host needs of its session. */
export interface HostSession {
  readonly options: CheckedOptions;
  readonly shared: unknown;
  readonly macros: Pick<MacroStore, 'get'>;
  readonly agreement: Agreement | undefined;
  readonly signal: AbortSignal;
  readonly bodySkipped: boolean;
  sendProgress(): void;
}

/** A verdict, and the SMTP reply that goes with it if there is one. */
export interface Answer {
  readonly verdict: Verdict;
  readonly text?: string;
}

/** What most callbacks say. */
const GO_ON: Answer = { verdict: CONTINUE };

export class ProtocolHost implements Host {
  /** The callback that runs. */
  stage: Stage | 'abort' | 'close' | undefined;
  detached = false;

  readonly #session: HostSession;
  #reply: { verdict: typeof REJECT | typeof TEMPFAIL; text: string } | undefined;
  #skipped = false;
  #edits: Edits | undefined;

  constructor(session: HostSession) {
    this.#session = session;
  }

  get context(): unknown {
    return this.#session.options.context;
  }

  get shared(): unknown {
    return this.#session.shared;
  }

  get signal(): AbortSignal {
    return this.#session.signal;
  }

  get bodySkipped(): boolean {
    return this.#session.bodySkipped;
  }

  /** A callback starts: nothing that an earlier one said counts. */
  enter(stage: Stage | 'abort' | 'close'): void {
    this.stage = stage;
    this.#reply = undefined;
    this.#skipped = false;
  }

  /** What the callback's return value means together with what it has called. */
  answer(returned: Verdict | void): Answer {
    const reply = this.#reply;
    const skipped = this.#skipped;
    if (reply === undefined && !skipped && (returned === undefined || returned === CONTINUE)) return GO_ON;
    if (returned === undefined) return reply ?? { verdict: SKIP };
    if (reply !== undefined && returned === reply.verdict) return reply;
    if (reply !== undefined) {
      const details = { stage: this.stage, returned, reply: reply.text };
      this.#session.options.log.warn(details, `setReply() is not used: the callback returned '${returned}'`);
    }
    return { verdict: returned === CONTINUE && skipped ? SKIP : returned };
  }

  /** The edits that eob() has gathered; from now on there are none. */
  takeEdits(): Edits | undefined {
    const edits = this.#edits;
    this.#edits = undefined;
    return edits;
  }

  edits(method: string): Edits {
    this.#attached(method);
    this.#within(method, 'eob');
    const { options, agreement } = this.#session;
    const { actions, maxPayload } = agreement as Agreement;
    return (this.#edits ??= new Edits({ ...options, actions, maxPayload }));
  }

  setReply(rcode: number | string, xcode: string, message: Lines): typeof REJECT | typeof TEMPFAIL {
    this.#attached('setReply');
    if (this.stage === undefined || this.stage === 'abort' || this.stage === 'close') {
      throw wrongStage('setReply', 'works in a callback that is answered', this.stage);
    }
    const text = formatSmtpReply(rcode, xcode, message);
    const verdict = text.startsWith('5') ? REJECT : TEMPFAIL;
    this.#reply = { verdict, text };
    return verdict;
  }

  skip(): typeof SKIP {
    this.#attached('skip');
    this.#within('skip', 'body');
    this.#skipped = true;
    return SKIP;
  }

  progress(): void {
    this.#attached('progress');
    this.#within('progress', 'eob');
    this.#session.sendProgress();
  }

  macro(name: string): string | undefined {
    this.#attached('macro');
    return this.#session.macros.get(name);
  }

  #attached(method: string): void {
    if (!this.detached) return;
    throw new MilterError('ERR_MILTER_DETACHED', `${method}(): the session has given up on this object`);
  }

  #within(method: string, stage: Stage): void {
    if (this.stage !== stage) throw wrongStage(method, `works in ${stage}() only`, this.stage);
  }
}

function wrongStage(method: string, rule: string, stage: string | undefined): MilterError {
  const where = stage === undefined ? 'outside every callback' : `in ${stage}()`;
  const details = stage === undefined ? {} : { stage };
  return new MilterError('ERR_MILTER_WRONG_STAGE', `${method}() ${rule}; it was called ${where}`, details);
}
