/** Tables for the terminal. */
import { columnsOf, type Row } from './row.js';

/** Columns as wide as what is in them; the first ones, which are text, begin on the left, numbers end on the right. */
export function align(rows: ReadonlyArray<readonly string[]>, texts: number): string {
  const widths: number[] = [];
  for (const row of rows) for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  const padded = (cell: string, i: number): string => {
    const width = widths[i] ?? 0;
    return i < texts ? cell.padEnd(width) : cell.padStart(width);
  };
  return rows.map((row) => row.map(padded).join('  ').trimEnd()).join('\n');
}

/** A number with its thousands apart; '-' for one that is not there. */
export function shown(value: number | undefined, digits: number): string {
  if (value === undefined) return '-';
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** The figures of a group. */
export function report(rows: readonly Row[]): string {
  const columns = columnsOf(rows);
  const head = ['traffic', 'what', ...columns.map(({ title }) => title)];
  const lines = rows.map((row) => [
    row.traffic,
    row.what,
    ...columns.map(({ key, digits }) => shown(row[key], digits)),
  ]);
  return align([head, ...lines], 2) + notes(rows);
}

/** Below the table, because they would tear it apart. */
function notes(rows: readonly Row[]): string {
  const lines = new Set(rows.flatMap(({ what, note }) => (note === undefined ? [] : `\n${what}: ${note}`)));
  return [...lines].join('');
}
