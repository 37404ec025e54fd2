// sniff and record: what passes between a mail server and a milter, shown and written down.
import { existsSync, readFileSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  MilterClient,
  type ClientMacros,
  type ClientMessage,
  type ClientOptions,
  type MessageResult,
} from '../../lib/client/index.js';
import { runCli } from '../../lib/cli/cli.js';
import { parseAddress, REJECT, type MilterProtocol } from '../../lib/index.js';
import { shortFolder } from '../helpers/folder.js';
import { until } from '../helpers/until.js';
import { MAIL } from '../helpers/recorded.js';
import { reach } from '../helpers/dial.js';
import { STAGES, type Script } from '../helpers/milter.js';
import { cli, fakeIo, type FakeIo } from './io.js';
import { saying, serving } from './milters.js';
import { packet } from '../helpers/bytes.js';

const ALL: Script = Object.fromEntries(STAGES.map((stage) => [stage, () => {}]));

const adding: Script = {
  ...ALL,
  rcpt: (to: string) => (to === '<no@example.com>' ? REJECT : undefined),
  eob(this: MilterProtocol) {
    this.addHeader('X-Evil', 'a\x1b[31mred');
    this.quarantine('wait');
  },
};

/** A queue id, wherever one is told. */
const macros = (i: string): ClientMacros => ({ mailFrom: { i }, rcpt: { i }, data: { i }, eoh: { i }, eob: { i } });

interface Running {
  readonly io: FakeIo;
  readonly address: string;
  /** Stops it, and gives its exit status. */
  stop(): Promise<number>;
  send(mail?: Partial<ClientMessage>, options?: ClientOptions): Promise<MessageResult>;
}

/** A command that listens, in this process. */
async function running(t: Test, argv: readonly string[], { tty = false } = {}): Promise<Running> {
  const stopping = new AbortController();
  const io = fakeIo({ tty, signal: stopping.signal });
  const ended = runCli([...argv, '--listen', 'inet:0'], io);
  t.teardown(() => stopping.abort());
  await Promise.race([io.stdout.printed('isten'), ended]);
  const address = /inet:\d+@127\.0\.0\.1/.exec(io.stdout.text)?.[0] ?? '';
  return {
    io,
    address,
    stop() {
      stopping.abort();
      return ended;
    },
    async send(mail = {}, options = {}) {
      const client = new MilterClient(address, options);
      await client.connect();
      try {
        return await client.send({ ...MAIL, ...mail });
      } finally {
        await client.quit();
      }
    },
  };
}

const sniffing = async (t: Test, script: Script, ...argv: string[]): Promise<Running> =>
  running(t, ['sniff', '--upstream', await serving(t, script), ...argv]);

t.test('sniff: every packet on a line, in words, and at the end what there was', async (t) => {
  const sniff = await sniffing(t, adding);
  const { verdict } = await sniff.send({ to: ['<no@example.com>', '<b@example.com>'] });
  t.equal(verdict, 'accept');
  t.equal(await sniff.stop(), 0);
  const { text } = sniff.io.stdout;
  for (const line of [
    /^listening on inet:\d+@127\.0\.0\.1, for inet:\d+@127\.0\.0\.1$/m,
    /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} 1 127\.0\.0\.1:\d+ to 127\.0\.0\.1:\d+$/m,
    /^[\d:.]+ 1 → negotiate version 6, actions SMFIF_ADDHDRS SMFIF_CHGBODY .*, protocol SMFIP_NOCONNECT /m,
    /^[\d:.]+ 1 ← negotiate version 6, actions .*, protocol none \([\d.]+ ms\)$/m,
    /^[\d:.]+ 1 → macro for connect: j=localhost /m,
    /^[\d:.]+ 1 → connect localhost \[127\.0\.0\.1\]:25000$/m,
    /^[\d:.]+ 1 → rcpt <no@example\.com>$/m,
    /^[\d:.]+ 1 ← reject \([\d.]+ ms\)$/m,
    /^[\d:.]+ 1 → header Subject: hi$/m,
    /^[\d:.]+ 1 → body 6 bytes$/m,
    /^[\d:.]+ 1 ← addHeader X-Evil: a\\x1b\[31mred$/m,
    /^[\d:.]+ 1 ← quarantine wait$/m,
    /^[\d:.]+ 1 Closed/m,
    /^1 session, 1 message\n {2}1 accept\n {2}1 of them on hold \(quarantine\)\n {17}count/m,
    /^eob +1 +[\d.]+ ms/m,
  ])
    t.match(text, line);
  t.notMatch(text, '\x1b');
});

