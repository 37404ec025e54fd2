// A folder of messages, the worse the better: what arrives through a milter is what arrives without.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { SMFIF_CHGHDRS } from '../../../lib/index.js';
import type { SinkMessage } from '../../helpers/sink.js';
import { Editor, Recorder } from '../milters.js';
import type { Rig } from '../rig.js';
import { opened } from './letters.js';

/** How many are on their way at the same time. */
const AT_ONCE = 4;

/** What became of a message. */
interface Fate {
  /** The server's replies, up to the one that refused it. */
  replies: number[];
  head: string[];
  body: string;
}

/** @param bare a rig of the same server that knows of no milter */
export function corpus(t: Test, rig: Rig, bare: Rig, folder: string): void {
  t.test('P11 P48 every message of the corpus arrives as it does without a milter', rig.needs, async (t) => {
    const letters = await read(folder);
    const expected = await deliver(bare, letters);
    let heard: Fate[] = [];
    await rig.milter(Recorder, {}, async () => void (heard = await deliver(rig, letters)));
    compare(t, heard, expected, letters);

    const context = { cases: [[['chgHeader', 'Subject', 'changed']]] };
    await rig.milter(Editor, { smfifOptions: SMFIF_CHGHDRS, context }, async () => {
      heard = await deliver(rig, letters);
    });
    for (const fate of expected) fate.head = changed(fate.head);
    compare(t, heard, expected, letters);
    t.comment(`${letters.size} messages`);
  });
}

/** The first Subject is another one; where there is none it comes behind the last header. */
function changed(head: string[]): string[] {
  const at = head.findIndex((line) => /^Subject[ \t]*:/i.test(line));
  return at < 0 ? [...head, 'Subject: changed'] : head.with(at, 'Subject: changed');
}

/** The messages by name, their lines ended as SMTP wants it. */
async function read(folder: string): Promise<Map<string, Buffer>> {
  const files = await readdir(folder, { recursive: true });
  const letters = new Map<string, Buffer>();
  for (const file of files.filter((name) => name.endsWith('.eml')).sort()) {
    const text = await readFile(join(folder, file), 'latin1');
    letters.set(file, Buffer.from(text.replaceAll(/\r\n|\r|\n/g, '\r\n'), 'latin1'));
  }
  return letters;
}

async function deliver(rig: Rig, letters: ReadonlyMap<string, Buffer>): Promise<Fate[]> {
  const fates = [...letters].map((): Fate => ({ replies: [], head: [], body: '' }));
  const left = [...letters.values()].entries();
  const work = async (): Promise<void> => {
    for (const [i, data] of left) (fates[i] as Fate).replies = await submit(rig, i, data);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const taken = fates.filter(({ replies }) => replies.at(-1) === 250).length;
  for (const message of await rig.arrivals(taken)) {
    const i = Number(/^m(\d+)@/.exec(message.mailFrom)?.[1]);
    Object.assign(fates[i] as Fate, settled(message, [...letters.values()][i] as Buffer));
  }
  return fates;
}

async function submit(rig: Rig, i: number, data: Buffer): Promise<number[]> {
  const client = await rig.client();
  const replies: number[] = [];
  for (const line of [`MAIL FROM:<m${i}@example.org> BODY=8BITMIME`, 'RCPT TO:<berta@example.net>', 'DATA']) {
    replies.push((await client.command(line)).code);
  }
  if (replies.at(-1) === 354) replies.push((await client.message(data)).code);
  await client.end();
  return replies;
}

/** What differs from one time to the other gets a name: what Sendmail adds holds the time and its queue id. */
function settled(message: SinkMessage, sent: Buffer): Pick<Fate, 'head' | 'body'> {
  const { head, body } = opened(message);
  const had = sent.toString('latin1');
  return {
    head: head.map((line) => (/^(Date|Message-Id): /.test(line) && !had.includes(line) ? '(added)' : line)),
    body,
  };
}

function compare(
  t: Test,
  fates: readonly Fate[],
  expected: readonly Fate[],
  letters: ReadonlyMap<string, Buffer>,
): void {
  for (const [i, name] of [...letters.keys()].entries()) t.strictSame(fates[i], expected[i], name);
}
