// Milters for the tests of callInThread. The threads have copies of `context`; the memory in it is shared.
import { Readable } from 'node:stream';
import { callInThread, MilterProtocol, REJECT, SKIP, SMFIP_SKIP, type MacroDict } from '../../lib/index.js';

export interface Shared {
  /** [0] a callback has begun, [1] it may go on. */
  readonly flags?: Int32Array;
}

/** Burns the processor, from mailFrom() until it is released. */
export class Burner extends MilterProtocol<Shared> {
  static readonly module = import.meta.url;

  @callInThread
  override mailFrom(address: string) {
    if (address !== '<burn@example.org>') return;
    const { flags } = this.context as Required<Shared>;
    Atomics.store(flags, 0, 1);
    while (Atomics.load(flags, 1) === 0);
  }

  override rcpt() {}
  override eob() {}
}

/** Says what marked callbacks can say, by what they are asked. */
export class Talker extends MilterProtocol<Shared, string> {
  static readonly module = import.meta.url;
  static readonly callInThread = ['helo', 'mailFrom', 'rcpt', 'header', 'body', 'eob', 'abort', 'close'];
  static readonly smfipOptions = SMFIP_SKIP;
  static setup = (): string => `set up ${++setups}`;

  #seen: string[] = [];
  #mine = 'untouched';

  override connect() {
    this.#mine = 'touched';
  }
  override helo(name: string) {
    this.#seen.push(`helo ${name}`);
    if (name === 'signal') void this.signal;
    if (name === 'throw') throw new TypeError('thrown there');
    if (name === 'exit') process.exit(7);
    if (name === 'late') return new Promise<void>(() => {});
    if (name === 'text') return this.setReply(550, '5.7.1', 'said there');
    if (name === 'nonsense') return 'nonsense' as 'reject';
    return name === 'function' ? ((() => {}) as unknown as 'reject') : undefined;
  }
  override mailFrom(address: string, macros: MacroDict, args: readonly string[]) {
    this.#seen.push(`mailFrom ${address} ${args.join()} ${macros['i']} ${macros['{i}']} ${this.macro('j')}`);
  }
  override rcpt(address: string) {
    return address === '<no@example.com>' ? REJECT : undefined;
  }
  override header(name: string, value: string) {
    this.#seen.push(`header ${name} ${value}`);
  }
  override body(chunk: Buffer) {
    this.#seen.push(`body ${Buffer.isBuffer(chunk)} ${chunk.toString().trim()}`);
    return SKIP;
  }
  override async eob() {
    this.progress();
    for (const seen of this.#seen) this.addHeader('X-Seen', seen);
    this.addHeader('X-State', `${this.#mine} ${this.bodySkipped} ${this.shared}`);
    if (this.#seen.includes('helo no edits')) throw new Error('eob there');
    if (this.#seen.includes('helo late eob')) await new Promise<void>(() => {});
    if (this.#seen.includes('helo headers alone')) return;
    this.replBody('first ');
    this.replBody(Buffer.from('second '));
    this.replBody(Readable.from(['third ']));
    this.replBody(Readable.from(['fourth']), { stream: true });
  }
  override async abort(interrupted: boolean) {
    if (interrupted) throw new Error('abort there');
  }
  override close() {
    if (this.#seen.includes('helo close')) throw new Error('close there');
  }
}

let setups = 0;

export class Unfound extends MilterProtocol {
  @callInThread
  override helo() {}
}
