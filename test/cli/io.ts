/** The command line, run in this process: what goes in, and what comes out. */
import { PassThrough, Readable, Writable } from 'node:stream';
import { runCli } from '../../lib/cli/cli.js';
import type { Command, Io, Output } from '../../lib/cli/command.js';

export interface World {
  readonly stdin?: string | Buffer;
  readonly env?: Io['env'];
  /** Both outputs are terminals. */
  readonly tty?: boolean;
  readonly signal?: AbortSignal;
  readonly commands?: readonly Command[];
}

export interface Said {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** An output that keeps what it gets. */
export class Kept extends Writable implements Output {
  readonly isTTY: boolean;
  readonly chunks: Buffer[] = [];

  constructor(tty = false) {
    super();
    this.isTTY = tty;
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    this.chunks.push(chunk);
    this.emit('kept');
    done();
  }

  get text(): string {
    return this.bytes.toString();
  }

  get bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }

  /** Resolves when it includes `what`. */
  async printed(what: string): Promise<void> {
    while (!this.text.includes(what)) await new Promise((resolve) => this.once('kept', resolve));
  }
}

/** From here on writing what matches throws. */
export function throwing(output: Kept, what: RegExp, error: Error): void {
  const write = output.write.bind(output) as (...args: unknown[]) => boolean;
  output.write = (text: unknown, ...rest: unknown[]) => {
    if (what.test(String(text))) throw error;
    return write(text, ...rest);
  };
}

export interface FakeIo extends Io {
  readonly stdout: Kept;
  readonly stderr: Kept;
}

export function fakeIo({ stdin, env = {}, tty = false, signal }: World = {}): FakeIo {
  const input = stdin === undefined ? new PassThrough().end() : Readable.from([Buffer.from(stdin as Buffer)]);
  return { stdin: input, stdout: new Kept(tty), stderr: new Kept(tty), env, signal };
}

/** Runs a command line to its end. */
export async function cli(argv: readonly string[], world: World = {}): Promise<Said> {
  const io = fakeIo(world);
  const code = await runCli(argv, io, world.commands);
  return { code, out: io.stdout.text, err: io.stderr.text };
}
