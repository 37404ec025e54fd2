/**
 * `npm run bench`: measures what this library costs on your machine, beside limits and other programs. The lines of a group
 * take turns and the median of the rounds counts: compare within one run, and runs on the same machine.
 */
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { cpus, release, type } from 'node:os';
import { dirname } from 'node:path';
import { client } from './client.js';
import { codec } from './codec.js';
import { factories } from './factories.js';
import { commandOf, readArguments, UsageError, type Arguments } from './lib/args.js';
import { compare, readRun, reportComparison } from './lib/compare.js';
import { temporaryFolder } from './lib/folder.js';
import { measure, type Group } from './lib/measure.js';
import { pin } from './lib/pin.js';
import { writePlots } from './lib/plots.js';
import { report } from './lib/report.js';
import type { Row, Run } from './lib/row.js';
import { proxy } from './proxy.js';
import { server } from './server.js';
import { session } from './session.js';
import { streams } from './streams.js';

const GROUPS: readonly Group[] = [codec, streams, session, server, client, proxy, factories];
const NAMES = GROUPS.map(({ name }) => name);

const HELP = `npm run bench -- [GROUP ...] [OPTIONS]

Groups; all of them unless some are named:
${GROUPS.map(({ name, about }) => `  ${name.padEnd(12)}${about}`).join('\n')}

Options:
  --rounds N      how often each line is measured; the median counts
  --seconds S     how long each time
  --json          print JSON instead of tables; with npm's --silent there is nothing else
  --save FILE     write the JSON to a file
  --compare FILE  show each figure divided by that of a saved run
  --plots DIR     draw server.svg, codec.svg and factories.svg into a folder
  --help          this`;

/** What is told besides the results: not where they go. */
const tell = (text: string): void => console.error(text);

async function measureGroup(
  group: Group,
  args: Arguments,
  folder: string,
): Promise<{ rows: readonly Row[]; pinned: boolean }> {
  const { rounds = group.rounds, seconds = group.seconds } = args;
  const pinned = group.pinned === true ? pin() : undefined;
  try {
    const lines = await group.lines({ folder, prefix: pinned?.prefix ?? [] });
    const where = group.pinned === true ? `; ${pinned?.text ?? 'generator and server are not pinned to cores'}` : '';
    tell(`${group.name}: ${lines.length} lines, ${rounds} rounds of ${seconds} s${where}`);
    return { rows: await measure(group.name, lines, rounds, seconds), pinned: pinned !== undefined };
  } finally {
    pinned?.release();
  }
}

async function main(): Promise<void> {
  const args = readArguments(process.argv.slice(2), NAMES);
  if (args.help) {
    console.log(HELP);
    return;
  }
  // Before anything is measured: it would be a pity afterwards.
  const then = args.compare === undefined ? undefined : readRun(args.compare);
  if (args.save !== undefined) demandFolder(dirname(args.save));

  const folder = temporaryFolder();
  const rows: Row[] = [];
  let pinned = false;
  for (const group of GROUPS.filter(({ name }) => args.groups.includes(name))) {
    const measured = await measureGroup(group, args, folder);
    rows.push(...measured.rows);
    pinned ||= measured.pinned;
    if (!args.json) console.log(`\n${group.name}: ${group.about}\n\n${report(measured.rows)}\n`);
  }

  const run: Run = {
    date: new Date().toISOString(),
    node: process.version,
    machine: `${cpus()[0]?.model.trim() ?? 'unknown processor'} x ${cpus().length}, ${type()} ${release().split('-')[0]}`,
    command: commandOf(args, NAMES),
    pinned,
    rows,
  };
  const comparison = then === undefined ? undefined : compare(then.rows, rows);
  if (args.json) console.log(JSON.stringify({ ...run, ...(comparison !== undefined && { comparison }) }, undefined, 2));
  else if (then !== undefined && comparison !== undefined) console.log(reportComparison(then, run, comparison));
  if (args.save !== undefined) {
    writeFileSync(args.save, `${JSON.stringify(run, undefined, 2)}\n`);
    tell(`saved: ${args.save}`);
  }
  if (args.plots !== undefined) tell(`drawn: ${writePlots(args.plots, run).join(', ') || 'nothing to draw'}`);
}

function demandFolder(folder: string): void {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) throw new Error(`--save: there is no folder ${folder}`);
}

try {
  await main();
} catch (error) {
  tell(`bench: ${(error as Error).message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
