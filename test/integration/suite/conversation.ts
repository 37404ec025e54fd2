// What a milter hears of an SMTP session, and that what it hears passes unharmed.
import type { Test } from 'tap';
import { SMFIP_HDR_LEADSPC, type ProtocolClass } from '../../../lib/index.js';
import { Asker, Idle, Recorder, SlowRecorder, type Call, type Report } from '../milters.js';
import type { Rig } from '../rig.js';
import { belowReceived, good, HEAD, letter, longBody, queueId, send } from './letters.js';

/** Headers as they are sent, and as the milter hears them: value with all that follows the colon. */
const HEADERS: ReadonlyArray<readonly [sent: string, name: string, value: string]> = [
  ['X-Folded: one\r\n two\r\n\tthree', 'X-Folded', ' one\n two\n\tthree'],
  ['X-Empty:', 'X-Empty', ''],
  ['X-Tab:\tvalue', 'X-Tab', '\tvalue'],
  ['X-Spaces:  two', 'X-Spaces', '  two'],
  ['X-Tight:none', 'X-Tight', 'none'],
  ['X-Behind: a \t ', 'X-Behind', ' a \t '],
  ['X-Latin: caf\xe9', 'X-Latin', ' caf\udce9'],
  ['X-Utf8: caf\xc3\xa9 \xf0\x9f\x93\xa8', 'X-Utf8', ' café 📨'],
  ['X-Broken: \xc3( \xff\xfe', 'X-Broken', ' \udcc3( \udcff\udcfe'],
  ['x-twice: 1', 'x-twice', ' 1'],
  ['X-Twice: 2', 'X-Twice', ' 2'],
  ...Array.from({ length: 300 }, (_, i) => [`X-Many-${i}: ${i}`, `X-Many-${i}`, ` ${i}`] as const),
];

const SENT = [...HEAD, ...HEADERS.map(([sent]) => sent)];

const names = (calls: readonly Call[], ...but: string[]): string[] =>
  calls.map(([name]) => name).filter((name) => !but.includes(name));

const of = (calls: readonly Call[], name: string): unknown[][] =>
  calls.filter((call) => call[0] === name).map((call) => call.slice(1));

