// `milter-stream send --repeat --connections`: many messages, and how fast they were.
import { EventEmitter } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { interruption } from '../../lib/cli/interruption.js';
import { CONTINUE, REJECT } from '../../lib/index.js';
import { silence } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { cli, fakeIo } from './io.js';
import { saying, serving } from './milters.js';

const mail = join(shortFolder(t), 'mail.eml');
writeFileSync(mail, 'From: alice@example.org\nTo: bob@example.com\n\nOne.\n');

t.test('--repeat and --connections: how fast, in a table or as JSON, with a bar on a terminal alone', async (t) => {
  let messages = 0;
  const address = await serving(t, { connect() {}, eob: () => (++messages % 2 === 0 ? REJECT : CONTINUE) });
  const argv = ['send', mail, mail, '--to', address, '--repeat', '10', '--connections', '3'];
  const { code, out, err } = await cli(argv);
  t.equal(messages, 20, 'each file ten times');
  t.equal(code, 1);
  t.equal(err, '');
  t.match(
    out,
    /^20 messages on 3 connections in \d+\.\d\d s: [\d,.]+ messages\/s\n {2}10 (delivered|rejected), 10 (delivered|rejected)\n/,
  );
  t.match(
    out,
    /^ +count +p50 +p90 +p99 +max\nmessage +20( +[\d.]+ ms){4}\nconnect +3( +[\d.]+ ms){4}\neob +20( +[\d.]+ ms){4}\n$/m,
  );
  const json = await cli([...argv, '--json'], { tty: true });
  t.match(json.err, /^\r\[#*\.*\] \d+% \d+\/20 \d+\/s/);
  t.match(json.err, /100% 20\/20 \d+\/s\r +\r$/);
  t.match(JSON.parse(json.out), {
    milters: [address],
    messages: 20,
    connections: 3,
    verdicts: { accept: 10, reject: 10 },
    failures: {},
    latency: { message: { count: 20 }, stages: { connect: { count: 3 }, eob: { count: 20 } } },
  });
  t.strictSame(await cli([...argv, '--quiet']), { code: 1, out: '', err: '' });
  messages = 0;
  await cli(['send', mail, '--to', address, '-c', '4']);
  t.equal(messages, 4, 'at least one for each connection');
});

t.test('a milter that fails under load: how often, and no message more where nothing listens', async (t) => {
  const hangs = await saying(t, { eob: silence });
  const { code, out, err } = await cli(['send', mail, '--to', hangs, '-n', '3', '--timeout', '500ms']);
  t.equal(code, 69);
  t.match(out, /^0 messages on 1 connection in .*\n {2}none came to an end\n/);
  t.equal(
    err,
    'milter-stream send: 3 messages failed: The milter failed at eob: It does not answer, and 500 ms are over\n',
  );
  const closes = await saying(t, { eob: (line) => line.end() });
  const lost = await cli(['send', mail, '--to', closes, '-n', '2']);
  t.equal(
    lost.err,
    'milter-stream send: 2 messages failed: The milter failed at eob: The connection was lost: the milter closed it\n',
  );
  const none = await cli(['send', mail, '--to', 'inet:1@127.0.0.1', '-n', '1000']);
  t.equal(none.code, 69);
  t.match(none.err, /^milter-stream send: 1 message failed: Cannot connect to/);
});

t.test('Ctrl-C ends a load early, and what was measured is shown', async (t) => {
  const controller = new AbortController();
  let messages = 0;
  const address = await serving(t, {
    eob() {
      if (++messages === 3) controller.abort();
    },
  });
  const { code, out, err } = await cli(['send', mail, '--to', address, '-n', '100'], { signal: controller.signal });
  t.equal(code, 0);
  t.match(out, /^[23] messages on 1 connection/);
  t.equal(err, '');
  t.equal(messages, 3);
  const never = await cli(['send', mail, '--to', address, '-n', '5'], { signal: AbortSignal.abort() });
  t.match(never, { code: 0, out: /^0 messages/ });
  t.equal(messages, 3, 'none is begun');
  const before = process.listenerCount('SIGINT');
  let during = 0;
  const other = await serving(t, { eob: () => void (during = process.listenerCount('SIGINT')) });
  await cli(['send', mail, '--to', other, '-n', '2']);
  t.strictSame([during, process.listenerCount('SIGINT')], [before + 1, before]);
  const source = new EventEmitter();
  const { signal } = interruption(fakeIo(), source as unknown as NodeJS.Process);
  source.emit('SIGINT');
  t.ok(signal.aborted);
  t.equal(source.listenerCount('SIGINT'), 0, 'the next one is not ours');
});
