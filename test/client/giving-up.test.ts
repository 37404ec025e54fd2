// Ends that come from outside: signals, quit(), streams that stall or fail, and milters of which one is not there.
import { createReadStream } from 'node:fs';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import t from 'tap';
import { MilterChain, MilterClient, type ClientMessage, type ClientOptions } from '../../lib/client/index.js';
import { SMFIP_NR_BODY } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { agrees, fakeMilter, silence, type Line, type Script } from '../helpers/fake-milter.js';
import { gate } from '../helpers/milter.js';
import { settled } from '../helpers/streams.js';

const MESSAGE = 'A: 1\r\n\r\nbody\r\n';
const mail = (message: ClientMessage['message'], more: object = {}): ClientMessage => ({
  from: '<a@example.org>',
  to: ['<b@example.com>'],
  message,
  ...more,
});

async function connected(script: Script = {}, options: ClientOptions = {}) {
  const fake = fakeMilter(script);
  const client = new MilterClient(fake.stream, options);
  await client.connect();
  return { client, ...fake };
}

/** Gives some of a message and then nothing more, for ever. */
async function* stalling(...some: string[]): AsyncGenerator<string> {
  yield* some;
  await new Promise(() => {});
}

t.test('one milter of a chain cannot be reached: the connections to the others are closed', async (t) => {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on('error', () => {}));
    socket.on('data', () => socket.write(agrees()));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const live = `inet:${(server.address() as AddressInfo).port}@127.0.0.1`;
  const gone = { target: 'unix:/no/such/socket', defaultAction: 'throw' } as const;
  for (const milters of [
    [gone, live],
    [live, gone],
  ]) {
    const chain = new MilterChain(milters);
    await t.rejects(chain.connect(), { code: 'ERR_MILTER_CONNECTION', message: /no\/such/ });
    const socket = sockets.at(-1) as Socket;
    if (!socket.destroyed) await once(socket, 'close');
    t.strictSame(
      chain.milters.map(({ agreed }) => agreed),
      milters.map((milter) => (milter === gone ? undefined : chain.milters[milters.indexOf(milter)]?.agreed)),
    );
  }
  const client = new MilterClient(live);
  const connecting = t.rejects(client.connect(), { code: 'ERR_MILTER_CONNECTION', message: /quit\(\) was called/ });
  await client.quit();
  await connecting;
  await settled();
  t.ok(sockets.every(({ destroyed }) => destroyed) || (await once(sockets.at(-1) as Socket, 'close')));
  server.close();
});

t.test('quit() says whether the milter has closed the connection itself', async (t) => {
  const polite = await connected();
  t.equal(await polite.client.quit(), true);
  const rude = await connected({}, { commandTimeout: 20 });
  rude.stream._final = () => {};
  t.equal(await rude.client.quit(), false);
  const failed = await connected({ mailFrom: packet('f') }, { defaultAction: 'accept' });
  await failed.client.mailFrom('');
  t.equal(await failed.client.quit(), true);
});

t.test('a stream that fails before anybody reads it fails the message, not the process', async (t) => {
  const { client } = await connected();
  await t.rejects(client.send(mail(createReadStream('/no/such/file'))), { code: 'ENOENT' });
  const broken = new Readable({ read() {} });
  await client.mailFrom('');
  await client.rcpt('b');
  const failing = t.rejects(client.message(broken), { message: 'gone' });
  broken.destroy(new Error('gone'));
  await failing;
  t.match(await client.send(mail(MESSAGE)), { verdict: 'accept' });
});

t.test('a stream that stalls: a signal ends it all the same, and so does quit()', async (t) => {
  for (const some of [[], ['A: 1\r\n'], ['A: 1\r\n\r\n'], ['A: 1\r\n\r\nhello']]) {
    for (const how of ['client', 'message', 'quit'] as const) {
      const controller = new AbortController();
      const { signal } = controller;
      const { client } = await connected({}, { ...(how === 'client' && { signal }), defaultAction: 'accept' });
      const sending = client.send(mail(stalling(...some), how === 'message' ? { signal } : {}));
      const failed = t.rejects(sending, { code: 'ERR_MILTER_ABORTED' }, `${some.join('')} ${how}`);
      await settled();
      if (how === 'quit') await client.quit();
      else controller.abort(new Error('enough'));
      await failed;
      await client.quit();
    }
  }
  const controller = new AbortController();
  const { client } = await connected({}, { signal: controller.signal });
  const stalled = new Readable({ read() {} });
  stalled.push('A: 1\r\n\r\nbody');
  const failed = t.rejects(client.send(mail(stalled)), { code: 'ERR_MILTER_ABORTED', cause: { message: 'enough' } });
  await settled();
  controller.abort(new Error('enough'));
  await failed;
  t.ok(stalled.destroyed);
});