t.test('sniff: --json, a line for each thing, nothing lost', async (t) => {
  const sniff = await sniffing(t, adding, '--json', '--body');
  await sniff.send();
  t.equal(await sniff.stop(), 0);
  const lines = sniff.io.stdout.text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { type: string; stage?: string; answers?: object; packet?: { type: string } });
  t.match(lines[0], { type: 'listening', address: sniff.address });
  t.match(lines[1], { type: 'open', session: '1' });
  t.match(lines[2], {
    type: 'packet',
    from: 'mta',
    number: 1,
    offset: 0,
    stage: 'negotiate',
    packet: { type: 'negotiate', version: 6, names: { actions: ['SMFIF_ADDHDRS'] } },
  });
  const packets = lines.filter(({ type }) => type === 'packet');
  t.match(
    packets.find((line) => line.packet!.type === 'body'),
    { packet: { chunk: 'body\r\n' } },
  );
  t.match(
    packets.find((line) => line.packet!.type === 'addHeader'),
    { stage: 'eob', packet: { name: 'X-Evil', value: 'a\x1b[31mred' } },
  );
  t.match(
    packets.find((line) => line.stage === 'eob' && line.answers),
    { from: 'milter', packet: { type: 'continue' }, answers: { ms: Number } },
  );
  t.match(lines.at(-1), {
    type: 'summary',
    sessions: 1,
    messages: 1,
    verdicts: { accept: 1 },
    quarantined: 1,
    latency: { eob: { count: 1 } },
  });
});

t.test('sniff: filters by stage, session, sender, queue id and verdict', async (t) => {
  const shown = async (...argv: string[]): Promise<string> => {
    const sniff = await sniffing(
      t,
      { ...ALL, mailFrom: (from: string) => (from === '<bad@example.org>' ? REJECT : undefined) },
      ...argv,
    );
    const client = new MilterClient(sniff.address);
    await client.connect();
    for (const from of ['<a@example.org>', '<bad@example.org>', '<c@example.org>']) {
      await client.send({ ...MAIL, from, macros: macros(`Q${from.length}`) });
    }
    await client.mailFrom('<gone@example.org>');
    await client.abort();
    await client.quit();
    await sniff.send({ from: '<Other@example.org>' });
    await sniff.stop();
    return sniff.io.stdout.text
      .split('\n')
      .filter((line) => /[→←]|Closed/.test(line))
      .map((line) => line.replace(/^[\d:.]+ (\d+) (\S+ )?(\S+).*/, '$1 $2$3'))
      .join('\n');
  };
  const only = await shown('--only', 'MAILFROM,negotiate');
  t.equal(only.split('\n').filter((line) => line.includes('→ mailFrom')).length, 5);
  t.notMatch(only, /rcpt|connect|Closed/);
  t.match(only, /1 → macro\n1 → mailFrom\n1 ← continue\n1 → macro\n1 → mailFrom\n1 ← reject/);
  t.equal((await shown('--only', 'macro')).replaceAll(/\d → macro\n?/g, ''), '');
  t.notMatch(await shown('--session', '2'), /^1 /m);
  const sender = await shown('--sender', 'OTHER@');
  t.notMatch(sender, /^1 /m);
  t.match(sender, /^2 → negotiate\n2 ← negotiate\n[^]*2 → mailFrom\n[^]*2 → quit\n2 Closed/);
  const rejected = await shown('--verdict', 'reject');
  t.equal(rejected.split('\n').filter((line) => line.includes('→ mailFrom')).length, 1);
  t.match(rejected, /→ connect[^]*→ mailFrom\n1 ← reject\n1 → abort\n1 → quit\n1 Closed/);
  t.notMatch(rejected, /rcpt|^2 /m);
  t.match(await shown('--verdict', 'aborted'), /→ mailFrom\n1 ← continue\n1 → abort\n1 → quit/);
  t.equal(await shown('--verdict', 'quarantine'), '');
  t.equal((await shown('--queue-id', 'Q15')).split('\n').filter((line) => line.includes('→ mailFrom')).length, 2);
  t.equal(await shown('--queue-id', 'nobody'), '');
  t.equal(
    (await shown('--sender', 'example.org', '--verdict', 'accept'))
      .split('\n')
      .filter((line) => line.includes('→ mailFrom')).length,
    3,
  );
});

