/** `milter-stream replay`: plays what a mail server said to a milter, and shows what has become different. */
import { parseAddress } from '../address.js';
import type { CaptureEvent } from '../capture/types.js';
import { replayCapture, type ReplayedSession, type ReplayOptions } from '../replay/index.js';
import { capturedIn, isDamage } from './capture-file.js';
import type { Command, Io } from './command.js';
import { asCliError, EXIT, exitOf, usageError } from './exit.js';
import { interruption } from './interruption.js';
import { plain, plainError } from './plain.js';
import { replayReport } from './replay-report.js';
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
    { name: 'session', value: 'NAME', multiple: true, text: 'This session alone. May be given several times.' },
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
    [EXIT.data, 'FILE is no capture, or is cut or broken: what is before that was played'],
    [EXIT.noInput, 'FILE cannot be read'],
    [EXIT.unavailable, 'the milter cannot be reached, closed the connection, or did not answer in time'],
    [EXIT.protocol, 'the milter did not keep to the protocol'],
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
    const { signal, over } = interruption(io);
    const options = optionsOf(values, signal);
    const file = new Checked(capturedIn(io, name, { from: values.choice('from', ['mta']), port: portOf(values) }));
    const totals = { sessions: 0, messages: 0, differences: 0, status: EXIT.ok as number };
    const print = printer(io, values);
    try {
      for await (const session of replayCapture(file, to, options)) {
        print(session);
        totals.sessions++;
        totals.messages += session.messages.length;
        totals.differences += session.differences;
        const { error, differences } = session;
        const status = error !== undefined ? exitOf(error) : differences > 0 ? DIFFERENT : EXIT.ok;
        totals.status = Math.max(totals.status, status);
      }
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
}

function optionsOf(values: Values, signal: AbortSignal): ReplayOptions {
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
    signal,
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

function conclude(io: Io, values: Values, { sessions, messages, differences }: Totals): void {
  if (values.flag('quiet')) return;
  if (values.flag('json')) {
    io.stdout.write(jsonLine({ type: 'summary', sessions, messages, differences }));
    return;
  }
  const { bold, green, red } = paintFor(io.stdout, io.env);
  const what = differences === 0 ? green('no difference') : red(count(differences, 'difference'));
  io.stdout.write(`${bold(`${count(sessions, 'session')}, ${count(messages, 'message')}`)}: ${what}\n`);
}
