// What each command does, alone and out of place; with bytes of another hand where the wire matters.
import t from 'tap';
import type { Command } from '../../lib/codec/index.js';
import { packet } from '../helpers/bytes.js';
import { bareSession, each, matchAll, milter, STAGES, type Script } from '../helpers/milter.js';
import { inMemory, message, say, type Mta } from '../helpers/mta.js';

const EVERYTHING = each(STAGES);

/** A milter with a script, past the negotiation; and what its callbacks were given. */
async function start(script: Script = EVERYTHING): Promise<{
  mta: Mta;
  calls: string[];
  errors: readonly { code: string; message: string }[];
}> {
  const { MyMilter, calls } = milter(script);
  const { mta, errors } = inMemory(MyMilter, { smfifOptions: 0x1ff, smfipOptions: 0x400 });
  await mta.negotiate();
  return { mta, calls, errors };
}

/** A script that notes each callback, and the body. */
function listening(): { script: Script; heard: string[] } {
  const heard: string[] = [];
  const script: Script = {};
  for (const stage of STAGES) script[stage] = () => void heard.push(stage);
  script.body = (chunk: Buffer) => void heard.push(`body ${chunk.toString()}`);
  return { script, heard };
}

t.test('replies', async (t) => {
  await t.test('P56 one reply to each command that expects one; none to macros, ABORT, QUIT_NC and QUIT', async (t) => {
    const { mta, calls } = await start();
    const commands = [say.connect(), say.helo(), ...message(), say.unknown()];
    for (const command of commands) {
      mta.send(say.macros('C', { j: 'mx' }), say.macros('L', {}), command);
      t.match(await mta.reply(), { type: 'continue' });
    }
    mta.send(say.abort(), say.quitNewConnection(), say.connect());
    t.match(await mta.reply(), { type: 'continue' });
    mta.send(say.quit());
    await mta.closed;
    t.same(mta.replies, []);
    t.same(calls, [...STAGES, 'abort false', 'close', 'connect', 'close']);
  });

  await t.test('P57 missing callbacks are answered with continue', async (t) => {
    const { MyMilter, calls } = milter();
    const { mta } = inMemory(MyMilter);
    t.match(await mta.negotiate({ protocol: 0x400 }), { protocol: 0 });
    const said = await mta.play(say.connect(), say.helo(), ...message(), say.unknown());
    t.same(said, Array(10).fill('continue'));
    t.same(calls, []);
  });

  await t.test('P67 an EOB with the last piece of the body: body(), then eob(), one reply', async (t) => {
    const { script, heard } = listening();
    const { mta } = await start(script);
    await mta.play(...message().slice(0, -2));
    mta.bytes(packet('E', Buffer.from('tail')));
    t.match(await mta.reply(), { type: 'continue' });
    await mta.play(say.mail());
    t.same(heard.slice(-3), ['body tail', 'eob', 'mailFrom']);
    t.same(mta.replies, []);
  });

  for (const [what, script, reply] of [
    ['that refuses there', { body: () => 'reject', eob() {} }, 'reject'],
    ['that fails there', { body: () => Promise.reject(new Error('no')), eob() {} }, 'tempFail'],
    ['that waits there', { body: async () => {}, eob: () => 'discard' }, 'discard'],
    ['that skips there', { body: () => 'skip', eob: () => 'accept' }, 'accept'],
    ['without a body()', { eob: () => 'reject' }, 'reject'],
    ['without an eob()', { body: () => 'reject' }, 'reject'],
  ] as const) {
    await t.test(`P67 an EOB with the last piece of the body, and a milter ${what}`, async (t) => {
      const { mta } = await start(script);
      for (let round = 0; round < 2; round++) {
        mta.bytes(packet('E', Buffer.from('tail')));
        t.match(await mta.reply(), { type: reply });
        mta.send(say.abort());
      }
      t.match(await mta.ask(say.eob()), { type: what === 'without an eob()' ? 'continue' : /./ });
      t.same(mta.replies, []);
    });
  }

  await t.test('P67 an EOB with the last piece, already queued behind a callback at work', async (t) => {
    const { script, heard } = listening();
    const { mta } = await start({ ...script, header: async () => {} });
    mta.send(say.mail(), say.header(), { type: 'eob', chunk: Buffer.from('tail') }, say.mail('<2>'));
    for (let i = 0; i < 4; i++) t.match(await mta.reply(), { type: 'continue' });
    t.same(heard, ['mailFrom', 'body tail', 'eob', 'mailFrom']);
  });
});

