// What a bad milter does: it costs its own connection, never a hang, and the error says what it did, and when.
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import t from 'tap';
import { MilterClient, type ClientOptions } from '../../lib/client/index.js';
import {
  ALLPROTOS,
  MilterError,
  SMFIF_CHGBODY,
  SMFIF_ADDHDRS,
  SMFIP_NR_BODY,
  SMFIP_NR_HDR,
  type MilterErrorCode,
} from '../../lib/index.js';
import { packet, str, u32 } from '../helpers/bytes.js';
import { stopClock } from '../helpers/clock.js';
import { agrees, fakeMilter, silence, type Line, type Script } from '../helpers/fake-milter.js';

const mail = { from: '<a@example.org>', to: ['<b@example.com>'], message: 'Subject: hi\r\n\r\nbody\r\n' };

/** Every command that is answered, in the order of a message. */
const ANSWERED = ['connect', 'helo', 'mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob'] as const;

/** Plays a connection and a message. */
async function play(script: Script, options: ClientOptions = {}): Promise<string> {
  const { stream } = fakeMilter(script);
  const client = new MilterClient(stream, options);
  await client.connect();
  await client.send(mail);
  return 'played';
}

interface Expected {
  readonly code: MilterErrorCode;
  readonly stage: string;
  readonly packet?: string;
  readonly message: RegExp;
}

const filter = (stage: string, packet: string, words: RegExp): Expected => ({
  code: 'ERR_MILTER_FILTER',
  stage,
  packet,
  message: words,
});

t.test('P38 P31 P32 an answer to the offer that is none', async (t) => {
  const nego = (words: RegExp, packet = 'negotiate'): Expected => ({
    code: 'ERR_MILTER_NEGOTIATION',
    stage: 'negotiate',
    packet,
    message: words,
  });
  const cases: Array<[string, Buffer, Expected]> = [
    ['another reply', packet('c'), nego(/answered the offer with continue/, 'continue')],
    ['a version above the offer', agrees(7), nego(/version 7, offered was 6/)],
    ['version 1', agrees(1), nego(/version 1, offered was 6/)],
    ['actions that were not offered', agrees(6, 0x1ff | 0x400), nego(/wants 0x400, which was not offered/)],
    [
      'fewer than 12 bytes',
      packet('O', u32(6), u32(0)),
      { code: 'ERR_MILTER_MALFORMED', stage: 'negotiate', packet: 'negotiate', message: /at negotiate/ },
    ],
    [
      'a torn list of macros',
      agrees(6, 0x1ff, 0, Buffer.of(0, 0)),
      { code: 'ERR_MILTER_MALFORMED', stage: 'negotiate', packet: 'negotiate', message: /at negotiate/ },
    ],
    [
      'a mail server’s letter',
      packet('Q'),
      { code: 'ERR_MILTER_UNKNOWN_CODE', stage: 'negotiate', packet: 'Q', message: /'Q'/ },
    ],
    [
      'an SMTP server',
      Buffer.from('220 mx.example.org ESMTP\r\n'),
      { code: 'ERR_MILTER_PACKET_TOO_LARGE', stage: 'negotiate', message: /an SMTP server/ },
    ],
  ];
  for (const [what, bytes, expected] of cases) await t.rejects(play({ negotiate: bytes }), expected, what);
  await t.rejects(play({ negotiate: agrees(4) }, { version: 3 }), nego(/version 4, offered was 3/));
  await t.rejects(
    play({ negotiate: agrees(6, SMFIF_ADDHDRS | SMFIF_CHGBODY) }, { actions: SMFIF_ADDHDRS }),
    nego(/wants SMFIF_CHGBODY, which/),
  );
});

t.test('P33 steps that were not offered: Postfix does without, Sendmail without the milter', async (t) => {
  const protocol = ALLPROTOS & ~SMFIP_NR_HDR;
  const script: Script = { negotiate: agrees(6, 0, SMFIP_NR_HDR), header: silence };
  t.equal(await play(script, { protocol }), 'played', 'and they are honoured: this header is not answered');
  await t.rejects(play(script, { protocol, like: 'sendmail' }), {
    code: 'ERR_MILTER_NEGOTIATION',
    stage: 'negotiate',
    message: /wants SMFIP_NR_HDR, which was not offered/,
  });
});

