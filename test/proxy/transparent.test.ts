// A proxy that changes nothing: byte for byte, whatever the bytes are; and what happens when the milter is not there.
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import * as fc from 'fast-check';
import t from 'tap';
import { MilterClient } from '../../lib/client/index.js';
import { encodeCommand, encodeReply } from '../../lib/codec/index.js';
import {
  AsyncFactory,
  formatAddress,
  MilterProtocol,
  SMFIF_ALLOPTS,
  SMFIP_NR_BODY,
  SMFIP_NR_HDR,
  SMFIP_NR_MAIL,
} from '../../lib/index.js';
import { createProxy, type CaptureEvent, type ProxyOptions } from '../../lib/proxy/index.js';
import { packet } from '../helpers/bytes.js';
import { agrees, silence, type Line } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { message, say } from '../helpers/mta.js';
import { connectedPair } from '../helpers/pair.js';
import { inFrontOf, proxied } from '../helpers/proxied.js';
import { settled } from '../helpers/streams.js';

const SMALL = 'Subject: hi\r\n\r\nbody\r\n';

/** Everything that comes out of a stream, cut as it came. */
function collect(stream: NodeJS.ReadableStream): Buffer[] {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  return chunks;
}

/** A proxy between two ends that hold still: what is written on one comes out of the other. */
function between(options: ProxyOptions = {}) {
  const [milter, upstream] = connectedPair();
  const { proxy, stream, errors, events } = inFrontOf(() => upstream, undefined, options);
  return { proxy, stream, errors, events, milter };
}

t.test('P134 any bytes, packets or not, cut anywhere, pass in both directions', async (t) => {
  const packets = fc.array(
    fc.oneof(
      fc.record({ code: fc.integer({ min: 0, max: 255 }), payload: fc.uint8Array({ maxLength: 40 }) }),
      fc.record({
        code: fc.constantFrom(...Buffer.from('OCHMRTLNBEAQKUDXcartyp')),
        payload: fc.uint8Array({ maxLength: 9 }),
      }),
    ),
    { maxLength: 12 },
  );
  const wire = fc
    .tuple(packets, fc.uint8Array({ maxLength: 12 }), fc.array(fc.nat(30), { maxLength: 10 }))
    .map(([list, tail, cuts]) => {
      const bytes = Buffer.concat([
        ...list.map(({ code, payload }) => packet(String.fromCharCode(code), Buffer.from(payload))),
        Buffer.from(tail),
      ]);
      return { bytes, cuts };
    });
  await fc.assert(
    fc.asyncProperty(wire, wire, async (commands, replies) => {
      const { stream, milter, proxy } = between();
      const [toMilter, toMta] = [collect(milter), collect(stream)];
      const write = (to: NodeJS.WritableStream, { bytes, cuts }: { bytes: Buffer; cuts: number[] }): void => {
        let at = 0;
        for (const size of cuts) {
          to.write(bytes.subarray(at, at + size));
          at += size;
        }
        to.write(bytes.subarray(at));
      };
      write(stream, commands);
      write(milter, replies);
      await settled();
      stream.end();
      await settled();
      milter.end();
      await settled();
      await proxy.destroy();
      t.ok(Buffer.concat(toMilter).equals(commands.bytes), 'what the mail server says');
      t.ok(
        Buffer.concat(toMta).equals(replies.bytes),
        `what the milter says ${Buffer.concat(toMta).toString('hex')} ${replies.bytes.toString('hex')} | ${commands.bytes.toString('hex')}`,
      );
    }),
    { numRuns: 60 },
  );
});

t.test('P134 a framing error is told; from then on both directions are bytes', async (t) => {
  for (const from of ['mta', 'milter'] as const) {
    const { stream, milter, errors, events, proxy } = between();
    const [toMilter, toMta] = [collect(milter), collect(stream)];
    const [one, other, out, back] =
      from === 'mta' ? [stream, milter, toMilter, toMta] : [milter, stream, toMta, toMilter];
    other.write(Buffer.of(0, 0, 0, 9, 0x63)); // a packet that waits for its end
    one.write(Buffer.concat([packet('X'), Buffer.from('GE')]));
    await settled();
    t.equal(Buffer.concat(back).length, 0);
    one.write(Buffer.from('T / HTTP/1.1\r\n'));
    await settled();
    t.equal(Buffer.concat(out).toString('latin1'), '\0\0\0\x01XGET / HTTP/1.1\r\n');
    t.equal(Buffer.concat(back).toString('hex'), '0000000963', 'what had to wait waits no more');
    other.write('abc');
    one.write('def');
    await settled();
    t.match(Buffer.concat(out).toString('latin1'), /def$/);
    t.match(Buffer.concat(back).toString('latin1'), /abc$/);
    t.match(errors, [
      { code: 'ERR_MILTER_PACKET_TOO_LARGE', offset: 5, message: /is no packet, and bytes are passed on/ },
    ]);
    t.equal(errors.length, 1);
    t.ok(events.some((event) => event.type === 'data' && event.from === from && String(event.bytes).includes('def')));
    await proxy.destroy();
  }
});

