/** `milter-stream record`: stands between a mail server and a milter, and writes down what they say. */
import type { ConversationRecord } from '../capture/types.js';
import { formatOf, type CaptureFile } from './capture-file.js';
import type { Command, Io } from './command.js';
import { StatusLine } from './progress.js';
import { TAP_EXITS, TAP_OPTIONS, tap } from './tap.js';
import { count, jsonLine, paintFor, printable } from './terminal.js';
import { trafficLines, type Traffic } from './traffic.js';

export const record: Command = {
  name: 'record',
  summary: 'stand between a mail server and a milter, and write down what they say',
  usage: ['FILE --listen ADDRESS --upstream ADDRESS [OPTION]...'],
  text: [
    'Passes everything on byte for byte, as sniff does, and writes it to FILE: JSON Lines (.jsonl), for grep and jq, or .pcapng, for Wireshark. Both can be shown with decode, and played to a milter with replay.',
    'The file has mail in it, and nobody but its owner may read it, also where it was there before and others could; --redact leaves out what is private. What was in it is gone as soon as it listens.',
    'SIGINT and SIGTERM stop it: connections are served to their end, a second signal ends them at once. So does the end of whoever reads what it prints.',
  ],
  options: [
    ...TAP_OPTIONS,
    { name: 'json', text: 'Print what passed, in numbers, as one line of JSON.' },
    { name: 'quiet', short: 'q', text: 'Print nothing but failures.' },
  ],
  positionals: { min: 1, max: 1 },
  exits: TAP_EXITS,
  examples: [
    ['record mail.jsonl --listen inet:8892 --upstream inet:8891@127.0.0.1', 'Tell the mail server port 8892.'],
    ['record mail.pcapng --redact --listen /run/tap.sock --group postfix --upstream /run/my.sock', 'For a bug report.'],
  ],
  async run(io, values, [name = '']) {
    formatOf(name);
    const [quiet, json] = [values.flag('quiet'), values.flag('json')];
    const line = new StatusLine(io.stderr);
    const traffic = await tap(io, values, name, (passing, file) => [
      {
        begin: (address) => announce(io, quiet, json, address, values.list('upstream')),
        show({ record }) {
          const what = wrong(record);
          if (what !== undefined) {
            line.end();
            io.stderr.write(`${paintFor(io.stderr, io.env).red(printable(`session ${record.session}: ${what}`))}\n`);
          } else if (!quiet) line.show(() => progress(passing, (file as CaptureFile).bytes));
        },
        over() {},
      },
    ]);
    line.end();
    const summary = traffic.summary();
    if (json) io.stdout.write(jsonLine({ type: 'summary', file: name, ...summary }));
    else if (!quiet) io.stdout.write(`${trafficLines(summary, paintFor(io.stdout, io.env)).join('\n')}\n`);
    return traffic.status;
  },
};

/** What the exit status will tell of, and faults. */
function wrong(record: ConversationRecord): string | undefined {
  if (record.type === 'problem' || record.type === 'garbage') return record.text;
  const isOdd =
    record.type === 'packet' && (record.packet.type === 'malformed' || record.packet.type === 'unrecognized');
  return isOdd ? record.problem : undefined;
}

function announce(io: Io, quiet: boolean, json: boolean, address: string, upstream: readonly string[]): void {
  if (json) io.stdout.write(jsonLine({ type: 'listening', address, upstream }));
  else if (!quiet) io.stdout.write(`listening on ${address}, for ${upstream.join(', ')}\n`);
}

function progress({ sessions, messages, packets }: Traffic, bytes: number): string {
  return [count(sessions, 'session'), count(messages, 'message'), count(packets, 'packet'), count(bytes, 'byte')].join(
    ', ',
  );
}
