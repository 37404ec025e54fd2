// The Haraka plugin of examples/haraka in a real Haraka, with real milters on sockets.
import { readdirSync } from 'node:fs';
import t from 'tap';
import { ACCEPT, DISCARD, REJECT, TEMPFAIL, type MilterProtocol, type Result } from '../../lib/index.js';
import { shortFolder } from '../helpers/folder.js';
import { startHaraka } from '../helpers/haraka.js';
import { gate } from '../helpers/milter.js';
import { needs } from '../helpers/real.js';
import type { SmtpClient } from '../helpers/smtp.js';
import { addressed, connected, greeted, MESSAGE, said, send, startMilter, type Stage } from '../helpers/talking.js';
import { until } from '../helpers/until.js';

const QUEUED = /^250 Message Queued \(.*\)$/;

/** A message without what Haraka has put on top of it. */
function withoutReceived(message: Buffer | undefined): string {
  return String(message?.toString('latin1')).replace(/^Received: from client\.example\.org .*\r\n(?:\t.*\r\n)*/, '');
}

t.test('milters hear of everything, and what they want is what is delivered', needs('haraka'), async (t) => {
  const milter = await startMilter(t, {
    eob(milter) {
      milter.insHeader(0, 'X-First', 'yes');
      milter.addHeader('X-Added', 'folded\n\there é');
      milter.chgHeader('X-Gone', '');
      milter.chgHeader('Subject', 'two');
      milter.replBody('.dots\r\n..\r\n--x\r\n.');
      milter.chgFrom('<changed@example.org>');
      milter.addRcpt('more@example.com');
      milter.delRcpt('<b@example.com>');
      milter.quarantine('for a look');
    },
  });
  const haraka = await startHaraka(t, `[milters]\nfirst=${milter.socket}\n`);
  const client = await connected(t, haraka.port);
  t.strictSame(milter.heard, ['connect client.test 4 127.0.0.1'], 'before the greeting');
  await client.command('EHLO client.example.org');
  t.strictSame(milter.heard.slice(1), ['helo client.example.org'], 'before the answer to it');
  t.strictSame(await said(client.command('MAIL FROM:<A.b@Example.org> size=100 BODY=8BITMIME SMTPUTF8')), [
    '250 sender <A.b@Example.org> OK',
  ]);
  t.strictSame(
    await said(
      client.command('RCPT TO:<foreign@example.com>'),
      client.command('RCPT TO:<b@example.com> ORCPT=rfc822;x+2By@example.com'),
      client.command('RCPT TO:<c@example.com>'),
    ),
    ['550 Not here', '250 recipient <b@example.com> OK', '250 recipient <c@example.com> OK'],
  );
  await client.command('DATA');
  const message = Buffer.from(
    'Subject: one\r\nX-Gone: soon\r\nReceived: from\r\n\telsewhere\r\n\r\n.dot\r\n\xe9\r\n',
    'latin1',
  );
  t.match(await said(client.message(message)), [QUEUED]);
  await client.end();
  await milter.closed;
  t.strictSame(milter.heard.slice(2), [
    'mailFrom <A.b@Example.org> SIZE=100 BODY=8BITMIME SMTPUTF8',
    'rcpt <b@example.com> ORCPT=rfc822;x+2By@example.com',
    'rcpt <c@example.com>',
    'data',
    'header Subject:one',
    'header X-Gone:soon',
    'header Received:from\n\telsewhere',
    'eoh',
    'body 9',
    'eob',
    'abort',
    'close',
  ]);
  t.match(milter.macros.get('connect'), { j: 'mx.test', '{client_addr}': '127.0.0.1', '{daemon_name}': 'Haraka' });
  for (const stage of ['mailFrom', 'rcpt', 'data', 'eob'] as const)
    t.match(milter.macros.get(stage), { i: /^[\dA-F-]+\.1$/ }, stage);
  const mail = haraka.delivered();
  t.match(mail, { from: '<changed@example.org>', to: ['<c@example.com>', '<more@example.com>'], quarantined: true });
  t.match(mail?.message.toString(), /^Received: from client\.example\.org /, 'Haraka’s own is still there, on top');
  t.equal(
    withoutReceived(mail?.message),
    'X-First: yes\r\nSubject: two\r\nReceived: from\r\n\telsewhere\r\nX-Added: folded\r\n\there \xc3\xa9\r\n\r\n' +
      '.dots\r\n..\r\n--x\r\n.\r\n',
  );
});

