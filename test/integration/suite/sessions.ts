// Several messages on one connection, cut short or not; callbacks that are not answered, fail, or take their time; a
// milter that goes while mail comes.
import type { Test } from 'tap';
import { SMFIF_ADDHDRS, SMFIF_ALLOPTS, SMFIP_RCPT_REJ, SMFIP_SKIP, type Stage } from '../../../lib/index.js';
import { Editor, EobOnly, Judge, Patient, PlainlyQuiet, Quiet, Recorder, Skipper, type Call } from '../milters.js';
import { REFUSED, type Rig } from '../rig.js';
import { belowReceived, good, HEAD, headerOf, letter, longBody, queueId, send } from './letters.js';

const WITH_HEADERS = { smfifOptions: SMFIF_ADDHDRS };

/** The callbacks, and whether an abort was one of a message cut short; without the ABORTs that mean nothing. */
const story = (calls: readonly Call[]): string[] =>
  calls.flatMap(([name, seen]) => {
    if (name !== 'abort') return [name];
    return seen === true ? ['interrupted'] : [];
  });

export function sessions(t: Test, rig: Rig): void {
  t.test('P58 P60 P62 P98 RSET and EHLO cut a message short, and the next one begins anew', rig.needs, async (t) => {
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.client();
      for (const cut of ['RSET', 'EHLO again.example.org']) {
        await good(client, 'MAIL FROM:<cut@example.org>');
        await good(client, 'RCPT TO:<nobody@example.net>');
        await good(client, cut);
        await good(client, 'XFOO', 500);
      }
      await send(client);
      await good(client, 'RSET');
      await good(client, 'XFOO', 500);
      await rig.arrived();
    });
    const between = calls.filter(([name]) => name === 'unknown').map((call) => call.at(-1));
    // Sendmail says nothing between the end of a message and the next HELO or MAIL.
    const heard = rig.on({ postfix: rig.version < 3 ? 0 : 3, sendmail: 1 });
    t.strictSame(
      between,
      Array.from({ length: heard }, () => ({})),
      'no macro of a message outlives it',
    );
    const messages = calls.filter(([name]) => name !== 'unknown');
    const last = messages.slice(messages.findLastIndex(([name]) => name === 'mailFrom'));
    const cut = ['mailFrom', 'rcpt', 'interrupted'];
    t.strictSame(
      story(messages),
      ['connect', 'helo', ...cut, ...cut, 'helo', ...story(last)],
      'a message that is over is not interrupted by what comes then',
    );
    t.strictSame(last[0]?.at(-1), {}, 'the recipient of the message before is not known any more');
  });

  t.test('P70 a client that goes in the middle of a message interrupts it', rig.needs, async (t) => {
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.client();
      await good(client, 'MAIL FROM:<cut@example.org>');
      await client.destroy();
    });
    t.strictSame(story(calls), ['connect', 'helo', 'mailFrom', 'interrupted', 'close']);
  });

  t.test('P69 P76 P77 eob() alone sees each message of a connection, RSET or not between', rig.needs, async (t) => {
    await rig.milter(EobOnly, WITH_HEADERS, async () => {
      const client = await rig.client();
      const first = queueId(await send(client));
      await good(client, 'MAIL FROM:<cut@example.org>');
      await good(client, 'RCPT TO:<nobody@example.net>');
      await good(client, 'RSET');
      const second = queueId(await send(client, letter(), { from: '<emil@example.org>' }));
      const third = queueId(await send(client, letter([], '')));
      const seen = (await rig.arrivals(3)).map((message) => headerOf(message, 'X-Message'));
      t.strictSame(seen.sort(), [
        `1 ${first} from anna@example.org`,
        `2 ${second} from emil@example.org`,
        `3 ${third} from anna@example.org`,
      ]);
    });
  });

  t.test('P63 P69 eob() alone refuses one message and not the next', rig.needs, async (t) => {
    await rig.milter(EobOnly, { ...WITH_HEADERS, context: { refuseFirst: true } }, async () => {
      const client = await rig.client();
      t.match(await send(client), { code: 550, text: '5.7.9 not the first' });
      const id = queueId(await send(client));
      t.equal(headerOf(await rig.arrived(), 'X-Message'), `2 ${id} from anna@example.org`);
    });
  });

  t.test('P24 P25 callbacks that are not answered hear everything', rig.needs, async (t) => {
    const expected: Record<string, number> = { connect: 1, helo: 1, mailFrom: 1, rcpt: 2, data: 1, header: 105 };
    if (rig.version < 4) delete expected['data'];
    const head = [...HEAD, ...Array.from({ length: 100 }, (_, i) => `X-Many-${i}: ${i}`)];
    await rig.milter(Quiet, WITH_HEADERS, async () => {
      await send(await rig.client(), letter(head, longBody(200_000)), { to: ['<a@example.net>', '<b@example.net>'] });
      const seen = headerOf(await rig.arrived(), 'X-Calls').split(' ');
      t.strictSame(seen, Object.entries({ ...expected, eoh: 1, body: 4 }).map(String));
    });
    await rig.milter(PlainlyQuiet, WITH_HEADERS, async () => {
      await send(await rig.client(), letter(head, longBody(200_000)));
      t.equal(headerOf(await rig.arrived(), 'X-Calls'), 'header,105 body,4 rcpt,0', 'said in plain JavaScript');
    });
  });

  t.test('Decorators: a verdict that could not be given is given at the next chance', rig.needs, async (t) => {
    for (const refuse of ['mailFrom', 'header', 'eoh', 'body'] satisfies Stage[]) {
      await rig.milter(Quiet, { ...WITH_HEADERS, context: { refuse } }, async () => {
        const client = await rig.client();
        // Where MAIL is answered it has been refused by then.
        const early = refuse === 'mailFrom' && rig.version < 6;
        const reply = early ? await client.command('MAIL FROM:<anna@example.org>') : await send(client);
        t.match(reply, { code: 550, text: '5.7.9' }, refuse);
        t.ok(reply.text.endsWith(`${refuse} says no`));
        t.equal((await send(client)).code, 250, 'and the next message passes');
        t.match(headerOf(await rig.arrived(), 'X-Calls'), /^connect,1 helo,1 mailFrom,2 /);
      });
    }
  });

  t.test('P68 skip() ends the body for the milter alone, agreed or not', rig.needs, async (t) => {
    for (const smfipOptions of [SMFIP_SKIP, 0]) {
      await rig.milter(Skipper, { ...WITH_HEADERS, smfipOptions }, async () => {
        const client = await rig.client();
        await send(client, letter(HEAD, longBody(200_000)));
        await send(client, letter(HEAD, longBody(200_000)));
        const messages = await rig.arrivals(2);
        const seen = messages.map((message) => headerOf(message, 'X-Seen')).sort();
        t.strictSame(seen, ['1 of several: true', '2 of several: true'], 'the next message has a body again');
        t.ok(messages.every(({ data }) => data.subarray(-200_000).equals(longBody(200_000))));
      });
    }
  });

  t.test('P72 P55 an unknown command between any two is heard, and changes nothing', rig.needs, async (t) => {
    const context = { stage: 'unknown', says: [{ reply: [450, '4.7.9', 'not now'] }] };
    await rig.milter(Judge, { context }, async () => {
      const client = await rig.client();
      await good(client, 'MAIL FROM:<anna@example.org>');
      const heard = rig.version < 3 ? 500 : 450;
      t.equal((await client.command('XFOO')).code, heard, 'refused once');
      await good(client, 'RCPT TO:<berta@example.net>');
      t.equal((await client.command('XFOO')).code, 500, "the server's own reply");
      await good(client, 'DATA', 354);
      t.equal((await client.message(letter())).code, 250);
      await rig.arrived();
    });
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.client();
      t.equal((await client.command('XFOO bar')).code, 500);
    });
    const lines = calls.filter(([name]) => name === 'unknown').map(([, line]) => line as string);
    // Postfix gives the whole line from 3.9 on.
    t.match(lines, rig.version < 3 ? [] : [rig.on({ postfix: /^XFOO( bar)?$/, sendmail: /^XFOO bar$/ })]);
    t.equal(lines.length, rig.version < 3 ? 0 : 1);
  });

  t.test('P89 with SMFIP_RCPT_REJ rcpt() hears of recipients that the server refuses', rig.needs, async (t) => {
    for (const smfipOptions of [0, SMFIP_RCPT_REJ]) {
      const calls = await rig.milter(Recorder, { smfipOptions }, async () => {
        const client = await rig.client();
        await good(client, 'MAIL FROM:<anna@example.org>');
        t.equal((await client.command(`RCPT TO:${REFUSED[rig.server]}`)).code, 550);
        await good(client, 'RCPT TO:<berta@example.net>');
      });
      const seen = calls.filter(([name]) => name === 'rcpt').map(([, address, , macros]) => [address, macros]);
      const refused = [REFUSED[rig.server], { rcpt_mailer: 'error', rcpt_host: '5.1.1', rcpt_addr: /unknown/ }];
      const asked = smfipOptions !== 0 && rig.version === 6;
      t.match(seen, [...(asked ? [refused] : []), ['<berta@example.net>', { rcpt_addr: 'berta@example.net' }]]);
      t.equal(seen.length, asked ? 2 : 1);
    }
  });

  t.test('P48 a header as large as the server takes one comes whole', rig.needs, async (t) => {
    // Postfix gives a header no more than 60,000 bytes; Sendmail takes 32 KiB of headers.
    const folds = rig.on({ postfix: 830, sendmail: 400 });
    const large = `X-Large: ${`${'y'.repeat(70)}\r\n `.repeat(folds)}end`;
    const calls = await rig.milter(Recorder, {}, async () => {
      t.equal((await send(await rig.client(), letter([...HEAD, large]))).code, 250);
      t.ok(belowReceived(await rig.arrived()).equals(letter([...HEAD, large])));
    });
    t.strictSame(calls.find(([, name]) => name === 'X-Large')?.[2], large.slice(9).replaceAll('\r\n', '\n'));
  });

  t.test('P75 a callback that takes too long costs its SMTP session, and no other', rig.needs, async (t) => {
    const context = { stage: 'mailFrom', says: [{ failure: 'never ends' }, {}] };
    const errors = ['ERR_MILTER_DEADLINE'];
    await rig.milter(Judge, { context, errors, callbackDeadline: 50 }, async () => {
      const client = await rig.stranger();
      await good(client, 'EHLO case-0.example.org');
      t.equal((await client.command('MAIL FROM:<anna@example.org>')).code, 451, 'the command');
      t.equal((await client.command('MAIL FROM:<anna@example.org>')).code, 451, 'and the rest of the session');
      const other = await rig.stranger();
      await good(other, 'EHLO case-1.example.org');
      t.equal((await send(other)).code, 250);
      await rig.arrived();
    });
    const calls = await rig.milter(Patient, { ...WITH_HEADERS, errors, eobDeadline: 50 }, async () => {
      const client = await rig.client();
      t.equal((await send(client)).code, 451, 'eob()');
      t.equal((await send(client)).code, 451, 'and that of the next message');
    });
    t.strictSame(calls, [['eob', 'ERR_MILTER_DEADLINE']], 'its signal is aborted');
  });

  t.test('Draining: a message in progress is finished, a new one refused for now', rig.needs, async (t) => {
    await rig.milter(Judge, { context: { stage: 'eob', says: [{}] } }, async (running) => {
      const client = await rig.client();
      await good(client, 'MAIL FROM:<anna@example.org>');
      await good(client, 'RCPT TO:<berta@example.net>');
      const closed = running.close();
      await good(client, 'DATA', 354);
      t.equal((await client.message(letter())).code, 250);
      await rig.arrived();
      // close() has taken effect at some time after the call.
      let reply = await client.command('MAIL FROM:<anna@example.org>');
      while (reply.code === 250) {
        await good(client, 'RSET');
        reply = await client.command('MAIL FROM:<anna@example.org>');
      }
      t.match(reply, { code: 421, text: /^4\.3\.2 / });
      await closed;
    });
    await rig.milter(EobOnly, WITH_HEADERS, async (running) => {
      const client = await rig.client();
      t.equal((await send(client)).code, 250);
      await rig.arrived();
      const closed = running.close();
      let reply = await send(client);
      while (reply.code === 250) {
        await rig.arrived();
        reply = await send(client);
      }
      t.match(reply, { code: 421, text: /^4\.3\.2 / }, 'where nothing is answered but the end');
      await closed;
    });
  });

  t.test("Options: above maxConnections 'tempfail' has the mail come back later", rig.needs, async (t) => {
    await rig.milter(EobOnly, { ...WITH_HEADERS, maxConnections: 1, overload: 'tempfail' }, async () => {
      const served = await rig.client();
      const refused = await rig.stranger();
      t.equal(refused.greeting.code, 421);
      await refused.closed;
      t.equal((await send(served)).code, 250);
      await rig.arrived();
    });
  });

  t.test('P69 P143 many connections at once, each with messages of its own', rig.needs, async (t) => {
    const count = 20;
    const cases = Array.from({ length: count }, (_, i) => [
      ['addHeader', 'X-For', String(i)],
      ['replBody', 1000 * i],
    ]);
    await rig.milter(Editor, { smfifOptions: SMFIF_ALLOPTS, workers: 2, context: { cases } }, async () => {
      const deliver = async (i: number): Promise<void> => {
        const client = await rig.client();
        for (const each of [i, (i + 1) % count]) {
          t.equal((await send(client, letter([...HEAD, `X-Case: ${each}`]))).code, 250);
        }
      };
      await Promise.all(cases.map((_, i) => deliver(i)));
      const messages = await rig.arrivals(2 * count);
      for (const message of messages) {
        const number = Number(headerOf(message, 'X-Case'));
        t.equal(headerOf(message, 'X-For'), String(number));
        t.ok(message.data.toString('latin1').endsWith(`\r\n\r\n${longBody(1000 * number).toString('latin1')}`));
      }
    });
  });
}