t.test('order', async (t) => {
  await t.test('P58 HELO may come again: outside a message it changes nothing else', async (t) => {
    const { mta, calls } = await start();
    await mta.play(say.connect(), say.helo('one'), say.helo('two'), ...message(), say.helo('three'), ...message());
    t.notOk(calls.includes('abort true'));
  });

  await t.test('P58 in a message HELO aborts it, and is then processed', async (t) => {
    const { mta, calls } = await start();
    await mta.play(say.connect(), say.helo(), say.mail(), say.rcpt(), say.helo(), say.mail());
    t.same(calls, ['connect', 'helo', 'mailFrom', 'rcpt', 'abort true', 'helo', 'mailFrom']);
  });

  await t.test('P59 MAIL in a message: abort() first, then mailFrom()', async (t) => {
    const { mta, calls } = await start();
    await mta.play(say.mail('<1>'), say.rcpt(), say.mail('<2>'));
    t.same(calls, ['mailFrom', 'rcpt', 'abort true', 'mailFrom']);
  });

  await t.test('P59 mailFrom() waits for an abort() that takes its time', async (t) => {
    const { mta, calls } = await start({
      ...EVERYTHING,
      abort: async () => {
        await Promise.resolve();
        calls.push('abort is done');
      },
    });
    mta.send(say.mail('<1>'), say.mail('<2>'));
    t.match([await mta.reply(), await mta.reply()], [{ type: 'continue' }, { type: 'continue' }]);
    t.same(calls, ['mailFrom', 'abort true', 'abort is done', 'mailFrom']);
  });

  await t.test('P60, P62 ABORT in a message: abort() once, no reply; MAIL follows without HELO', async (t) => {
    const found: unknown[] = [];
    const { mta, calls } = await start({
      ...EVERYTHING,
      mailFrom() {
        found.push([this.macro('j'), this.macro('tls_version'), this.macro('i')]);
      },
    });
    await mta.play(say.connect());
    mta.send(say.macros('C', { j: 'mx' }), say.macros('H', { tls_version: 'TLSv1.3' }), say.helo());
    mta.send(say.macros('M', { i: 'A1' }), say.mail(), say.abort(), say.mail());
    for (let i = 0; i < 3; i++) t.match(await mta.reply(), { type: 'continue' });
    t.same(calls, ['connect', 'helo', 'mailFrom', 'abort true', 'mailFrom']);
    const lasting = ['mx', 'TLSv1.3'];
    t.same(found, [
      [...lasting, 'A1'],
      [...lasting, undefined],
    ]);
  });

  await t.test('P61, replaced: an ABORT outside a message is told to abort() as false', async (t) => {
    const { mta, calls } = await start();
    mta.send(say.abort());
    await mta.play(...message());
    mta.send(say.abort(), say.abort());
    await mta.play(say.mail());
    mta.send(say.abort(), say.abort());
    await mta.play(say.mail());
    const done = ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob'];
    const nothing = 'abort false';
    t.same(calls, [nothing, ...done, nothing, nothing, 'mailFrom', 'abort true', nothing, 'mailFrom']);
  });

  for (const [what, commands] of [
    ['after an end', [...message(), say.eob()]],
    ['after an ABORT', [say.mail(), say.abort(), say.eob()]],
    ['before any message', [say.connect(), say.eob()]],
    ['with a body, after an end', [...message(), { type: 'eob', chunk: Buffer.from('x') }]],
  ] as const) {
    await t.test(`an EOB ${what} ends the session`, async (t) => {
      const { mta, calls, errors } = await start();
      mta.send(...commands);
      t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE', packet: 'eob' });
      matchAll(t, errors, [{ message: /sent eob out of order: no message to end/ }]);
      t.equal(calls.at(-1), 'close');
    });
  }

  await t.test('a second CONNECT ends the session', async (t) => {
    const { mta, calls } = await start();
    await mta.play(say.connect());
    mta.send(say.connect());
    t.match(await mta.closed, { code: 'ERR_MILTER_SEQUENCE', packet: 'connect', message: /a second CONNECT/ });
    t.same(calls, ['connect', 'close']);
  });

  await t.test('commands of a message that come outside one are refused for now, unheard', async (t) => {
    const { mta, calls } = await start();
    const strays = [say.rcpt(), say.data(), say.header(), say.eoh(), say.body()];
    t.same(await mta.play(...strays), Array(5).fill('tempFail'));
    t.same(calls, []);
    await mta.play(...message());
    t.same(await mta.play(...strays), Array(5).fill('continue'), 'after the end: what eob() said');
    mta.send(say.abort());
    t.same(await mta.play(...strays), Array(5).fill('tempFail'));
    t.same(await mta.play(say.mail()), ['continue']);
  });

  await t.test('P72 an unknown command comes anywhere and changes nothing', async (t) => {
    const { mta, calls } = await start({ ...EVERYTHING, unknown: () => 'reject' });
    const between = (commands: Command[]): Command[] => commands.flatMap((command) => [say.unknown(), command]);
    const said = await mta.play(...between([say.connect(), say.helo(), ...message()]));
    t.same(
      said,
      Array.from({ length: 18 }, (_, i) => (i % 2 === 0 ? 'reject' : 'continue')),
    );
    t.same(
      calls.filter((name) => name !== 'unknown'),
      STAGES.slice(0, 9),
    );
    await mta.play(say.mail(), say.unknown());
    mta.send(say.abort());
    t.same(await mta.play(say.unknown()), ['reject']);
    t.equal(calls.at(-2), 'abort true', 'the message had not ended');
  });

  for (const [what, commands] of [
    ['P76 E directly behind R', [say.mail(), say.rcpt(), say.eob()]],
    ['P76 the body directly behind R', [say.mail(), say.rcpt(), say.body(), say.eob()]],
    ['P77 no headers and no body', [say.mail(), say.rcpt(), say.data(), say.eoh(), say.eob()]],
    ['P77 no headers, no body and no end of headers', [say.mail(), say.rcpt(), say.data(), say.eob()]],
  ] as const) {
    await t.test(`${what}, twice`, async (t) => {
      const { mta, calls } = await start();
      const names = commands.map((command) => command.type);
      t.same(await mta.play(...commands, ...commands), Array(2 * names.length).fill('continue'));
      t.same(calls, [...names, ...names]);
    });
  }
});

