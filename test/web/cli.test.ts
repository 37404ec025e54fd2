// The page by way of the command line: sniff --web, and decode --html.
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { writeCapture } from '../../lib/capture/index.js';
import { MilterClient } from '../../lib/client/index.js';
import { runCli } from '../../lib/cli/cli.js';
import { cli, fakeIo, type FakeIo } from '../cli/io.js';
import { serving } from '../cli/milters.js';
import { collect } from '../helpers/capture.js';
import { shortFolder } from '../helpers/folder.js';
import { MAIL } from '../helpers/recorded.js';
import { ordinary } from './scenes.js';
import { ask, Looking } from './viewing.js';

/** Sniffs; @returns the command's world, and what stops it and gives its exit status */
async function sniffing(t: Test, ...argv: string[]): Promise<{ io: FakeIo; stop: () => Promise<number> }> {
  const stopping = new AbortController();
  const io = fakeIo({ signal: stopping.signal });
  const upstream = await serving(t, { eob() {} });
  const ended = runCli(['sniff', '--listen', 'inet:0', '--upstream', upstream, ...argv], io);
  t.teardown(() => stopping.abort());
  await Promise.race([io.stderr.printed('look at '), ended]);
  return {
    io,
    stop() {
      stopping.abort();
      return ended;
    },
  };
}

const urlIn = (text: string): string => /look at (\S+)/.exec(text)?.[1] ?? '';

t.test('sniff --web shows on a page what passes, and tells its address on stderr alone', async (t) => {
  const { io, stop } = await sniffing(t, '--web', '0');
  const url = urlIn(io.stderr.text);
  t.match(url, /^http:\/\/127\.0\.0\.1:\d+\/[\w-]{32}\/$/);
  t.equal(io.stderr.text, `look at ${url}\n`);
  t.notMatch(io.stdout.text, 'http:');
  t.match((await ask(url)).text, /<title>sniff inet:\d+@127\.0\.0\.1 - milter-stream<\/title>/);
  const looking = await Looking.at(url);
  const client = new MilterClient(/inet:\d+@127\.0\.0\.1/.exec(io.stdout.text)![0]);
  await client.connect();
  await client.send(MAIL);
  await client.quit();
  const all = await looking.until((what) => what.kind === 'close');
  t.ok(all.some((what) => 'name' in what && what.name === 'eob'));
  t.ok(all.some((what) => 'news' in what && what.news?.verdict === 'accept'));
  t.equal(await stop(), 0);
  t.strictSame(await looking.next(), { kind: 'end' });
});

t.test('sniff --web warns where others can look, and fails where it cannot serve', async (t) => {
  const open = await sniffing(t, '--web', '0.0.0.0:0');
  t.match(open.io.stderr.text, /^The web page can be reached from other machines \(0\.0\.0\.0\).*\nlook at http/);
  const { port } = new URL(urlIn(open.io.stderr.text));
  const taken = await sniffing(t, '--web', `0.0.0.0:${port}`);
  t.equal(await taken.stop(), 69);
  t.match(taken.io.stderr.text, 'The web page cannot be served');
  t.equal(await open.stop(), 0);
  const wrong = await sniffing(t, '--web', 'x');
  t.equal(await wrong.stop(), 64);
  t.match(wrong.io.stderr.text, 'A port, or HOST:PORT, is needed for the web page, got "x"');
});

t.test('decode --html writes the page of a capture, for its owner alone', async (t) => {
  const folder = shortFolder(t);
  const [capture, html] = [join(folder, 'evening.jsonl'), join(folder, 'evening.html')];
  const bytes = Buffer.concat(await collect(writeCapture(ordinary(), 'jsonl')));
  writeFileSync(capture, bytes);
  const odd = { code: 65, out: '', err: '' }; // somebody says what is no packet
  t.strictSame(await cli(['decode', capture, '--html', html]), odd);
  const text = readFileSync(html, 'utf8');
  t.equal(statSync(html).mode & 0o777, 0o600);
  t.match(text, '<title>evening.jsonl - milter-stream</title>');
  t.match(text, '"sender":"\\u003canna@example.org\\u003e"');
  t.equal((await cli(['decode', capture, '--html', '-'])).out, text);
  const piped = await cli(['decode', '-', '--html', '-'], { stdin: bytes });
  t.match(piped.out, '<title>milter-stream</title>');
  const redacted = await cli(['decode', capture, '--html', '-', '--redact', '--session', '1']);
  t.equal(redacted.code, 0);
  t.notMatch(redacted.out, /anna|"session":"2"/);

  writeFileSync(capture, bytes.subarray(0, -10));
  const cut = await cli(['decode', capture, '--html', html]);
  t.equal(cut.code, 65);
  t.match(readFileSync(html, 'utf8'), /can't be read any further: .*<\/html>\n$/s);
});

t.test('decode --html goes with nothing that is for other outputs', async (t) => {
  const refused = async (...argv: string[]): Promise<string> => {
    const { code, err } = await cli(['decode', 'x.jsonl', '--html', 'x.html', ...argv]);
    t.equal(code, 64);
    return err;
  };
  t.match(await refused('--json'), '--html writes a page: --json is of no use there');
  t.match(await refused('--output', 'y.jsonl'), '--output and --html are two things');
  t.match(await refused('--format', 'jsonl'), '--format is for --output');
  const folder = shortFolder(t);
  const capture = join(folder, 'a.jsonl');
  writeFileSync(capture, Buffer.concat(await collect(writeCapture([], 'jsonl'))));
  const { code, err } = await cli(['decode', capture, '--html', join(folder, 'no/such.html')]);
  t.equal(code, 73);
  t.match(err, 'Cannot write');
});