t.test('a signal that was aborted before counts, whatever has become of the milter', async (t) => {
  const { client } = await connected({ helo: (line) => line.end() }, { defaultAction: 'accept' });
  const signal = AbortSignal.abort(new Error('before'));
  await t.rejects(client.send(mail(MESSAGE, { signal })), { code: 'ERR_MILTER_ABORTED', cause: { message: 'before' } });
  t.match(await client.send(mail(MESSAGE)), { verdict: 'accept' });
});

t.test('many clients may share a signal', async (t) => {
  const warnings: Error[] = [];
  const warn = (warning: Error): void => void warnings.push(warning);
  process.on('warning', warn);
  const { signal } = new AbortController();
  const clients = await Promise.all(Array.from({ length: 15 }, () => connected({}, { signal })));
  for (const { client } of clients) await client.send(mail(MESSAGE, { signal }));
  for (const { client } of clients) await client.quit();
  await settled();
  process.off('warning', warn);
  t.strictSame(warnings, []);
});

t.test('a body is held once: milters, steps and the result share its memory', async (t) => {
  const heard = [fakeMilter(), fakeMilter(), fakeMilter()];
  const chain = new MilterChain(heard.map(({ stream }) => stream));
  await chain.connect();
  const pieces = Array.from({ length: 8 }, (_, i) => Buffer.alloc(65_536, i));
  const result = await chain.send(mail(Readable.from([Buffer.from('A: 1\r\n\r\n'), ...pieces])));
  const chunks = result.steps.flatMap(({ command }) => (command.type === 'body' ? [command.chunk] : []));
  t.equal(chunks.length, 27);
  t.equal(
    new Set(chunks.map(({ buffer, byteOffset }) => ({ buffer, byteOffset }).buffer)).size,
    9,
    'nine chunks, each once',
  );
  const whole = Buffer.from(`A: 1\r\n\r\n`);
  t.ok(result.message.equals(Buffer.concat([whole, ...pieces])));
});

t.test('P91 an error names the stage, the packet, and what was expected', async (t) => {
  const at = async (script: Script): Promise<Error> => {
    const fake = fakeMilter(script);
    const client = new MilterClient(fake.stream, { commandTimeout: 20, contentTimeout: 20 });
    return client
      .connect()
      .then(() => client.send(mail(MESSAGE)))
      .then(
        () => new Error('it passed'),
        (error: unknown) => error as Error,
      );
  };
  t.match(await at({ helo: packet('d') }), {
    stage: 'helo',
    packet: 'discard',
    message:
      'The milter failed at helo: It answered discard, expected was continue, accept, reject, tempFail, shutdown, replyCode',
  });
  t.match(await at({ body: packet('h', 'X', 'y') }), { message: /tempFail, discard, skip, shutdown, replyCode$/ });
  t.match(await at({ eob: packet('s') }), { message: /discard, progress, edits, shutdown, replyCode$/ });
  t.match(await at({ rcpt: (line) => line.end() }), { stage: 'rcpt', packet: 'rcpt', code: 'ERR_MILTER_CONNECTION' });
  t.match(await at({ rcpt: silence }), { stage: 'rcpt', packet: 'rcpt', code: 'ERR_MILTER_TIMEOUT' });
});

t.test('a message that cannot be meant is refused in words', async (t) => {
  const { client } = await connected();
  for (const [wrong, message] of [
    [{ to: 'x@y' }, 'to must be a list, got "x@y"'],
    [{ to: ['a', 7] }, 'to must be a list of strings, and has 7'],
    [{ to: [undefined] }, 'to must be a list of strings, and has undefined'],
    [{ from: undefined }, 'from must be a string, got undefined'],
  ] as const) {
    await t.rejects(client.send(mail(MESSAGE, wrong)), { code: 'ERR_MILTER_ARGUMENT', message });
  }
});

t.test(
  'abort() while a message is at work: that rejects, the milters hear of it, and the next message passes',
  async (t) => {
    for (const how of ['message', 'send'] as const) {
      const talk: { line?: Line } = {};
      const asked = gate();
      const eob = (line: Line): void => {
        talk.line = line;
        asked.open();
      };
      const { client, heard } = await connected({ eob: [eob, packet('c')], mailFrom: [packet('c'), silence] });
      let playing: Promise<unknown>;
      if (how === 'send') {
        playing = client.send(mail(MESSAGE));
      } else {
        await client.mailFrom('');
        await client.rcpt('b');
        playing = client.message(MESSAGE);
      }
      const failed = t.rejects(playing, {
        code: 'ERR_MILTER_ABORTED',
        stage: 'eob',
        cause: { message: 'abort() was called' },
      });
      await asked.promise;
      const aborting = client.abort();
      t.equal(client.abort(), aborting, 'twice is once');
      await aborting;
      await failed;
      t.equal(heard.at(-1)!.type, 'abort');
      const next = client.send(mail(MESSAGE));
      await settled();
      talk.line!.write(Buffer.concat([packet('h', 'X', 'late'), packet('a'), packet('c')]));
      t.match(await next, { verdict: 'accept', modifications: [] });
      t.equal(heard.filter(({ type }) => type === 'abort').length, 2);
    }
  },
);

