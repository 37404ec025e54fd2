// `milter-stream send --repeat --connections`: many messages, and how fast they were.
import { EventEmitter } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { interruption } from '../../lib/cli/interruption.js';
import { load } from '../../lib/cli/load.js';
import { CONTINUE, REJECT } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
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
    total: 20,
    notBegun: 0,
    interrupted: false,
    connections: 3,
    verdicts: { accept: 10, reject: 10 },
    failures: [],
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
  t.match(
    none.err,
    /^milter-stream send: 1 message failed: Cannot connect to .*\nmilter-stream send: 999 messages were not sent: there is no milter to connect to\n$/,
  );
  const two = await cli(['send', mail, '--to', 'inet:1@127.0.0.1', '-n', '2', '--json']);
  t.match(two.err, '\nmilter-stream send: 1 message was not sent: ');
  t.match(JSON.parse(two.out), {
    notBegun: 1,
    interrupted: false,
    failures: [{ times: 1, code: 'ERR_MILTER_CONNECTION', stage: 'negotiate', message: /^Cannot connect/ }],
  });
  let asked = 0;
  const odd = await saying(t, { eob: (line) => line.write(packet(asked++ === 0 ? 's' : 'f')) });
  const same = await cli(['send', mail, '--to', odd, '-n', '2']);
  t.equal(same.code, 76);
  t.match(
    same.err,
    /^milter-stream send: 2 messages failed: .*answered skip.*\n$/,
    'what they are told apart by is no text',
  );
});

t.test('an error of the program’s own ends a load', async (t) => {
  const address = await serving(t, {});
  const broken = {
    from: 'a',
    message: '',
    get to(): never {
      throw new TypeError('a bug');
    },
  };
  const scene = { milters: [address], options: {}, peer: {}, limit: 60_000 };
  const { signal } = new AbortController();
  const plan = { scene, mails: [broken], total: 5, connections: 2, signal, progress() {} };
  await t.rejects(load(plan), { name: 'TypeError', message: 'a bug' });
});

t.test('many connections with one signal are no leak', async (t) => {
  const warnings: string[] = [];
  const warned = ({ name }: Error): void => void warnings.push(name);
  process.on('warning', warned);
  t.teardown(() => process.off('warning', warned));
  const address = await serving(t, {});
  const argv = ['send', mail, '--to', address, '-c', '20'];
  t.equal((await cli(argv, { signal: new AbortController().signal })).code, 0);
  t.equal((await cli(argv)).code, 0, 'that of Ctrl-C');
  t.strictSame(warnings, []);
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
  t.equal(code, 130);
  const [sent] = /^[23](?= messages on 1 connection)/.exec(out)!;
  t.equal(err, `milter-stream send: interrupted, ${sent} of 100 messages sent\n`);
  t.equal(messages, 3);
  const never = await cli(['send', mail, '--to', address, '-n', '5', '--json'], { signal: AbortSignal.abort() });
  t.match(never, { code: 130, err: 'milter-stream send: interrupted, 0 of 5 messages sent\n' });
  t.match(JSON.parse(never.out), { messages: 0, total: 5, notBegun: 5, interrupted: true, failures: [] });
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
