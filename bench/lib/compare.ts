/** A run beside a saved earlier one. */
import { readFileSync } from 'node:fs';
import { align } from './report.js';
import { COLUMNS, columnsOf, type Figures, type Row, type Run } from './row.js';

/** A line that is in both runs, with each figure divided by the earlier one; or a line that is only in one of them. */
export interface Compared extends Figures {
  readonly group: string;
  readonly traffic: string;
  readonly what: string;
  readonly only?: 'now' | 'before';
}

/** @throws Error that says what is wrong with the file */
export function readRun(file: string): Run {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new Error(`cannot read the saved run ${file}: ${(error as Error).message}`, { cause: error });
  }
  let run: unknown;
  try {
    run = JSON.parse(text);
  } catch (error) {
    throw new Error(`the saved run ${file} is no JSON: ${(error as Error).message}`, { cause: error });
  }
  if (!isRun(run)) throw new Error(`${file} is no saved run of this bench: --save makes one`);
  return run;
}

function isRun(value: unknown): value is Run {
  const { date, node, machine, rows } = (value ?? {}) as Partial<Run>;
  return [date, node, machine].every((text) => typeof text === 'string') && Array.isArray(rows) && rows.every(isRow);
}

function isRow(value: unknown): value is Row {
  const row = (value ?? {}) as Row;
  return (
    [row.group, row.traffic, row.what].every((text) => typeof text === 'string') &&
    COLUMNS.every(({ key }) => row[key] === undefined || typeof row[key] === 'number')
  );
}

const nameOf = ({ group, traffic, what }: Row): string => JSON.stringify([group, traffic, what]);

/** Lines in the order of now; of the groups that were not measured now nothing is said. */
export function compare(then: readonly Row[], now: readonly Row[]): readonly Compared[] {
  const earlier = new Map(then.map((row) => [nameOf(row), row]));
  const today = new Set(now.map(nameOf));
  const groups = new Set(now.map(({ group }) => group));
  const gone = then.filter((row) => groups.has(row.group) && !today.has(nameOf(row)));
  return [
    ...now.map((row) => {
      const { group, traffic, what } = row;
      const before = earlier.get(nameOf(row));
      if (before === undefined) return { group, traffic, what, only: 'now' as const };
      return { group, traffic, what, ...ratios(before, row) };
    }),
    ...gone.map(({ group, traffic, what }) => ({ group, traffic, what, only: 'before' as const })),
  ];
}

function ratios(then: Figures, now: Figures): Figures {
  const figures: Figures = {};
  for (const { key } of COLUMNS) {
    const [a, b] = [then[key], now[key]];
    if (a !== undefined && b !== undefined && a > 0) figures[key] = Number((b / a).toPrecision(4));
  }
  return figures;
}

const ONLY = { now: 'not in the saved run', before: 'only in the saved run' };

/** The ratios as a table; each column says which way is better. */
export function reportComparison(then: Run, now: Run, compared: readonly Compared[]): string {
  const columns = columnsOf(compared);
  const head = ['group', 'traffic', 'what', ...columns.map(({ title, better }) => `${title} ${ARROWS[better]}`)];
  const lines = compared.map((row) => {
    const { group, traffic, what, only } = row;
    const cells = columns.map(({ key }) => (row[key] === undefined ? '-' : `${row[key].toFixed(2)}x`));
    return [group, traffic, only === undefined ? what : `${what}: ${ONLY[only]}`, ...cells];
  });
  return [
    `Now divided by the run of ${then.date}: 1.10x is ten percent more. ↑ more is better, ↓ less is better.`,
    ...changes(then, now),
    '',
    align([head, ...lines], 3),
  ].join('\n');
}

const ARROWS = { more: '↑', less: '↓' };

/** What makes two runs hard to compare. */
function changes(then: Run, now: Run): string[] {
  return (['machine', 'node', 'pinned'] as const)
    .filter((key) => then[key] !== now[key])
    .map((key) => `Beware, '${key}' differs: ${then[key]} then, ${now[key]} now.`);
}
