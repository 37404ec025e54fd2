// What carries much: outputs for slow readers, a queue, signals, a file that is too slow.
import { EventEmitter } from 'node:events';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import t from 'tap';
import { CaptureFile } from '../../lib/cli/capture-file.js';
import { EventQueue } from '../../lib/cli/event-queue.js';
import type { CliError } from '../../lib/cli/exit.js';
import { LiveOutput } from '../../lib/cli/outputs.js';
import { StatusLine } from '../../lib/cli/progress.js';
import { onStop } from '../../lib/cli/stop.js';
import { data } from '../helpers/capture.js';
import { shortFolder } from '../helpers/folder.js';
import { fakeIo, Kept } from './io.js';

t.test('lines that nobody takes are left out, and it says so', async (t) => {
  const taken: Array<() => void> = [];
  const printed: string[] = [];
  const slow = new Writable({
    decodeStrings: false,
    write(chunk: string, _encoding, done) {
      printed.push(chunk);
      taken.push(done);
    },
  });
  const live = new LiveOutput(slow, 10);
  live.print('');
  for (const line of ['one\n', 'two, longer\n', 'three\n', 'four\n']) live.print(line);
  while (taken.length > 0) {
    taken.shift()!();
    await new Promise(setImmediate);
  }
  live.print('five\n');
  while (taken.length > 0) {
    taken.shift()!();
    await new Promise(setImmediate);
  }
  t.strictSame(printed, ['one\n', 'two, longer\n', '… 2 lines left out: nobody takes them so fast\n', 'five\n']);
});

t.test('a queue gives what is put into it, also while it is being read', async (t) => {
  const queue = new EventQueue<number>();
  queue.push(1);
  const seen: number[] = [];
  for await (const event of queue) {
    seen.push(event);
    if (event === 1) queue.push(2);
    if (event === 2) setImmediate(() => queue.push(3));
    if (event === 3) setImmediate(() => queue.end());
  }
  t.strictSame(seen, [1, 2, 3]);
});

t.test('signals stop a command until it takes that back', async (t) => {
  const source = new EventEmitter() as unknown as NodeJS.Process;
  let stops = 0;
  const over = onStop({ ...fakeIo(), signal: undefined }, () => void stops++, source);
  source.emit('SIGINT');
  source.emit('SIGTERM');
  t.equal(stops, 2);
  over();
  t.equal(source.listenerCount('SIGINT') + source.listenerCount('SIGTERM'), 0);
});

t.test('a file that cannot keep up is given up, and told once', async (t) => {
  const errors: CliError[] = [];
  const file = await CaptureFile.open(join(shortFolder(t), 'a.jsonl'), (error) => errors.push(error), 100);
  await file.begin();
  file.write(data('mta', Buffer.alloc(1000)));
  for (let i = 0; i < 3; i++) file.write(data('mta', Buffer.alloc(1000)));
  await file.end();
  t.match(errors, [{ exit: 73, message: /a\.jsonl: the disk is too slow$/ }]);
});

t.test('a line of progress is drawn anew no more than ten times a second, on terminals alone', async (t) => {
  const out = new Kept(true);
  let now = 0;
  const line = new StatusLine(out, () => now);
  line.end();
  for (const [time, text] of [
    [0, 'longer'],
    [50, 'left out'],
    [100, 'short'],
  ] as const) {
    now = time;
    line.show(() => text);
  }
  line.end();
  t.equal(out.text, '\rlonger\rshort \r     \r');
  const file = new Kept();
  new StatusLine(file).show(() => 'nothing');
  t.equal(file.text, '');
});