t.test('the end', async (t) => {
  await t.test('P70, P145 QUIT: close() once, the connection ends; what comes behind it is dropped', async (t) => {
    const { mta, calls, errors } = await start();
    await mta.play(say.connect());
    mta.send(say.quit(), say.mail(), say.eob(), say.quit());
    t.equal(await mta.closed, undefined);
    mta.send(say.quit());
    mta.bytes(Buffer.from('rubbish'));
    t.same(calls, ['connect', 'close']);
    t.same(mta.replies, []);
    t.same(errors, []);
  });

  for (const last of ['QUIT', 'the end of the connection'] as const) {
    await t.test(`P70 ${last} in a message: abort() before close()`, async (t) => {
      const { mta, calls, errors } = await start();
      await mta.play(say.connect(), say.mail());
      if (last === 'QUIT') mta.send(say.quit());
      else mta.end();
      t.equal(await mta.closed, undefined);
      t.same(calls, ['connect', 'mailFrom', 'abort true', 'close']);
      t.same(errors, []);
    });

    await t.test(`P70 ${last} between messages: close() alone, also without a CONNECT`, async (t) => {
      const { mta, calls } = await start();
      await mta.play(...message());
      if (last === 'QUIT') mta.send(say.quit());
      else mta.end();
      t.equal(await mta.closed, undefined);
      t.same(calls.slice(-2), ['eob', 'close']);
    });
  }

  await t.test('P71 QUIT_NC: close(), then a fresh object, without macros, with the options agreed', async (t) => {
    const objects = new Set<unknown>();
    const found: unknown[] = [];
    const { mta, calls } = await start({
      connect() {
        objects.add(this);
        found.push(this.macro('j'));
      },
      eob() {
        this.addHeader('X', 'y');
      },
    });
    for (let round = 0; round < 2; round++) {
      if (round === 0) mta.send(say.macros('C', { j: 'mx' }));
      await mta.play(say.connect());
      t.match(await mta.ask(say.eob()), { type: 'addHeader' });
      t.match(await mta.reply(), { type: 'continue' });
      mta.send(say.quitNewConnection());
    }
    await mta.play(say.connect());
    t.equal(objects.size, 3);
    t.same(found, ['mx', undefined, undefined]);
    t.same(calls, ['connect', 'eob', 'close', 'connect', 'eob', 'close', 'connect']);
  });

  for (const slow of [false, true]) {
    await t.test(
      `P71 QUIT_NC in a message: abort(), then close(), ${slow ? 'each taking its time' : 'at once'}`,
      async (t) => {
        const wait = slow ? async (): Promise<void> => {} : (): void => {};
        const { mta, calls } = await start({ ...EVERYTHING, abort: wait, close: wait });
        await mta.play(say.connect(), say.mail());
        mta.send(say.quitNewConnection(), say.connect(), say.quit());
        t.match(await mta.reply(), { type: 'continue' });
        await mta.closed;
        t.same(calls, ['connect', 'mailFrom', 'abort true', 'close', 'connect', 'close']);
      },
    );
  }

  await t.test(
    'P73 HELO without its NUL is an error of the protocol: not silence, the connection closes',
    async (t) => {
      const { mta, calls } = await start();
      mta.bytes(packet('H', Buffer.from('mx.a.org')));
      t.match(await mta.closed, { code: 'ERR_MILTER_MALFORMED', packet: 'helo' });
      t.same(calls, ['close']);
    },
  );

  await t.test('P73 as an end in the middle of a packet, in the middle of a message', async (t) => {
    const { mta, calls, errors } = await start();
    await mta.play(say.mail());
    mta.bytes(packet('R', '<b@b.org>').subarray(0, 8));
    mta.end();
    t.match(await mta.closed, { code: 'ERR_MILTER_TRUNCATED' });
    matchAll(t, errors, [{ code: 'ERR_MILTER_TRUNCATED' }]);
    t.same(calls, ['mailFrom', 'abort true', 'close']);
  });

  await t.test('P80 a mail server that is gone before it has read the reply harms nobody', async (t) => {
    const { MyMilter, calls } = milter(EVERYTHING);
    const { session, replies, errors, closed } = bareSession(MyMilter);
    session.receive({ type: 'negotiate', version: 6, actions: 0, protocol: 0 });
    session.receive(say.mail());
    session.lost(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
    t.match(await closed, {
      code: 'ERR_MILTER_CONNECTION',
      message: 'The connection was lost: write EPIPE',
      cause: { code: 'EPIPE' },
    });
    t.same(errors, [], 'that is no failure of the milter');
    t.same(calls, ['mailFrom', 'abort true', 'close']);
    session.lost(new Error('again'));
    session.end();
    session.destroy();
    t.ok(session.feed(Buffer.from('GET / HTTP/1.1\r\n')), 'and nothing that comes later counts');
    t.ok(session.receive(say.mail()));
    session.sendProgress();
    t.same(errors, []);
    t.same([calls.length, replies.length], [3, 2]);
  });
});
