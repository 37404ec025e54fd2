// The client as a mail server uses it: one command after the other, as the SMTP client gives them.
import { Readable } from 'node:stream';
import t from 'tap';
import { Message, MilterChain, MilterClient, smtpReply, type ClientOptions } from '../../lib/client/index.js';
import { SMFIP_RCPT_REJ } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { stopClock } from '../helpers/clock.js';
import { agrees, fakeMilter, silence, type Line, type Script } from '../helpers/fake-milter.js';

const MESSAGE = 'A: 1\r\n\r\nbody\r\n';

/** The commands of a message from MAIL to its end. */
const PLAYED = ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob', 'abort'];

async function session(script: Script = {}, options: ClientOptions = {}) {
  const { stream, heard } = fakeMilter(script);
  const client = new MilterClient(stream, options);
  await client.connect({ helo: false });
  const said = (): string[] => heard.flatMap(({ type }) => (type === 'macro' ? [] : [type])).slice(2);
  return { client, heard, said, stream };
}

t.test('P82 an SMTP session with two messages, a RSET, and a second HELO', async (t) => {
  const { client, said, heard } = await session();
  t.match(await client.helo('mx.example.org'), { outcome: 'continue', hangUp: false });
  t.match(await client.mailFrom('<a@example.org>', ['SIZE=10']), { outcome: 'continue' });
  t.match(await client.rcpt('<b@example.com>', ['NOTIFY=NEVER']), { outcome: 'continue' });
  t.match(await client.data(), { outcome: 'continue' });
  t.match(await client.message(MESSAGE), { verdict: 'accept', stage: 'eob', envelope: { to: ['<b@example.com>'] } });
  await client.mailFrom('<a@example.org>');
  await client.rcpt('<b@example.com>');
  await client.abort();
  await client.abort();
  await client.mailFrom('<a@example.org>');
  await client.mailFrom('<c@example.org>');
  await client.helo('other.example.org');
  await client.mailFrom('<d@example.org>');
  await client.rcpt('<b@example.com>');
  t.match(await client.message(Buffer.from(MESSAGE)), { verdict: 'accept' }, 'DATA is said where it was not');
  await client.quit();
  t.strictSame(said(), [
    'helo',
    ...PLAYED,
    'mailFrom',
    'rcpt',
    'abort',
    'mailFrom',
    'abort',
    'mailFrom',
    'helo',
    'abort',
    ...PLAYED,
    'quit',
  ]);
  t.match(heard.filter(({ type }) => type === 'mailFrom' || type === 'rcpt').slice(0, 2), [
    { args: ['SIZE=10'] },
    { args: ['NOTIFY=NEVER'] },
  ]);
});

t.test('P85 P136 what each command comes to, and what the SMTP client hears', async (t) => {
  const { client } = await session({
    mailFrom: [packet('y', '451 4.7.1 slow\r\n'.trim()), packet('c'), packet('c'), packet('d')],
    rcpt: [packet('y', '550-5.1.1 nobody of\r\n550 5.1.1 that name'), packet('t'), packet('r'), packet('c')],
    data: [packet('r')],
  });
  const first = await client.mailFrom('<a@example.org>');
  t.match(first, { outcome: 'tempFail', reply: { code: 451 }, milter: 'stream', hangUp: false });
  t.match(smtpReply(first), { code: 451, enhanced: '4.7.1', lines: ['slow'] });
  t.match(await client.mailFrom('<a@example.org>'), { outcome: 'continue' });
  t.match(smtpReply(await client.rcpt('<1@example.com>')), { enhanced: '5.1.1', lines: ['nobody of', 'that name'] });
  t.match(smtpReply(await client.rcpt('<2@example.com>')), { code: 451, lines: [/try again later/] });
  t.match(smtpReply(await client.rcpt('<3@example.com>')), { code: 550, enhanced: '5.7.1' });
  await t.rejects(client.message(MESSAGE), {
    code: 'ERR_MILTER_SEQUENCE',
    message: 'A message needs a recipient that was not refused: rcpt() first',
  });
  t.equal(smtpReply(await client.rcpt('<4@example.com>')), undefined);
  t.match(await client.data(), { outcome: 'reject' });
  const refused = await client.message(MESSAGE);
  t.match(refused, { verdict: 'reject', stage: 'data' }, 'what was said at DATA holds');
  t.equal(refused.recipients.length, 4);
  t.match(smtpReply(refused), { code: 550 });
  await client.mailFrom('<a@example.org>');
  t.match(await client.mailFrom('<a@example.org>'), { outcome: 'discard' });
  t.equal(smtpReply({ outcome: 'discard' }), undefined, 'the client must not know');
  t.match(await client.rcpt('<b@example.com>'), { outcome: 'continue' }, 'nor later on');
  t.match(await client.message(MESSAGE), { verdict: 'discard', stage: 'mailFrom' });
});

