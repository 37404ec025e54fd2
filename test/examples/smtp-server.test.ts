// The adapter for nodemailer's smtp-server: the real server, real milters on sockets, and an SMTP client that counts bytes.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { SMTPServer, type SMTPServerOptions } from 'smtp-server';
import t, { type Test } from 'tap';
import { milterHooks, type MilterHooksOptions } from '../../examples/smtp-server/adapter.js';
import type { ChainedMilter, MessageResult } from '../../lib/client/index.js';
import { ACCEPT, DISCARD, REJECT, SHUTDOWN, TEMPFAIL, type MilterProtocol, type Result } from '../../lib/index.js';
import { demandBuild } from '../helpers/built.js';
import { makeCertificate } from '../helpers/certificate.js';
import { runExample } from '../helpers/example.js';
import { fakeMilter } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { gate } from '../helpers/milter.js';
import { needs } from '../helpers/real.js';
import type { SmtpClient } from '../helpers/smtp.js';
import { addressed, connected, greeted, MESSAGE, said, send, startMilter, type Stage } from '../helpers/talking.js';
import { until } from '../helpers/until.js';

demandBuild();

interface Served {
  readonly port: number;
  readonly delivered: MessageResult[];
}

async function serve(
  t: Test,
  milters: ReadonlyArray<string | ChainedMilter>,
  options: Partial<MilterHooksOptions> = {},
  serverOptions: SMTPServerOptions = {},
): Promise<Served> {
  const delivered: MessageResult[] = [];
  const server = new SMTPServer({
    name: 'mx.test',
    authOptional: true,
    allowInsecureAuth: true,
    disabledCommands: ['STARTTLS'],
    disableReverseLookup: true,
    closeTimeout: 500,
    onAuth: ({ username }, _session, callback) => callback(null, { user: username }),
    ...serverOptions,
    ...milterHooks(milters, { deliver: (mail) => void delivered.push(mail), ...options }),
  });
  server.on('error', () => {});
  server.listen(0, '127.0.0.1');
  await once(server.server, 'listening');
  t.teardown(() => new Promise<void>((resolve) => server.close(() => resolve())));
  return { port: (server.server.address() as AddressInfo).port, delivered };
}

t.test('milters hear of everything, and what they want is what is delivered', async (t) => {
  const milter = await startMilter(t, {
    eob(milter) {
      milter.addHeader('X-Added', 'yes');
      milter.chgFrom('<changed@example.org>');
      milter.addRcpt('<more@example.com>');
      milter.quarantine('for a look');
    },
  });
  const options = { macros: { connect: { j: 'mx.test' }, rcpt: { '{rcpt_host}': 'example.com' } } };
  const { port, delivered } = await serve(t, [milter.socket], options);
  const client = await connected(t, port);
  t.strictSame(milter.heard, ['connect [127.0.0.1] 4 127.0.0.1'], 'before the greeting');
  await client.command('EHLO Client.Example.ORG');
  await client.command(`AUTH PLAIN ${Buffer.from('\0alice\0secret').toString('base64')}`);
  t.strictSame(
    await said(
      client.command('MAIL FROM:<A.b@Example.org> size=100 BODY=8BITMIME SMTPUTF8 ENVID=a+2Bb+3D+20c'),
      client.command('RCPT TO:<b@example.com> ORCPT=rfc822;x+2By@example.com'),
      client.command('DATA'),
      client.message(MESSAGE),
      client.command('QUIT'),
    ),
    ['250 Accepted', '250 Accepted', '354 End data with <CR><LF>.<CR><LF>', '250 OK: message queued', '221 Bye'],
  );
  await milter.closed;
  t.strictSame(milter.heard.slice(1), [
    'helo client.example.org',
    'mailFrom <A.b@Example.org> SIZE=100 BODY=8BITMIME SMTPUTF8 ENVID=a+2Bb+3D+20c',
    'rcpt <b@example.com> ORCPT=rfc822;x+2By@example.com',
    'data',
    'header Subject:one',
    'eoh',
    'body 6',
    'eob',
    'abort',
    'close',
  ]);
  t.match(milter.macros.get('connect'), { j: 'mx.test', '{client_addr}': '127.0.0.1', '{daemon_name}': 'smtp-server' });
  const i = /^\w+\.1$/;
  t.match(milter.macros.get('mailFrom'), { i, '{auth_authen}': 'alice', '{mail_addr}': 'A.b@Example.org' });
  t.notOk('{cipher}' in milter.macros.get('mailFrom')!);
  t.match(milter.macros.get('rcpt'), { i, '{rcpt_addr}': 'b@example.com', '{rcpt_host}': 'example.com' });
  for (const stage of ['data', 'eob'] as const) t.match(milter.macros.get(stage), { i }, stage);
  t.match(delivered, [
    {
      envelope: { from: '<changed@example.org>', to: ['<b@example.com>', '<more@example.com>'] },
      message: Buffer.from('Subject: one\r\nX-Added: yes\r\n\r\nbody\r\n'),
      quarantined: 'for a look',
    },
  ]);
});

