// Mail through a real server while the workers die, one after the other and in every way: a reply that is missing, out of
// step or garbled would have the server pass a message on without the milter's mark, or complain.
import { readdirSync, readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import type { FactoryOptions, MilterError, ProtocolClass } from 'milter-stream';
import { memoryInUse } from '../helpers/memory.js';
import { milterWarnings, startPostfix } from '../helpers/postfix.js';
import { needs } from '../helpers/real.js';
import { milterComplaints, startSendmail } from '../helpers/sendmail.js';
import type { MailServer } from '../helpers/mail-server.js';
import { startSink, type Sink } from '../helpers/sink.js';
import { until } from '../helpers/until.js';
import { BODY, sendUntil, type Tally } from './mail.js';

/** How long the workers of one milter die at least, and how long they may take to have died everywhere, in seconds. */
const SECONDS = Number(process.env['SOAK_SECONDS'] ?? 30);
const MOST_SECONDS = SECONDS * 8;
/** How often each stage must have been hit. */
const HITS = 20;
const SENDERS = 6;

export interface Soaked {
  readonly address: unknown;
  run(): Promise<void>;
  close(): Promise<void>;
  on(event: 'sessionError', listener: (error: MilterError) => void): unknown;
}

export interface Phase {
  readonly Milter: ProtocolClass;
  /** Where its workers must have died, each often enough. */
  readonly stages: readonly string[];
  /** How long a client thinks before DATA, in ms: time for a worker to die while nothing waits for it. */
  readonly pause: number;
  /** How often a worker is ended from outside, in ms; 0: not at all. */
  readonly killEvery: number;
  /** How likely a worker is to die at each stage. */
  readonly chances: Readonly<Record<string, number>>;
}

export interface SoakOptions {
  readonly name: string;
  readonly server: 'postfix' | 'sendmail';
  /** Mail passes the server unfiltered where the milter fails: the strictest judge. */
  readonly passOnFailure: boolean;
  readonly manners: readonly string[];
  readonly phases: readonly Phase[];
  readonly make: (socket: string, Milter: ProtocolClass, options: FactoryOptions) => Soaked;
  /** Ends a worker from outside. */
  readonly killOne?: () => void;
}

export function soak({ name, server, passOnFailure, manners, phases, make, killOne }: SoakOptions): void {
  t.test(`${name}: no message passes without the mark, none is lost, nothing is left`, needs(server), async (t) => {
    const before = { memory: await memoryInUse(), files: descriptors() };
    const sink = await startSink();
    let place = '';
    const mta = await start(server, sink, passOnFailure, (dir) => (place = `unix:${dir}/soak.sock`));
    const tally: Tally = { accepted: new Set(), refused: new Map(), wrong: [] };
    try {
      for (const [i, phase] of phases.entries()) {
        const context = { chances: phase.chances, manners };
        const errors = new Map<string, number>();
        const factory = make(place, phase.Milter, { ...OPTIONS, context });
        factory.on('sessionError', (error) => {
          const key = error.stage ?? error.code;
          errors.set(key, (errors.get(key) ?? 0) + 1);
        });
        await factory.run();
        await storm(phase, errors, mta.port, `p${i}`, tally, killOne);
        await factory.close();
        t.comment(`${phase.Milter.name}: ${picture(errors)}`);
        for (const stage of phase.stages) t.ok((errors.get(stage) ?? 0) >= HITS, `${stage}: ${errors.get(stage) ?? 0}`);
      }
      await until('the queue to be empty', async () => queueEmpty(server, await mta.postqueue()), 60);
      await sink.idle();
      judge(
        t,
        tally,
        sink,
        server === 'postfix' ? milterWarnings(await mta.log()) : milterComplaints(await mta.log()),
        passOnFailure,
      );
    } finally {
      await mta.stop();
      await sink.close();
    }
    t.strictSame(workersLeft(), [], 'no process is left');
    await until('all descriptors to be closed', () => descriptors() <= before.files + 2);
    const grown = (await memoryInUse()) - before.memory - heldByTest(sink);
    t.ok(grown < 24 * 1024 * 1024, `memory has grown by ${Math.round(grown / 1024)} KiB`);
  });
}

const OPTIONS: FactoryOptions = {
  smfifOptions: 0x1ff,
  workers: 3,
  callbackDeadline: 1_000,
  eobDeadline: 2_000,
  spoolMemory: 65_536,
  closeTimeout: 20_000,
};

async function start(
  server: 'postfix' | 'sendmail',
  sink: Sink,
  passOnFailure: boolean,
  place: (dir: string) => string,
): Promise<MailServer> {
  if (server === 'sendmail') {
    return startSendmail({
      milter: place,
      milterFlags: passOnFailure ? '' : 'F=T',
      timeouts: 'T=S:30s;R:30s;E:1m',
      sinkPort: sink.port,
    });
  }
  const mainCf = {
    milter_default_action: passOnFailure ? 'accept' : 'tempfail',
    smtpd_client_connection_rate_limit: '0',
  };
  return startPostfix({ milters: (dir) => [place(dir)], sinkPort: sink.port, mainCf });
}

/** Mail goes on while workers die, until they have died often enough at every stage. */
async function storm(
  { stages, pause, killEvery }: Phase,
  errors: ReadonlyMap<string, number>,
  port: number,
  name: string,
  tally: Tally,
  killOne: (() => void) | undefined,
): Promise<void> {
  const since = performance.now();
  const seconds = (): number => (performance.now() - since) / 1000;
  const enough = (): boolean => stages.every((stage) => (errors.get(stage) ?? 0) >= HITS);
  const over = (): boolean => (seconds() > SECONDS && enough()) || seconds() > MOST_SECONDS;
  const killer = killOne === undefined || killEvery === 0 ? undefined : setInterval(killOne, killEvery);
  const senders = Array.from({ length: SENDERS }, (_, i) => sendUntil(over, port, `${name}-${i}`, pause, tally));
  await Promise.all(senders);
  clearInterval(killer);
}

function judge(t: Test, tally: Tally, sink: Sink, complaints: string[], passOnFailure: boolean): void {
  t.comment(`${tally.accepted.size} messages accepted; refused for now: ${picture(tally.refused)}`);
  t.strictSame(tally.wrong.slice(0, 5), [], 'every command was answered, and none refused for good');
  const ids = new Map<string, number>();
  const bad: string[] = [];
  for (const { data } of sink.messages) {
    const text = data.toString('latin1');
    const id = /^X-Id: (.*)\r$/m.exec(text)?.[1] ?? '(none)';
    ids.set(id, (ids.get(id) ?? 0) + 1);
    if (!text.includes(`X-Soak: passed ${id}\r\n`)) bad.push(`${id} has no mark`);
    const body = text.slice(text.indexOf('\r\n\r\n') + 4);
    if (body !== BODY && !/^(replaced\r\n){40000}$/.test(body)) bad.push(`${id} has half a body`);
  }
  t.strictSame(bad.slice(0, 5), [], 'every message that arrived has passed the milter, whole');
  t.strictSame(
    [...tally.accepted].filter((id) => !ids.has(id)),
    [],
    'every accepted message has arrived',
  );
  t.strictSame(
    [...ids].filter(([, count]) => count > 1),
    [],
    'none twice',
  );
  t.ok(tally.accepted.size > 50, 'and mail did flow');
  if (passOnFailure) t.strictSame(complaints.slice(0, 5), [], 'the server has complained about nothing');
  else t.comment(`${complaints.length} complaints of the server`);
}

function picture(counts: ReadonlyMap<string, number>): string {
  return [...counts].map(([key, count]) => `${key} ${count}`).join(', ') || 'none';
}

function queueEmpty(server: string, queue: string): boolean {
  return server === 'postfix' ? !/^[0-9A-Za-z]{6,}[ *]/m.test(queue) : queue.includes('Total requests: 0');
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

/** Children of this process that run the workers' program. */
function workersLeft(): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
      const parent = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1];
      return parent === String(process.pid) && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('protocol-host');
    } catch {
      return false; // ended meanwhile
    }
  });
}

/** What the sink has kept for the comparison is the test's own. */
function heldByTest(sink: Sink): number {
  return sink.messages.reduce((sum, { data }) => sum + data.length, 0);
}

export const STAGES = [
  'negotiate',
  'connect',
  'helo',
  'mailFrom',
  'rcpt',
  'data',
  'header',
  'eoh',
  'body',
  'eob',
  'unknown',
];

/** About as likely at each stage of a session of two messages. */
export const CHANCES: Readonly<Record<string, number>> = {
  negotiate: 0.01,
  connect: 0.03,
  helo: 0.03,
  mailFrom: 0.015,
  rcpt: 0.01,
  data: 0.025,
  header: 0.003,
  eoh: 0.035,
  body: 0.035,
  eob: 0.03,
  unknown: 0.04,
};
