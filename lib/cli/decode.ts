/** `milter-stream decode`: shows what is in a capture, or makes another one of it. */
import { decodeConversation } from '../capture/conversation.js';
import { redactCapture } from '../capture/redact.js';
import type { CaptureEvent, ConversationRecord } from '../capture/types.js';
import { captureWriter, type CaptureFormat } from '../capture/write.js';
import { begun, capturedIn, formatOf, isDamage } from './capture-file.js';
import type { Command, Io } from './command.js';
import { EXIT, usageError } from './exit.js';
import { checkApart, writeTo } from './output-file.js';
import { PatientOutput } from './outputs.js';
import { Reading, type Seen } from './reading.js';
import { jsonLine, paintFor } from './terminal.js';
import { Traffic, trafficLines } from './traffic.js';
import type { Values } from './values.js';
import { View, VIEW_OPTIONS, viewOptions } from './view.js';
import { HTML_OPTION, htmlOf } from './web-page.js';

/** What only makes sense where packets are shown. */
const SHOWING = ['only', 'sender', 'queue-id', 'verdict', 'body', 'json', 'summary'];

export const decode: Command = {
  name: 'decode',
  summary: 'show what is in a capture, or make another one of it',
  usage: ['FILE [OPTION]...', 'FILE --output FILE [OPTION]...', 'FILE --html FILE [OPTION]...'],
  text: [
    'Shows every packet in FILE (- is the standard input): when, in which session, who (→ the mail server, ← the milter), what, and how long an answer took. FILE is what record has written, pcapng or pcap of Wireshark or tcpdump, or with --from the bare bytes of one side.',
    'A file that is cut or broken is read up to there: what was before is shown, and the place is told. Bytes that are no packets are shown as what they are.',
    'There is mail in what --output and --html write: nobody but its owner may read it, also where the file was there before and others could. It takes the place of another file when it is whole; FILE itself it may not be.',
  ],
  options: [
    { name: 'from', value: 'SIDE', text: 'Bare bytes in FILE are what this side said: mta or milter.' },
    { name: 'port', value: 'PORT', text: 'Of TCP connections read those to this port of a milter alone.' },
    { name: 'redact', text: 'Leave out who wrote to whom, and what: the same name becomes the same pseudonym.' },
    {
      name: 'output',
      short: 'o',
      value: 'FILE',
      text: 'Write a capture there instead: .jsonl or .pcapng. - is the standard output, with --format.',
    },
    { name: 'format', value: 'FORMAT', text: 'Format of --output, whatever its name is: jsonl or pcapng.' },
    HTML_OPTION,
    { name: 'summary', text: 'Show at the end what there was, in numbers.' },
    ...VIEW_OPTIONS,
  ],
  positionals: { min: 1, max: 1 },
  exits: [
    [EXIT.ok, 'everything was read, or nobody reads what it prints any more'],
    [EXIT.data, 'FILE is no capture, is cut or broken, or holds bytes that are no packets'],
    [EXIT.noInput, 'FILE cannot be read'],
    [EXIT.cannotWrite, 'the capture, the page or the standard output cannot be written'],
  ],
  examples: [
    ['decode mail.jsonl --only rcpt,eob', 'Recipients, verdicts and edits.'],
    ['decode tcpdump.pcap --port 8891 --json', 'What tcpdump has caught, for a program to read.'],
    ['decode mail.jsonl --html mail.html', 'Look at it in a browser.'],
    ['decode mail.jsonl -o - --format pcapng | wireshark -k -i -', 'In Wireshark.'],
  ],
  async run(io, values, [name = '']) {
    const [output, format] = [values.text('output'), values.choice('format', ['jsonl', 'pcapng'])];
    const from = values.choice('from', ['mta', 'milter']);
    const port = values.whole('port', 1, 65_535);
    const view = viewOptions(values);
    const events = within(view.sessions, capturedIn(io, name, { from, port }));
    const plain = values.flag('redact') ? redactCapture(events) : events;
    const html = values.text('html');
    checkApart(io, name, output ?? html ?? '-');
    if (output === undefined) {
      if (format !== undefined) throw usageError('--format is for --output');
      if (html === undefined) return showAll(io, values, plain);
    } else if (html !== undefined) throw usageError('--output and --html are two things: one at a time');
    const useless = SHOWING.find((each) => values.flag(each) || values.text(each) !== undefined);
    const what = html === undefined ? '--output writes a capture' : '--html writes a page';
    if (useless !== undefined) throw usageError(`${what}: --${useless} is of no use there`);
    if (output === undefined) return convert(io, html as string, plain, pageOf(name));
    if (output === '-' && format === undefined) throw usageError('--output - needs --format');
    return convert(io, output, plain, captureOf(format ?? formatOf(output)));
  },
};

