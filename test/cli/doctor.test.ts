// `milter-stream doctor`: what it finds with milters that are well, that are not, and with what is no milter.
import { chmodSync, chownSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join, relative } from 'node:path';
import t, { type Test } from 'tap';
import { slowness, whyNoMilter } from '../../lib/cli/examination.js';
import { allows, inspectSocket } from '../../lib/cli/socket-file.js';
import { ACCEPT, CONTINUE, DISCARD, MilterError, REJECT, SMFIF_ADDHDRS, type MilterProtocol } from '../../lib/index.js';
import { packet } from '../helpers/bytes.js';
import { agrees, fakeMilter, list, silence, type Line } from '../helpers/fake-milter.js';
import { shortFolder } from '../helpers/folder.js';
import { cli } from './io.js';
import { answering, saying, serving } from './milters.js';

const doctor = (address: string, ...argv: string[]) => cli(['doctor', address, ...argv]);

/** Lines like `  ok       words`. */
function holds(t: Test, out: string, ...lines: string[]): void {
  for (const line of lines) t.ok(out.includes(`\n  ${line}`), line, { printed: out });
}

t.test('a milter that is well', async (t) => {
  const address = await serving(
    t,
    {
      connect() {},
      header() {},
      eob(this: MilterProtocol) {
        this.addHeader('X-Seen', 'yes');
      },
    },
    {
      smfifOptions: SMFIF_ADDHDRS,
      statics: { noReply: ['header'], macros: { connect: ['j'], eob: [] }, smfipOptions: 0x400 },
    },
  );
  const { code, out, err } = await doctor(address);
  t.strictSame([code, err], [0, '']);
  t.ok(out.startsWith(`${address}\n  ok       it is a milter, and answered the offer within `));
  holds(
    t,
    out,
    'ok       it says what it makes of a message\n',
    'ok       it takes another message on the same connection, with 8-bit text in header and body\n',
    'ok       it bears RSET in the middle of a message\n',
    'ok       it serves two connections at once\n',
    'ok       it closes the connection after QUIT\n',
    'version       6\n',
    'may do        SMFIF_ADDHDRS, SMFIF_SETSYMLIST\n',
    'not sent      helo, mailFrom, rcpt, data, eoh, body, unknown\n',
    'not answered  header\n',
    'modes         SMFIP_SKIP\n',
    'macros        connect: j; eob: none; eoh: none\n',
    'message       accept, addHeader\n',
    'slowest       connect ',
    `smtpd_milters = inet:127.0.0.1:${/:(\d+)@/.exec(address)![1]}\n`,
    `INPUT_MAIL_FILTER(\`my-milter', \`S=${address}, F=T, T=S:10s;R:10s;E:5m')\n`,
  );
  t.match(out, /\n\nhealthy\n$/);
  const json = await doctor(address, '--json');
  t.equal(json.code, 0);
  t.match(JSON.parse(json.out), {
    healthy: true,
    address,
    agreed: {
      version: 6,
      actions: ['SMFIF_ADDHDRS', 'SMFIF_SETSYMLIST'],
      notAnswered: ['header'],
      modes: ['SMFIP_SKIP'],
      macros: { connect: 'j', eob: '' },
    },
    message: { verdict: 'accept', stage: 'eob', edits: ['addHeader'] },
    latency: { connect: Number, header: Number, eob: Number, quit: Number },
    findings: [{ level: 'ok' }],
    config: { postfix: [/^smtpd_milters/, 'milter_default_action = tempfail'], sendmail: [String] },
  });
});

t.test('--negotiate sends no message; the SMTP client may be another', async (t) => {
  const heard: unknown[] = [];
  const address = await serving(t, {
    connect: (...args: unknown[]) => void heard.push(args.slice(0, 3)),
    mailFrom: () => void heard.push('mail'),
  });
  const { code, out } = await doctor(address, '--negotiate', '--hostname', 'mx.example.org', '--address', '192.0.2.1');
  t.equal(code, 0);
  t.notMatch(out, /another message|message {7}/);
  t.strictSame(heard, [['mx.example.org', '4', '192.0.2.1']]);
});

