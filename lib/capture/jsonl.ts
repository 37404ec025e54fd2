/**
 * Captures as JSON Lines: the first line says what it is, and each further one is an event.
 *
 *   {"format":"milter-stream capture","version":1}
 *   {"type":"open","session":"1","time":1700000000000,"mta":{"address":"127.0.0.1","port":40000},"milter":{…}}
 *   {"type":"data","session":"1","time":…,"from":"mta","offset":0,"bytes":"AAAADU8…","packets":[{"number":1,"type":"negotiate",…}]}
 *   {"type":"close","session":"1","time":…,"from":"mta","notes":["…"]}
 *
 * `bytes` (base64) is what was said, `offset` how much this side had said before: only these are read back. `packets` and
 * `notes` are for people and for grep: the packets that end in these bytes, and what there is to say.
 */
import { endpointOf, isCount, isSide, isTime, MAX_OPEN } from './checks.js';
import { Conversation } from './conversation.js';
import { show } from '../errors.js';
import { broken } from './failure.js';
import { portionsOf } from './portions.js';
import { packetToJson } from './show.js';
import type { CaptureEvent, DataEvent, GapEvent, ProblemEvent, Side, Source } from './types.js';

export const JSON_LINES_FORMAT = 'milter-stream capture';
const VERSION = 1;
/** Largest line that is read, in characters. Those written here are far below. */
const MAX_LINE = 16 * 1024 * 1024;
/** How much each side has said. */
type Said = Record<Side, number>;

export class JsonLinesWriter {
  readonly #sessions = new Map<string, { readonly said: Said; readonly conversation: Conversation }>();

  /** What the file begins with. */
  begin(): Buffer {
    return line({ format: JSON_LINES_FORMAT, version: VERSION });
  }

  /** The bytes of an event. */
  write(event: CaptureEvent): Buffer {
    if (event.type === 'data')
      return Buffer.concat(portionsOf(event.bytes).map((bytes) => this.#line({ ...event, bytes })));
    return event.type === 'problem' ? line(event) : this.#line(event);
  }

  #line(event: Exclude<CaptureEvent, ProblemEvent>): Buffer {
    const { session, type } = event;
    let known = this.#sessions.get(session);
    if (known === undefined) {
      known = { said: { mta: 0, milter: 0 }, conversation: new Conversation(session) };
      this.#sessions.set(session, known);
    }
    const records = known.conversation.take(event);
    if (type === 'close') this.#sessions.delete(session);
    const packets = records.flatMap((record) => {
      if (record.type !== 'packet') return [];
      const { number, answers, problem } = record;
      return [{ number, ...packetToJson(record.packet), answers, problem }];
    });
    const notes = records.flatMap((record) => (record.type === 'garbage' ? [record.text] : []));
    const extras = { ...(packets.length > 0 && { packets }), ...(notes.length > 0 && { notes }) };
    if (event.type !== 'data') return line({ ...event, ...extras });
    const { time, from, bytes } = event;
    const offset = known.said[from];
    known.said[from] += bytes.length;
    return line({ type, session, time, from, offset, bytes: bytes.toString('base64'), ...extras });
  }
}

function line(value: object): Buffer {
  return Buffer.from(`${JSON.stringify(value)}\n`, 'utf8');
}

/**
 * The events in a capture in JSON Lines. A line that is none becomes a `problem` that names it, and what a session lacks
 * because of it a `gap`; the other lines are read.
 * @throws MilterError ERR_MILTER_CAPTURE where the first line is another, a line has no end, the last one is cut, or more
 *   sessions are open than can be
 */
export async function* readJsonLines(chunks: Source<Uint8Array>): AsyncGenerator<CaptureEvent, void, undefined> {
  const said = new Map<string, Said>();
  let number = 0;
  let time = 0;
  for await (const { text, whole } of linesOf(chunks)) {
    number++;
    if (number === 1) {
      checkFirst(text);
      continue;
    }
    if (text.trim() === '') continue;
    const event = eventOf(text, number, time);
    if (event.type === 'problem' && !whole) throw broken('The file is cut: its last line has no end', `line ${number}`);
    ({ time } = event);
    const { type, session } = event;
    let known = said.get(session);
    if (known === undefined) {
      if (said.size >= MAX_OPEN) throw broken(`More than ${MAX_OPEN} sessions are open at once`, `line ${number}`);
      said.set(session, (known = { mta: 0, milter: 0 }));
    }
    if (type === 'close') said.delete(session);
    if (type === 'data') yield* dataEvents(event, known);
    else yield event;
  }
}

interface DataLine {
  readonly type: 'data';
  readonly session: string;
  readonly time: number;
  readonly from: Side;
  readonly bytes: Buffer;
  readonly offset: number | undefined;
}

type LineEvent = Exclude<CaptureEvent, { type: 'data' }> | DataLine;

/** The bytes of a line, behind the gap before them. */
function* dataEvents(
  { type, session, time, from, bytes, offset }: DataLine,
  said: Said,
): Generator<DataEvent | GapEvent> {
  const expected = said[from];
  said[from] = (offset ?? expected) + bytes.length;
  if (offset !== undefined && offset !== expected) {
    yield { type: 'gap', session, time, from, missing: Math.max(0, offset - expected) };
  }
  for (const portion of portionsOf(bytes)) yield { type, session, time, from, bytes: portion };
}

function checkFirst(text: string): void {
  const first = parse(text);
  if (first?.['format'] !== JSON_LINES_FORMAT)
    throw broken(`No capture: it does not say ${JSON_LINES_FORMAT}`, 'line 1');
  if (first['version'] !== VERSION) {
    throw broken(`The capture is of version ${show(first['version'])}; version ${VERSION} is read here`, 'line 1');
  }
}

/** The lines of a file; `whole` where an end of line follows. */
async function* linesOf(chunks: Source<Uint8Array>): AsyncGenerator<{ text: string; whole: boolean }> {
  const decoder = new TextDecoder();
  let parts: string[] = [];
  let size = 0;
  let number = 1;
  for await (const chunk of chunks) {
    const [first, ...more] = decoder.decode(chunk, { stream: true }).split('\n') as [string, ...string[]];
    parts.push(first);
    size += first.length;
    for (const next of more) {
      yield { text: parts.join(''), whole: true };
      number++;
      parts = [next];
      size = next.length;
    }
    if (size > MAX_LINE) throw broken(`A line of more than ${MAX_LINE} characters`, `line ${number}`);
  }
  parts.push(decoder.decode());
  const text = parts.join('');
  if (text !== '') yield { text, whole: false };
}

type Fields = Readonly<Record<string, unknown>>;

function parse(text: string): Fields | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Fields) : undefined;
  } catch {
    return undefined;
  }
}

