// A proxy between real mail servers and a real milter: no byte is changed, and what was recorded can be played again.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { readCapture, type CaptureEvent, type Side } from '../../lib/capture/index.js';
import { AsyncFactory, formatAddress, formatForPostfix, MilterProtocol, SMFIF_ALLOPTS } from '../../lib/index.js';
import { createProxy, type Proxy } from '../../lib/proxy/index.js';
import { replayCapture } from '../../lib/replay/index.js';
import { collectUntilError, said } from '../helpers/capture.js';
import { shortFolder } from '../helpers/folder.js';
import type { MailServer } from '../helpers/mail-server.js';
import { startOpendkim } from '../helpers/opendkim.js';
import { startPostfix } from '../helpers/postfix.js';
import { needs } from '../helpers/real.js';
import { startSendmail } from '../helpers/sendmail.js';
import { startSink, type Sink, type SinkMessage } from '../helpers/sink.js';
import { connectSmtp } from '../helpers/smtp.js';
import { until } from '../helpers/until.js';
import { HEAD, letter, longBody } from './suite/letters.js';

/** An SMTP session with messages of several kinds. */
async function deliver({ port }: MailServer): Promise<void> {
  const client = await connectSmtp(port);
  await client.command('EHLO client.example.org');
  for (const body of ['short\r\n', longBody(150_000), 'last\r\n']) {
    for (const line of ['MAIL FROM:<anna@example.org> BODY=8BITMIME', 'RCPT TO:<berta@example.net>']) {
      await client.command(line);
    }
    await client.command('DATA');
    await client.message(letter([...HEAD, 'X-Latin: caf\xe9'], body));
  }
  await client.command('RSET');
  await client.end();
}

const three = async (sink: Sink): Promise<SinkMessage[]> => [await sink.next(), await sink.next(), await sink.next()];

function recorded(proxy: Proxy): CaptureEvent[] {
  const events: CaptureEvent[] = [];
  proxy.on('event', (event) => events.push(event));
  return events;
}

const over = (events: readonly CaptureEvent[]): boolean => events.some(({ type }) => type === 'close');

/** Both have heard the same, from both sides. */
function same(t: Test, one: readonly CaptureEvent[], other: readonly CaptureEvent[]): void {
  for (const side of ['mta', 'milter'] as const satisfies readonly Side[]) {
    const bytes = said(one, side);
    t.ok(bytes.length > 500, `${bytes.length} bytes of the ${side}`);
    t.ok(bytes.equals(said(other, side)), `what the ${side} says is not changed`);
  }
}

/** Has tcpdump write what passes through a port; it must be ended before the file is read. */
async function tcpdump(t: Test, file: string, ...ports: number[]): Promise<() => Promise<void>> {
  const filter = ports.map((port) => `tcp port ${port}`).join(' or ');
  const args = ['-i', 'lo', '-Z', 'root', '-U', '-B', '32768', '-s', '0', '-w', file, filter];
  const child = spawn('/usr/bin/tcpdump', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(child, 'exit');
  t.teardown(() => child.kill('SIGKILL'));
  let complaints = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => void (complaints += text));
  await until('tcpdump to listen', () => complaints.includes('listening on') || child.exitCode !== null);
  return async () => {
    child.kill('SIGINT');
    await ended;
  };
}

const portOf = (proxy: Proxy): number => (proxy.address as { port: number }).port;

t.test(
  'P134 between Postfix and OpenDKIM over TCP: tcpdump sees the same on both sides',
  needs('postfix', 'opendkim', 'tcpdump'),
  async (t) => {
    const { signer } = await startOpendkim(t, ['From', 'Subject']);
    const inner = createProxy(signer);
    const outer = createProxy(formatAddress(await inner.listen('inet:0@127.0.0.1')));
    const [before, behind] = [recorded(outer), recorded(inner)];
    await outer.listen('inet:0@127.0.0.1');
    const file = join(shortFolder(t), 'x.pcap');
    const ports = [portOf(outer), portOf(inner)] as const;
    const stop = await tcpdump(t, file, ...ports);
    const sink = await startSink();
    const postfix = await startPostfix({ milters: [formatForPostfix(outer.address!)], sinkPort: sink.port });
    t.teardown(() => postfix.stop().then(() => sink.close()));
    await deliver(postfix);
    await until('the session to be over', () => over(before) && over(behind));
    for (const { data } of await three(sink)) t.match(String(data), /^DKIM-Signature: /m, 'and the milter works');
    await Promise.all([outer.close(), inner.close()]);
    // The last packets are on their way to the file.
    const flows = await until('both flows in the file', async () => {
      const of = async (port: number): Promise<CaptureEvent[]> =>
        (await collectUntilError(readCapture(file, { port }))).all;
      const pair = [await of(ports[0]), await of(ports[1])] as const;
      return pair.every((flow) => said(flow, 'mta').length >= said(before, 'mta').length) ? pair : undefined;
    });
    await stop();
    same(t, flows[0], flows[1]);
    same(t, flows[0], before);
    same(t, before, behind);
  },
);