t.test('P84 after a discard nobody is asked any more, and the SMTP client does not notice', async (t) => {
  const b = fakeMilter();
  const chain = new MilterChain([fakeMilter({ mailFrom: packet('d') }).stream, b.stream]);
  await chain.connect();
  t.match(await chain.mailFrom('<a@example.org>'), { outcome: 'discard' });
  t.match(await chain.rcpt('<b@example.com>'), { outcome: 'continue' });
  t.match(await chain.data(), { outcome: 'continue' });
  t.match(await chain.message(MESSAGE), { verdict: 'discard', stage: 'mailFrom', milter: 'stream' });
  t.notOk(b.heard.some(({ type }) => type === 'mailFrom' || type === 'rcpt'));
  const { client } = await session({ rcpt: packet('d') });
  await client.mailFrom('<a@example.org>');
  t.match(await client.rcpt('<b@example.com>'), { outcome: 'discard' });
  t.match(await client.message(MESSAGE), { verdict: 'discard', stage: 'rcpt' }, 'its only recipient');
});

t.test('a refusal at MAIL answers whatever else is asked', async (t) => {
  const { client, said } = await session({ mailFrom: packet('y', '550 5.7.1 no') });
  await client.mailFrom('<a@example.org>');
  t.match(await client.rcpt('<b@example.com>'), { outcome: 'reject', reply: { lines: ['no'] } });
  t.match(await client.message(MESSAGE), { verdict: 'reject', stage: 'mailFrom' });
  t.strictSame(said(), ['mailFrom', 'abort']);
});

t.test('quit() while something is at work: that ends with an error that says so', async (t) => {
  const talk: { line?: Line } = {};
  const { client, stream } = await session({ rcpt: (line) => (talk.line = line) });
  const sending = client.send({ from: '', to: ['b'], message: MESSAGE });
  const failed = t.rejects(sending, { code: 'ERR_MILTER_CONNECTION', stage: 'data', message: /quit\(\) was called/ });
  while (talk.line === undefined) await new Promise(setImmediate);
  stream._final = () => {}; // it answers before it closes
  const quit = client.quit();
  talk.line.write(packet('c'));
  await failed;
  stream.destroy();
  await quit;
});

t.test('a message has header lines of the mail server above it, where they are given', async (t) => {
  const { client } = await session(
    { eob: Buffer.concat([packet('i', Buffer.from('\0\0\0\0X\0y\0', 'latin1')), packet('c')]) },
    { ownHeaders: 'Received: usual\r\n' },
  );
  const sent = async (ownHeaders?: string): Promise<string> => {
    await client.mailFrom('');
    await client.rcpt('b');
    return String((await client.message(MESSAGE, { ownHeaders })).message);
  };
  t.equal(await sent(), `X: y\r\nReceived: usual\r\n${MESSAGE}`);
  t.equal(await sent('Received: this\r\n'), `X: y\r\nReceived: this\r\n${MESSAGE}`);
});

t.test('P111 421 ends the SMTP session; smtpReply() has the words where the milter has none', async (t) => {
  const { client, said } = await session({ rcpt: packet('4') });
  await client.helo('x');
  await client.mailFrom('<a@example.org>');
  const result = await client.rcpt('<b@example.com>');
  t.match(result, { outcome: 'tempFail', hangUp: true });
  t.match(smtpReply(result), { code: 421, enhanced: '4.7.0' });
  t.match(await client.mailFrom('<a@example.org>'), { outcome: 'tempFail', hangUp: true });
  t.equal(said().at(-1), 'abort');
});

