// How sniff and record end where something is wrong with them, and what is left of the file.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import t, { type Test } from 'tap';
import { runCli } from '../../lib/cli/cli.js';
import { MilterClient } from '../../lib/client/index.js';
import { packet } from '../helpers/bytes.js';
import { shortFolder } from '../helpers/folder.js';
import { MAIL } from '../helpers/recorded.js';
import { until } from '../helpers/until.js';
import { ALL } from './captures.js';
import { cli, fakeIo, Kept, throwing } from './io.js';
import { saying, serving } from './milters.js';

t.test('what keeps it from listening costs no recording', async (t) => {
  const folder = shortFolder(t);
  const taken = await serving(t, {});
  const old = join(folder, 'old.jsonl');
  writeFileSync(old, 'yesterday', { mode: 0o644 });
  const fresh = join(folder, 'fresh.jsonl');
  for (const [place, exit] of [
    [['--listen', taken, '--upstream', 'inet:1'], 69],
    [['--listen', 'inet:0', '--upstream', 'inet:x'], 64],
    [['--listen', 'inet:0', '--upstream', 'inet:1', '--fault', 'nonsense'], 64],
    [['--listen', join(folder, 's'), '--upstream', 'inet:1', '--owner', 'no-such-user'], 64],
  ] as const) {
    for (const name of [old, fresh]) {
      t.equal((await cli(['record', name, ...place])).code, exit, place.join(' '));
      t.equal((await cli(['sniff', '-w', name, ...place])).code, exit);
    }
    t.equal(readFileSync(old, 'utf8'), 'yesterday');
    t.notOk(existsSync(fresh), 'none is made either');
  }
});

interface Sniffing {
  readonly ended: Promise<number>;
  readonly err: () => string;
  readonly address: string;
  readonly client: MilterClient;
}

/** Sniffs, and has a mail server on the line. */
async function sniffing(t: Test, stdout: Kept, ...argv: string[]): Promise<Sniffing> {
  const stopping = new AbortController();
  t.teardown(() => stopping.abort());
  const io = { ...fakeIo({ signal: stopping.signal }), stdout };
  const ended = runCli([...argv, '--listen', 'inet:0', '--upstream', await serving(t, ALL)], io);
  await stdout.printed('listening');
  const [address] = /inet:\d+@127\.0\.0\.1/.exec(stdout.text)!;
  return { ended, err: () => io.stderr.text, address, client: new MilterClient(address) };
}

t.test('where showing fails it ends, its connections with it, and it says why', async (t) => {
  const stdout = new Kept();
  throwing(stdout, /→ mailFrom/, new Error('no way to show it'));
  const { ended, err, client } = await sniffing(t, stdout, 'sniff');
  await client.connect();
  await t.rejects(client.send(MAIL), { code: 'ERR_MILTER_CONNECTION' });
  t.equal(await ended, 70);
  t.match(err(), /^milter-stream sniff: this is an error of milter-stream itself\nError: no way to show it\n/);
});

t.test('a viewer that cannot even begin leaves nobody listening', async (t) => {
  const stdout = new Kept();
  throwing(stdout, /listening/, new Error('no way to begin'));
  const address = join(shortFolder(t), 's');
  const io = { ...fakeIo(), stdout };
  t.equal(await runCli(['sniff', '--listen', address, '--upstream', 'inet:1'], io), 70);
  t.match(io.stderr.text, /Error: no way to begin/);
  t.notOk(existsSync(address));
});

t.test('where nobody reads what it prints any more it ends as at the first Ctrl-C', async (t) => {
  for (const [argv, last] of [
    [['sniff'], '→ mailFrom'],
    [['sniff', '-w', join(shortFolder(t), 'a.jsonl'), '--json'], '"mailFrom"'],
  ] as const) {
    const stdout = new Kept();
    const epipe = Object.assign(new Error('write EPIPE'), { code: 'EPIPE' });
    let errors = 0;
    const keep = stdout._write.bind(stdout);
    // As process.stdout does: each write fails, and it is never destroyed.
    stdout._write = (chunk, encoding, done) => {
      if (!stdout.text.includes(last)) return keep(chunk, encoding, done);
      errors++;
      stdout.emit('error', epipe);
      done();
    };
    const { ended, err, address, client } = await sniffing(t, stdout, ...argv);
    await client.connect();
    t.equal((await client.send(MAIL)).verdict, 'accept', 'what was begun comes to its end');
    await client.quit();
    t.equal(await ended, 0);
    t.ok(errors > 1);
    t.equal(err(), '');
    await t.rejects(new MilterClient(address).connect());
  }
});

t.test('record says what goes wrong, though it shows nothing else', async (t) => {
  const folder = shortFolder(t);
  const [name, place] = [join(folder, 'a.jsonl'), join(folder, 's')];
  const odd = await saying(t, { connect: packet('z', Buffer.from('x')) });
  for (const [upstream, code, said] of [
    ['unix:/nowhere/at.all', 69, 'session 1: Cannot connect to unix:/nowhere/at.all'],
    [odd, 76, "session 1: 'z' (0x7a) is no letter of a milter's"],
    [await saying(t, { connect: Buffer.from('GET / HTTP') }), 76, 'session 1: Not synchronised'],
  ] as const) {
    const stopping = new AbortController();
    t.teardown(() => stopping.abort());
    const io = fakeIo({ signal: stopping.signal });
    const ended = runCli(['record', name, '--listen', place, '--upstream', upstream, '-q'], io);
    await until('a place to connect to', () => existsSync(place));
    const client = new MilterClient(place);
    await client.connect().catch(() => {});
    await client.quit();
    stopping.abort();
    t.equal(await ended, code);
    t.match(io.stderr.text, said);
    t.equal(io.stdout.text, '');
  }
});

t.test('record ends as well where nobody reads it from the beginning', async (t) => {
  const name = join(shortFolder(t), 'a.jsonl');
  const epipe = Object.assign(new Error('write EPIPE'), { code: 'EPIPE' });
  const stdout = new Writable({ write: (_chunk, _encoding, done) => done(epipe) });
  const argv = ['record', name, '--listen', 'inet:0', '--upstream', 'inet:1'];
  t.equal(await runCli(argv, { ...fakeIo({ signal: new AbortController().signal }), stdout }), 0);
  t.equal(readFileSync(name, 'utf8'), '{"format":"milter-stream capture","version":1}\n');
});

t.test('an output that cannot be written is no success', async (t) => {
  const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  const stdout = (): Writable => new Writable({ write: (_chunk, _encoding, done) => done(full) });
  const err = 'milter-stream: Cannot write to the standard output: ENOSPC: no space left on device, write\n';
  for (const argv of [['--man'], ['send', '--help'], ['sniff', '--listen', 'inet:0', '--upstream', 'inet:1']]) {
    const io = { ...fakeIo({ signal: AbortSignal.abort() }), stdout: stdout() };
    t.equal(await runCli(argv, io), 73, argv.join(' '));
    t.equal(io.stderr.text, err);
  }
});
