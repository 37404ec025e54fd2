/** Milters of scripts, as one stream, and a mail server that talks to it. */
import type { Duplex } from 'node:stream';
import type { Command } from '../../lib/codec/index.js';
import type { MilterError } from '../../lib/errors.js';
import { chainMilter, type ChainOptions } from '../../lib/proxy/chain-milter.js';
import { fakeMilter, type FakeMilter, type Script } from './fake-milter.js';
import { Mta } from './mta.js';

export interface Chained {
  readonly stream: Duplex;
  readonly mta: Mta;
  /** The milters: m0, m1, … */
  readonly fakes: readonly FakeMilter[];
  /** What the stream told of them. */
  readonly errors: readonly MilterError[];
}

export function chained(scripts: readonly Script[], options: ChainOptions = {}): Chained {
  const fakes = scripts.map((script) => fakeMilter(script));
  // A stream serves one connection, which is enough here.
  const milters = fakes.map(({ stream }, i) => ({ target: stream as never, name: `m${i}` }));
  const stream = chainMilter(milters, options)();
  const errors: MilterError[] = [];
  stream.on('sessionError', (error: MilterError) => errors.push(error));
  return { stream, mta: new Mta(stream), fakes, errors };
}

/** What was heard, without the macros. */
export const typesOf = (commands: readonly Command[]): string[] =>
  commands.map(({ type }) => type).filter((type) => type !== 'macro');