/** What the SMTP client says up to the stage. @returns the last reply */
const UP_TO: Record<Stage, (client: SmtpClient) => Promise<string[]>> = {
  connect: (client) => said(Promise.resolve(client.greeting)),
  helo: (client) => said(client.command('EHLO client.example.org')),
  mailFrom: (client) => said(client.command('MAIL FROM:<>')),
  async rcpt(client) {
    await client.command('MAIL FROM:<>');
    return said(client.command('RCPT TO:<b@example.com>'));
  },
  async data(client) {
    await addressed(client);
    return said(client.command('DATA'));
  },
  header: (client) => send(client),
  eoh: (client) => send(client),
  body: (client) => send(client),
  eob: (client) => send(client),
  unknown: (client) => said(client.command('XYZZY plugh')),
};

const STAGES = Object.keys(UP_TO) as Stage[];

t.test('verdicts', needs('haraka'), async (t) => {
  let stage: Stage = 'connect';
  let says: (milter: MilterProtocol) => Result = () => {};
  const saysAt = Object.fromEntries(
    STAGES.map((each) => [each, (milter: MilterProtocol): Result => (each === stage ? says(milter) : undefined)]),
  );
  const milter = await startMilter(t, saysAt);
  const haraka = await startHaraka(t, `[milters]\nfirst=${milter.socket}\n`);

  /** A client that has come to the stage. */
  const upTo = async (): Promise<SmtpClient> =>
    stage === 'connect' || stage === 'helo' ? connected(t, haraka.port) : greeted(t, haraka.port);

  await t.test('the words of a refusal reach the SMTP client byte for byte, at every stage', async (t) => {
    const cases: Array<[typeof says, string[]]> = [
      [
        (milter) => milter.setReply(550, '5.7.1', ['Not here,', ' 100 % sure', '—']),
        ['550-5.7.1 Not here,', '550-5.7.1  100 % sure', '550 5.7.1 \xe2\x80\x94'],
      ],
      [(milter) => milter.setReply(451, '4.3.2', 'Come back'), ['451 4.3.2 Come back']],
      [(milter) => milter.setReply(554, '', ['No', 'code']), ['554-No', '554 code']],
      [() => REJECT, ['550 5.7.1 Command rejected']],
      [() => TEMPFAIL, ['451 4.7.1 Service unavailable - try again later']],
    ];
    for (stage of STAGES) {
      for (const [words, lines] of cases) {
        says = words;
        const client = await upTo();
        t.strictSame(await UP_TO[stage](client), lines, stage);
        if (stage === 'connect')
          t.strictSame(await said(client.command('EHLO client.example.org')), lines, 'and to all');
        says = () => {};
        await client.end();
      }
    }
    t.equal(haraka.delivered(), undefined);
  });

  await t.test('421 ends the SMTP session', async (t) => {
    says = (milter) => milter.setReply(421, '4.7.0', 'Enough');
    for (stage of STAGES) {
      const client = await upTo();
      t.strictSame(await UP_TO[stage](client), ['421 4.7.0 Enough'], stage);
      await client.closed;
    }
  });

  await t.test('a message that vanishes is taken, whenever that was decided, and the next one is not', async (t) => {
    for (stage of ['mailFrom', 'rcpt', 'data', 'header', 'eoh', 'body', 'eob'] as const) {
      const client = await upTo();
      for (const names of [['b'], ['b', 'c']]) {
        says = () => DISCARD;
        await client.command('MAIL FROM:<a@example.org>');
        for (const name of names) t.match(await client.command(`RCPT TO:<${name}@example.com>`), { code: 250 });
        await client.command('DATA');
        t.match(await said(client.message(MESSAGE)), [QUEUED], stage);
        t.equal(haraka.delivered(), undefined, stage);
        says = () => {};
        t.match(await send(client), [QUEUED], stage);
        t.equal(withoutReceived(haraka.delivered()?.message), String(MESSAGE), stage);
      }
    }
  });

  await t.test('a milter that accepts hears no more', async (t) => {
    says = () => ACCEPT;
    for (stage of ['connect', 'mailFrom', 'header'] as const) {
      const before = milter.heard.length;
      const client = await upTo();
      if (stage === 'connect') await client.command('EHLO client.example.org');
      t.match(await send(client), [QUEUED], stage);
      t.notOk(milter.heard.slice(before).includes('eob'), stage);
      t.equal(withoutReceived(haraka.delivered()?.message), String(MESSAGE), stage);
      await client.end();
    }
  });
});