t.test('P91 P131 a letter that is no answer, at each stage', async (t) => {
  const never: Array<[string, Buffer]> = [
    ['connFail', packet('f')],
    ['setSymList', packet('l', u32(0), 'j')],
    ['negotiate', agrees()],
  ];
  const edits: Array<[string, Buffer]> = [
    ['addHeader', packet('h', 'X-A', 'b')],
    ['insHeader', packet('i', u32(0), 'X-A', 'b')],
    ['chgHeader', packet('m', u32(1), 'X-A', 'b')],
    ['addRcpt', packet('+', '<c@example.com>')],
    ['addRcptPar', packet('2', '<c@example.com>', 'NOTIFY=NEVER')],
    ['delRcpt', packet('-', '<b@example.com>')],
    ['chgFrom', packet('e', '<c@example.org>')],
    ['replBody', packet('b', Buffer.from('new'))],
    ['quarantine', packet('q', 'held')],
  ];
  for (const stage of ANSWERED) {
    const wrong = [
      ...never,
      ...(stage === 'eob' ? [] : edits),
      ...(stage === 'body' ? [] : [['skip', packet('s')] as const]),
      ...(stage === 'connect' || stage === 'helo' ? [['discard', packet('d')] as const] : []),
    ];
    for (const [type, bytes] of wrong) {
      const expected = filter(stage, type, new RegExp(`failed at ${stage}: It answered ${type}`));
      await t.rejects(play({ [stage]: bytes }), expected, `${type} at ${stage}`);
    }
  }
});

t.test('P91 what Sendmail does not take and Postfix does', async (t) => {
  const progress = Buffer.concat([packet('p'), packet('c')]);
  for (const stage of ANSWERED) {
    t.equal(await play({ [stage]: packet('4') }), 'played');
    await t.rejects(play({ [stage]: packet('4') }, { like: 'sendmail' }), filter(stage, 'shutdown', /shutdown/));
    if (stage === 'eob') t.equal(await play({ eob: progress }, { like: 'sendmail' }), 'played');
    else await t.rejects(play({ [stage]: progress }, { like: 'sendmail' }), filter(stage, 'progress', /progress/));
  }
  const torn = Buffer.concat([packet('b', Buffer.from('1')), packet('p'), packet('b', Buffer.from('2')), packet('c')]);
  t.equal(await play({ eob: torn }, { like: 'sendmail' }), 'played');
  await t.rejects(
    play({ eob: torn }),
    filter('eob', 'replBody', /more of the body/),
    'P119 Postfix takes progress for the end of the body',
  );
});

t.test('P91 a reply that nothing asked for', async (t) => {
  const twice = Buffer.concat([packet('c'), packet('r')]);
  for (const [i, stage] of ANSWERED.entries()) {
    const next = ANSWERED[i + 1];
    if (next === undefined) continue;
    await t.rejects(
      play({ [stage]: twice }),
      { code: 'ERR_MILTER_FILTER', stage: next, message: /sent reject, unasked/ },
      `two answers to ${stage}`,
    );
  }
  const eager: Script = { negotiate: agrees(6, 0, SMFIP_NR_HDR), header: packet('c') };
  await t.rejects(
    play(eager),
    { code: 'ERR_MILTER_FILTER', message: /sent continue, unasked/ },
    'an answer where none was agreed',
  );
});

t.test('a message keeps its verdict, whatever comes behind it; the next one finds out', async (t) => {
  for (const after of [(line: Line) => line.write(packet('r')), (line: Line) => line.end()]) {
    const { stream } = fakeMilter({
      eob(line) {
        line.write(packet('c'));
        after(line);
      },
    });
    const client = new MilterClient(stream);
    await client.connect();
    t.match(await client.send(mail), { verdict: 'accept', stage: 'eob' });
    const failed = { code: /ERR_MILTER_(FILTER|CONNECTION)/, stage: /abort|mailFrom/ };
    await t.rejects(client.send(mail), failed);
    await client.quit();
  }
});

t.test('P132 an edit whose flag was not asked for is refused', async (t) => {
  const edits: Array<[string, string, Buffer]> = [
    ['addHeader', 'SMFIF_ADDHDRS', packet('h', 'X-A', 'b')],
    ['insHeader', 'SMFIF_ADDHDRS', packet('i', u32(0), 'X-A', 'b')],
    ['replBody', 'SMFIF_CHGBODY', packet('b', Buffer.from('new'))],
    ['addRcpt', 'SMFIF_ADDRCPT', packet('+', '<c@example.com>')],
    ['delRcpt', 'SMFIF_DELRCPT', packet('-', '<b@example.com>')],
    ['chgHeader', 'SMFIF_CHGHDRS', packet('m', u32(1), 'X-A', 'b')],
    ['quarantine', 'SMFIF_QUARANTINE', packet('q', 'held')],
    ['chgFrom', 'SMFIF_CHGFROM', packet('e', '<c@example.org>')],
    ['addRcptPar', 'SMFIF_ADDRCPT_PAR', packet('2', '<c@example.com>')],
  ];
  for (const [i, [type, flag, bytes]] of edits.entries()) {
    // Each edit with every flag but its own.
    const bit = [0x1, 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80][i]!;
    const eob = Buffer.concat([bytes, packet('c')]);
    const expected = filter('eob', type, new RegExp(`sent ${type} without having asked for ${flag}`));
    await t.rejects(play({ negotiate: agrees(6, 0x1ff & ~bit), eob }), expected);
    t.equal(await play({ negotiate: agrees(6, bit), eob }), 'played', `${flag} is enough for ${type}`);
  }
});