t.test('P134 P135 a whole session of a real mail server’s client passes, and comes out the same', async (t) => {
  class Everything extends MilterProtocol {
    override header() {}
    override body() {}
    override eob() {
      this.addHeader('X-Long', 'y'.repeat(40_000));
      this.replBody(Buffer.alloc(300_000, 'new\r\n'));
      this.addRcpt('new@example.com', 'NOTIFY=NEVER');
      this.quarantine('odd');
    }
  }
  const factory = new AsyncFactory('inet:0', Everything, SMFIF_ALLOPTS);
  await factory.run();
  const upstream = formatAddress(factory.address!);
  const mail = {
    from: '<a@example.org>',
    fromArgs: ['SIZE=1', 'BODY=8BITMIME'],
    to: ['<b@example.com>'],
    message: `A: \xe9\r\nB:\r\n\r\n${'x'.repeat(200_000)}`,
  };
  const played = async (address: string): Promise<object> => {
    const client = new MilterClient(address);
    await client.connect();
    const results = [await client.send(mail), await client.send(mail)];
    await client.quit();
    return results.map(({ steps, message, modifications, envelope, recipients }) => {
      return { stages: steps.length, message, modifications, envelope, recipients };
    });
  };
  const direct = await played(upstream);
  const folder = shortFolder(t);
  for (const [place, options] of [
    ['inet:0@127.0.0.1', {}],
    ['inet:0@127.0.0.1', { sharedReads: false }],
    [`unix:${join(folder, 's')}`, {}],
    ['inet:0@127.0.0.1', { trickle: 1000 }],
  ] as const) {
    for (const hooks of [undefined, {}]) {
      const proxy = createProxy(upstream, hooks, options);
      const address = await proxy.listen(place);
      const opened = once(proxy, 'event');
      t.match(await played(formatAddress(address)), direct, `${place} ${JSON.stringify(options)}`);
      await proxy.close();
      t.match(await opened, [
        { type: 'open', milter: { address: '127.0.0.1' }, mta: { address: /^(127\.0\.0\.1)?$/ } },
      ]);
      t.equal(proxy.connections, 0);
    }
  }
  await factory.close();
});

t.test('events tell what each side has said, in order, and when the connection begins and ends', async (t) => {
  const { mta, stream, events, proxy } = proxied();
  await mta.negotiate();
  await mta.ask(say.connect());
  mta.send({ type: 'quit' });
  mta.end();
  await mta.closed;
  await settled();
  t.equal(events[0]?.type, 'open');
  t.equal(events.at(-1)?.type, 'close');
  const said = (side: string): string =>
    events
      .flatMap((event) => (event.type === 'data' && event.from === side ? [event.bytes.toString('latin1', 4, 5)] : []))
      .join('');
  t.equal(said('mta'), 'OCQ');
  t.equal(said('milter'), 'Oc');
  t.ok(events.every(({ session, time }) => session === '1' && Math.abs(time - Date.now()) < 60_000));
  t.ok(stream.destroyed || stream.readableEnded);
  await proxy.close();
});

const ACTIONS = {
  tempfail: /451 4\.7\.1/,
  reject: /550 5\.5\.0/,
  shutdown: /421 4\.7\.1/,
} as const;

t.test('upstream down: the configured reply at once, to everything, until the mail server leaves', async (t) => {
  for (const [onFailure, words] of Object.entries(ACTIONS)) {
    const { mta, errors } = inFrontOf('unix:/no/such/socket', undefined, { onFailure: onFailure as 'tempfail' });
    t.match(await mta.negotiate(), { type: 'negotiate', version: 6, actions: 0, protocol: 0 });
    for (const command of [say.connect(), say.helo(), ...message(), say.unknown()]) {
      t.match(await mta.ask(command), { type: 'replyCode', text: words });
    }
    mta.send(say.abort(), { type: 'quit' });
    mta.end();
    t.equal(await mta.closed, undefined);
    t.match(errors, [{ code: 'ERR_MILTER_CONNECTION', message: /Cannot connect to unix:\/no\/such\/socket/ }]);
    t.equal(errors.length, 1);
  }
  const { mta } = inFrontOf('unix:/no/such/socket', undefined, { onFailure: 'accept' });
  await mta.negotiate({ version: 2 });
  t.strictSame(await mta.play(say.unknown(), say.connect(), say.mail(), say.eob()), [
    'continue',
    'accept',
    'accept',
    'accept',
  ]);
  const odd = inFrontOf('unix:/no/such/socket');
  odd.mta.bytes(packet('O', Buffer.alloc(3)));
  t.match(await odd.mta.reply(), { type: 'negotiate' }, 'an offer that cannot be read is answered, too');
  const closed = inFrontOf('unix:/no/such/socket', undefined, { onFailure: 'close' });
  await closed.mta.closed;
});