t.test('what is odd is told, and is no problem', async (t) => {
  const advice = 'try another SMTP client with --hostname and --address\n';
  const verdict = async (script: Parameters<typeof serving>[1]) => {
    const { code, out } = await doctor(await serving(t, script));
    t.equal(code, 0);
    return out;
  };
  holds(
    t,
    await verdict({ connect: () => ACCEPT }),
    `note     it wants to hear nothing of this SMTP client (accept): ${advice}`,
  );
  holds(t, await verdict({ connect: () => REJECT }), `warning  it refuses this SMTP client (reject): ${advice}`);
  holds(t, await verdict({ eob: () => DISCARD }), 'warning  a harmless message was discarded at eob\n');
  const greylisting = {
    rcpt(this: MilterProtocol) {
      return this.setReply(451, '4.7.1', ['Wait', '\x1b[31m']);
    },
  };
  holds(
    t,
    await verdict(greylisting),
    'warning  a harmless message was refused for now at rcpt: 451 Wait / \\x1b[31m; greylisting does that, or something behind it is missing\n',
  );
  const strange = await saying(t, {
    negotiate: agrees(4, 0, 0x0200_0000, list(9, 'j'), list(0, '{client}')),
    eob: Buffer.concat([packet('h', Buffer.from('X\0y\0')), packet('h', Buffer.from('X\0z\0')), packet('c')]),
  });
  const { code, out } = await doctor(strange);
  t.equal(code, 0);
  holds(
    t,
    out,
    'note     it speaks version 4 of the protocol; 6 was offered\n',
    'warning  it sets bits of the protocol that mean nothing: 0x2000000\n',
    'warning  it sends addHeader without having asked for SMFIF_ADDHDRS\n',
    'may do        none\n',
    'macros        stage 9: j; connect: {client}\n',
  );
});

t.test('a milter that does not survive something has a problem, and the rest is looked at all the same', async (t) => {
  const hangs = await saying(t, { eob: [packet('c'), silence] });
  const { code, out } = await doctor(hangs, '--timeout', '500ms');
  t.equal(code, 1);
  holds(
    t,
    out,
    'ok       it says what it makes of a message\n',
    'problem  not so: it takes another message on the same connection, with 8-bit text in header and body. The milter failed at eob: It does not answer, and 500 ms are over\n',
    'note     nothing more was asked of it: each answer might take as long\n',
  );
  t.match(out, /\n\n1 problem\n$/);
  t.notMatch(out, 'RSET');
  const shuts = await doctor(await saying(t, { eob: [packet('c'), (line) => line.end()] }));
  t.equal(shuts.code, 1);
  holds(
    t,
    shuts.out,
    'ok       it says what it makes of a message\n',
    'problem  not so: it takes another message on the same connection, with 8-bit text in header and body. The milter failed at eob: The connection was lost: the milter closed it\n',
    'ok       it bears RSET in the middle of a message\n',
    'ok       it serves two connections at once\n',
    'ok       it closes the connection after QUIT\n',
  );
  const never = await doctor(await saying(t, { mailFrom: silence }), '--timeout', '500ms', '--json');
  t.equal(never.code, 1);
  const diagnosis = JSON.parse(never.out) as {
    healthy: boolean;
    message?: unknown;
    findings: Array<{ level: string }>;
  };
  t.equal(diagnosis.healthy, false);
  t.equal(diagnosis.message, undefined);
  t.equal(diagnosis.findings.filter(({ level }) => level === 'problem').length, 1, 'it is waited for once');
});