/** What the SMTP client says up to the stage. @returns the last reply */
const UP_TO: Record<Exclude<Stage, 'unknown'>, (client: SmtpClient) => Promise<string[]>> = {
  connect: (client) => said(Promise.resolve(client.greeting)),
  helo: (client) => said(client.command('MAIL FROM:<>')),
  mailFrom: (client) => said(client.command('MAIL FROM:<>')),
  async rcpt(client) {
    await client.command('MAIL FROM:<>');
    const reply = await said(client.command('RCPT TO:<b@example.com>'));
    await client.command('RSET').catch(() => {});
    return reply;
  },
  data: (client) => send(client),
  header: (client) => send(client),
  eoh: (client) => send(client),
  body: (client) => send(client),
  eob: (client) => send(client),
};

const STAGES = Object.keys(UP_TO) as Array<keyof typeof UP_TO>;

t.test('the words of a refusal reach the SMTP client byte for byte, at every stage', async (t) => {
  for (const stage of STAGES) {
    let words: (milter: MilterProtocol) => Result = () => {};
    const milter = await startMilter(t, { [stage]: (milter: MilterProtocol) => words(milter) });
    const { port, delivered } = await serve(t, [milter.socket]);
    const cases: Array<[typeof words, string[]]> = [
      [
        (milter) => milter.setReply(550, '5.7.1', ['Not here,', '', ' 100 % sure', '—']),
        ['550-5.7.1 Not here,', '550-5.7.1 ', '550-5.7.1  100 % sure', '550 5.7.1 \xe2\x80\x94'],
      ],
      [(milter) => milter.setReply(451, '4.3.2', 'Come back'), ['451 4.3.2 Come back']],
      [(milter) => milter.setReply(554, '', ['No', 'code']), ['554-No', '554 code']],
      [() => REJECT, ['550 5.7.1 Command rejected']],
      [() => TEMPFAIL, ['451 4.7.1 Service unavailable - try again later']],
    ];
    // A verdict on the session holds for all of it.
    const forAll = stage === 'connect' || stage === 'helo';
    let client = forAll ? undefined : await greeted(t, port);
    for (const [says, lines] of cases) {
      words = says;
      if (forAll) client = await connected(t, port);
      if (stage === 'helo') await client!.command('EHLO client.example.org');
      t.strictSame(await UP_TO[stage](client!), lines, stage);
      if (stage === 'connect') await client!.closed;
    }
    t.strictSame(delivered, [], stage);
  }
});

t.test('421 ends the SMTP session', async (t) => {
  for (const stage of STAGES) {
    const milter = await startMilter(t, {
      [stage]: (milter: MilterProtocol) => milter.setReply(421, '4.7.0', 'Enough'),
    });
    const { port } = await serve(t, [milter.socket]);
    const client = await connected(t, port);
    if (stage !== 'connect') await client.command('EHLO client.example.org');
    t.strictSame(await UP_TO[stage](client), ['421 4.7.0 Enough'], stage);
    await client.closed;
    await milter.closed;
  }
  const milter = await startMilter(t, { mailFrom: () => SHUTDOWN });
  const { port } = await serve(t, [milter.socket]);
  const client = await greeted(t, port);
  t.strictSame(await said(client.command('MAIL FROM:<>')), ['421 4.7.0 Server closing connection']);
  await client.closed;
});

t.test('a recipient that is refused leaves the message alone', async (t) => {
  const milter = await startMilter(t, {
    rcpt: (milter, text) => (text.includes('nobody') ? milter.setReply(550, '5.1.1', 'Nobody here') : undefined),
  });
  const { port, delivered } = await serve(t, [milter.socket]);
  const client = await greeted(t, port);
  await client.command('MAIL FROM:<a@example.org>');
  t.strictSame(
    await said(
      client.command('RCPT TO:<nobody@example.com>'),
      client.command('DATA'),
      client.command('RCPT TO:<b@example.com>'),
    ),
    ['550 5.1.1 Nobody here', '503 Error: need RCPT command', '250 Accepted'],
  );
  await client.command('DATA');
  t.strictSame(await said(client.message(MESSAGE)), ['250 OK: message queued']);
  t.match(delivered, [{ envelope: { to: ['<b@example.com>'] } }]);
});