/** Those of some sessions; what concerns none of them as well. */
async function* within(
  sessions: ReadonlySet<string> | undefined,
  events: AsyncIterable<CaptureEvent>,
): AsyncGenerator<CaptureEvent, void, undefined> {
  for await (const event of events) {
    if (event.session === '' || sessions?.has(event.session) !== false) yield event;
  }
}

async function showAll(io: Io, values: Values, events: AsyncIterable<CaptureEvent>): Promise<number> {
  const output = new PatientOutput(io.stdout);
  const paint = paintFor(io.stdout, io.env);
  const traffic = new Traffic();
  let lines = '';
  const view = new View(viewOptions(values), paint, (text) => (lines += text));
  const reading = new Reading((message) => {
    traffic.over(message);
    view.over(message);
  });
  const flush = async (): Promise<void> => {
    const text = lines;
    lines = '';
    await output.print(text);
  };
  try {
    for await (const record of decodeConversation(events)) {
      const seen = reading.take(record);
      judge(seen, traffic);
      view.show(seen);
      await flush();
      if (output.gone) return EXIT.ok;
    }
  } finally {
    await flush();
  }
  const summary = traffic.summary();
  if (values.flag('summary')) {
    const text = values.flag('json')
      ? jsonLine({ type: 'summary', ...summary })
      : `${trafficLines(summary, paint).join('\n')}\n`;
    await output.print(text);
  }
  return statusOf(traffic);
}

/** The exit status is the same whatever is made of a capture. */
function judge(seen: Seen, traffic: Traffic): void {
  traffic.count(seen);
  if (isDamage(seen.record)) traffic.fail(EXIT.data);
}

function statusOf({ status }: Traffic): number {
  return status === EXIT.ok ? EXIT.ok : EXIT.data;
}

/** Makes something else of a capture. */
type Writer = (
  events: AsyncIterable<CaptureEvent>,
  output: PatientOutput,
  judge: (record: ConversationRecord) => void,
) => Promise<void>;

function captureOf(format: CaptureFormat): Writer {
  return async (events, output, judge) => {
    const writer = captureWriter(format);
    const written = async function* (): AsyncGenerator<CaptureEvent> {
      await output.print(writer.begin());
      for await (const event of events) {
        await output.print(writer.write(event));
        if (output.gone) return;
        yield event;
      }
    };
    for await (const record of decodeConversation(written())) judge(record);
  };
}

function pageOf(name: string): Writer {
  return async (events, output, judge) => {
    const judged = async function* (): AsyncGenerator<ConversationRecord> {
      for await (const record of decodeConversation(events)) {
        judge(record);
        yield record;
      }
    };
    for await (const text of htmlOf(name, judged())) {
      await output.print(text);
      if (output.gone) return;
    }
  };
}

async function convert(io: Io, name: string, events: AsyncIterable<CaptureEvent>, write: Writer): Promise<number> {
  const read = await begun(events);
  const traffic = new Traffic();
  const judged = (record: ConversationRecord): void => judge({ record, stage: undefined, message: undefined }, traffic);
  if (name === '-') {
    const output = new PatientOutput(io.stdout);
    await write(read, output, judged);
    return output.gone ? EXIT.ok : statusOf(traffic);
  }
  await writeTo(name, (stream) => write(read, new PatientOutput(stream), judged));
  return statusOf(traffic);
}