t.test('a milter that serves one connection at a time', async (t) => {
  const waiting: Socket[] = [];
  const served: Socket[] = [];
  const next = (): void => {
    const socket = waiting.shift();
    if (socket === undefined) return;
    served.push(socket);
    const { stream } = fakeMilter();
    socket.pipe(stream).pipe(socket);
    socket.once('close', () => {
      served.shift();
      next();
    });
  };
  const address = await answering(t, (socket) => {
    waiting.push(socket.on('error', () => {}));
    if (served.length === 0) next();
  });
  const { code, out } = await doctor(address, '--timeout', '500ms');
  t.equal(code, 1);
  holds(
    t,
    out,
    'problem  not so: it serves two connections at once. The milter failed at negotiate: It does not answer, and 500 ms are over\n',
    'ok       it closes the connection after QUIT\n',
  );
  t.match(out, /\n\n1 problem\n$/);
  while (served.length > 0) await new Promise((resolve) => served[0]!.once('close', resolve));
  t.strictSame([waiting.length, served.length], [0, 0], 'no connection is left open');
});

t.test('a milter that does not close the connection after QUIT is not healthy', async (t) => {
  const address = await answering(t, (socket) => {
    socket.allowHalfOpen = true;
    const { stream } = fakeMilter();
    socket.pipe(stream, { end: false }).pipe(socket);
  });
  const { code, out } = await doctor(address, '--timeout', '500ms');
  t.equal(code, 1);
  t.match(
    out,
    /\n {2}problem {2}not so: it closes the connection after QUIT\. It was still open \d+ ms later\n[^]*\n\n1 problem\n$/,
  );
});

t.test('a milter that says progress for ever', async (t) => {
  const forever = (line: Line): void => {
    const timer = setInterval(() => line.write(packet('p')), 10);
    t.teardown(() => clearInterval(timer));
  };
  const words = 'It has not come to an end within 2000 ms altogether: it says progress again and again';
  const all = ['connect', 'mailFrom', 'eob'].map(async (stage) =>
    doctor(await saying(t, { [stage]: forever }), '--timeout', '200ms'),
  );
  const [connect, mailFrom, eob] = await Promise.all(all);
  t.equal(connect!.code, 69);
  t.match(connect!.out, `\n  problem  The milter failed at connect: ${words}`);
  t.equal(mailFrom!.code, 1);
  t.match(mailFrom!.out, `what it makes of a message. The milter failed at mailFrom: ${words}`);
  t.equal(eob!.code, 1);
  t.match(eob!.out, `what it makes of a message. The milter failed at eob: ${words}`);
});

t.test('what takes long is told, and what takes longer than Sendmail waits is a problem', (t) => {
  t.strictSame(slowness({ connect: 999, helo: 1_500, rcpt: 10_000, eob: 12_000 }), [
    { level: 'warning', text: 'helo took 1500 ms: an SMTP client waits as long' },
    { level: 'problem', text: 'rcpt took 10000 ms: Sendmail waits 10 s unless T= says otherwise' },
    { level: 'warning', text: 'eob took 12000 ms: an SMTP client waits as long' },
  ]);
  t.end();
});