t.test('a message that vanishes is taken, whenever that was decided, and the next one is not', async (t) => {
  for (const stage of STAGES.filter((stage) => stage !== 'connect' && stage !== 'helo')) {
    let times = 0;
    const milter = await startMilter(t, { [stage]: () => (times++ === 0 ? DISCARD : undefined) });
    const second = await startMilter(t);
    const { port, delivered } = await serve(t, [milter.socket, second.socket]);
    const client = await greeted(t, port);
    await client.command('MAIL FROM:<a@example.org>');
    for (const name of ['b', 'c']) t.match(await client.command(`RCPT TO:<${name}@example.com>`), { code: 250 });
    await client.command('DATA');
    t.strictSame(await said(client.message(MESSAGE)), ['250 OK: message queued'], stage);
    t.strictSame(delivered, [], stage);
    if (stage === 'rcpt') t.notMatch(second.heard.join(), 'rcpt', 'nobody is asked about it any more');
    t.strictSame(await send(client), ['250 OK: message queued'], stage);
    t.equal(delivered.length, 1, stage);
  }
});

t.test('a milter that accepts hears no more of the message, or of the session', async (t) => {
  const mail = ['mailFrom <a@example.org>', 'rcpt <b@example.com>', 'data', 'header Subject:one'];
  for (const [stage, heard] of [
    ['connect', []],
    ['helo', ['helo client.example.org']],
    ['mailFrom', ['helo client.example.org', ...mail.slice(0, 1), 'abort', ...mail.slice(0, 1), 'abort']],
    ['header', ['helo client.example.org', ...mail, 'abort', ...mail, 'abort']],
  ] as const) {
    const milter = await startMilter(t, { [stage]: () => ACCEPT });
    const { port, delivered } = await serve(t, [milter.socket]);
    const client = await greeted(t, port);
    for (let i = 0; i < 2; i++) t.strictSame(await send(client), ['250 OK: message queued']);
    await client.end();
    await milter.closed;
    t.strictSame(milter.heard.slice(1, -1), heard, stage);
    t.match(delivered, [{ message: MESSAGE }, { message: MESSAGE }], stage);
  }
});

t.test('RSET, another message, and a client that leaves: an open message is aborted', async (t) => {
  const milter = await startMilter(t);
  const { port, delivered } = await serve(t, [milter.socket]);
  const client = await greeted(t, port);
  await addressed(client);
  await client.command('RSET');
  await send(client);
  await send(client);
  await client.command('MAIL FROM:<a@example.org>');
  await client.end();
  await milter.closed;
  const events = milter.heard.filter((line) => /^(mailFrom|eob|abort|close)/.test(line));
  const whole = ['mailFrom <a@example.org>', 'eob', 'abort'];
  const cut = ['mailFrom <a@example.org>', 'abort early'];
  t.strictSame(events, [...cut, ...whole, ...whole, ...cut, 'close']);
  t.equal(delivered.length, 2);
  t.equal(milter.heard.filter((line) => line.startsWith('helo')).length, 1, 'HELO is told once');

  const { stream, heard } = fakeMilter();
  const other = await serve(t, [{ target: stream }]);
  const leaving = await greeted(t, other.port);
  await leaving.command('MAIL FROM:<a@example.org>');
  await leaving.destroy();
  await once(stream, 'finish');
  const said = heard.map(({ type }) => type).filter((type) => type !== 'macro');
  t.strictSame(said, ['negotiate', 'connect', 'helo', 'mailFrom', 'abort', 'quit']);
});