t.test('P89 a recipient that the mail server refuses itself', async (t) => {
  for (const protocol of [SMFIP_RCPT_REJ, 0]) {
    const { client, said } = await session({ negotiate: agrees(6, 0, protocol), rcpt: [packet('a'), packet('c')] });
    await client.mailFrom('<a@example.org>');
    await client.refusedRcpt('<x@example.com>', { enhanced: '5.1.1', lines: ['no such user'] });
    t.match(await client.rcpt('<b@example.com>'), { outcome: protocol === 0 ? 'accept' : 'continue' });
    t.equal(said().filter((type) => type === 'rcpt').length, protocol === 0 ? 1 : 2);
    t.match((await client.message(MESSAGE)).envelope.to, ['<b@example.com>']);
  }
});

t.test('calls that have no message to belong to', async (t) => {
  const { client } = await session();
  const none = { code: 'ERR_MILTER_SEQUENCE', message: 'No message is in progress: mailFrom() first' };
  await t.rejects(client.rcpt('<b@example.com>'), none);
  await t.rejects(client.data(), none);
  await t.rejects(client.message(MESSAGE), none);
  await t.rejects(client.refusedRcpt('<b@example.com>', { enhanced: '', lines: [] }), none);
  await client.mailFrom('<a@example.org>');
  await client.quit();
  await t.rejects(client.rcpt('<b@example.com>'), { code: 'ERR_MILTER_SEQUENCE', message: /Not connected/ });
  await client.abort();
});

t.test('open() negotiates before there is an SMTP client; a real mail server’s macros are all there is', async (t) => {
  const { stream, heard } = fakeMilter();
  const client = new MilterClient(stream, { ownMacros: false });
  await client.open();
  t.match(client.agreed, { version: 6 });
  t.strictSame(
    heard.map(({ type }) => type),
    ['negotiate'],
  );
  await t.rejects(client.mailFrom('<a@example.org>'), { code: 'ERR_MILTER_SEQUENCE', message: /connect\(\) first/ });
  await client.connect({ helo: false }, { macros: { connect: { j: 'mx' } } });
  await client.helo('x', { macros: { helo: { '{cipher}': 'c' } } });
  await client.unknown('FOO', { macros: { unknown: { u: '1' } } });
  await client.mailFrom('<a@example.org>');
  await client.rcpt('<b@example.com>');
  await client.data({ macros: { data: { d: '1' } } });
  await client.message(Message.of([['A', ' 1']], [Buffer.from('x')]), { macros: { eob: { i: 'ID' } } });
  const macros = heard.flatMap((each) => (each.type === 'macro' ? each.macros.map(([name]) => each.stage + name) : []));
  t.strictSame(macros, ['Cj', 'H{cipher}', 'Uu', 'Td', 'Bi', 'Ei']);
  const gone = new MilterClient(fakeMilter({ negotiate: packet('c') }).stream);
  await t.rejects(gone.open(), { code: 'ERR_MILTER_NEGOTIATION' });
});

t.test('macros of one command, over those of the session', async (t) => {
  const { client, heard } = await session({}, { macros: { mailFrom: { x: 'session' }, eob: { i: 'ID' } } });
  await client.mailFrom('<a@example.org>', [], { macros: { mailFrom: { y: '1' }, rcpt: { z: '2' } } });
  await client.rcpt('<b@example.com>', [], { macros: { rcpt: { '{rcpt_addr}': 'other' } } });
  await client.message(MESSAGE);
  const of = (letter: string): object =>
    Object.fromEntries(heard.flatMap((each) => (each.type === 'macro' && each.stage === letter ? each.macros : [])));
  t.match(of('M'), { x: 'session', y: '1', '{mail_addr}': 'a@example.org' });
  t.match(of('R'), { z: '2', '{rcpt_addr}': 'other' });
  t.match(of('E'), { i: 'ID' });
});

