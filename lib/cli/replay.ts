/** `milter-stream replay`: plays what a mail server said to a milter, and shows what has become different. */
import { parseAddress } from '../address.js';
import type { CaptureEvent } from '../capture/types.js';
import { replayCapture, type ReplayedSession, type ReplayOptions } from '../replay/index.js';
import { begun, capturedIn, isDamage } from './capture-file.js';
import type { Command, Io } from './command.js';
import { asCliError, CliError, EXIT, exitOf, usageError } from './exit.js';
import { interruption } from './interruption.js';
import { checkApart } from './output-file.js';
import { plain, plainError } from './plain.js';
import { isPlayed, replayReport } from './replay-report.js';
import { count, jsonLine, paintFor, printable } from './terminal.js';
import type { Values } from './values.js';

/** Something has become different. */
const DIFFERENT = 1;

export const replay: Command = {
  name: 'replay',
  summary: 'play what a mail server said in a capture to a milter, and compare',
  usage: ['FILE --to ADDRESS [OPTION]...'],
  text: [
    'Says to the milter at ADDRESS, byte for byte, what the mail server has said in each session of FILE (- is the standard input), and compares the answers with those in FILE, packet by packet, and then what became of each message.',
    'A milter that agrees to something else than the one in FILE did is told less, and waited for where it answers; the difference is told. What it would have to hear besides is not in FILE. Commands behind a verdict are not sent, as a mail server would not.',
    'A TIME is 500ms, 8s or 2m; a number alone means seconds.',
  ],
  options: [
    { name: 'to', value: 'ADDRESS', text: 'Where the milter listens.' },
    {
      name: 'session',
      value: 'NAME',
      multiple: true,
      text: 'This session alone. May be given several times. One that is not there is an error.',
    },
    { name: 'connections', short: 'c', value: 'N', text: 'Play N sessions at once. Default 1.' },
    {
      name: 'speed',
      value: 'N',
      text: 'Not sooner than then: 1 as fast as it was, 2 twice as fast. Default: at once.',
    },
    { name: 'ignore', value: 'KIND,...', text: 'Replies not to compare, like negotiate. Always: progress.' },
    {
      name: 'ignore-header',
      value: 'NAME',
      multiple: true,
      text: 'Do not compare the value of this header, like DKIM-Signature, which has the time in it.',
    },
    { name: 'like', value: 'SERVER', text: 'Apply edits as postfix (default) or sendmail does.' },
    { name: 'timeout', value: 'TIME', text: 'How long to wait for a connection and for each answer. Default 30s.' },
    { name: 'eob-timeout', value: 'TIME', text: 'How long the end of a message may take altogether. Default 5m.' },
    { name: 'from', value: 'SIDE', text: 'FILE holds the bare bytes of mta; there is nothing to compare then.' },
    { name: 'port', value: 'PORT', text: 'Of TCP connections take those to this port of a milter alone.' },
    { name: 'json', text: 'One line of JSON for each session, and one at the end.' },
    { name: 'quiet', short: 'q', text: 'Print nothing but failures.' },
    { name: 'verbose', short: 'v', text: 'Print every command and its answer, then and now.' },
  ],
  positionals: { min: 1, max: 1 },
  exits: [
    [EXIT.ok, 'no difference'],
    [DIFFERENT, 'something has become different'],
    [
      EXIT.data,
      'FILE is no capture, or is cut or broken: what is before that was played; or nothing in it could be played, or a --session is not there',
    ],
    [EXIT.noInput, 'FILE cannot be read'],
    [EXIT.unavailable, 'the milter cannot be reached, closed the connection, or did not answer in time'],
    [EXIT.protocol, 'the milter did not keep to the protocol'],
    [EXIT.interrupted, 'stopped by Ctrl-C before everything was played'],
  ],
  examples: [
    ['replay mail.jsonl --to inet:8891@127.0.0.1', 'Does the new version do what the old one did?'],
    ['replay mail.pcapng --to /run/my.sock --session 4 -v', 'What happened to this one.'],
    ['replay day.jsonl --to inet:8891 -c 20 --ignore-header DKIM-Signature -q', 'A whole day.'],
  ],
  async run(io, values, [name = '']) {
    const to = values.text('to');
    if (to === undefined) throw usageError('--to is missing: where the milter listens, like --to inet:8891@127.0.0.1');
    parseAddress(to, 'connect');
    checkApart(io, name, '-');
    const given = optionsOf(values);
    const which = { from: values.choice('from', ['mta']), port: portOf(values) };
    const reading = new AbortController();
    const file = new Checked(await begun(capturedIn(io, name, which, reading.signal)));
    // Until then Ctrl-C ends it as it ends anything: there is nothing to tell.
    const { signal, over } = interruption(io);
    signal.addEventListener('abort', () => reading.abort());
    const options = { ...given, signal };
    const totals = { sessions: 0, messages: 0, differences: 0, played: 0, status: EXIT.ok as number };
    const absent = new Set(options.sessions);
    const print = printer(io, values);
    try {
      for await (const session of replayCapture(file, to, options)) {
        print(session);
        totals.sessions++;
        totals.messages += session.messages.length;
        totals.differences += session.differences;
        absent.delete(session.session);
        if (isPlayed(session)) totals.played++;
        const { error, differences } = session;
        const status = error !== undefined ? exitOf(error) : differences > 0 ? DIFFERENT : EXIT.ok;
        totals.status = Math.max(totals.status, status);
      }
      if (signal.aborted) throw new CliError(EXIT.interrupted, 'Interrupted: not everything was played');
      checkPlayed(name === '-' ? 'the standard input' : name, totals, [...absent]);
    } catch (error) {
      // The totals of what was played are told all the same.
      conclude(io, values, totals);
      const known = asCliError(error);
      if (known === undefined || totals.status <= known.exit) throw error;
      throw Object.assign(known, { exit: totals.status });
    } finally {
      over();
    }
    conclude(io, values, totals);
    return Math.max(totals.status, file.isWhole ? EXIT.ok : EXIT.data);
  },
};