t.test('the milter goes away at any command: that one is answered, and all that follow', async (t) => {
  const all = [say.connect(), say.helo(), ...message()];
  for (const [i, { type }] of all.entries()) {
    for (const how of [(line: Line) => line.end(), (line: Line) => line.break(new Error('it broke'))]) {
      const { mta, errors } = proxied({ [type]: how });
      await mta.negotiate();
      const answers = await mta.play(...all);
      t.strictSame(answers, [...all.slice(0, i).map(() => 'continue'), ...all.slice(i).map(() => 'replyCode')], type);
      t.match(errors, [{ code: 'ERR_MILTER_CONNECTION', message: /lost/ }]);
      t.equal(errors.length, 1);
      mta.end();
      await mta.closed;
    }
  }
  const silent = proxied({ negotiate: (line) => line.end() });
  t.match(await silent.mta.negotiate(), { actions: 0 });
  t.match(await silent.mta.ask(say.connect()), { type: 'replyCode' });
});

t.test('half of the edits are never followed by a verdict that accepts; a torn packet is never begun', async (t) => {
  const edits = Buffer.concat([packet('h', 'X', 'y'), packet('b', Buffer.from('new'))]);
  for (const onFailure of ['accept', 'tempfail'] as const) {
    for (const torn of [Buffer.alloc(0), Buffer.of(0, 0, 0, 9, 0x62, 1)]) {
      const eob = (line: Line): void => {
        line.write(Buffer.concat([edits, torn]));
        line.end();
      };
      const { mta } = proxied({ eob }, undefined, { onFailure });
      await mta.negotiate();
      mta.send(...message().slice(0, -1));
      for (let i = 0; i < message().length - 1; i++) await mta.reply();
      t.match(await mta.ask(say.eob()), { type: 'addHeader' });
      t.match(await mta.reply(), { type: 'replBody' });
      t.match(await mta.reply(), { type: onFailure === 'accept' ? 'tempFail' : 'replyCode' });
    }
  }
  const { mta } = proxied({ eob: (line) => line.end() }, undefined, { onFailure: 'accept' });
  await mta.negotiate();
  t.strictSame(await mta.play(...message()), [
    ...message()
      .slice(1)
      .map(() => 'continue'),
    'accept',
  ]);
});

t.test('P41 what was agreed not to be answered is not, also when the milter is gone', async (t) => {
  const protocol = SMFIP_NR_HDR | SMFIP_NR_BODY | SMFIP_NR_MAIL;
  const { mta } = proxied({ negotiate: agrees(6, 0, protocol), header: (line) => line.end(), mailFrom: silence });
  await mta.negotiate();
  t.match(await mta.ask(say.mail(), say.rcpt()), { type: 'continue' });
  mta.send(say.header(), say.header(), say.body());
  t.match(await mta.ask(say.eob()), { type: 'replyCode' }, 'the end of the message is');
});

t.test('P15 a side that does not read holds the other one back', async (t) => {
  const flood = Buffer.alloc(64 * 1024, encodeCommand({ type: 'body', chunk: Buffer.alloc(1019) }));
  for (const from of ['mta', 'milter'] as const) {
    const { stream, milter, proxy } = between();
    const [one, other] = from === 'mta' ? [stream, milter] : [milter, stream];
    other.pause();
    let written = 0;
    while (one.write(flood) && written < 500) {
      written++;
      await settled();
    }
    t.ok(written < 20, `${written} of 500 pieces were taken`);
    let read = 0;
    other.on('data', (chunk: Buffer) => (read += chunk.length)).resume();
    if (one.writableNeedDrain) await once(one, 'drain');
    await settled();
    t.equal(read, (written + 1) * flood.length, 'and goes on when it reads');
    await proxy.destroy();
  }
});

t.test('a reply that nobody asked for reaches the mail server, which has to judge it', async (t) => {
  const { mta } = proxied({ connect: Buffer.concat([packet('c'), packet('p'), packet('h', 'X', 'y'), packet('r')]) });
  await mta.negotiate();
  t.match(await mta.ask(say.connect()), { type: 'continue' });
  t.strictSame(
    [(await mta.reply()).type, (await mta.reply()).type, (await mta.reply()).type],
    ['progress', 'addHeader', 'reject'],
  );
});