t.test('sniff: what is known to be wanted is shown at once', async (t) => {
  const sniff = await sniffing(t, ALL, '--sender', 'a@example.org');
  const client = new MilterClient(sniff.address);
  await client.connect();
  await client.mailFrom('<a@example.org>');
  await sniff.io.stdout.printed('→ mailFrom <a@example.org>');
  t.match(sniff.io.stdout.text, / 1 → connect /);
  await client.quit();
  await sniff.stop();
});

t.test('sniff: messages side by side do not disturb one another', async (t) => {
  const later = {
    eob(this: MilterProtocol) {
      return this.setReply(451, '4.7.1', 'later');
    },
  };
  const sniff = await sniffing(t, { ...ALL, ...later }, '--verdict', 'tempfail');
  const clients = [new MilterClient(sniff.address), new MilterClient(sniff.address)] as const;
  for (const client of clients) await client.connect();
  for (const client of clients) await client.mailFrom('<a@example.org>');
  await clients[0].abort();
  await clients[1].rcpt('<b@example.com>');
  t.equal((await clients[1].message('A: b\n\n')).verdict, 'tempFail');
  for (const client of clients) await client.quit();
  await sniff.stop();
  const { text } = sniff.io.stdout;
  t.match(text, / 2 → connect[^]* 2 → eob\n.* 2 ← replyCode 451 4\.7\.1 later/);
  t.notMatch(text, / 1 [→←]/);
  t.match(text, /^2 sessions, 2 messages\n {2}1 aborted, 1 tempfail$/m);
});

t.test('sniff: of a message that is kept until something is known of it a megabyte is kept', async (t) => {
  const sniff = await sniffing(t, ALL, '--verdict', 'accept', '--body');
  const message = `A: b\r\n\r\n${'x'.repeat(60_000)}\r\n`.padEnd(60_010) + `${'y'.repeat(900)}\r\n`.repeat(2000);
  await sniff.send({ message });
  await sniff.stop();
  t.match(sniff.io.stdout.text, /… \d+ lines more were not kept/);
  t.ok(sniff.io.stdout.text.length < 1_100_000);
});