t.test('P92 every default action, at every stage, and what is said of it', async (t) => {
  const expected = {
    accept: { verdict: 'accept' },
    reject: { verdict: 'reject', reply: { code: 550, enhanced: '5.5.0' }, hangUp: false },
    tempfail: { verdict: 'tempFail', reply: { code: 451, enhanced: '4.7.1' }, hangUp: false },
    shutdown: { verdict: 'tempFail', reply: { code: 421, enhanced: '4.7.1' }, hangUp: true },
    quarantine: { verdict: 'accept', quarantined: 'A milter has failed' },
  } as const;
  const stages = ['negotiate', 'connect', 'helo', 'mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob'] as const;
  for (const defaultAction of ['accept', 'reject', 'tempfail', 'shutdown', 'quarantine'] as const) {
    for (const stage of stages) {
      for (const fail of [(line: Line) => line.end(), packet('f')]) {
        const { stream } = fakeMilter({ [stage]: fail });
        const client = new MilterClient(stream, { defaultAction });
        await client.connect();
        for (let round = 0; round < 2; round++) {
          const result = await client.send({ from: '<a@example.org>', to: ['<b@example.com>'], message: MESSAGE });
          t.match(result, expected[defaultAction], `${defaultAction}, failed at ${stage}, message ${round}`);
          t.match(result.errors, [{ stage, code: /ERR_MILTER_(CONNECTION|FILTER|NEGOTIATION)/ }]);
          t.equal(result.errors.length, 1);
          t.equal(String(result.message), MESSAGE, 'the message is as it was');
          t.strictSame(result.modifications, []);
        }
        await client.quit();
      }
    }
  }
});

t.test('P133 a milter that fails among its edits changes nothing, whatever the default action', async (t) => {
  const half = Buffer.concat([packet('h', 'X', 'y'), packet('b', Buffer.from('new')), packet('h', 'torn')]);
  for (const defaultAction of ['accept', 'quarantine', 'tempfail'] as const) {
    const { client } = await session({ eob: half }, { defaultAction });
    const result = await client.send({ from: '', to: ['b'], message: MESSAGE });
    t.equal(String(result.message), MESSAGE);
    t.match(result.errors, [{ code: 'ERR_MILTER_MALFORMED', stage: 'eob', packet: 'addHeader' }]);
  }
});

t.test('P132 edits that were not asked for are made where that is wanted', async (t) => {
  const eob = Buffer.concat([packet('h', 'X', 'y'), packet('c')]);
  const { client } = await session({ negotiate: agrees(6, 0), eob }, { unagreedEdits: 'apply' });
  const result = await client.send({ from: '', to: ['b'], message: MESSAGE });
  t.equal(String(result.message), 'A: 1\r\nX: y\r\n\r\nbody\r\n');
});

t.test('P92 after a failure the next SMTP session is on a new connection, where there is an address', async (t) => {
  const { client, stream } = await session({ mailFrom: (line) => line.end() }, { defaultAction: 'accept' });
  await client.mailFrom('<a@example.org>');
  t.ok(stream.destroyed);
  t.match(await client.nextSession(), { outcome: 'accept', error: { code: 'ERR_MILTER_CONNECTION' } });
  t.match(await client.unknown('FOO'), { outcome: 'accept' });
});

t.test('what is wrong with the caller’s own command is no failure of the milter', async (t) => {
  const { client } = await session({}, { defaultAction: 'accept' });
  await t.rejects(client.mailFrom('a\0b'), { code: 'ERR_MILTER_VALUE' });
  await t.rejects(client.helo('\ud800'), { code: 'ERR_MILTER_TEXT' });
  t.match(await client.send({ from: '', to: ['b'], message: MESSAGE }), { verdict: 'accept', errors: [] });
});

t.test('P90 the end of a message has a limit of its own, which progress does not lift', async (t) => {
  const talk: { line?: Line } = {};
  const { client } = await session({ eob: (line) => (talk.line = line) }, { contentTimeout: 40, eobTimeout: 100 });
  const clock = stopClock(t);
  const result = client.send({ from: '', to: ['b'], message: MESSAGE });
  const failed = t.rejects(result, {
    code: 'ERR_MILTER_TIMEOUT',
    stage: 'eob',
    message: 'The milter failed at eob: It has not come to an end within 100 ms',
  });
  for (let i = 0; i < 3; i++) {
    await clock.pass(33);
    talk.line?.write(packet('p'));
  }
  await clock.pass(1);
  await failed;
});

