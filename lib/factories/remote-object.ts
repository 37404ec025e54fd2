/**
 * callInThread, in the thread: the double of a protocol object. It works through a host like any other, whose session is
 * what the call has brought along; what the callback has said and gathered goes back with its end.
 */
import { CONTINUE } from '../constants.js';
import { MilterError } from '../errors.js';
import { call } from '../session/call.js';
import type { BodyPart, Edits } from '../session/edits.js';
import { ProtocolHost, type HostSession } from '../session/host.js';
import { makeDict, NO_MACROS, type MacroDict } from '../session/macro-dict.js';
import type { MilterClass } from '../session/milter-class.js';
import type { Agreement } from '../session/negotiate.js';
import type { CheckedOptions } from '../session/options.js';
import type { MilterProtocol } from '../session/protocol.js';
import { chunkBytes, Spool } from '../session/spool.js';
import { scopeOfAnswer } from '../session/verdicts.js';
import type { StageCommand } from '../stages.js';
import { alone, arrived, type FromTenant, type RemoteCall, type RemoteResult } from './messages.js';
import { packError } from './portable.js';

/** What the host of a double sees of the session. */
class CarriedSession implements HostSession {
  readonly options: CheckedOptions;
  readonly shared: unknown;
  readonly sendProgress: () => void;
  readonly macros = { get: (name: string): string | undefined => this.#live[name] };
  agreement: Agreement | undefined;
  bodySkipped = false;
  #live: MacroDict = NO_MACROS;

  constructor(options: CheckedOptions, shared: unknown, sendProgress: () => void) {
    this.options = options;
    this.shared = shared;
    this.sendProgress = sendProgress;
  }

  update(call: RemoteCall): void {
    this.agreement = call.agreement;
    this.bodySkipped = call.bodySkipped;
    this.#live = makeDict(call.live);
  }

  get signal(): AbortSignal {
    throw new MilterError(
      'ERR_MILTER_UNSUPPORTED',
      'signal cannot be cloned, so a callback marked with callInThread has none',
    );
  }
}

export class RemoteObject {
  readonly #tenant: number;
  readonly #class: MilterClass;
  readonly #post: (message: FromTenant) => void;
  readonly #session: CarriedSession;
  readonly #host: ProtocolHost;
  #milter: MilterProtocol | undefined;

  constructor(tenant: number, milterClass: MilterClass, shared: unknown, post: (message: FromTenant) => void) {
    this.#tenant = tenant;
    this.#class = milterClass;
    this.#post = post;
    this.#session = new CarriedSession(milterClass.options, shared, () => post(['progress', tenant]));
    this.#host = new ProtocolHost(this.#session);
  }

  /** Its session has given up on it. */
  detach(): void {
    this.#host.detached = true;
  }

  async call(request: RemoteCall): Promise<void> {
    const { number } = request;
    this.#session.update(request);
    this.#host.enter(request.command.type);
    try {
      this.#milter ??= this.#class.open(this.#host);
      this.#post(['returned', this.#tenant, number, await this.#run(this.#milter, request)]);
    } catch (error) {
      this.#host.takeEdits()?.discard();
      this.#post(['threw', this.#tenant, number, packError(error)]);
    } finally {
      this.#host.stage = undefined;
    }
  }

  async #run(milter: MilterProtocol, { command, macros }: RemoteCall): Promise<RemoteResult> {
    if (command.type === 'abort' || command.type === 'close') {
      await (command.type === 'abort' ? milter.abort(command.interrupted) : milter.close());
      return { answer: { verdict: CONTINUE } };
    }
    const answer = this.#host.answer(await call(milter, revived(command), makeDict(macros)));
    scopeOfAnswer(answer, command.type);
    const edits = this.#host.takeEdits();
    if (edits === undefined) return { answer };
    return { answer, edits: { replies: edits.replies, body: await bodyOf(edits) } };
  }
}

/** A Buffer does not survive the journey as one. */
function revived(command: StageCommand): StageCommand {
  return command.type === 'body' ? { type: 'body', chunk: arrived(command.chunk) } : command;
}

/** The new body, whole: streams do not travel. */
async function bodyOf(edits: Edits): Promise<Uint8Array[] | undefined> {
  if (edits.body === undefined) return undefined;
  const chunks: Uint8Array[] = [];
  for (const part of edits.body) for await (const chunk of piecesOf(part)) chunks.push(alone(chunk));
  edits.discard();
  return chunks;
}

async function* piecesOf(part: BodyPart): AsyncGenerator<Buffer> {
  if (Buffer.isBuffer(part)) {
    yield part;
  } else if (part instanceof Spool) {
    await part.ready;
    yield* part.chunks(65_536);
  } else {
    for await (const chunk of part.live) yield chunkBytes(chunk);
  }
}
