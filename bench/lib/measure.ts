/**
 * The measuring itself. The lines of a group take turns, round after round, and the median of each figure counts: what
 * disturbs the machine for a while then disturbs all lines, or falls out.
 */
import { COLUMNS, type Figures, type Row } from './row.js';

/** Something to measure. */
export interface Line {
  readonly traffic: string;
  readonly what: string;
  /** Why this one cannot be measured here. */
  readonly note?: string;
  /** Runs once, before the first round. */
  warm?(): unknown;
  measure?(seconds: number): Promise<Figures> | Figures;
}

/** Where a group works. */
export interface Place {
  /** An empty folder for sockets and programs. */
  readonly folder: string;
  /** What goes before the command of a server, so that it has its own core. */
  readonly prefix: readonly string[];
}

/** Lines that are measured together. */
export interface Group {
  readonly name: string;
  /** What is the same for all lines, for the head of the table. */
  readonly about: string;
  readonly rounds: number;
  readonly seconds: number;
  /** Whether generator and server get a core each. */
  readonly pinned?: boolean;
  lines(place: Place): Promise<Line[]> | Line[];
}

/** The upper one of the two in the middle. */
export function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? NaN;
}

/** The median of each figure. */
export function medians(samples: readonly Figures[]): Figures {
  const figures: Figures = {};
  for (const { key } of COLUMNS) {
    const values = samples.flatMap((sample) => sample[key] ?? []);
    if (values.length > 0) figures[key] = Number(median(values).toPrecision(5));
  }
  return figures;
}

/** Measures lines in turns. A line that fails ends it all. */
export async function measure(
  group: string,
  lines: readonly Line[],
  rounds: number,
  seconds: number,
): Promise<readonly Row[]> {
  const samples = lines.map((): Figures[] => []);
  for (const line of lines) await naming(line, () => line.warm?.());
  for (let round = 0; round < rounds; round++) {
    for (const [i, line] of lines.entries()) {
      const sample = await naming(line, () => line.measure?.(seconds));
      if (sample !== undefined) samples[i]?.push(sample);
    }
  }
  return lines.map(({ traffic, what, note }, i) => ({
    group,
    traffic,
    what,
    ...medians(samples[i] ?? []),
    ...(note !== undefined && { note }),
  }));
}

/** Whoever reads of a failure wants to know whose it was. */
async function naming<T>({ traffic, what }: Line, work: () => Promise<T> | T): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new Error(`${what} (${traffic}): ${(error as Error).message}`, { cause: error });
  }
}