t.test('P90 each server has its own patience', async (t) => {
  for (const [like, stage, ms] of [
    ['postfix', 'mailFrom', 30_000],
    ['postfix', 'eob', 300_000],
    ['sendmail', 'mailFrom', 10_000],
    ['sendmail', 'eob', 10_000],
  ] as const) {
    const { client } = await session({ [stage]: silence }, { like });
    const clock = stopClock(t);
    const failed = t.rejects(client.send({ from: '', to: ['b'], message: MESSAGE }), {
      message: new RegExp(`${ms} ms`),
    });
    await clock.pass(ms);
    await failed;
  }
});

t.test('an AbortSignal ends what is at work, with its reason; the default action does not stand in', async (t) => {
  for (const how of ['client', 'message'] as const) {
    const controller = new AbortController();
    const { signal } = controller;
    const { client, stream } = await session(
      { body: () => controller.abort(new Error('enough')) },
      { defaultAction: 'accept', ...(how === 'client' && { signal }) },
    );
    const mail = { from: '', to: ['b'], message: MESSAGE, ...(how === 'message' && { signal }) };
    await t.rejects(client.send(mail), {
      code: 'ERR_MILTER_ABORTED',
      stage: 'body',
      message: 'The caller has given up at body',
      cause: { message: 'enough' },
    });
    t.ok(stream.destroyed);
  }
  const { client } = await session();
  const gone = AbortSignal.abort(new Error('before'));
  await t.rejects(client.send({ from: '', to: ['b'], message: MESSAGE, signal: gone }), { code: 'ERR_MILTER_ABORTED' });
  const { stream } = fakeMilter();
  await t.rejects(new MilterClient(stream, { signal: gone }).connect(), { code: 'ERR_MILTER_ABORTED' });
  await t.rejects(new MilterClient('unix:/no/such', { signal: gone }).connect(), { code: 'ERR_MILTER_ABORTED' });
});

t.test('a message from a stream: the milter sees it as it comes, and what comes out is the same', async (t) => {
  const body = Buffer.alloc(300_000, 'line of text\r\n');
  for (const size of [1, 7, 1000, 65_536, 400_000]) {
    const whole = Buffer.concat([
      Buffer.from('A: 1\r\nB: 2\r\n folded\r\n\r\n'),
      size < 1000 ? body.subarray(0, 999) : body,
    ]);
    const { client, heard } = await session({ eob: Buffer.concat([packet('h', 'X', 'y'), packet('c')]) });
    const pieces = Array.from({ length: Math.ceil(whole.length / size) }, (_, i) =>
      whole.subarray(i * size, (i + 1) * size),
    );
    const result = await client.send({ from: '', to: ['b'], message: Readable.from(pieces) });
    const expected = Buffer.from(whole.toString('latin1').replace(' folded\r\n', ' folded\r\nX: y\r\n'), 'latin1');
    t.ok(result.message.equals(expected), `pieces of ${size}`);
    t.ok(Buffer.concat(await result.stream().toArray()).equals(expected));
    const chunks = heard.flatMap((each) => (each.type === 'body' ? [each.chunk.length] : []));
    t.strictSame(chunks, size < 1000 ? [999] : [65_535, 65_535, 65_535, 65_535, 37_860]);
  }
});