t.test(
  'P134 between Postfix and OpenDKIM over Unix sockets: the proxy’s own records are the same',
  needs('postfix', 'opendkim'),
  async (t) => {
    const { signer } = await startOpendkim(t, ['From', 'Subject']);
    const sink = await startSink();
    const postfix = await startPostfix({ milters: (dir) => [`unix:${join(dir, 'p')}`], sinkPort: sink.port });
    t.teardown(() => postfix.stop().then(() => sink.close()));
    const inner = createProxy(signer);
    const outer = createProxy(formatAddress(await inner.listen(`unix:${join(postfix.milterUnixDir, 'i')}`)));
    const [before, behind] = [recorded(outer), recorded(inner)];
    await outer.listen(`unix:${join(postfix.milterUnixDir, 'p')}`, { sockChmod: 0o666 });
    await deliver(postfix);
    await until('the session to be over', () => over(before) && over(behind));
    for (const { data } of await three(sink)) t.match(String(data), /^DKIM-Signature: /m);
    same(t, before, behind);
    await Promise.all([outer.close(), inner.close()]);
  },
);

/** The same to the same, each time. */
class Stamping extends MilterProtocol {
  #bytes = 0;
  override header() {}
  override body(chunk: Buffer) {
    this.#bytes += chunk.length;
  }
  override eob() {
    this.addHeader('X-Bytes', String(this.#bytes));
    this.chgHeader('Subject', `seen: ${this.#bytes}`);
    this.#bytes = 0;
  }
}

t.test(
  'what was recorded of Postfix, of Sendmail and by tcpdump replays without a difference',
  needs('postfix', 'sendmail', 'tcpdump'),
  async (t) => {
    const factory = new AsyncFactory('inet:0@127.0.0.1', Stamping, SMFIF_ALLOPTS);
    await factory.run();
    t.teardown(() => factory.close());
    const address = formatAddress(factory.address!);
    const sink = await startSink();
    t.teardown(() => sink.close());
    const record = async (start: (proxy: Proxy) => Promise<MailServer>, file?: string): Promise<CaptureEvent[]> => {
      const proxy = createProxy(address);
      const events = recorded(proxy);
      await proxy.listen('inet:0@127.0.0.1');
      const stop = file === undefined ? undefined : await tcpdump(t, file, portOf(proxy));
      const port = portOf(proxy);
      const server = await start(proxy);
      await deliver(server);
      await until('the session to be over', () => over(events));
      await three(sink);
      await server.stop();
      await proxy.close();
      if (file === undefined) return events;
      const all = await until('the flow in the file', async () => {
        const { all } = await collectUntilError(readCapture(file, { port }));
        return said(all, 'mta').length >= said(events, 'mta').length ? all : undefined;
      });
      await stop?.();
      return all;
    };
    const postfix = (proxy: Proxy): Promise<MailServer> =>
      startPostfix({ milters: [formatForPostfix(proxy.address!)], sinkPort: sink.port });
    const sendmail = (proxy: Proxy): Promise<MailServer> =>
      startSendmail({ milter: formatAddress(proxy.address!), sinkPort: sink.port });
    const captures = {
      Postfix: await record(postfix),
      Sendmail: await record(sendmail),
      tcpdump: await record(postfix, join(shortFolder(t), 'x.pcap')),
    };
    for (const [name, events] of Object.entries(captures)) {
      let messages = 0;
      for await (const session of replayCapture(events, address, {
        like: name === 'Sendmail' ? 'sendmail' : 'postfix',
      })) {
        t.strictSame(
          session.steps.filter(({ differs }) => differs),
          [],
          `${name}: every answer is the same`,
        );
        t.strictSame(
          session.messages.flatMap(({ differences }) => differences),
          [],
        );
        t.strictSame(
          session.messages.map(({ now }) => now.verdict),
          ['accept', 'accept', 'accept'],
        );
        messages += session.messages.length;
      }
      t.equal(messages, 3, name);
    }
  },
);
