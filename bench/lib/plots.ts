/** Which of the figures are drawn. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { drawChart, type Bar, type Kind, type Panel } from './plot.js';
import { shown } from './report.js';
import type { FigureKey, Row, Run } from './row.js';

interface Plot {
  readonly file: string;
  readonly groups: readonly string[];
  readonly key: FigureKey;
  readonly title: string;
  readonly units: string;
}

const PLOTS: readonly Plot[] = [
  {
    file: 'server.svg',
    groups: ['server'],
    key: 'cpuMicrosPerMessage',
    title: 'What a message costs a milter server',
    units: 'µs of processor time per message, user and system; less is better; each traffic has its own scale',
  },
  {
    file: 'codec.svg',
    groups: ['codec', 'streams'],
    key: 'packetsPerSecond',
    title: 'Packets per second of codec and streams',
    units: 'packets per second; more is better; each traffic has its own scale, and limits beyond it are cut',
  },
  {
    file: 'factories.svg',
    groups: ['factories'],
    key: 'messagesPerSecond',
    title: 'Messages per second of the three factories',
    units: 'messages per second; more is better; each traffic has its own scale',
  },
];

function kindOf(what: string): Kind {
  if (what.endsWith('(limit)')) return 'limit';
  return /^(C libmilter|pg-protocol|mqtt-packet)/.test(what) ? 'peer' : 'own';
}

/** A panel for each traffic; lines without the figure are left out. */
export function panels(rows: readonly Row[], key: FigureKey): readonly Panel[] {
  const found = new Map<string, Bar[]>();
  for (const { traffic, what, [key]: value } of rows) {
    if (value === undefined) continue;
    const bars = found.get(traffic) ?? [];
    found.set(traffic, [...bars, { label: what, value, text: shown(value, 0), kind: kindOf(what) }]);
  }
  return [...found].map(([label, bars]) => ({ label, bars }));
}

/** Draws what this run has figures for; says which files that were. */
export function writePlots(folder: string, run: Run): readonly string[] {
  mkdirSync(folder, { recursive: true });
  const notes = [`${run.date}, Node ${run.node}, ${run.machine}`, run.command];
  return PLOTS.flatMap(({ file, groups, key, title, units }) => {
    const drawn = panels(
      run.rows.filter(({ group }) => groups.includes(group)),
      key,
    );
    if (drawn.length === 0) return [];
    const path = join(folder, file);
    writeFileSync(path, drawChart({ title, units, panels: drawn, notes }));
    return [path];
  });
}