export function conversation(t: Test, rig: Rig): void {
  t.test('P42 connect and helo have the name, the address and the port of the client', rig.needs, async (t) => {
    let port = 0;
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.stranger();
      port = client.localPort;
      await good(client, 'HELO first.example.org');
      await good(client, 'EHLO [192.0.2.1]');
    });
    t.strictSame(
      of(calls, 'connect').map((seen) => seen.slice(0, 4)),
      [['localhost', '4', '127.0.0.1', port]],
    );
    t.strictSame(
      of(calls, 'helo').map(([name]) => name),
      ['first.example.org', '[192.0.2.1]'],
    );
    t.strictSame(names(calls, 'abort'), ['connect', 'helo', 'helo', 'close']);
  });

  t.test('P47 addresses come as they were typed, ESMTP arguments one by one', rig.needs, async (t) => {
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.client();
      await good(client, 'MAIL FROM:<Anna+x@Example.ORG> SIZE=1000 BODY=8BITMIME RET=HDRS ENVID=QQ314159');
      await good(client, 'RCPT TO:<berta@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bx@example.net');
      await good(client, 'RCPT TO:<"cleo x"@example.net> NOTIFY=NEVER');
      await good(client, 'RCPT TO:<dora@[192.0.2.1]>');
      await good(client, 'RSET');
      await good(client, 'MAIL FROM:<>');
    });
    const ofMail = of(calls, 'mailFrom').map(([address, args]) => [address, args]);
    t.strictSame(ofMail, [
      ['<Anna+x@Example.ORG>', ['SIZE=1000', 'BODY=8BITMIME', 'RET=HDRS', 'ENVID=QQ314159']],
      ['<>', []],
    ]);
    t.strictSame(
      of(calls, 'rcpt').map(([address, args]) => [address, args]),
      [
        ['<berta@example.net>', ['NOTIFY=SUCCESS,FAILURE', 'ORCPT=rfc822;b+2Bx@example.net']],
        ['<"cleo x"@example.net>', ['NOTIFY=NEVER']],
        ['<dora@[192.0.2.1]>', []],
      ],
    );
  });

  t.test('P48 P50 P11 headers and body come as they were sent, and arrive like that', rig.needs, async (t) => {
    const body = longBody(230_001);
    const calls = await rig.milter(Recorder, {}, async () => {
      const client = await rig.client();
      const envelope = { from: '<anna@example.org> BODY=8BITMIME' };
      t.equal((await send(client, letter(SENT, body), envelope)).code, 250);
      const message = await rig.arrived();
      t.ok(belowReceived(message).equals(letter(SENT, body)), 'what arrives is what was sent, byte for byte');
      t.equal(message.mailArgs['BODY'], '8BITMIME');
    });
    t.strictSame(
      of(calls, 'header')
        .slice(HEAD.length)
        .map(([name, value]) => [name, value]),
      HEADERS.map(([, name, value]) => [name, value.replace(/^ /, '')]),
      'one space is the separator, everything else the value',
    );
    const chunks = of(calls, 'body').map(([hex]) => Buffer.from(hex as string, 'hex'));
    t.ok(Buffer.concat(chunks).equals(body));
    t.strictSame(
      chunks.map(({ length }) => length),
      [65_535, 65_535, 65_535, 230_001 - 3 * 65_535],
    );
    const stages = names(calls, 'header', 'body', 'abort');
    t.strictSame(
      stages,
      ['connect', 'helo', 'mailFrom', 'rcpt', ...(rig.version < 4 ? [] : ['data']), 'eoh', 'eob', 'close'],
      'in the order of the session, DATA from version 4 on',
    );
  });

  t.test('P23 with SMFIP_HDR_LEADSPC values begin behind the colon', rig.needs, async (t) => {
    const calls = await rig.milter(Recorder, { smfipOptions: SMFIP_HDR_LEADSPC }, async () => {
      await send(await rig.client(), letter(SENT));
      t.ok(belowReceived(await rig.arrived()).equals(letter(SENT)));
    });
    const agreed = rig.version === 6;
    t.strictSame(
      of(calls, 'header')
        .slice(HEAD.length)
        .map(([name, value]) => [name, value]),
      HEADERS.map(([, name, value]) => [name, agreed ? value : value.replace(/^ /, '')]),
    );
  });

  t.test('P93 P95 P97 each callback has its macros, and macro() those of all stages', rig.needs, async (t) => {
    let id = '';
    const calls = await rig.milter(Recorder, {}, async () => {
      const to = ['<berta@example.net>', '<cleo@example.net>'];
      id = queueId(await send(await rig.client(), letter(), { to }));
      await rig.arrived();
    });
    const [j, daemon] = rig.on({
      postfix: ['postfix.example.test', 'postfix.example.test'],
      sendmail: ['sendmail.example.test', 'MTA'],
    }) as [string, string];
    t.match(of(calls, 'connect')[0]?.[4], { j, _: 'localhost [127.0.0.1]', daemon_name: daemon });
    t.strictSame(of(calls, 'helo')[0]?.[1], {}, 'TLS is not used');

    const host = rig.on({ postfix: `[127.0.0.1]:${rig.sink.port}`, sendmail: '[127.0.0.1]' });
    const mailer = rig.on({ postfix: 'smtp', sendmail: 'relay' });
    const mail = { mail_addr: 'anna@example.org', mail_host: host, mail_mailer: mailer };
    t.strictSame(of(calls, 'mailFrom')[0]?.[2], rig.on<object>({ postfix: mail, sendmail: { i: id, ...mail } }));
    const rcpt = (name: string): object => ({ rcpt_addr: `${name}@example.net`, rcpt_host: host, rcpt_mailer: mailer });
    t.strictSame(
      of(calls, 'rcpt').map((seen) => seen[2]),
      rig.on<object[]>({
        postfix: [rcpt('berta'), { i: id, ...rcpt('cleo') }],
        sendmail: [rcpt('berta'), rcpt('cleo')],
      }),
      'Postfix has a queue id from the first good recipient on, Sendmail from MAIL on',
    );
    t.strictSame(of(calls, 'eoh')[0]?.[0], rig.on<object>({ postfix: { i: id }, sendmail: {} }));
    t.strictSame(of(calls, 'eob')[0], [
      rig.on<object>({ postfix: { i: id }, sendmail: { msg_id: '<1@example.org>' } }),
      { i: id, j, mail_addr: 'anna@example.org' },
    ]);
  });

  t.test('P28 P103 macros that a milter asks for take the place of the usual ones', rig.needs, async (t) => {
    let id = '';
    const calls = await rig.milter(Asker, {}, async () => {
      id = queueId(await send(await rig.client()));
      await rig.arrived();
    });
    const seen = {
      connect: of(calls, 'connect')[0]?.[4],
      helo: of(calls, 'helo')[0]?.[1],
      rcpt: of(calls, 'rcpt')[0]?.[2],
      data: of(calls, 'data')[0]?.[0],
      eoh: of(calls, 'eoh')[0]?.[0],
      eob: of(calls, 'eob')[0]?.[0],
    };
    if (rig.version < 6) {
      t.match(seen, { connect: { j: /./ }, eob: { i: id } }, 'but not before version 6');
      t.notOk((seen.connect as Record<string, string>)['client_addr']);
      return;
    }
    const j = rig.on({ postfix: 'postfix.example.test', sendmail: 'sendmail.example.test' });
    t.strictSame(seen, {
      connect: { client_addr: '127.0.0.1' },
      helo: { client_name: 'localhost' },
      rcpt: { rcpt_addr: 'berta@example.net' },
      data: { j },
      eoh: { i: id, client_addr: '127.0.0.1' },
      eob: { i: id, client_addr: '127.0.0.1', j },
    });
  });

  t.test('P74 async callbacks of a client that does not wait come one by one, in order', rig.needs, async (t) => {
    const hear = async (Milter: ProtocolClass<Report>): Promise<Call[]> => {
      const calls = await rig.milter(Milter, {}, async () => {
        const client = await rig.client();
        client.write('MAIL FROM:<anna@example.org>\r\nRCPT TO:<berta@example.net>\r\nRCPT TO:<cleo@example.net>\r\n');
        client.write('RSET\r\nMAIL FROM:<dora@example.org>\r\nRCPT TO:<berta@example.net>\r\nDATA\r\n');
        const codes: number[] = [];
        while (codes.length < 7) codes.push((await client.reply()).code);
        t.strictSame(codes, [250, 250, 250, 250, 250, 250, 354]);
        t.equal((await client.message(letter(SENT, longBody(200_000)))).code, 250);
        t.ok(belowReceived(await rig.arrived()).equals(letter(SENT, longBody(200_000))));
      });
      // Ports and queue ids differ.
      return calls.map((call) => call.slice(0, call[0] === 'connect' ? 4 : 2) as Call);
    };
    const slow = await hear(SlowRecorder);
    t.strictSame(slow.map(simple), (await hear(Recorder)).map(simple));
    t.ok(slow.length > 300);
  });

  t.test('P22 P57 a milter without callbacks lets everything pass', rig.needs, async (t) => {
    await rig.milter(Idle, {}, async () => {
      await send(await rig.client(), letter(SENT, longBody(70_000)));
      t.ok(belowReceived(await rig.arrived()).equals(letter(SENT, longBody(70_000))));
    });
  });
}

/** Without macros, which hold a queue id where they are all that a callback gets. */
function simple([name, seen]: Call): unknown[] {
  return typeof seen === 'object' ? [name] : [name, seen];
}
