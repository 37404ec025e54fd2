// The test's end of the strings: a factory under test whose milters do what the test says, and all that they told.
import { EventEmitter, once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import type { FactoryOptions, ProtocolClass } from '../../../lib/index.js';
import type { MilterError } from '../../../lib/errors.js';
import { connections, dial, type Dialled } from '../../helpers/dial.js';
import { shortFolder } from '../../helpers/folder.js';
import type { Factory, Variant } from '../../helpers/variants.js';
import { Puppet, type Direction, type Script, type Shared } from './milters.js';

/** A part of the suite: tests that every factory must pass. */
export type Part = (t: Test, variant: Variant) => void;

export interface PuppetOptions extends Omit<FactoryOptions, 'context'> {
  /** Where it listens. */
  readonly where?: string;
  readonly Milter?: ProtocolClass<Direction, Shared>;
  readonly gift?: unknown;
}

/** Lets a callback that is held go on. */
type Release = () => void;

export class Puppets {
  readonly factory: Factory;
  /** What it told in sessionError events, but for what failure() has taken. */
  readonly errors: MilterError[] = [];

  readonly #t: Test;
  readonly #strings: Server;
  readonly #report: string;
  readonly #held: Array<readonly [what: string, Release]> = [];
  readonly #news = new EventEmitter();

  constructor(t: Test, variant: Variant, script: Script, options: PuppetOptions) {
    const { where = 'inet:0@127.0.0.1', Milter = Puppet, gift, ...others } = options;
    const folder = shortFolder(t);
    this.#t = t;
    this.#report = `${folder}/report`;
    writeFileSync(this.#report, '');
    const context: Direction = { script, report: this.#report, strings: `${folder}/strings`, gift };
    this.factory = variant.make(where, Milter, { ...others, context });
    this.factory.on('sessionError', (error) => {
      this.errors.push(error);
      this.#news.emit('failure');
    });
    this.#strings = createServer((socket) => this.#listen(socket)).listen(context.strings);
    t.teardown(() => this.over());
  }

  /** Ends everything at once. */
  async over(): Promise<void> {
    await Promise.all([this.factory.close(), this.factory.close()]);
    this.#strings.close();
  }

  /** What the milters have reported so far, in order. A call is there before its reply. */
  calls(): unknown[] {
    const lines = readFileSync(this.#report, 'utf8').split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line) as unknown);
  }

  /** How often it was called. */
  count(call: string): number {
    return this.calls().filter((each) => each === call).length;
  }

  /** Resolves when a callback of this name is held; gives what lets it go on. */
  async held(what: string): Promise<Release> {
    for (;;) {
      const found = this.#held.findIndex(([name]) => name === what);
      if (found >= 0) return (this.#held.splice(found, 1)[0] as readonly [string, Release])[1];
      await once(this.#news, 'held');
    }
  }

  /** The next failure that it tells of. */
  async failure(): Promise<MilterError> {
    while (this.errors.length === 0) await once(this.#news, 'failure');
    return this.errors.shift() as MilterError;
  }

  /** A mail server that is connected. */
  dial(): Promise<Dialled> {
    return dial(this.#t, this.factory);
  }

  /** A mail server with which everything has been agreed. */
  async agreed(): Promise<Dialled> {
    const dialled = await this.dial();
    await dialled.mta.negotiate();
    return dialled;
  }

  /** Resolves when nobody is connected any more, and all that there was to tell has been told. */
  async alone(): Promise<void> {
    await connections(this.factory, 0);
  }

  #listen(socket: Socket): void {
    const lines = createInterface(socket).on('line', (line) => {
      const [number, what] = JSON.parse(line) as [number, string];
      this.#held.push([what, () => void socket.write(`${number}\n`)]);
      this.#news.emit('held');
    });
    for (const each of [socket, lines]) each.on('error', () => {}); // the worker was ended
  }
}

/** A factory that does not run yet, and is closed when the test is over. */
export function puppets(t: Test, variant: Variant, script: Script = {}, options: PuppetOptions = {}): Puppets {
  return new Puppets(t, variant, script, options);
}

/** One that runs. */
export async function playing(
  t: Test,
  variant: Variant,
  script: Script = {},
  options: PuppetOptions = {},
): Promise<Puppets> {
  const play = puppets(t, variant, script, options);
  await play.factory.run();
  return play;
}