t.test('a stream with LF line ends, cut anywhere; strings; nothing at all', async (t) => {
  const sent = async (...pieces: (string | Uint8Array)[]): Promise<string> => {
    const { client } = await session();
    async function* source() {
      yield* pieces;
    }
    return String((await client.send({ from: '', to: ['b'], message: source() })).message);
  };
  t.equal(await sent('A: 1', '\n', 'B: 2\n\nbo', 'dy\n\nmore\n'), 'A: 1\r\nB: 2\r\n\r\nbody\r\n\r\nmore\r\n');
  t.equal(await sent('A: 1\n\none\r', '\ntwo\r\n'), 'A: 1\r\n\r\none\r\ntwo\r\n', 'a CRLF that was torn');
  t.equal(await sent('A: 1\r', '\nB: 2\n\nbare\n'), 'A: 1\r\nB: 2\n\nbare\n', 'the first line decides');
  t.equal(await sent('A: 1\r\n', '\r', '\n', '', 'x'), 'A: 1\r\n\r\nx');
  t.equal(await sent('\r\nbody'), '\r\nbody');
  t.equal(await sent('A: 1'), 'A: 1');
  t.equal(await sent(), '');
  t.equal(await sent('Caf', new Uint8Array([0xe9]), ': 1\r\n\r\n'), 'Caf\ufffd: 1\r\n\r\n');
  await t.rejects(sent('A: 1\r\nno header\r\n\r\n'), { code: 'ERR_MILTER_ARGUMENT', message: /^Line 2 / });
  const unread = Readable.from(['no header\r\n\r\n', 'more', 'and more']);
  await t.rejects(session().then(({ client }) => client.send({ from: '', to: ['b'], message: unread })));
  t.ok(unread.destroyed, 'nobody will read the rest');
  await t.rejects(sent(7 as unknown as string), {
    code: 'ERR_MILTER_ARGUMENT',
    message: /must give Buffers or strings/,
  });
});

t.test('a stream is left alone where the message is refused first, and given up where that is later', async (t) => {
  const { client } = await session({ mailFrom: [packet('r'), packet('c')], header: packet('r') });
  const untouched = Readable.from([MESSAGE]);
  const early = await client.send({ from: '', to: ['b'], message: untouched });
  t.match(early, { verdict: 'reject', stage: 'mailFrom' });
  t.equal(early.message.length, 0);
  t.equal((await early.stream().toArray()).length, 0);
  t.notOk(untouched.destroyed);
  const begun = Readable.from(['A: 1\r\n\r\n', 'body', 'more']);
  t.match(await client.send({ from: '', to: ['b'], message: begun }), { verdict: 'reject', stage: 'header' });
  t.ok(begun.destroyed);
});

t.test('a stream that fails: the milter hears ABORT, the caller what the stream failed with', async (t) => {
  const cause = new Error('the disk is gone');
  async function* failing() {
    yield 'A: 1\r\n\r\n';
    yield 'x'.repeat(70_000);
    throw cause;
  }
  const { client, said } = await session({}, { defaultAction: 'accept' });
  await t.rejects(client.send({ from: '', to: ['b'], message: failing() }), cause);
  t.strictSame(said().slice(-2), ['body', 'abort']);
  t.match(await client.send({ from: '', to: ['b'], message: MESSAGE }), { verdict: 'accept' });
});

t.test('a milter that wants no body, or skips it: the message is whole all the same', async (t) => {
  for (const script of [{ negotiate: agrees(6, 0x1ff, 0x10) }, { body: packet('s') }, { header: packet('a') }]) {
    const { client } = await session(script);
    const body = 'x'.repeat(200_000);
    const result = await client.send({ from: '', to: ['b'], message: Readable.from([`A: 1\r\n\r\n`, body]) });
    t.equal(String(result.message), `A: 1\r\n\r\n${body}`);
  }
});

t.test('P15 a slow milter holds the stream back', async (t) => {
  let given = 0;
  function* source() {
    yield 'A: 1\r\n\r\n';
    for (; given < 100; given++) yield 'x'.repeat(65_535);
  }
  const talk: { line?: Line } = {};
  const { client } = await session({ body: [(line) => (talk.line = line), packet('c')] });
  const sending = client.send({ from: '', to: ['b'], message: Readable.from(source(), { highWaterMark: 1 }) });
  while (talk.line === undefined) await new Promise(setImmediate);
  await new Promise(setImmediate);
  t.ok(given < 5, `${given} of 100 pieces were taken`);
  talk.line.write(packet('c'));
  t.match(await sending, { verdict: 'accept' });
  t.equal(given, 100);
});
