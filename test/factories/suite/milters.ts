// The milters of the suite. They may run in another thread or process, so the test says as data what a callback does;
// they report their calls in a file, a line for each, and wait on a socket for the test to let them go on.
import { once } from 'node:events';
import { appendFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { threadId } from 'node:worker_threads';
import {
  MilterProtocol,
  noCallback,
  noReply,
  REJECT,
  SMFIF_ADDHDRS,
  SMFIP_SKIP,
  TEMPFAIL,
  type ErrorPolicy,
  type MacroRequest,
  type Result,
  type Stage,
  type Verdict,
} from '../../../lib/index.js';
import { STAGE_NAMES as STAGES } from '../../../lib/stages.js';

/** What a callback does. */
export type Deed =
  /** Goes on in another turn of the loop. */
  | readonly ['tick']
  /** Goes on when the test lets it. */
  | readonly ['hold']
  | readonly ['never']
  /** Goes on when the signal is aborted, and reports why it was. */
  | readonly ['aborted']
  /** The verdict; nothing follows. */
  | readonly ['say', Verdict | number]
  | readonly ['throw', message: string]
  /** Throws what is no Error. */
  | readonly ['throwText', message: string]
  /** Calls a method. */
  | readonly ['call', method: string, ...args: unknown[]]
  /** Gives replBody() so many bytes, so often. */
  | readonly ['body', bytes: number, times?: number]
  | readonly ['report', what: 'context' | 'shared' | 'where' | 'arguments']
  /** Reports a macro of any stage. */
  | readonly ['macro', name: string]
  /** Does something the first time only, in this runtime. */
  | readonly ['first', Deed]
  /** Does something where the first argument of the callback is this. */
  | readonly ['of', argument: string, Deed];

type Moment = Stage | 'abort' | 'close' | 'made' | 'setup' | 'teardown';

/** What the callbacks do: those that are not here are not overridden. */
export type Script = Readonly<Partial<Record<Moment, readonly Deed[]>>>;

export interface Direction {
  readonly script: Script;
  /** The file for the calls. */
  readonly report: string;
  /** The Unix socket on which the test holds the strings. */
  readonly strings: string;
  /** Something that the test looks for in `this.context` and `this.shared`. */
  readonly gift?: unknown;
}

/** What the sessions of a runtime share. */
export interface Shared {
  readonly context: Direction;
  readonly strings: Strings;
  readonly gift: unknown;
  /** Which deeds have been done that are done once. */
  readonly done: Set<string>;
}

/** The puppets' end of the socket. */
class Strings {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, () => void>();
  #count = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
    // The test says which one may go on.
    const lines = createInterface(socket).on('line', (line) => this.#waiting.get(Number(line))?.());
    for (const each of [socket, lines]) each.on('error', () => {}); // the test is over
  }

  static async attach(path: string): Promise<Strings> {
    const socket = connect(path);
    await once(socket, 'connect');
    return new Strings(socket);
  }

  hold(what: string): Promise<void> {
    const number = ++this.#count;
    this.#socket.write(`${JSON.stringify([number, what])}\n`);
    return new Promise((resolve) => this.#waiting.set(number, resolve));
  }

  cut(): void {
    this.#socket.destroy();
  }
}

function report(context: Direction, what: unknown): void {
  appendFileSync(context.report, `${JSON.stringify(what)}\n`);
}

/** Who does the deeds of a moment, and with what. */
interface Scene {
  readonly moment: Moment;
  readonly context: Direction;
  readonly shared: Shared;
  readonly milter: Puppet | undefined;
  readonly args: readonly unknown[];
}

/** Does them one after the other; a promise only where one of them has to be waited for. */
function perform(deeds: readonly Deed[], scene: Scene, from = 0): Result {
  for (let i = from; i < deeds.length; i++) {
    const result = doOne(deeds[i] as Deed, scene);
    if (result instanceof Promise) return result.then((verdict) => verdict ?? perform(deeds, scene, i + 1));
    if (result !== undefined) return result;
  }
  return undefined;
}

function doOne(deed: Deed, scene: Scene): Promise<Verdict | void> | Verdict | void {
  const { moment, context, shared, args } = scene;
  const milter = scene.milter as Puppet;
  switch (deed[0]) {
    case 'tick':
      return new Promise((resolve) => setImmediate(resolve));
    case 'hold':
      return shared.strings.hold(moment);
    case 'never':
      return new Promise(() => {});
    case 'aborted':
      return aborted(milter.signal).then((reason) => report(context, ['aborted', ...reason]));
    case 'say':
      return deed[1] as Verdict;
    case 'throw':
      throw new Error(deed[1]);
    case 'throwText':
      throw deed[1] as unknown as Error;
    case 'call':
      return (milter as unknown as Record<string, (...given: unknown[]) => Verdict>)[deed[1]]?.(...deed.slice(2));
    case 'body':
      for (let i = 0; i < (deed[2] ?? 1); i++) milter.replBody(Buffer.alloc(deed[1], 'z'));
      return undefined;
    case 'report':
      report(context, [deed[1], seen(deed[1], scene)]);
      return undefined;
    case 'macro':
      report(context, [deed[1], milter.macro(deed[1])]);
      return undefined;
    case 'first': {
      const name = JSON.stringify([moment, deed[1]]);
      if (shared.done.has(name)) return undefined;
      shared.done.add(name);
      return doOne(deed[1], scene);
    }
    case 'of':
      return args[0] === deed[1] ? doOne(deed[2], scene) : undefined;
  }
}

function seen(what: 'context' | 'shared' | 'where' | 'arguments', { context, shared, args }: Scene): unknown {
  if (what === 'context') return context.gift;
  if (what === 'shared') return shared.gift;
  return what === 'where' ? `${process.pid}/${threadId}` : args;
}

async function aborted(signal: AbortSignal): Promise<unknown[]> {
  if (!signal.aborted) await once(signal, 'abort');
  const { code, cause } = signal.reason as { code: string; cause?: { code?: string } };
  return cause?.code === undefined ? [code] : [code, cause.code];
}

/** What a runtime does before its first session and after its last. */
async function atBorder(moment: 'setup' | 'teardown', shared: Shared): Promise<void> {
  const { context } = shared;
  const deeds = context.script[moment];
  if (deeds === undefined) return;
  report(context, moment);
  await perform(deeds, { moment, context, shared, milter: undefined, args: [] });
}

/** Has the callbacks of its script and no others, but for abort() and close(). Reports them all. */
export class Puppet extends MilterProtocol<Direction, Shared> {
  static module = import.meta.url;

  static async setup(context: Direction): Promise<Shared> {
    const strings = await Strings.attach(context.strings);
    const shared = { context, strings, gift: context.gift, done: new Set<string>() };
    try {
      await atBorder('setup', shared);
    } catch (error) {
      strings.cut();
      throw error;
    }
    return shared;
  }

  static async teardown(shared: Shared): Promise<void> {
    try {
      await atBorder('teardown', shared);
    } finally {
      shared.strings.cut();
    }
  }

  constructor() {
    super();
    const { made = [], ...callbacks } = this.context.script;
    void this.#perform('made', made, []);
    for (const stage of STAGES) {
      const deeds = callbacks[stage];
      if (deeds === undefined) continue;
      this[stage] = (...args: unknown[]) => this.#play(stage, deeds, args);
    }
  }

  override abort(interrupted: boolean): void | PromiseLike<void> {
    report(this.context, `abort ${interrupted}`);
    return this.#perform('abort', this.context.script.abort ?? [], [interrupted]) as void;
  }

  override close(): void | PromiseLike<void> {
    report(this.context, 'close');
    return this.#perform('close', this.context.script.close ?? [], []) as void;
  }

  #play(stage: Stage, deeds: readonly Deed[], args: readonly unknown[]): Result {
    report(this.context, stage);
    return this.#perform(stage, deeds, args);
  }

  #perform(moment: Moment, deeds: readonly Deed[], args: readonly unknown[]): Result {
    const { context, shared } = this;
    return perform(deeds, { moment, context, shared, milter: this, args });
  }
}

/** Says on the class what it wants of the mail server. */
export class Demanding extends Puppet {
  static override module = import.meta.url;
  static macros: MacroRequest = { connect: ['j'], eob: ['i', 'client_addr'] };
  static noReply = ['header'];
  static noCallback = ['rcpt'];
  static smfipOptions = SMFIP_SKIP;
  static required = SMFIF_ADDHDRS;
}

/** Says the same of its callbacks by decorators. */
export class Decorated extends Puppet {
  static override module = import.meta.url;

  @noReply override header(): Result {
    report(this.context, 'header');
  }
  @noCallback override rcpt(): Result {
    report(this.context, 'rcpt');
  }
}

/** Says on the class what becomes of its failures. */
export class Forgiving extends Puppet {
  static override module = import.meta.url;
  static errorPolicy: ErrorPolicy = (_error, { stage }) => (stage === 'mailFrom' ? REJECT : TEMPFAIL);
}

/** Says nothing of where it lives: its module is that of the class it extends. */
export class Homeless extends Puppet {}
