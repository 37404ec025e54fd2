/** What has passed, in numbers. */
import type { MilterError } from '../errors.js';
import { asCliError, EXIT, type CliError } from './exit.js';
import { Latencies, type LatencySummary } from './latency.js';
import type { Seen, SeenMessage } from './reading.js';
import { count, milliseconds, type Paint } from './terminal.js';

export interface TrafficSummary {
  readonly sessions: number;
  readonly messages: number;
  readonly quarantined: number;
  readonly verdicts: Readonly<Record<string, number>>;
  /** How many packets were not as they should be at their place, and how often bytes were no packets. */
  readonly problems: number;
  readonly garbage: number;
  /** How long answers took, by the stage that was answered, in ms. */
  readonly latency: Readonly<Record<string, LatencySummary>>;
}

export class Traffic {
  /** The status to exit with: what was wrong on either side. */
  status: number = EXIT.ok;
  sessions = 0;
  messages = 0;
  packets = 0;
  readonly #verdicts: Record<string, number> = {};
  readonly #latencies = new Latencies();
  #quarantined = 0;
  #problems = 0;
  #garbage = 0;

  count({ record, stage }: Seen): void {
    if (record.type === 'open') this.sessions++;
    if (record.type === 'problem') this.#problems++;
    if (record.type === 'garbage') {
      this.#garbage++;
      this.fail(EXIT.protocol);
    }
    if (record.type !== 'packet') return;
    this.packets++;
    if (record.problem !== undefined) this.#problems++;
    if (record.packet.type === 'malformed' || record.packet.type === 'unrecognized') this.fail(EXIT.protocol);
    if (record.answers !== undefined && stage !== undefined) this.#latencies.record(stage, record.answers.ms);
  }

  over({ verdict, quarantined }: SeenMessage): void {
    const name = verdict as string;
    this.messages++;
    this.#verdicts[name] = (this.#verdicts[name] ?? 0) + 1;
    if (quarantined && verdict === 'accept') this.#quarantined++;
  }

  /** What the exit status has to tell. */
  fail(cause: number | CliError | MilterError): void {
    const status = typeof cause === 'number' ? cause : (asCliError(cause) as CliError).exit;
    this.status = Math.max(this.status, status);
  }

  summary(): TrafficSummary {
    return {
      sessions: this.sessions,
      messages: this.messages,
      quarantined: this.#quarantined,
      verdicts: this.#verdicts,
      problems: this.#problems,
      garbage: this.#garbage,
      latency: this.#latencies.summaries(),
    };
  }
}

export function trafficLines(summary: TrafficSummary, { bold, yellow, red }: Paint): string[] {
  const { sessions, messages, quarantined, verdicts, problems, garbage, latency } = summary;
  const said = Object.entries(verdicts).map(([verdict, times]) => `${times.toLocaleString('en')} ${verdict}`);
  const rows = Object.entries(latency);
  return [
    bold(`${count(sessions, 'session')}, ${count(messages, 'message')}`),
    ...(said.length === 0 ? [] : [`  ${said.join(', ')}`]),
    ...(quarantined === 0 ? [] : [yellow(`  ${quarantined.toLocaleString('en')} of them on hold (quarantine)`)]),
    ...(problems === 0 ? [] : [yellow(`  ${count(problems, 'problem')}`)]),
    ...(garbage === 0 ? [] : [red(`  ${count(garbage, 'time')} bytes that are no packets`)]),
    ...(rows.length === 0 ? [] : latencyLines(rows)),
  ];
}

/** A table of how long things took. */
export function latencyLines(rows: ReadonlyArray<readonly [name: string, summary: LatencySummary]>): string[] {
  const cell = (text: string): string => text.padStart(12);
  return [
    ['', 'count', 'p50', 'p90', 'p99', 'max'].map((head, i) => (i === 0 ? head.padEnd(10) : cell(head))).join(''),
    ...rows
      .filter(([, { count: times }]) => times > 0)
      .map(([name, { count: times, p50, p90, p99, max }]) =>
        [
          name.padEnd(10),
          cell(times.toLocaleString('en')),
          ...[p50, p90, p99, max].map((ms) => cell(milliseconds(ms))),
        ].join(''),
      ),
  ];
}
