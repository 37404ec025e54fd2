// What only Postfix has: UTF-8 addresses, TLS, BDAT, mail that did not come by SMTP, the bare replies, its hold queue.
import type { Test } from 'tap';
import { CONN_FAIL, REJECT, SHUTDOWN, SMFIF_ALLOPTS, type Stage } from '../../../lib/index.js';
import { until } from '../../helpers/until.js';
import { Editor, Judge, Recorder, type Call, type Edit } from '../milters.js';
import type { Rig } from '../rig.js';
import { BODY, good, HEAD, letter, longBody, opened, OWN_RECEIVED, queueId, send } from './letters.js';

const ALL_EDITS = { smfifOptions: SMFIF_ALLOPTS };

const of = (calls: readonly Call[], name: string): unknown[][] =>
  calls.filter((call) => call[0] === name).map((call) => call.slice(1));

export function postfix(t: Test, rig: Rig): void {
  t.test('P47 P11 addresses and headers in UTF-8, both ways', rig.needs, async (t) => {
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.client();
      await good(client, 'MAIL FROM:<jörg@example.org> SMTPUTF8');
      // What Postfix would say as ORCPT by itself is refused by the sink.
      await good(client, 'RCPT TO:<бёрта@example.net> ORCPT=rfc822;berta@example.net');
      await good(client, 'DATA', 354);
      await client.message(Buffer.from('Subject: grüße\r\n\r\n'));
      const message = await rig.arrived();
      t.strictSame([message.mailFrom, message.rcptTo], ['jörg@example.org', ['бёрта@example.net']]);
    });
    t.strictSame(of(calls, 'mailFrom')[0]?.slice(0, 2), ['<jörg@example.org>', ['SMTPUTF8']]);
    t.equal(of(calls, 'rcpt')[0]?.[0], '<бёрта@example.net>');
    t.equal(of(calls, 'header')[0]?.[1], 'grüße');

    const edits: Edit[] = [
      ['addRcpt', 'zoë@example.net', 'ORCPT=rfc822;zoe@example.net'],
      ['delRcpt', '<бёрта@example.net>'],
      ['chgFrom', 'ånna@example.org'],
    ];
    await rig.milter(Editor, { ...ALL_EDITS, context: { cases: [edits] } }, async () => {
      const client = await rig.client();
      const envelope = {
        from: '<jörg@example.org> SMTPUTF8',
        to: ['<бёрта@example.net> ORCPT=rfc822;berta@example.net'],
      };
      t.equal((await send(client, letter(), envelope)).code, 250);
      const message = await rig.arrived();
      t.strictSame([message.mailFrom, message.rcptTo], ['ånna@example.org', ['zoë@example.net']]);
    });
  });

  t.test('P50 P51 a message that comes by BDAT is one like any other', rig.needs, async (t) => {
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.client();
      await good(client, 'MAIL FROM:<anna@example.org>');
      await good(client, 'RCPT TO:<berta@example.net>');
      const message = letter(HEAD, longBody(100_000));
      for (const [from, to, last] of [
        [0, 50_000, ''],
        [50_000, message.length, ' LAST'],
      ] as const) {
        client.write(`BDAT ${to - from}${last}\r\n`);
        client.write(message.subarray(from, to));
        t.equal((await client.reply()).code, 250);
      }
      await rig.arrived();
    });
    t.equal(of(calls, 'data').length, 1);
    const body = of(calls, 'body').map(([hex]) => Buffer.from(hex as string, 'hex'));
    t.ok(Buffer.concat(body).equals(longBody(100_000)));
  });

  t.test(
    'P47 P69 mail that did not come by SMTP: addresses without brackets, the queue id at once',
    rig.needs,
    async (t) => {
      let id = '';
      const calls = await rig.milter(Recorder, {}, async () => {
        await rig.mta.sendmail(
          ['-i', '-f', 'anna@example.org', 'berta@example.net', 'cleo@example.net'],
          unix(letter()),
        );
        const message = await rig.arrived();
        t.strictSame(opened(message), { head: [OWN_RECEIVED, ...HEAD], body: BODY });
        t.strictSame(message.rcptTo, ['berta@example.net', 'cleo@example.net']);
        id = /\(Postfix, from userid \d+\)\s+id (\w+);/.exec(message.data.toString('latin1'))?.[1] as string;
      });
      t.strictSame(calls[0]?.slice(0, 5), ['connect', 'localhost', '4', '127.0.0.1', 0]);
      t.equal(of(calls, 'helo')[0]?.[0], 'localhost');
      t.strictSame(of(calls, 'mailFrom')[0]?.slice(0, 2), ['anna@example.org', []]);
      t.strictSame(
        of(calls, 'rcpt').map(([address]) => address),
        ['berta@example.net', 'cleo@example.net'],
      );
      t.match(of(calls, 'mailFrom')[0]?.[2], { i: id }, 'the queue id is known from the start');
      t.equal(calls.at(-1)?.[0], 'close');
      t.notOk(calls.some(([name, interrupted]) => name === 'abort' && interrupted === true));
    },
  );

  t.test(
    'P129 mail that did not come by SMTP can be changed, and is returned when it is refused',
    rig.needs,
    async (t) => {
      const edits: Edit[] = [
        ['delRcpt', 'berta@example.net'],
        ['addRcpt', 'dora@example.net'],
        ['addHeader', 'X-New', 'v'],
      ];
      await rig.milter(Editor, { ...ALL_EDITS, context: { cases: [edits] } }, async () => {
        await rig.mta.sendmail(['-i', '-f', '', 'berta@example.net'], unix(letter()));
        const message = await rig.arrived();
        t.strictSame([message.mailFrom, message.rcptTo], ['', ['dora@example.net']]);
        t.equal(opened(message).head.at(-1), 'X-New: v');
      });
      await rig.milter(Editor, { ...ALL_EDITS, context: { cases: [[]], verdict: REJECT } }, async () => {
        await rig.mta.sendmail(['-i', '-f', 'anna@example.org', 'berta@example.net'], unix(letter()));
        const message = await rig.arrived();
        t.strictSame([message.mailFrom, message.rcptTo], ['', ['anna@example.org']]);
        t.match(
          message.data.toString('latin1'),
          /<berta@example\.net>: (host .* said: )?(550 )?5\.7\.1 |Command rejected/,
        );
      });
    },
  );

  t.test('P125 quarantine() puts the message on hold', rig.needs, async (t) => {
    const cases: Edit[][] = [
      [
        ['quarantine', 'smells of spam'],
        ['addHeader', 'X-New', 'v'],
      ],
      [['quarantine']],
    ];
    await rig.milter(Editor, { ...ALL_EDITS, context: { cases } }, async () => {
      const client = await rig.client();
      const ids = [
        queueId(await send(client, letter([...HEAD, 'X-Case: 0']))),
        queueId(await send(client, letter([...HEAD, 'X-Case: 1']))),
      ];
      for (const id of ids) {
        await until(`${id} to be on hold`, async () => (await rig.mta.postqueue()).includes(`${id}!`));
      }
    });
    t.match(await rig.mta.log(), /milter-hold: END-OF-MESSAGE from \S+: milter triggers HOLD action;/);
  });

  t.test("Verdicts: with bareReplies '4' closes the session and 'f' is refused", rig.needs, async (t) => {
    const hear = async (stage: Stage, verdict: string): Promise<object> => {
      let reply: object = {};
      await rig.milter(Judge, { bareReplies: true, context: { stage, says: [{ verdict }] } }, async () => {
        reply = await (await rig.client()).command('MAIL FROM:<anna@example.org>');
      });
      return reply;
    };
    t.match(await hear('mailFrom', SHUTDOWN), { code: 421, text: '4.7.0 Server closing connection' });
    rig.provokes(/milter .*: unexpected filter response SMFIR_CONN_FAIL/);
    t.match(await hear('mailFrom', CONN_FAIL), { code: 451, text: /^4\.7\.1 / });
  });
}

/** After STARTTLS, on a rig with TLS. */
export function startTls(t: Test, rig: Rig): void {
  t.test('P58 P93 after STARTTLS helo() comes again, with the macros of TLS', rig.needs, async (t) => {
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.client();
      t.equal((await client.startTls()).code, 220);
      await good(client, 'EHLO secure.example.org');
      t.equal((await send(client)).code, 250);
      await rig.arrived();
    });
    t.strictSame(of(calls, 'helo')[0], ['client.example.org', {}]);
    t.match(of(calls, 'helo')[1], [
      'secure.example.org',
      { tls_version: /^TLSv1\.\d$/, cipher: /\w/, cipher_bits: /^\d+$/ },
    ]);
    t.equal(of(calls, 'connect').length, 1);
    t.equal(of(calls, 'eob').length, 1);
  });
}

/** As it is in a file: lines end in LF. */
function unix(message: Buffer): Buffer {
  return Buffer.from(message.toString('latin1').replaceAll('\r\n', '\n'), 'latin1');
}
