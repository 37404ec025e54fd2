/**
 * The TCP connections in a capture, side by side, as sessions. What is no TCP is read over; a frame that cannot be read
 * becomes a `problem` that names it, and the others are read.
 */
import { endpointOf, isSide, isTime, MAX_OPEN } from './checks.js';
import type { Frame } from './frame.js';
import { Flow, type FlowName } from './flow.js';
import { segmentOf, Unreadable, type Segment } from './segment.js';
import type { CaptureEvent, Endpoint, ProblemEvent, Source } from './types.js';

export interface TcpOptions {
  /** The milter's port: only its connections are read, and it is known who is who. Default: all connections. */
  readonly port?: number | undefined;
}

/** Connections that are over and are remembered, so that a segment sent again is no new one. */
const REMEMBERED = 1024;
/** How much of all connections together may wait for what is missing, in bytes. */
const MAX_HELD = 64 * 1024 * 1024;

/** What a comment of this library's begins with; JSON follows. */
export const COMMENT_MARK = 'milter-stream ';

/** The events of all connections. What the frames throw is thrown when everything before has been given. */
export async function* tcpEvents(
  frames: Source<Frame>,
  options: TcpOptions = {},
): AsyncGenerator<CaptureEvent, void, undefined> {
  const connections = new Connections(options.port);
  const told = new Set<string>();
  let failure: { readonly error: unknown } | undefined;
  const problem = ({ number, time }: Frame, why: string): ProblemEvent => ({
    type: 'problem',
    session: '',
    time,
    text: `Frame ${number}: ${why}`,
  });
  let time = 0;
  try {
    for await (const read of frames) {
      const frame = isTime(read.time) ? read : { ...read, time };
      ({ time } = frame);
      const segment = segmentOf(frame);
      if (segment === undefined) continue;
      if (frame !== read && !told.has(NO_TIME)) {
        told.add(NO_TIME);
        yield problem(frame, NO_TIME);
      }
      if (segment instanceof Unreadable) {
        if (told.has(segment.why)) continue;
        if (segment.always) told.add(segment.why);
        yield problem(frame, segment.why);
        continue;
      }
      if (!connections.concern(segment)) continue;
      if (segment.data.length < segment.size && !told.has(CUT_SHORT)) {
        told.add(CUT_SHORT);
        yield problem(frame, `${CUT_SHORT} (here ${segment.data.length} bytes of ${segment.size})`);
      }
      yield* connections.take(segment);
    }
  } catch (error) {
    failure = { error };
  }
  yield* connections.finish();
  if (failure !== undefined) throw failure.error;
}

const NO_TIME = 'its time is no date; it gets the one of the frame before it, and so do others';
const CUT_SHORT = 'packets were captured in part alone; tcpdump takes all with -s 0';

class Connections {
  readonly #port: number | undefined;
  /** Those that are open; what has been silent for longest comes first. */
  readonly #open = new Map<string, Flow>();
  /** Those that are over, the first to go first. */
  readonly #over = new Map<string, Flow>();
  /** The names of those that are open. */
  readonly #sessions = new Set<string>();
  #held = 0;
  #count = 0;

  constructor(port: number | undefined) {
    this.#port = port;
  }

  concern({ source, destination }: Segment): boolean {
    return this.#port === undefined || source.port === this.#port || destination.port === this.#port;
  }

  take(segment: Segment): CaptureEvent[] {
    const there = keyOf(segment.source, segment.destination);
    const back = keyOf(segment.destination, segment.source);
    const events: CaptureEvent[] = [];
    let key = this.#find(back) === undefined ? there : back;
    let flow = this.#find(key);
    if (flow?.isOver(segment) === true) {
      events.push(...this.#replace(key, flow));
      flow = undefined;
      key = there;
    }
    const said = commentOf(segment.comment);
    if (flow === undefined) {
      // An acknowledgement or a refusal alone shows nothing of a connection.
      if (!segment.syn && !segment.fin && segment.data.length === 0) return events;
      if (this.#open.size >= MAX_OPEN) {
        const [[idlest, idle]] = this.#open as Iterable<[string, Flow]> as [[string, Flow]];
        events.push(...this.#replace(idlest, idle));
      }
      const name = nameIn(said);
      flow = new Flow(this.#nameOf(name), segment, name, this.#port);
      this.#sessions.add(flow.session);
    } else if (flow.closed) {
      return events;
    }
    const error = typeof said?.['error'] === 'string' ? said['error'] : undefined;
    this.#held -= flow.held;
    events.push(...flow.take(segment, key === there ? 0 : 1, error));
    if (this.#held + flow.held > MAX_HELD) events.push(...flow.finish());
    this.#held += flow.held;
    this.#open.delete(key);
    if (flow.closed) this.#remember(key, flow);
    else this.#open.set(key, flow);
    return events;
  }

  finish(): CaptureEvent[] {
    return [...this.#open.values()].flatMap((flow) => flow.finish());
  }

  #find(key: string): Flow | undefined {
    return this.#open.get(key) ?? this.#over.get(key);
  }

  /** Makes an end of a connection, as another one begins. */
  #replace(key: string, flow: Flow): CaptureEvent[] {
    this.#held -= flow.held;
    if (this.#open.delete(key)) this.#sessions.delete(flow.session);
    else this.#over.delete(key);
    return flow.replace();
  }

  #remember(key: string, flow: Flow): void {
    this.#sessions.delete(flow.session);
    this.#over.set(key, flow);
    if (this.#over.size <= REMEMBERED) return;
    const [oldest] = this.#over.keys() as Iterable<string> as [string];
    this.#over.delete(oldest);
  }

  /** The name in the file, unless another session has it. */
  #nameOf(name: FlowName | undefined): string {
    if (name !== undefined && !this.#sessions.has(name.session)) return name.session;
    do this.#count++;
    while (this.#sessions.has(String(this.#count)));
    return String(this.#count);
  }
}

function keyOf(from: Endpoint, to: Endpoint): string {
  return `${from.address} ${from.port} ${to.address} ${to.port}`;
}

type Said = Readonly<Record<string, unknown>>;

function commentOf(comment: string | undefined): Said | undefined {
  if (comment?.startsWith(COMMENT_MARK) !== true) return undefined;
  try {
    return JSON.parse(comment.slice(COMMENT_MARK.length)) as Said;
  } catch {
    return undefined; // somebody else's words
  }
}

function nameIn(said: Said | undefined): FlowName | undefined {
  const session = said?.['session'];
  const from = said?.['from'];
  if (typeof session !== 'string' || !isSide(from)) return undefined;
  return { session, from, ...endpointOf(said as Said, 'mta'), ...endpointOf(said as Said, 'milter') };
}
