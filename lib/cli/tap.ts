/** What sniff and record have in common: a proxy between mail servers and milters, and everything that passes it. */
import { formatAddress, parseAddress } from '../address.js';
import { decodeConversation } from '../capture/conversation.js';
import { redactCapture } from '../capture/redact.js';
import { now } from '../capture/now.js';
import type { CaptureEvent, Source } from '../capture/types.js';
import type { ChainedMilter } from '../client/chain.js';
import { faults } from '../proxy/faults.js';
import { createProxy, type Proxy } from '../proxy/proxy.js';
import { CaptureFile } from './capture-file.js';
import type { Command, Io, OptionRow } from './command.js';
import { EventQueue } from './event-queue.js';
import { EXIT, usageError, type CliError } from './exit.js';
import { Reading, type Seen, type SeenMessage } from './reading.js';
import { SOCKET_OPTIONS, socketFileOf } from './socket-options.js';
import { onStop } from './stop.js';
import { paintFor, printable } from './terminal.js';
import { Traffic } from './traffic.js';
import type { Values } from './values.js';

/** How the commands end that stand in between. */
export const TAP_EXITS: Command['exits'] = [
  [EXIT.ok, 'stopped'],
  [EXIT.unavailable, 'it could not listen, or the milter could not be reached, or was lost'],
  [EXIT.cannotWrite, 'FILE, or the standard output, could not be written'],
  [EXIT.protocol, 'somebody said what is no packet'],
];

/** The options of both. */
export const TAP_OPTIONS: readonly OptionRow[] = [
  { name: 'listen', value: 'ADDRESS', text: 'Where to listen for mail servers. Also systemd or fd:3.' },
  {
    name: 'upstream',
    value: 'ADDRESS',
    multiple: true,
    text: 'Where the milter listens. Several are asked one after the other, as a mail server would.',
  },
  ...SOCKET_OPTIONS,
  {
    name: 'on-failure',
    value: 'WHAT',
    text: 'What mail servers hear where the milter is not there: tempfail (default), reject, accept, shutdown, or close.',
  },
  { name: 'connect-timeout', value: 'TIME', text: 'How long connecting to the milter may take. Default 10s.' },
  { name: 'redact', text: 'Leave out who wrote to whom, and what: the same name becomes the same pseudonym.' },
  {
    name: 'fault',
    value: 'STAGE:WHAT[=VALUE]',
    multiple: true,
    text: 'Do harm: STAGE is a stage or any, STAGE#N the Nth of a session. WHAT is delay=TIME, stall[=TIME], close (or kill), each before the command goes on; delay-reply=TIME, stall-reply[=TIME], close-reply, when its answer comes; reply=ANSWER, another answer: continue, accept, reject, tempfail, discard, skip, shutdown, connfail or like 550 5.7.1 No; any:trickle[=BYTES], all in small pieces.',
  },
  { name: 'fault-every', value: 'N', text: 'Faults in every Nth session alone.' },
  { name: 'fault-chance', value: 'SHARE', text: 'Faults in this share of the sessions, from 0 to 1.' },
  { name: 'fault-seed', value: 'N', text: 'Another number: other sessions. Default 1.' },
];

/** Who looks at what passes. */
export interface Viewer {
  /** It is listening. */
  begin(address: string): void;
  show(seen: Seen): void;
  /** A message is over; before the packet that ended it is shown. */
  over(message: SeenMessage): void;
}

/**
 * Runs until it is stopped: SIGINT or SIGTERM let the connections that there are come to their end, a second one ends
 * them at once. That nobody reads the standard output any more is as good as the first.
 * @param output name of a file to write what passes to
 * @param viewers a page for a browser would be one more; where one throws, everything ends
 * @returns what has passed, and the status to exit with
 * @throws CliError, MilterError: what is wrong with the options, or keeps it from listening; whatever a viewer throws
 */