t.test('any bytes, of any length, come out as they went in; a refusal waits for the final dot', async (t) => {
  let refuses = false;
  const milter = await startMilter(t, { header: () => (refuses ? REJECT : undefined) });
  const { port, delivered } = await serve(t, [milter.socket]);
  const client = await greeted(t, port);
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i).filter((i) => i !== 10 && i !== 13));
  const line = Buffer.concat([all, Buffer.from('\r\n..\r\n.dot\r\n')]);
  const head = Buffer.concat([Buffer.from('Subject: caf\xe9 '), Buffer.from('é\r\n\tfolded\r\nX:\r\n\r\n')]);
  for (const lines of [1, 1000, 3000]) {
    const message = Buffer.concat([head, ...Array.from({ length: lines }, () => line)]);
    t.strictSame(await send(client, message), ['250 OK: message queued']);
    t.ok(delivered.pop()?.message.equals(message), `${message.length} bytes`);
    refuses = true;
    t.strictSame(await send(client, message), ['550 5.7.1 Command rejected'], 'behind the final dot');
    refuses = false;
  }
  t.ok(milter.heard.includes('body 65535'), 'in pieces');

  refuses = true;
  await addressed(client);
  await client.command('DATA');
  const before = milter.heard.length;
  client.write('Subject: one\r\n\r\nthe beginning of the bo');
  let over = false;
  const reply = said(client.reply()).finally(() => (over = true));
  await until('the refusal', () => milter.heard.length > before && milter.heard.at(-1)?.startsWith('abort'));
  await greeted(t, port);
  t.notOk(over, 'somebody else has got two replies since');
  client.write('dy\r\n.\r\n');
  t.strictSame(await reply, ['550 5.7.1 Command rejected']);
});

t.test('of two milters the second sees what the first has left; who refuses first has the word', async (t) => {
  let refuses = false;
  const first = await startMilter(t, {
    rcpt: (milter) => (refuses ? milter.setReply(550, '5.1.1', 'First') : undefined),
    eob: (milter) => milter.addHeader('X-First', '1'),
  });
  const second = await startMilter(t, {
    rcpt: (milter) => (refuses ? milter.setReply(550, '5.1.1', 'Second') : undefined),
    eob: (milter) => milter.chgHeader('X-First', '2'),
  });
  const { port, delivered } = await serve(t, [first.socket, second.socket]);
  const client = await greeted(t, port);
  await send(client);
  t.ok(second.heard.includes('header X-First:1'));
  t.strictSame(String(delivered[0]?.message), 'Subject: one\r\nX-First: 2\r\n\r\nbody\r\n');
  refuses = true;
  await client.command('MAIL FROM:<>');
  t.strictSame(await said(client.command('RCPT TO:<b@example.com>')), ['550 5.1.1 First']);
});

t.test('for a milter that is down, or goes away, the default action stands in', async (t) => {
  const gone = await startMilter(t);
  await gone.close();
  const later = ['451 4.7.1 Service unavailable - try again later'];
  const { port } = await serve(t, [gone.socket]);
  const refused = await connected(t, port);
  t.strictSame(await said(Promise.resolve(refused.greeting)), later);
  await refused.closed;

  const accepting = await serve(t, [gone.socket], { defaultAction: 'accept' });
  t.strictSame(await send(await greeted(t, accepting.port)), ['250 OK: message queued']);
  t.match(accepting.delivered, [{ message: MESSAGE }]);

  const throwing = await serve(t, [gone.socket], { defaultAction: 'throw' });
  t.strictSame(await said(Promise.resolve((await connected(t, throwing.port)).greeting)), [
    '451 4.3.0 Try again later',
  ]);

  const leaving = fakeMilter({ eoh: (line) => line.end() });
  const served = await serve(t, [{ target: leaving.stream }]);
  const client = await greeted(t, served.port);
  t.strictSame(await send(client), later);
  t.strictSame(await said(client.command('MAIL FROM:<>')), later, 'and for the rest of the session');
});

t.test('of a client that leaves in the middle of its message milters hear when they have answered', async (t) => {
  const { promise: inHeader, open: enter } = gate();
  const { promise: patience, open: answer } = gate();
  for (const slow of [false, true]) {
    const milter = await startMilter(t, {
      header: () => {
        if (!slow) return undefined;
        enter();
        return patience;
      },
    });
    const errors: unknown[] = [];
    const { port, delivered } = await serve(t, [milter.socket], { onError: (error) => errors.push(error) });
    const client = await greeted(t, port);
    await addressed(client);
    await client.command('DATA');
    client.write(`Subject: one\r\n\r\n${'x'.repeat(100)}\r\n`);
    if (slow) await inHeader;
    await client.destroy();
    answer();
    await milter.closed;
    t.strictSame(milter.heard.slice(-2), ['abort early', 'close']);
    t.strictSame(delivered, []);
    t.match(errors, [{ code: 'ECONNECTION' }]);
  }
});