t.test('P133 an edit that cannot be read fails the message as a whole', async (t) => {
  const bad: Array<[string, Buffer]> = [
    ['addHeader', packet('h', 'X-A', Buffer.from('no NUL'))],
    ['addHeader', packet('h', '', 'value')],
    ['insHeader', packet('i', Buffer.of(0, 0))],
    ['chgHeader', packet('m', u32(1), 'X-A', 'value', 'more')],
    ['addRcpt', packet('+', Buffer.from('<c@example.com>'))],
    ['addRcptPar', packet('2', '<c@example.com>', 'a', 'b')],
    ['delRcpt', packet('-', '<b@example.com>', 'more')],
    ['chgFrom', packet('e')],
    ['quarantine', packet('q')],
    ['continue', packet('c', Buffer.from('surplus'))],
  ];
  for (const [type, bytes] of bad) {
    const eob = Buffer.concat([packet('h', 'X-Good', 'yes'), bytes, packet('c')]);
    await t.rejects(play({ eob }), {
      code: 'ERR_MILTER_MALFORMED',
      stage: 'eob',
      packet: type,
      message: /failed at eob/,
    });
  }
});

t.test('P110 a malformed reply of the milter’s own', async (t) => {
  for (const [text, words] of [
    ['250 2.0.0 ok', /does not begin with a code from 400 to 599/],
    ['55 no', /does not begin/],
    ['550', /does not begin/],
    ['550 4.7.1 class', /another class/],
    ['550-one\r\n551 two', /another code/],
    ['550 one\r\n550 two', /needs "-"/],
    ['550-one', /needs " "/],
    ['550 bare\nLF', /bare CR or LF/],
  ] as const) {
    for (const stage of ANSWERED) {
      await t.rejects(play({ [stage]: packet('y', text) }), {
        code: 'ERR_MILTER_MALFORMED',
        stage,
        packet: 'replyCode',
        message: words,
      });
    }
  }
  const inside = packet('y', Buffer.concat([str('550 no'), str('more')]));
  await t.rejects(
    play({ rcpt: inside }),
    { code: 'ERR_MILTER_MALFORMED', stage: 'rcpt', packet: 'replyCode' },
    'a NUL inside',
  );
});

t.test('P92 P7 the connection ends at each stage, in good order, in a packet, or broken', async (t) => {
  for (const stage of ['negotiate', ...ANSWERED] as const) {
    const at = { stage, message: new RegExp(`failed at ${stage}`) };
    await t.rejects(play({ [stage]: (line: Line) => line.end() }), { ...at, code: 'ERR_MILTER_CONNECTION' });
    const torn = (line: Line): void => {
      line.write(Buffer.of(0, 0, 0, 1));
      line.end();
    };
    await t.rejects(play({ [stage]: torn }), { ...at, code: 'ERR_MILTER_TRUNCATED' });
    const cause = new Error('it broke');
    const broken = { ...at, code: 'ERR_MILTER_CONNECTION', message: /it broke/, cause };
    await t.rejects(play({ [stage]: (line: Line) => line.break(cause) }), broken);
  }
});

t.test('P4 P5 P6 lengths that cannot be', async (t) => {
  for (const stage of ANSWERED) {
    await t.rejects(play({ [stage]: u32(0) }), { code: 'ERR_MILTER_EMPTY_PACKET', stage });
    await t.rejects(play({ [stage]: u32(0xffff_ffff) }), { code: 'ERR_MILTER_PACKET_TOO_LARGE', stage });
  }
});

t.test('P90 silence at each stage ends with its timeout', async (t) => {
  for (const stage of ['negotiate', ...ANSWERED] as const) {
    const slow = ['header', 'eoh', 'body', 'eob'].includes(stage) ? 'contentTimeout' : 'commandTimeout';
    const { stream } = fakeMilter({ [stage]: silence });
    const client = new MilterClient(stream, { commandTimeout: 1e6, contentTimeout: 1e6, [slow]: 5 });
    const played = client.connect().then(() => client.send(mail));
    await t.rejects(played, {
      code: 'ERR_MILTER_TIMEOUT',
      stage,
      message: `The milter failed at ${stage}: It does not answer, and 5 ms are over`,
    });
    t.ok(stream.destroyed, 'nothing that comes later can be taken for another answer');
  }
});

