/** htmlReport(): a capture as one file that needs nothing else. */
import type { ConversationRecord, Source } from '../capture/types.js';
import { Itemizer, type Item, type ItemOptions } from './model.js';
import { json, pageEnd, pageStart, type PageOptions } from './page.js';

export interface ReportOptions extends ItemOptions, PageOptions {}

/** About so many characters of items are in one element. */
const BLOCK = 256 * 1024;

/**
 * The page with what is in a capture, in pieces: what is held is one block, never the capture. What the records throw (the
 * file is broken or cut) is thrown at the end: by then the page is whole, and says so too.
 * @throws MilterError ERR_MILTER_OPTION
 */
export async function* htmlReport(
  records: Source<ConversationRecord>,
  options: ReportOptions = {},
): AsyncGenerator<string, void, undefined> {
  const itemizer = new Itemizer(options);
  let failure: { readonly error: unknown } | undefined;
  yield pageStart({ live: false, ...options });
  let block: string[] = [];
  let length = 0;
  const add = (item: Item): void => {
    const text = json(item);
    block.push(text);
    length += text.length;
  };
  try {
    for await (const record of records) {
      add(itemizer.item(record));
      if (length < BLOCK) continue;
      yield element(block);
      block = [];
      length = 0;
    }
  } catch (error) {
    failure = { error };
    const text = `The capture can't be read any further: ${error instanceof Error ? error.message : String(error)}`;
    add(itemizer.item({ type: 'problem', session: '', time: 0, text }));
  }
  yield element(block);
  yield pageEnd();
  if (failure !== undefined) throw failure.error;
}

function element(items: readonly string[]): string {
  return `<script type="application/json" class="items">[${items.join(',\n')}]</script>\n`;
}