t.test('where no milter is: what is there instead, as far as it can be seen', async (t) => {
  const folder = shortFolder(t);
  const closes = await answering(t, (socket) => socket.end());
  const smtp = await answering(t, (socket) => void socket.write('220 mx.example.org ESMTP\r\n'));
  const http = await answering(
    t,
    (socket) => void socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')),
  );
  const clamd = await answering(t, (socket) => void socket.once('data', () => socket.end('UNKNOWN COMMAND\0')));
  const tls = await answering(
    t,
    (socket) => void socket.once('data', () => socket.end(Buffer.from('15030100020228', 'hex'))),
  );
  const garbage = await answering(t, (socket) => void socket.once('data', () => socket.end(Buffer.alloc(64, 0xff))));
  const mute = await answering(t, () => {});
  const picky = await saying(t, { negotiate: agrees(6, 0xf000) });
  const dies = await saying(t, { connect: (line) => line.end() });
  const cases: ReadonlyArray<readonly [string, number, RegExp]> = [
    ['inet:1@127.0.0.1', 69, /ECONNREFUSED 127\.0\.0\.1:1: nothing listens there$/m],
    [
      join(folder, 'no.sock'),
      69,
      /problem {2}there is no .*no\.sock: the milter is not running, or listens elsewhere$/m,
    ],
    [closes, 69, /It does not know the protocol, does not want us, or fails: its log may say more$/m],
    [smtp, 76, /the peer seems to be an SMTP server/],
    [http, 76, /the peer seems to be an HTTP server/],
    [clamd, 76, /clamd, the virus scanner/],
    [tls, 76, /problem {2}The milter failed at negotiate: /],
    [garbage, 76, /problem {2}The milter failed at negotiate: /],
    [mute, 69, /It takes connections and says nothing: it hangs, or is a server of another kind/],
    [picky, 76, /It wants 0xf000, which was not offered/],
    [dies, 69, /problem {2}The milter failed at connect: The connection was lost: the milter closed it$/m],
  ];
  const all = await Promise.all(cases.map(([address]) => doctor(address, '--timeout', '1s')));
  for (const [i, [address, status, words]] of cases.entries()) {
    const { code, out, err } = all[i]!;
    t.strictSame([code, err], [status, ''], address);
    t.match(out, words);
    t.match(out, /\n\n1 problem\n$/);
    t.notMatch(out, /smtpd_milters/);
  }
  const json = await doctor('inet:1@127.0.0.1', '--json');
  t.match(JSON.parse(json.out), {
    healthy: false,
    error: { code: 'ERR_MILTER_CONNECTION' },
    findings: [{ level: 'problem' }],
  });
  t.strictSame(await doctor('inet:x'), {
    code: 64,
    out: '',
    err: 'milter-stream doctor: Bad socket address "inet:x": "x" is no port number\nSee milter-stream doctor --help\n',
  });
  const mistakes: ReadonlyArray<readonly [argv: string[], words: string]> = [
    [['--hostname', 'a\nb'], '--hostname must be a line of text, got "a\\nb"'],
    [['--address', '999.1.1.1'], '--address must be an IP address, or the path of a Unix socket from / on'],
  ];
  for (const [argv, words] of mistakes) {
    const { code, out, err } = await doctor('inet:1', ...argv);
    t.strictSame([code, out], [64, '']);
    t.ok(err.startsWith(`milter-stream doctor: ${words}`), err);
  }
});

t.test('why a connection cannot be made', (t) => {
  const of = (cause?: object) =>
    whyNoMilter(new MilterError('ERR_MILTER_CONNECTION', 'Cannot connect to x: y', { cause, stage: 'negotiate' })).text;
  t.equal(of({ code: 'EHOSTUNREACH' }), 'Cannot connect to x: y: there is no way to that host');
  t.equal(of({ code: 'ENOTFOUND' }), 'Cannot connect to x: y: there is no such host');
  t.equal(of({ code: 'EMFILE' }), 'Cannot connect to x: y');
  t.equal(
    of(new Error('nothing within 5 ms')),
    'Cannot connect to x: y: a firewall may drop the packets, or the name server is silent',
  );
  t.equal(
    of({ code: 'ECONNREFUSED', address: './s' }),
    'Cannot connect to x: y: the socket was left over by a process that has ended',
  );
  t.equal(of({ code: 'ECONNREFUSED', address: '::1', port: 1 }), 'Cannot connect to x: y: nothing listens there');
  t.match(of(), 'Cannot connect to x: y. It does not know the protocol', 'what the words are does not matter');
  t.end();
});

