/** What a line of the bench comes to: one form for tables, saved runs, comparisons and plots. */

/** A figure, how it is shown, and which way is better. */
interface Column {
  readonly key: FigureKey;
  readonly title: string;
  readonly digits: number;
  readonly better: 'more' | 'less';
}

export type FigureKey =
  'packetsPerSecond' | 'messagesPerSecond' | 'mbPerSecond' | 'cpuMicrosPerMessage' | 'p50ms' | 'p99ms' | 'peakMiB';

/** What is not measured is not there. */
export type Figures = Partial<Record<FigureKey, number>>;

/** In the order of the table. */
export const COLUMNS: readonly Column[] = [
  { key: 'packetsPerSecond', title: 'packets/s', digits: 0, better: 'more' },
  { key: 'messagesPerSecond', title: 'msgs/s', digits: 0, better: 'more' },
  { key: 'mbPerSecond', title: 'MB/s', digits: 0, better: 'more' },
  { key: 'cpuMicrosPerMessage', title: 'CPU µs/msg', digits: 0, better: 'less' },
  { key: 'p50ms', title: 'p50 ms', digits: 2, better: 'less' },
  { key: 'p99ms', title: 'p99 ms', digits: 2, better: 'less' },
  { key: 'peakMiB', title: 'peak MiB', digits: 1, better: 'less' },
];

/** A line of the bench and its figures. */
export interface Row extends Figures {
  readonly group: string;
  readonly traffic: string;
  readonly what: string;
  /** Why there are no figures. */
  readonly note?: string;
}

/** All that a run found, as it is saved. */
export interface Run {
  readonly date: string;
  readonly node: string;
  readonly machine: string;
  readonly command: string;
  /** Whether generator and server of the group `server` had a core each. */
  readonly pinned: boolean;
  readonly rows: readonly Row[];
}

/** The columns that these rows have anything in. */
export function columnsOf(rows: readonly Figures[]): readonly Column[] {
  return COLUMNS.filter(({ key }) => rows.some((row) => row[key] !== undefined));
}