t.test('abort() while a stream stalls, before its headers and behind them', async (t) => {
  for (const some of [[], ['A: 1\r\n\r\nhello']]) {
    const { client, heard } = await connected();
    await client.mailFrom('');
    await client.rcpt('b');
    const failed = t.rejects(client.message(stalling(...some)), { code: 'ERR_MILTER_ABORTED' });
    await settled();
    await client.abort();
    await failed;
    t.equal(heard.at(-1)!.type, 'abort');
    t.match(await client.send(mail(MESSAGE)), { verdict: 'accept' });
  }
});

t.test('abort() between two pieces of a body that are not answered: no more is sent', async (t) => {
  const { client, stream, heard } = await connected({ negotiate: agrees(6, 0, SMFIP_NR_BODY), body: silence });
  await client.mailFrom('');
  await client.rcpt('b');
  let aborting: Promise<void> | undefined;
  stream.once('drain', () => (aborting = client.abort()));
  const failed = t.rejects(client.message(`A: 1\r\n\r\n${'x'.repeat(500_000)}`), { code: 'ERR_MILTER_ABORTED' });
  await failed;
  await aborting;
  t.strictSame(
    heard.slice(-3).map(({ type }) => type),
    ['macro', 'body', 'abort'],
  );
  t.match(await client.send(mail(MESSAGE)), { verdict: 'accept' });
});

t.test(
  'abort() of a chain: what has come of the answer already is passed over, too; the others are not asked',
  async (t) => {
    const asked = gate<Line>();
    const one = fakeMilter({ eob: [(line) => asked.open(line), packet('c')] });
    const two = fakeMilter();
    const chain = new MilterChain([one.stream, two.stream]);
    await chain.connect();
    const failed = t.rejects(chain.send(mail(MESSAGE)), { code: 'ERR_MILTER_ABORTED' });
    const line = await asked.promise;
    line.write(Buffer.concat([packet('h', 'X', 'y'), packet('r')]));
    await chain.abort(); // in the same turn: nobody has taken it yet
    await failed;
    t.notOk(two.heard.some(({ type }) => type === 'eob'));
    t.match(await chain.send(mail(MESSAGE)), { verdict: 'accept', modifications: [] });
  },
);

t.test('destroy() ends at once: what is at work, what is being dialled, and for good', async (t) => {
  const asked = gate();
  const { client, stream } = await connected({ eob: () => asked.open() });
  const failed = t.rejects(client.send(mail(MESSAGE)), { code: 'ERR_MILTER_CONNECTION' });
  await asked.promise;
  client.destroy();
  t.ok(stream.destroyed);
  await failed;
  await t.rejects(client.send(mail(MESSAGE)), { code: 'ERR_MILTER_SEQUENCE' });
  client.destroy();
  const early = fakeMilter();
  const leaving = new MilterClient(early.stream);
  const left = t.rejects(leaving.connect(), { code: 'ERR_MILTER_CONNECTION', message: /quit\(\) was called/ });
  leaving.destroy();
  await left;
  t.ok(early.stream.destroyed);

  const server = createServer(() => t.fail('it was not connected')).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const dialling = new MilterChain([`inet:${port}`, `inet:${port}`], { defaultAction: 'throw' });
  const gone = t.rejects(dialling.connect(), { code: 'ERR_MILTER_CONNECTION', message: /quit\(\) was called/ });
  dialling.destroy();
  await gone;
  await settled();
  server.close();
});

t.test('destroy() between two milters that are told of another SMTP session', async (t) => {
  const chain = new MilterChain([fakeMilter().stream, fakeMilter().stream]);
  await chain.connect();
  const next = t.rejects(chain.nextSession(), { code: 'ERR_MILTER_SEQUENCE' });
  chain.destroy();
  await next;
});

t.test('a chain knows which of its milters has failed, and with what', async (t) => {
  const bad = fakeMilter({ helo: packet('f') });
  const milters = [fakeMilter().stream, { target: bad.stream, name: 'bad', defaultAction: undefined }];
  const chain = new MilterChain(milters, { defaultAction: 'accept' });
  await chain.open();
  t.match(
    chain.milters.map(({ failure }) => failure),
    [undefined, undefined],
  );
  t.match(await chain.connect(), { outcome: 'continue' }, 'undefined is as if nothing was said');
  t.match(chain.milters, [
    { name: 'stream', failure: undefined },
    { name: 'bad', failure: { code: 'ERR_MILTER_FILTER', stage: 'helo' } },
  ]);
});
