/**
 * The TCP connections in a capture, side by side, as sessions. What is no TCP is read over; a frame that cannot be read
 * becomes a `problem` that names it, and the others are read.
 */
import type { Frame } from './frame.js';
import { Flow, type FlowName } from './flow.js';
import { segmentOf, Unreadable, type Segment } from './segment.js';
import type { CaptureEvent, Endpoint, ProblemEvent, Side, Source } from './types.js';

export interface TcpOptions {
  /** The milter's port: only its connections are read, and it is known who is who. Default: all connections. */
  readonly port?: number | undefined;
}

/** Connections that are over and are remembered, so that a segment sent again is no new one. */
const REMEMBERED = 1024;

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
  try {
    for await (const frame of frames) {
      const segment = segmentOf(frame);
      if (segment === undefined) continue;
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

const CUT_SHORT = 'packets were captured in part alone; tcpdump takes all with -s 0';

class Connections {
  readonly #port: number | undefined;
  readonly #flows = new Map<string, Flow>();
  /** Those that are over, the first to go first. */
  readonly #over = new Set<string>();
  readonly #sessions = new Set<string>();
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
    let key = this.#flows.has(back) ? back : there;
    let flow = this.#flows.get(key);
    if (flow?.isOver(segment) === true) {
      events.push(...flow.replace());
      this.#sessions.delete(flow.session);
      this.#forget(key);
      flow = undefined;
      key = there;
    }
    const said = commentOf(segment.comment);
    if (flow === undefined) {
      // An acknowledgement or a refusal alone shows nothing of a connection.
      if (!segment.syn && !segment.fin && segment.data.length === 0) return events;
      const name = nameIn(said);
      flow = new Flow(this.#nameOf(name), segment, name, this.#port);
      this.#flows.set(key, flow);
      this.#sessions.add(flow.session);
    }
    const error = typeof said?.['error'] === 'string' ? said['error'] : undefined;
    events.push(...flow.take(segment, key === there ? 0 : 1, error));
    if (flow.closed && !this.#over.has(key)) this.#remember(key, flow);
    return events;
  }

  finish(): CaptureEvent[] {
    return [...this.#flows.values()].flatMap((flow) => flow.finish());
  }

  #remember(key: string, { session }: Flow): void {
    this.#sessions.delete(session);
    this.#over.add(key);
    if (this.#over.size <= REMEMBERED) return;
    const [oldest] = this.#over as Iterable<string> as [string];
    this.#forget(oldest);
  }

  #forget(key: string): void {
    this.#over.delete(key);
    this.#flows.delete(key);
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
  if (typeof session !== 'string' || (from !== 'mta' && from !== 'milter')) return undefined;
  return { session, from, ...endIn(said as Said, 'mta'), ...endIn(said as Said, 'milter') };
}

function endIn(said: Said, side: Side): Partial<Record<Side, Endpoint>> {
  const end = said[side] as Partial<Endpoint> | null | undefined;
  if (typeof end?.address !== 'string' || typeof end.port !== 'number') return {};
  return { [side]: { address: end.address, port: end.port } };
}