export async function tap(
  io: Io,
  values: Values,
  output: string | undefined,
  viewers: (traffic: Traffic, file: CaptureFile | undefined) => readonly Viewer[],
): Promise<Traffic> {
  const listen = values.text('listen');
  if (listen === undefined) throw usageError('--listen is missing: where mail servers connect to');
  parseAddress(listen, 'listen');
  const options = socketFileOf(values);
  const traffic = new Traffic();
  const queue = new EventQueue<CaptureEvent>();
  const stopping = new AbortController();
  const proxy = proxyOf(values, stopping.signal, (text, session) => queue.push(problem(session, text)));
  proxy.on('event', (event) => queue.push(event));
  proxy.on('sessionError', (error, session) => {
    traffic.fail(error);
    queue.push(problem(session, error.message));
  });
  const tell = (error: CliError): void => {
    traffic.fail(error);
    io.stderr.write(`${paintFor(io.stderr, io.env).red(printable(error.message))}\n`);
  };
  const file = output === undefined ? undefined : await CaptureFile.open(output, tell);
  const all = viewers(traffic, file);
  let over = (): void => {};
  try {
    const address = formatAddress(await proxy.listen(listen, options));
    await file?.begin();
    for (const viewer of all) viewer.begin(address);
    const shown = watch(values.flag('redact') ? redactCapture(queue) : queue, file, traffic, all);
    const stopped = new Promise<void>((resolve, reject) => {
      const stop = (): void => {
        stopping.abort();
        proxy.close().then(resolve, reject); // the second time it does not wait
      };
      over = onStop(io, stop);
      io.stdout.on('error', ({ code }: NodeJS.ErrnoException) => {
        if (code === 'EPIPE' && !stopping.signal.aborted) stop(); // it comes with every write
      });
    });
    await Promise.race([stopped, shown]); // shown is not over before the queue is: it can only fail
    queue.end();
    await shown;
  } finally {
    over();
    stopping.abort();
    await Promise.allSettled([proxy.destroy()]); // what it fails with has been thrown by close() already
    await file?.end();
  }
  return traffic;
}

function proxyOf(values: Values, signal: AbortSignal, onFault: (text: string, session: string) => void): Proxy {
  const upstreams = values.list('upstream');
  if (upstreams.length === 0) throw usageError('--upstream is missing: where the milter listens');
  for (const upstream of upstreams) parseAddress(upstream, 'connect');
  const every = values.whole('fault-every', 1, 1_000_000_000);
  const seed = values.whole('fault-seed', 0, 0x7fff_ffff);
  const { hooks, options } = faults(values.list('fault'), { every, chance: chanceOf(values), seed, signal, onFault });
  const connectTimeout = values.time('connect-timeout');
  const onFailure = values.choice('on-failure', ['tempfail', 'reject', 'accept', 'shutdown', 'close']);
  const milters: ChainedMilter[] = upstreams.map((target) => ({ target }));
  const upstream = upstreams.length === 1 ? (upstreams[0] as string) : { milters, options: { connectTimeout } };
  return createProxy(upstream, hooks, { ...options, connectTimeout, onFailure });
}

function chanceOf(values: Values): number | undefined {
  const text = values.text('fault-chance');
  if (text === undefined) return undefined;
  if (/^(0|1|[01]?\.\d+)$/.test(text) && Number(text) <= 1) return Number(text);
  throw values.bad('fault-chance', 'must be a number from 0 to 1');
}

function problem(session: string, text: string): CaptureEvent {
  return { type: 'problem', session, time: now(), text };
}

async function watch(
  events: Source<CaptureEvent>,
  file: CaptureFile | undefined,
  traffic: Traffic,
  viewers: readonly Viewer[],
): Promise<void> {
  const written = async function* (): AsyncGenerator<CaptureEvent> {
    for await (const event of events) {
      file?.write(event);
      yield event;
    }
  };
  const reading = new Reading((message) => {
    traffic.over(message);
    for (const viewer of viewers) viewer.over(message);
  });
  for await (const record of decodeConversation(written())) {
    const seen = reading.take(record);
    traffic.count(seen);
    for (const viewer of viewers) viewer.show(seen);
  }
}