t.test('a Unix socket: whose it is, who gets to it, and where a chrooted smtpd sees it', async (t) => {
  const folder = shortFolder(t);
  const queue = join(folder, 'queue');
  mkdirSync(join(queue, 'milter'), { recursive: true });
  const passwd = join(folder, 'passwd');
  const group = join(folder, 'group');
  const mine = process.getuid!();
  writeFileSync(passwd, `me:x:${mine}:${process.getgid!()}::/:\nmta:x:54321:54322::/:\nroot2:x:0:0::/:\n`);
  writeFileSync(group, `us:x:${process.getgid!()}:\nmta:x:54322:\nmilters:x:54323:other,mta\n`);
  const surroundings = { user: 'mta', queueDirectory: queue, passwd, group };
  const path = join(queue, 'milter', 's');
  await answering(t, () => {}, path);
  for (const each of [folder, queue, join(queue, 'milter')]) chmodSync(each, 0o755);
  const inspect = async (mode: number, more = {}) => {
    chmodSync(path, mode);
    return inspectSocket(path, { ...surroundings, ...more });
  };
  const open = await inspect(0o666);
  t.strictSame(open.file, { path, owner: 'me', group: 'us', mode: '0666', chrooted: '/milter/s' });
  t.strictSame(open.findings, [
    { level: 'ok', text: `${path} is a socket of me, group us, mode 0666` },
    { level: 'ok', text: 'user mta can connect to it' },
    { level: 'warning', text: 'its mode 0666 lets every local user talk to the milter: 0660 is better' },
    { level: 'ok', text: 'a chrooted smtpd sees it as /milter/s: write unix:milter/s' },
  ]);
  const shut = await inspect(0o660);
  t.strictSame(shut.findings[1], {
    level: 'problem',
    text: `user mta cannot write to ${path} (me:us, mode 0660): serve it with the mail server's group, mode 0660`,
  });
  t.equal((await inspect(0o660, { user: 'me' })).findings[1]?.level, 'ok', 'the owner');
  t.equal((await inspect(0o000, { user: 'root2' })).findings[1]?.level, 'ok', 'root');
  t.match((await inspect(0o660, { user: 'nobody' })).findings[1], { level: 'note', text: /no user nobody/ });
  chmodSync(join(queue, 'milter'), 0o750);
  t.strictSame((await inspect(0o666)).findings[1], {
    level: 'problem',
    text: `user mta cannot enter ${join(queue, 'milter')} (me:us, mode 0750)`,
  });
  chmodSync(join(queue, 'milter'), 0o754);
  t.equal((await inspect(0o666)).findings[1]?.level, 'problem', 'to read a folder is not to enter it');
  chmodSync(join(queue, 'milter'), 0o751);
  t.equal((await inspect(0o666)).findings[1]?.level, 'ok', 'to enter it is enough');
  chmodSync(join(queue, 'milter'), 0o755);
  const outside = await inspect(0o660, { queueDirectory: join(folder, 'elsewhere') });
  t.equal(outside.file?.chrooted, null);
  t.match(outside.findings.at(-1), {
    level: 'note',
    text: `a chrooted smtpd cannot see ${path}: have the milter listen below ${join(folder, 'elsewhere')}`,
  });
  symlinkSync(join(queue, 'milter'), join(folder, 'link'));
  t.equal((await inspectSocket(join(folder, 'link', 's'), surroundings)).file?.path, path, 'folders may be links');
  t.match(await inspectSocket(join(queue), surroundings), {
    hopeless: true,
    findings: [{ text: `${queue} is a folder, not a socket` }],
  });
  symlinkSync(path, join(folder, 'to-socket'));
  t.equal((await inspectSocket(join(folder, 'to-socket'), surroundings)).file?.path, path, 'so may the socket');
  symlinkSync(join(folder, 'gone'), join(folder, 'dangling'));
  t.match(await inspectSocket(join(folder, 'dangling'), surroundings), {
    findings: [{ text: /dangling is a symbolic link to nothing, not a socket$/ }],
  });
  t.match(await inspectSocket(passwd, surroundings), { findings: [{ text: /passwd is a file, not a socket$/ }] });
  t.match(await inspectSocket(join(passwd, 's'), surroundings), {
    findings: [{ level: 'warning', text: /cannot be looked at: ENOTDIR/ }],
  });
  const none = await inspectSocket(path, { ...surroundings, passwd: join(folder, 'x'), group: join(folder, 'x') });
  t.equal(none.file?.owner, String(mine), 'numbers where there are no names');
});