t.test('the mail server leaves: the milter is told, with what was on its way', async (t) => {
  const server = createServer((socket) => {
    socket.on('data', (bytes) => {
      if (bytes[4] === 0x4f) socket.write(agrees());
    });
    heard = collect(socket);
    ended = once(socket, 'close');
  }).listen(0, '127.0.0.1');
  let heard: Buffer[] = [];
  let ended: Promise<unknown> | undefined;
  await once(server, 'listening');
  const proxy = createProxy(`inet:${(server.address() as AddressInfo).port}`);
  const events: CaptureEvent[] = [];
  const errors: unknown[] = [];
  proxy.on('event', (event) => events.push(event)).on('sessionError', (error) => errors.push(error));
  const address = await proxy.listen('inet:0');
  const dial = async (): Promise<Socket> => {
    const { port } = address as { port: number };
    const socket = connect(port, '127.0.0.1');
    socket.write(encodeCommand({ type: 'negotiate', version: 6, actions: 0, protocol: 0 }));
    await once(socket, 'data');
    return socket;
  };
  const polite = await dial();
  polite.end(encodeCommand({ type: 'quit' }));
  await once(polite, 'close');
  await ended;
  t.match(Buffer.concat(heard).toString('latin1'), /Q$/);
  const torn = await dial();
  torn.end(Buffer.of(0, 0, 0));
  await ended;
  t.match(Buffer.concat(heard).toString('hex'), /000000$/, 'half a packet, too');
  const odd = await dial();
  odd.write('GET / HTTP/1.1\r\n');
  await once(proxy, 'sessionError');
  odd.end('more');
  await ended;
  t.match(Buffer.concat(heard).toString('latin1'), /GET \/ HTTP\/1.1\r\nmore$/);
  const rude = await dial();
  rude.resetAndDestroy();
  await ended;
  t.match(events[0], { type: 'open', mta: { address: '127.0.0.1' }, milter: { address: '127.0.0.1' } });
  t.match(events.at(-1), { type: 'close', error: /ECONNRESET/ });
  t.equal(errors.length, 1);
  t.equal(proxy.connections, 0);
  await proxy.close();
  server.close();
});

t.test('close() waits for connections, a second one does not; listen() is for once', async (t) => {
  const factory = new AsyncFactory('inet:0', MilterProtocol);
  await factory.run();
  const proxy = createProxy(formatAddress(factory.address!));
  const address = formatAddress(await proxy.listen('inet:0'));
  t.equal(formatAddress(proxy.address!), address);
  await t.rejects(proxy.listen('inet:0'), { code: 'ERR_MILTER_SEQUENCE' });
  const client = new MilterClient(address);
  await client.connect();
  t.equal(proxy.connections, 1);
  let over = false;
  const closing = proxy.close().then(() => (over = true));
  t.match(await client.send({ from: '', to: ['b'], message: SMALL }), { verdict: 'accept' });
  t.notOk(over);
  await client.quit();
  await closing;
  const other = createProxy(formatAddress(factory.address!));
  const late = new MilterClient(formatAddress(await other.listen('inet:0')));
  await late.connect();
  const first = other.close();
  await other.close();
  await first;
  await t.rejects(late.send({ from: '', to: ['b'], message: SMALL }), { code: 'ERR_MILTER_CONNECTION' });
  await late.quit();
  {
    await using disposed = createProxy('inet:1');
    await disposed.listen('inet:0');
  }
  await factory.close();
});

t.test('what a proxy cannot be made of', async (t) => {
  for (const [upstream, options, message] of [
    ['inet:0', {}, /port 0 is nothing to connect to/],
    [[], {}, /milters must be a list of at least one/],
    [{ milters: ['inet:1'], options: { like: 'exim' } }, {}, /like must be/],
    ['inet:1', { onFailure: 'cry' }, /onFailure must be .*, got "cry"/],
    ['inet:1', { connectTimeout: 0 }, /connectTimeout must be a whole number from 1 to 2147483647, got 0/],
    ['inet:1', { trickle: 0.5 }, /trickle must be a whole number/],
    ['inet:1', { sharedReads: 1 }, /sharedReads must be true or false, got 1/],
    ['inet:1', { speed: 1 }, /speed is no option, got 1/],
  ] as const) {
    t.throws(() => createProxy(upstream as string, undefined, options as ProxyOptions), { message });
  }
});

t.test('a mail server that has left before the milter was reached', async (t) => {
  const [stream, end] = connectedPair();
  const [milter, upstream] = connectedPair();
  const proxy = createProxy(
    () =>
      new Promise((resolve) => {
        dialled = () => resolve(upstream);
      }),
  );
  let dialled = (): void => {};
  proxy.handle(end);
  stream.destroy();
  end.destroy();
  await settled();
  dialled();
  await settled();
  t.ok(upstream.destroyed);
  t.equal(proxy.connections, 0);
  milter.destroy();
  t.equal(encodeReply({ type: 'continue' }).length, 5);
});