t.test('P90 a milter that does not take what is sent ends with the timeout, too', async (t) => {
  const clock = stopClock(t);
  const fake = fakeMilter({ negotiate: agrees(6, 0, SMFIP_NR_BODY), body: silence });
  const write = fake.stream._write.bind(fake.stream);
  const client = new MilterClient(fake.stream, { contentTimeout: 500, commandTimeout: 100 });
  await client.connect();
  // From the body on it takes a chunk at most.
  fake.stream._write = (bytes: Buffer, encoding, done) => write(bytes, encoding, bytes[4] === 0x42 ? () => {} : done);
  const sent = client.send({ ...mail, message: `A: b\r\n\r\n${'x'.repeat(300_000)}` });
  const failed = t.rejects(sent, {
    code: 'ERR_MILTER_TIMEOUT',
    stage: 'body',
    message: /It takes nothing, and 500 ms/,
  });
  await clock.pass(500);
  await failed;
});

t.test('P90 a milter that stops for a while is waited for', async (t) => {
  const fake = fakeMilter({ negotiate: agrees(6, 0, SMFIP_NR_BODY), body: silence });
  const write = fake.stream._write.bind(fake.stream);
  const client = new MilterClient(fake.stream);
  await client.connect();
  fake.stream._write = (bytes: Buffer, encoding, done) =>
    write(bytes, encoding, (error) => void setImmediate(done, error));
  t.match(await client.send({ ...mail, message: `A: b\r\n\r\n${'x'.repeat(300_000)}` }), { verdict: 'accept' });
});

t.test('the first failure is the error of everything that follows; quit() has nothing to wait for', async (t) => {
  const fake = fakeMilter({ rcpt: packet('f') });
  const client = new MilterClient(fake.stream);
  await client.connect();
  const first = await client.send(mail).catch((error: unknown) => error);
  t.ok(first instanceof MilterError);
  t.equal(await client.send(mail).catch((error: unknown) => error), first);
  t.equal(await client.unknown('FOO').catch((error: unknown) => error), first);
  t.equal(await client.nextSession().catch((error: unknown) => error), first);
  const said = fake.heard.length;
  await client.quit();
  t.equal(fake.heard.length, said);
});

t.test('quit() does not wait for ever for a milter that keeps the connection open', async (t) => {
  const clock = stopClock(t);
  const fake = fakeMilter();
  fake.stream._final = () => {};
  const client = new MilterClient(fake.stream, { commandTimeout: 70 });
  await client.connect();
  let over = false;
  const quit = client.quit().then(() => (over = true));
  await clock.pass(69);
  t.notOk(over);
  await clock.pass(1);
  await quit;
  t.equal(fake.heard.at(-1)?.type, 'quit');
  t.ok(fake.stream.destroyed);
});

t.test('quit() in the middle of a message ends that with an error', async (t) => {
  const { stream } = fakeMilter({ eob: silence });
  const client = new MilterClient(stream);
  await client.connect();
  const failed = t.rejects(client.send(mail), { code: 'ERR_MILTER_CONNECTION', stage: 'eob' });
  await new Promise(setImmediate);
  await client.quit();
  await failed;
});

t.test('P92 over TCP: a milter that resets, one that closes, one that is not there', async (t) => {
  const behave: Array<(socket: Socket) => void> = [
    (socket) => socket.resetAndDestroy(),
    (socket) => socket.end(),
    (socket) => void socket.once('data', () => socket.resetAndDestroy()),
  ];
  let turn = 0;
  const server = createServer((socket) => {
    socket.on('error', () => {}).resume();
    behave[turn++]!(socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const target = `inet:${port}@127.0.0.1`;
  while (turn < behave.length) {
    await t.rejects(new MilterClient(target).connect(), { code: 'ERR_MILTER_CONNECTION' });
  }
  server.close();
  await once(server, 'close');
  await t.rejects(new MilterClient(target).connect(), {
    code: 'ERR_MILTER_CONNECTION',
    message: new RegExp(`Cannot connect to ${target}: .*ECONNREFUSED`),
  });
  await t.rejects(new MilterClient('/no/such/folder/socket').connect(), {
    code: 'ERR_MILTER_CONNECTION',
    message: /unix:\/no\/such\/folder\/socket: .*ENOENT/,
  });
});