interface Totals {
  readonly sessions: number;
  readonly messages: number;
  readonly differences: number;
  /** Sessions that were. */
  readonly played: number;
}

/** Where nothing is compared there is no difference either: that must not look like a success. @throws CliError */
function checkPlayed(file: string, { played }: Totals, absent: readonly string[]): void {
  if (absent.length > 0) throw new CliError(EXIT.data, `There is no session ${absent.join(', ')} in ${file}`);
  if (played > 0) return;
  throw new CliError(
    EXIT.data,
    `Nothing was played: there is nothing in ${file} that a mail server has said to a milter`,
  );
}

function optionsOf(values: Values): ReplayOptions {
  const sessions = values.list('session');
  const ignored = values.text('ignore')?.split(',') ?? [];
  return {
    sessions: sessions.length === 0 ? undefined : sessions,
    connections: values.whole('connections', 1, 10_000),
    speed: speedOf(values),
    ignore: ['progress', ...(ignored as NonNullable<ReplayOptions['ignore']>)],
    ignoreHeaders: values.list('ignore-header'),
    like: values.choice('like', ['postfix', 'sendmail']),
    timeout: values.time('timeout'),
    eobTimeout: values.time('eob-timeout'),
  };
}

function portOf(values: Values): number | undefined {
  return values.whole('port', 1, 65_535);
}

function speedOf(values: Values): number | undefined {
  const text = values.text('speed');
  if (text === undefined) return undefined;
  if (/^\d*\.?\d+$/.test(text) && Number(text) > 0) return Number(text);
  throw values.bad('speed', 'must be a number above 0');
}

/** Bodies are in the messages that differ. */
function sessionJson({ steps, messages, error, ...rest }: ReplayedSession): string {
  const short = <T extends object>(packet: T): object =>
    'chunk' in packet && Buffer.isBuffer(packet.chunk) ? { ...packet, chunk: packet.chunk.length } : packet;
  return jsonLine(
    plain({
      type: 'session',
      ...rest,
      error: error && plainError(error),
      steps: steps.map(({ command, was, now, ...step }) => ({
        ...step,
        command: short(command),
        was: was.map(short),
        now: now.map(short),
      })),
      messages: messages.map(({ was, now, differences, ...message }) => {
        const bare = ({ message: _, ...outcome }: typeof was): object => outcome;
        const differ = differences.includes('message');
        return { ...message, differences, was: differ ? was : bare(was), now: differ ? now : bare(now) };
      }),
    }),
  );
}

/** Remembers whether something in the file could not be read. */
class Checked implements AsyncIterable<CaptureEvent> {
  isWhole = true;
  readonly #events: AsyncIterable<CaptureEvent>;

  constructor(events: AsyncIterable<CaptureEvent>) {
    this.#events = events;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<CaptureEvent, void, undefined> {
    for await (const event of this.#events) {
      if (isDamage(event)) this.isWhole = false;
      yield event;
    }
  }
}

function printer(io: Io, values: Values): (session: ReplayedSession) => void {
  if (values.flag('quiet')) return (session) => quietly(io, session);
  if (values.flag('json')) return (session) => void io.stdout.write(sessionJson(session));
  const paint = paintFor(io.stdout, io.env);
  const verbose = values.flag('verbose');
  return (session) => void io.stdout.write(`${replayReport(session, paint, verbose).join('\n')}\n`);
}

function quietly({ stderr, env }: Io, { session, error }: ReplayedSession): void {
  if (error === undefined) return;
  const text = printable(`milter-stream replay: session ${session}: ${error.message}`);
  stderr.write(`${paintFor(stderr, env).red(text)}\n`);
}

function conclude(io: Io, values: Values, totals: Totals): void {
  const { sessions, messages, differences, played } = totals;
  if (values.flag('quiet')) return;
  if (values.flag('json')) {
    io.stdout.write(jsonLine({ type: 'summary', sessions, messages, differences }));
    return;
  }
  const { bold, green, red } = paintFor(io.stdout, io.env);
  const same = played === 0 ? red('nothing was played') : green('no difference');
  const what = differences === 0 ? same : red(count(differences, 'difference'));
  io.stdout.write(`${bold(`${count(sessions, 'session')}, ${count(messages, 'message')}`)}: ${what}\n`);
}