t.test('sniff: bytes that are no packets pass, are shown as what they are, and the exit status says so', async (t) => {
  const sniff = await sniffing(t, ALL);
  const socket = connect(reach(parseAddress(sniff.address, 'connect')));
  socket.end('GET /\x1b[2J HTTP/1.0\r\n\r\n').resume();
  await once(socket, 'close');
  t.equal((await sniff.send()).verdict, 'accept', 'the other sessions are unharmed');
  t.equal(await sniff.stop(), 76);
  const { text } = sniff.io.stdout;
  t.match(text, /! What the mail server says is no packet, and bytes are passed on as they come: /);
  t.match(text, /! Not synchronised: .* \d+ bytes: 47 45 54 20 2f 1b .* "GET \/\\u001b\[2J HTTP/);
  t.notMatch(text, '\x1b');
  t.match(text, /^ {2}\d+ times? bytes that are no packets$/m);
});

t.test('sniff: packets that cannot be read, and those at the wrong place', async (t) => {
  const milter = await saying(t, { helo: packet('z', Buffer.from('x')), data: packet('h', Buffer.from('no end')) });
  const sniff = await running(t, ['sniff', '--upstream', milter, '--only', 'rcpt']);
  await t.rejects(sniff.send(), { code: 'ERR_MILTER_UNKNOWN_CODE' });
  t.equal(await sniff.stop(), 76);
  t.match(
    sniff.io.stdout.text,
    /← unrecognized 'z' \(0x7a\), 1 byte: 78 "x" ! 'z' \(0x7a\) is no letter of a milter's/,
  );
  const json = await running(t, ['sniff', '--upstream', milter, '--json']);
  const client = new MilterClient(json.address);
  await client.connect({ helo: false });
  await client.mailFrom('<a@example.org>');
  await client.rcpt('<b@example.org>');
  await t.rejects(client.data(), { code: 'ERR_MILTER_MALFORMED' });
  t.equal(await json.stop(), 76);
  t.match(
    json.io.stdout.text,
    /"packet":\{"type":"malformed","code":104,"error":".*","bytes":"\\u0000\\u0000\\u0000\\u0007hno end"\}/,
  );
});

t.test('sniff: several milters, one after the other', async (t) => {
  const first = await serving(t, {
    eob(this: MilterProtocol) {
      this.addHeader('X-First', '1');
    },
  });
  const second = await serving(t, {
    eob(this: MilterProtocol) {
      this.addHeader('X-Second', '2');
    },
  });
  const sniff = await running(t, ['sniff', '--upstream', first, '--upstream', second, '--connect-timeout', '5s']);
  t.match((await sniff.send()).message.toString(), /X-First: 1\r\nX-Second: 2\r\n/);
  t.equal(await sniff.stop(), 0);
});

t.test('sniff: where the milter is not there --on-failure says what is answered', async (t) => {
  const sniff = await running(t, ['sniff', '--upstream', 'unix:/nowhere/at.all', '--on-failure', 'accept', '--json']);
  t.equal((await sniff.send()).verdict, 'accept');
  t.equal(await sniff.stop(), 69);
  t.match(sniff.io.stdout.text, /"type":"problem",.*Cannot connect to unix:/);
});

t.test('sniff: faults are done, and told', async (t) => {
  const sniff = await sniffing(
    t,
    ALL,
    '--fault',
    'eob=550 5.7.1 No',
    '--fault',
    'data:delay=1ms',
    '--fault-every',
    '2',
    '--fault-seed',
    '3',
    '--fault-chance',
    '1',
  );
  t.equal((await sniff.send()).verdict, 'accept');
  t.match(await sniff.send(), { verdict: 'reject', reply: { lines: ['No'] } });
  t.equal(await sniff.stop(), 0);
  t.match(sniff.io.stdout.text, /^[\d:.]+ 2 ! Fault: eob=550 5\.7\.1 No$/m);
  const trickling = await sniffing(t, ALL, '--fault', 'any:trickle');
  t.equal((await trickling.send()).verdict, 'accept');
  await trickling.stop();
});

t.test('sniff: what stalls does not keep it from stopping', async (t) => {
  const sniff = await sniffing(t, ALL, '--fault', 'data:stall');
  const failure = sniff.send().catch((error: unknown) => error);
  await sniff.io.stdout.printed('Fault: data:stall');
  await sniff.stop();
  t.match(await failure, { code: 'ERR_MILTER_CONNECTION' });
});

t.test('sniff --write and record: a capture, in either format; --redact leaves out what is private', async (t) => {
  const folder = shortFolder(t);
  const jsonl = join(folder, 'a.jsonl');
  const sniff = await sniffing(t, adding, '--write', jsonl);
  await sniff.send();
  t.equal(await sniff.stop(), 0);
  t.equal(statSync(jsonl).mode & 0o777, 0o600);
  const decoded = await cli(['decode', jsonl]);
  t.equal(decoded.code, 0);
  t.ok(sniff.io.stdout.text.includes(decoded.out), 'the same lines');

  const pcapng = join(folder, 'a.pcapng');
  const record = await running(t, ['record', pcapng, '--upstream', await serving(t, adding), '--redact'], {
    tty: true,
  });
  await record.send();
  await until('a line of progress', () => /\r1 session, /.test(record.io.stderr.text));
  t.equal(await record.stop(), 0);
  t.match(record.io.stdout.text, /^listening on [^]*1 session, 1 message/);
  t.match(record.io.stderr.text, /\r *\r$/);
  t.match(await cli(['decode', pcapng]), { code: 0, out: /→ mailFrom <user-\w+@host-\w+\.example>/ });

  const quiet = join(folder, 'q.jsonl');
  const silent = fakeIo({ signal: AbortSignal.abort(), tty: true });
  t.equal(await runCli(['record', quiet, '--listen', 'inet:0', '--upstream', 'inet:1', '-q'], silent), 0);
  t.equal(silent.stdout.text + silent.stderr.text, '');
  t.equal(readFileSync(quiet, 'utf8'), '{"format":"milter-stream capture","version":1}\n');
  const json = await running(t, ['record', quiet, '--upstream', await serving(t, adding), '--json']);
  await json.send();
  t.equal(await json.stop(), 0);
  t.match(JSON.parse(json.io.stdout.text.trimEnd().split('\n')[1]!), { type: 'summary', file: quiet, messages: 1 });
  const hush = await running(t, [
    'record',
    quiet,
    '--upstream',
    await serving(t, adding),
    '-q',
    '--mode',
    '600',
    '--group',
    '0',
    '--owner',
    '0',
    '--json',
  ]);
  await hush.send();
  t.equal(await hush.stop(), 0);
});

t.test('a file that cannot be written is told, and mail passes all the same', async (t) => {
  t.match(await cli(['record', '/nowhere/a.jsonl', '--listen', 'inet:0', '--upstream', 'inet:1']), {
    code: 73,
    err: /record: Cannot write \/nowhere\/a\.jsonl: ENOENT/,
  });
  if (!existsSync('/dev/full')) return;
  const { symlinkSync } = await import('node:fs');
  const full = join(shortFolder(t), 'full.jsonl');
  symlinkSync('/dev/full', full);
  const record = await running(t, ['record', full, '--upstream', await serving(t, adding)]);
  t.equal((await record.send()).verdict, 'accept');
  t.equal((await record.send()).verdict, 'accept');
  t.equal(await record.stop(), 73);
  t.match(record.io.stderr.text, /^Cannot write .*full\.jsonl: ENOSPC/);
});

t.test('what is wrong with the command line is said before anything is done', async (t) => {
  const line = ['--listen', 'inet:0', '--upstream', 'inet:1'];
  for (const [argv, message] of [
    [['sniff'], /--listen is missing/],
    [['sniff', '--listen', 'inet:0'], /--upstream is missing/],
    [['sniff', '--listen', 'inet:x', '--upstream', 'inet:1'], /Bad socket address "inet:x"/],
    [['sniff', '--listen', 'inet:0', '--upstream', 'inet:0'], /port 0 is nothing to connect to/],
    [['sniff', ...line, '--only', 'eom'], /--only must be some of negotiate,connect/],
    [['sniff', ...line, '--verdict', 'spam'], /--verdict must be accept, reject/],
    [['sniff', ...line, '--write', 'a.txt'], /a\.txt: the name of a capture ends in \.jsonl or \.pcapng/],
    [['sniff', ...line, '--fault', 'eom:stall'], /Bad fault "eom:stall": the stage must be/],
    [['sniff', ...line, '--fault-chance', '2'], /--fault-chance must be a number from 0 to 1, got "2"/],
    [['sniff', ...line, '--fault-chance', '1.5'], /--fault-chance must be/],
    [['sniff', ...line, '--mode', '9'], /--mode must be/],
    [['record', 'a.pcap', ...line], /a\.pcap: the name of a capture/],
    [['record', ...line], /an argument is missing/],
  ] as const) {
    t.match(await cli(argv), { code: 64, out: '', err: message }, argv.join(' '));
  }
  const taken = await serving(t, {});
  t.match(await cli(['sniff', '--listen', taken, '--upstream', 'inet:1']), { code: 69, err: /EADDRINUSE/ });
});
