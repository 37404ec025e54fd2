/** `milter-stream sniff`: stands between a mail server and a milter, and shows what they say. */
import { formatOf } from './capture-file.js';
import type { Command, Io } from './command.js';
import { LiveOutput } from './outputs.js';
import { TAP_EXITS, TAP_OPTIONS, tap, type Viewer } from './tap.js';
import { jsonLine, paintFor } from './terminal.js';
import { trafficLines } from './traffic.js';
import { View, VIEW_OPTIONS, viewOptions } from './view.js';
import type { Values } from './values.js';
import { WEB_OPTION, webPage } from './web-page.js';

export const sniff: Command = {
  name: 'sniff',
  summary: 'stand between a mail server and a milter, and show what they say',
  usage: ['--listen ADDRESS --upstream ADDRESS [OPTION]...'],
  text: [
    'Listens for mail servers, connects to the milter for each of them, passes everything on byte for byte, and prints every packet: when, in which session, who (→ the mail server, ← the milter), what, and how long an answer took. Bytes that are no packets pass as well, and are shown as what they are.',
    'What is shown is what was said on either side. Where --fault changes an answer, a line says so.',
    'SIGINT and SIGTERM stop it: connections are served to their end, a second signal ends them at once. So does the end of whoever reads what it prints, like head. Then it prints how many messages there were, what became of them, and how long answers took.',
    '--sender, --queue-id and --verdict keep the lines of a message until it is known whether they are shown, up to a megabyte of them.',
  ],
  options: [
    ...TAP_OPTIONS,
    {
      name: 'write',
      short: 'w',
      value: 'FILE',
      text: 'Write all that passes there as well, for its owner alone: .jsonl, or .pcapng for Wireshark.',
    },
    WEB_OPTION,
    ...VIEW_OPTIONS,
  ],
  positionals: { min: 0, max: 0 },
  exits: TAP_EXITS,
  examples: [
    ['sniff --listen inet:8892 --upstream inet:8891@127.0.0.1', 'Tell the mail server port 8892.'],
    ['sniff --listen inet:8892 --upstream inet:8891 --web 8080', 'Look at it in a browser.'],
    ['sniff --listen inet:8892 --upstream inet:8891 --only rcpt,eob --verdict reject', 'Why is it rejected?'],
    [
      'sniff --listen inet:8892 --upstream inet:8891 --fault eob:stall --fault-every 3',
      'What does the mail server do?',
    ],
  ],
  async run(io, values) {
    const output = values.text('write');
    if (output !== undefined) formatOf(output);
    const shown = viewer(io, values);
    const page = await webPage(io, values);
    const traffic = await tap(io, values, output, () => [shown, ...page.viewers]).finally(() => page.close());
    const summary = traffic.summary();
    if (values.flag('json')) io.stdout.write(jsonLine({ type: 'summary', ...summary }));
    else io.stdout.write(`${trafficLines(summary, paintFor(io.stdout, io.env)).join('\n')}\n`);
    return traffic.status;
  },
};

function viewer(io: Io, values: Values): Viewer {
  const paint = paintFor(io.stdout, io.env);
  const live = new LiveOutput(io.stdout);
  const view = new View(viewOptions(values), paint, (text) => live.print(text));
  return {
    begin(address) {
      const upstream = values.list('upstream');
      const text = `listening on ${address}, for ${upstream.join(', ')}`;
      live.print(values.flag('json') ? jsonLine({ type: 'listening', address, upstream }) : `${paint.dim(text)}\n`);
    },
    show: (seen) => view.show(seen),
    over: (message) => view.over(message),
  };
}
