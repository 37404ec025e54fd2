/** The page for a browser: served while mail passes (`sniff --web`), or written of a capture (`decode --html`). */
import { basename } from 'node:path';
import type { ConversationRecord } from '../capture/types.js';
import { htmlReport } from '../web/report.js';
import { parseWebPlace } from '../web/place.js';
import { createLadder } from '../web/server.js';
import type { Io, OptionRow } from './command.js';
import type { Viewer } from './tap.js';
import { paintFor, printable } from './terminal.js';
import type { Values } from './values.js';

export const WEB_OPTION: OptionRow = {
  name: 'web',
  value: '[HOST:]PORT',
  text: 'Show it on a web page as well, whose address is told; without HOST to this machine alone. Port 0 is any free one.',
};

export const HTML_OPTION: OptionRow = {
  name: 'html',
  value: 'FILE',
  text: 'Write a page to look at in a browser there instead. - is the standard output.',
};

export interface WebPage {
  /** One for tap(); none where no page is asked for. */
  readonly viewers: readonly Viewer[];
  close(): Promise<void>;
}

/**
 * Serves the page where one is asked for. Its address is told on stderr: only who knows it may look.
 * @throws MilterError ERR_MILTER_ADDRESS, ERR_MILTER_LISTEN
 */
export async function webPage(io: Io, values: Values): Promise<WebPage> {
  const text = values.text('web');
  if (text === undefined) return { viewers: [], close: async () => {} };
  const ladder = createLadder({ title: `sniff ${values.list('upstream').join(', ')}`.trim() });
  const { url, warning } = await ladder.listen(parseWebPlace(text));
  const { bold, yellow } = paintFor(io.stderr, io.env);
  const viewer: Viewer = {
    begin() {
      if (warning !== undefined) io.stderr.write(`${yellow(printable(warning))}\n`);
      io.stderr.write(`look at ${bold(url)}\n`);
    },
    show: ({ record }) => ladder.take(record),
    over() {},
  };
  return { viewers: [viewer], close: () => ladder.close() };
}

/** A capture as a page. @param name of the file */
export function htmlOf(name: string, records: AsyncIterable<ConversationRecord>): AsyncIterable<string> {
  return htmlReport(records, { title: name === '-' ? '' : basename(name) });
}
