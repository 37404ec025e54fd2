/**
 * A milter for tests of workers that die. It does what the macro `do` of a command says, and tells at the end of a
 * message what it has heard, and where. Workers import this module, so it has no tests in it.
 */
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { threadId } from 'node:worker_threads';
import { MilterProtocol, type MacroDict, type Result } from '../../lib/index.js';

export interface MortalContext {
  /** A file that gets a line for each deed, when it is begun. */
  readonly trace: string;
}

/** Where this code runs: a process, or a thread of one. */
const here = `${process.pid}/${threadId}`;

const never = (): Promise<void> => new Promise(() => {});

type Deed = (milter: Mortal, argument: string) => Result;

const DEEDS: Readonly<Record<string, Deed>> = {
  /** Waits for good. */
  wait: never,
  throw() {
    setImmediate(() => {
      throw new Error('thrown outside of a callback');
    });
    return never();
  },
  reject() {
    void Promise.reject(new Error('rejected, and nobody looks'));
    return never();
  },
  exit: () => process.exit(3),
  /** Fills the heap. */
  fill() {
    const heap: unknown[] = [];
    for (;;) heap.push(Array.from({ length: 10_000 }, () => ({})));
  },
  /** Blocks for good. */
  block() {
    for (;;);
  },
  /** Blocks until a file is there. */
  hold(_milter, file) {
    while (!existsSync(file));
  },
  /** Goes on when a file is there. */
  async later(_milter, file) {
    while (!existsSync(file)) await new Promise(setImmediate);
  },
  /** Gives a body of fifty megabytes. */
  flood(milter) {
    milter.replBody(Buffer.alloc(50_000_000, 'a'));
  },
  /** Gives half of a new body, and a line in the trace. */
  half(milter) {
    milter.addHeader('X-Half', 'yes');
    async function* half(): AsyncGenerator<Buffer> {
      yield Buffer.alloc(1_000_000, 'a');
      appendFileSync(milter.context.trace, 'half is out\n');
      await never();
    }
    milter.replBody(half(), { stream: true });
  },
};

export class Mortal extends MilterProtocol<MortalContext> {
  static readonly module = import.meta.url;

  readonly #heard: string[] = [];

  #hear(stage: string, what: string, macros: MacroDict): Result {
    const { do: deed, with: argument = '', ...others } = macros;
    const words = [stage, what, ...Object.entries(others).map((pair) => pair.join('='))];
    this.#heard.push(words.filter((word) => word !== '').join(' '));
    if (deed === undefined) return undefined;
    appendFileSync(this.context.trace, `${stage} ${deed}\n`);
    return (DEEDS[deed] as Deed)(this, argument);
  }

  override connect(hostname: string, _family: string, _ip: string, _port: number, macros: MacroDict): Result {
    return this.#hear('connect', hostname, macros);
  }

  override helo(name: string, macros: MacroDict): Result {
    return this.#hear('helo', name, macros);
  }

  override mailFrom(address: string, macros: MacroDict): Result {
    return this.#hear('mailFrom', address, macros);
  }

  override rcpt(address: string, macros: MacroDict): Result {
    return this.#hear('rcpt', address, macros);
  }

  override data(macros: MacroDict): Result {
    return this.#hear('data', '', macros);
  }

  override header(name: string, _value: string, macros: MacroDict): Result {
    return this.#hear('header', name, macros);
  }

  override eoh(macros: MacroDict): Result {
    return this.#hear('eoh', '', macros);
  }

  override body(_chunk: Buffer, macros: MacroDict): Result {
    return this.#hear('body', '', macros);
  }

  override unknown(line: string, macros: MacroDict): Result {
    return this.#hear('unknown', line, macros);
  }

  override eob(macros: MacroDict): Result {
    const result = this.#hear('eob', '', macros);
    this.addHeader('X-Heard', this.#heard.splice(0).join('; '));
    this.addHeader('X-Where', here);
    return result;
  }
}

export const touch = (file: string): void => writeFileSync(file, '');

/** Dies when it is asked what it wants of a mail server; so many times, which it counts in a file. */
export class Stillborn extends MilterProtocol<{ readonly trace: string; readonly deaths: number }> {
  static readonly module = import.meta.url;

  constructor() {
    super();
    Object.defineProperty(this, 'unknown', {
      get: () => {
        const { trace, deaths } = this.context;
        appendFileSync(trace, 'x');
        if (readFileSync(trace).length <= deaths) process.exit(4);
        // oxlint-disable-next-line typescript/unbound-method -- it is called as a method again
        return super.unknown;
      },
    });
  }
}