t.test('a message over the limit of the server is aborted and refused, and the session goes on', async (t) => {
  const milter = await startMilter(t);
  const { port, delivered } = await serve(t, [milter.socket], {}, { size: 1000 });
  const client = await greeted(t, port);
  const fits = Buffer.from(`A: b\r\n\r\n${'x'.repeat(990)}\r\n`);
  for (const message of [`A: b\r\n\r\n${'x'.repeat(991)}\r\n`, `A: ${'x'.repeat(3_000_000)}\r\n\r\n`])
    t.strictSame(await send(client, Buffer.from(message)), ['552 5.3.4 Message too big']);
  t.equal(await send(client, fits).then(String), '250 OK: message queued');
  t.match(delivered, [{ message: fits }]);
  await client.end();
  await milter.closed;
  t.strictSame(
    milter.heard.filter((line) => /^(abort|eob)/.test(line)),
    ['abort early', 'abort early', 'eob', 'abort'],
  );
});

t.test('what comes to nothing elsewhere: a message that is none, and a delivery that fails', async (t) => {
  const milter = await startMilter(t);
  const errors: unknown[] = [];
  const deliver = (): never => {
    throw new Error('disk full');
  };
  const { port } = await serve(t, [milter.socket], { deliver, onError: (error) => errors.push(error) });
  const client = await greeted(t, port);
  for (const bad of ['no header\r\n'.repeat(20_000), `no header\r\n\r\n${'x\r\n'.repeat(100_000)}`])
    t.strictSame(await send(client, Buffer.from(bad)), ['554 5.6.0 Malformed message']);
  t.strictSame(await send(client), ['451 4.3.0 Try again later']);
  t.strictSame(await send(client), ['451 4.3.0 Try again later']);
  t.match(errors, [{ message: 'disk full' }, { message: 'disk full' }]);
});

t.test('behind STARTTLS the client introduces itself anew', needs('openssl'), async (t) => {
  const milter = await startMilter(t);
  const { certFile, keyFile } = await makeCertificate(shortFolder(t), 'mx.test');
  const certificate = { cert: readFileSync(certFile), key: readFileSync(keyFile) };
  const { port, delivered } = await serve(t, [milter.socket], {}, { disabledCommands: ['AUTH'], ...certificate });
  const client = await greeted(t, port);
  await client.command('MAIL FROM:<a@example.org>');
  t.equal((await client.startTls()).code, 220);
  await client.command('EHLO client.example.org');
  await send(client);
  await client.end();
  await milter.closed;
  t.strictSame(
    milter.heard.filter((line) => /^(helo|mailFrom|abort)/.test(line)),
    [
      'helo client.example.org',
      'mailFrom <a@example.org>',
      'abort early',
      'helo client.example.org',
      'mailFrom <a@example.org>',
      'abort',
    ],
  );
  t.match(milter.macros.get('mailFrom'), { '{tls_version}': /^TLSv1/, '{cipher}': /./ });
  t.match(delivered, [{ message: MESSAGE }]);
});

t.test('what cannot be used is said at once', async (t) => {
  const deliver = (): void => {};
  t.throws(() => milterHooks(['http:80'], { deliver }), { code: 'ERR_MILTER_ADDRESS' });
  t.throws(() => milterHooks(['inet:80'], { deliver, version: 5 }), { code: 'ERR_MILTER_OPTION' });
});

t.test('a client that leaves before it has said anything', async (t) => {
  const milter = await startMilter(t);
  const { port } = await serve(t, [milter.socket]);
  const client = await connected(t, port);
  await client.destroy();
  await milter.closed;
  t.strictSame(milter.heard, ['connect [127.0.0.1] 4 127.0.0.1', 'close']);
});

t.test('the server of the example prints what milters have left', async (t) => {
  const milter = await startMilter(t, { eob: (milter) => milter.addHeader('X-Added', 'yes') });
  const program = runExample('smtp-server/server.ts', '--listen', '0', '--milter', milter.socket);
  await program.printed('past inet:');
  const port = Number(/on port (\d+)/.exec(program.out())?.[1]);
  const client = await greeted(t, port);
  t.strictSame(await send(client), ['250 OK: message queued']);
  await program.printed('Subject: one\r\nX-Added: yes\r\n\r\nbody\r\n');
  t.match(program.out(), '\nfrom <a@example.org> for <b@example.com>\n');
  await client.end();
  program.kill('SIGINT');
  t.equal(await program.ended, 0);
});