/** The event in a line; a problem where there is none. */
function eventOf(text: string, number: number, lastTime: number): LineEvent {
  const problem = (what: string, session = ''): ProblemEvent => ({
    type: 'problem',
    session,
    time: lastTime,
    text: `Line ${number}: ${what}`,
  });
  const fields = parse(text);
  if (fields === undefined) return problem('it is no JSON object');
  const { type, session, time, from } = fields;
  if (typeof session !== 'string') return problem('session must be a string');
  if (!isTime(time)) return problem('time must be a date, in ms since 1970', session);
  switch (type) {
    case 'open': {
      const ends = { ...endpointOf(fields, 'mta'), ...endpointOf(fields, 'milter') };
      const only = fields['only'];
      return {
        type,
        session,
        time,
        ...ends,
        ...(fields['late'] === true && { late: true }),
        ...(isSide(only) && { only }),
      };
    }
    case 'data': {
      const { bytes, offset } = fields;
      if (!isSide(from)) return problem('from must be mta or milter', session);
      if (typeof bytes !== 'string' || !/^[A-Za-z0-9+/]*={0,2}$/.test(bytes) || bytes.length % 4 !== 0) {
        return problem('bytes must be base64', session);
      }
      if (offset !== undefined && !isCount(offset)) return problem('offset must be a whole number', session);
      return { type, session, time, from, bytes: Buffer.from(bytes, 'base64'), offset };
    }
    case 'gap': {
      const { missing } = fields;
      if (!isSide(from)) return problem('from must be mta or milter', session);
      if (!isCount(missing)) return problem('missing must be a whole number', session);
      return { type, session, time, from, missing };
    }
    case 'close': {
      const { error } = fields;
      return { type, session, time, ...(isSide(from) && { from }), ...(typeof error === 'string' && { error }) };
    }
    case 'problem':
      return { type, session, time, text: typeof fields['text'] === 'string' ? fields['text'] : '' };
    default:
      return problem('type must be open, data, close, gap or problem', session);
  }
}