t.test('one session after the other', needs('haraka'), async (t) => {
  let refuses = false;
  const { promise: inHeader, open: enter } = gate();
  const { promise: patience, open: answer } = gate();
  let slow = false;
  const first = await startMilter(t, {
    rcpt: (milter) => (refuses ? milter.setReply(550, '5.1.1', 'First') : undefined),
    header() {
      if (!slow) return undefined;
      enter();
      return patience;
    },
  });
  let body = '';
  const second = await startMilter(t, {
    rcpt: (milter) => (refuses ? milter.setReply(550, '5.1.1', 'Second') : undefined),
    eob: (milter) => (body === '' ? undefined : milter.replBody(body)),
  });
  const spool = shortFolder(t);
  const haraka = await startHaraka(
    t,
    `[milters]\nfirst=${first.socket}\nsecond=${second.socket}\n`,
    `[main]\nspool_after=100000\nspool_dir=${spool}\n[max]\ndata_line_length=2000\n`,
  );

  await t.test('what no milter changes is delivered as Haraka has it, also when it has spooled it', async (t) => {
    const client = await greeted(t, haraka.port);
    const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i).filter((i) => i !== 10 && i !== 13));
    const line = Buffer.concat([all, Buffer.from('\r\n..\r\n.dot\r\n')]);
    const head = Buffer.from('Subject: é\r\n\tfolded\r\nX:\r\n\r\n');
    for (const lines of [1, 1000]) {
      const message = Buffer.concat([head, ...Array.from({ length: lines }, () => line)]);
      t.match(await send(client, message), [QUEUED]);
      t.equal(withoutReceived(haraka.delivered()?.message), message.toString('latin1'), `${message.length} bytes`);
      body = '.another\r\n'.repeat(lines * 20);
      t.match(await send(client, message), [QUEUED]);
      t.equal(withoutReceived(haraka.delivered()?.message), `${head.toString('latin1')}${body}`, 'another body');
      body = '';
    }
    await until('the spool is empty', () => readdirSync(spool).length === 0);
    t.strictSame(await send(client, Buffer.from('A: b\r\nno header\r\n\r\n')), ['554 5.6.0 Malformed message']);
    t.ok(second.heard.includes('body 65535'), 'in pieces');
    await client.end();
  });

  await t.test('the first milter that refuses has the word; RSET and a second MAIL abort', async (t) => {
    const from = first.heard.length;
    const client = await greeted(t, haraka.port);
    await client.command('MAIL FROM:<>');
    refuses = true;
    t.strictSame(await said(client.command('RCPT TO:<b@example.com>')), ['550 5.1.1 First']);
    refuses = false;
    await client.command('RSET');
    await client.command('XYZZY');
    await client.command('MAIL FROM:<>');
    t.match(await send(client), [QUEUED]);
    t.match(await send(client), [QUEUED]);
    await client.command('MAIL FROM:<>');
    await client.end();
    await until('the goodbye', () => first.heard.at(-1) === 'close');
    const cut = ['mailFrom <>', 'abort early'];
    const whole = ['mailFrom <a@example.org>', 'eob', 'abort'];
    t.strictSame(
      first.heard.slice(from).filter((line) => /^(mailFrom|eob|abort|close|unknown)/.test(line)),
      [...cut, 'unknown XYZZY', ...cut, ...whole, ...whole, ...cut, 'close'],
    );
  });

  await t.test('a client that leaves in the middle of DATA, or before the answer to its message', async (t) => {
    const from = first.heard.length;
    const client = await greeted(t, haraka.port);
    await addressed(client);
    await client.command('DATA');
    client.write('Subject: one\r\n\r\nbo');
    await client.destroy();
    await until('the goodbye', () => first.heard.length > from && first.heard.at(-1) === 'close');
    t.strictSame(first.heard.slice(-3), ['data', 'abort early', 'close']);

    slow = true;
    const impatient = await greeted(t, haraka.port);
    const reply = send(impatient).catch(() => {});
    await inHeader;
    await impatient.destroy();
    await reply;
    answer();
    const over = first.heard.length;
    await until('the goodbye', () => first.heard.length > over && first.heard.at(-1) === 'close');
    t.strictSame(first.heard.slice(-2), ['abort', 'close']);
    t.notMatch(haraka.log(), /CRIT/);
  });
});

t.test('for a milter that is down the default action stands in', needs('haraka'), async (t) => {
  const gone = await startMilter(t);
  await gone.close();
  const ini = `[milters]\ngone=${gone.socket}\n`;
  const [strict, lenient] = await Promise.all([
    startHaraka(t, ini),
    startHaraka(t, `${ini}[gone]\ndefault_action=accept\n`),
  ]);
  const { greeting } = await connected(t, strict.port);
  t.strictSame(await said(Promise.resolve(greeting)), ['451 4.7.1 Service unavailable - try again later']);
  t.match(await send(await greeted(t, lenient.port)), [QUEUED]);
  t.equal(withoutReceived(lenient.delivered()?.message), String(MESSAGE));
});

t.test('a milter.ini that cannot be used keeps Haraka from starting', needs('haraka'), async (t) => {
  await t.rejects(startHaraka(t, '[milters]\nfirst=http:80\n'), { message: /Bad socket address "http:80"/ });
});