t.test('the bits of a mode count for one class of users alone', (t) => {
  const mta = { name: 'mta', uid: 5, gids: [6, 7] };
  t.ok(allows({ uid: 5, gid: 0, mode: 0o200 }, mta, 2));
  t.notOk(allows({ uid: 5, gid: 6, mode: 0o022 }, mta, 2), 'not those of the group for the owner');
  t.ok(allows({ uid: 0, gid: 7, mode: 0o020 }, mta, 2));
  t.notOk(allows({ uid: 0, gid: 7, mode: 0o002 }, mta, 2), 'not those of the others for the group');
  t.ok(allows({ uid: 0, gid: 0, mode: 0o001 }, mta, 1));
  t.notOk(allows({ uid: 0, gid: 0, mode: 0o776 }, mta, 1));
  t.end();
});

t.test('doctor on a Unix socket', async (t) => {
  const folder = shortFolder(t);
  const path = join(folder, 's');
  await serving(t, { eob: () => CONTINUE }, { address: path, sockChmod: 0o666 });
  chmodSync(folder, 0o755);
  const { code, out } = await doctor(path, '--queue-directory', folder, '--user', 'root');
  t.equal(code, 0);
  t.ok(out.startsWith(`unix:${path}\n  ok       ${path} is a socket of `));
  holds(
    t,
    out,
    'ok       user root can connect to it\n',
    'ok       a chrooted smtpd sees it as /s: write unix:s\n',
    'smtpd_milters = unix:s\n',
  );
  symlinkSync(folder, join(folder, 'here'));
  const others = [
    [relative(process.cwd(), path), folder],
    [join(folder, 'here', 's'), folder],
    [path, join(folder, 'here')],
  ] as const;
  for (const [given, queue] of others) {
    const other = await doctor(`unix:${given}`, '--queue-directory', queue, '--user', 'root');
    holds(
      t,
      other.out,
      'ok       a chrooted smtpd sees it as /s: write unix:s\n',
      'smtpd_milters = unix:s\n',
      `INPUT_MAIL_FILTER(\`my-milter', \`S=unix:${path}, `,
    );
  }
  const outside = await doctor(relative(process.cwd(), path), '--user', 'root');
  holds(t, outside.out, `smtpd_milters = unix:${path}\n`);
  const json = JSON.parse((await doctor(path, '--json', '--user', 'root')).out) as unknown;
  t.match(json, {
    socket: { path, mode: '0666', chrooted: null },
    config: { postfix: [`smtpd_milters = unix:${path}`, String] },
  });
});

t.test('a socket that was left over', async (t) => {
  const folder = shortFolder(t);
  const path = join(folder, 's');
  const server = createServer().listen(path);
  await new Promise((resolve) => server.once('listening', resolve));
  const left = join(folder, 'left');
  const { linkSync } = await import('node:fs');
  linkSync(path, left);
  await new Promise((resolve) => server.close(resolve));
  const { code, out } = await doctor(left, '--user', 'root');
  t.equal(code, 69);
  t.match(out, /ECONNREFUSED .*: the socket was left over by a process that has ended\n/);
});

t.test(
  'a socket that we may not write to',
  { skip: process.getuid?.() !== 0 && 'needs root, to be somebody else' },
  async (t) => {
    const folder = shortFolder(t);
    const path = join(folder, 's');
    await answering(t, () => {}, path);
    chownSync(folder, 54_321, 54_321);
    process.seteuid!(54_322);
    try {
      const { code, out } = await doctor(path, '--user', 'root');
      t.equal(code, 69);
      t.match(out, /warning {2}.* cannot be looked at: EACCES/);
      t.match(out, /EACCES .*: we are not allowed to connect to it\n/);
    } finally {
      process.seteuid!(0);
    }
  },
);
