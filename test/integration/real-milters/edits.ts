// What the milters of test/fixtures/edits.* must come out as: libmilter's own words, in C and in Python.
import type { Test } from 'tap';
import { MilterClient, type ClientMessage, type ClientOptions, type MessageResult } from '../../../lib/client/index.js';
import type { StartEdits } from '../../helpers/edits-milter.js';

const LIKES = ['postfix', 'sendmail'] as const;

/** How the milter calls a stage, and how a result does. */
const STAGES = {
  connect: 'connect',
  helo: 'helo',
  mail: 'mailFrom',
  rcpt: 'rcpt',
  data: 'data',
  header: 'header',
  eoh: 'eoh',
  body: 'body',
  eom: 'eob',
} as const;
type EditsStage = keyof typeof STAGES;
const stages = Object.keys(STAGES) as EditsStage[];

const VERDICTS = { accept: 'accept', reject: 'reject', tempfail: 'tempFail', discard: 'discard' } as const;

const HEADERS = 'From: a@example.org\r\nSubject: hello\r\n';

/**
 * A body as no text is: lines of dots, and every byte there is; but no LF without a CR, for mail servers put one there.
 * It is more than three packets.
 */
const BODY = Buffer.concat([
  Buffer.from('.\r\n..\r\n.a\r\n\r\n.\r\n'),
  Buffer.from(Array.from({ length: 256 * 783 }, (_, i) => i & 0xff)).filter((byte) => byte !== 0x0a),
  Buffer.from('\r\n\r\n'),
]);

/** The headers that tell the milter what to do. */
export function xDo(...edits: string[]): string {
  return edits.map((edit) => `X-Do: ${edit}\r\n`).join('');
}

export function mail(
  headers: string,
  body: string | Buffer = 'body\r\n',
  more: Partial<Omit<ClientMessage, 'message'>> = {},
): ClientMessage & { message: Buffer } {
  const message = Buffer.concat([Buffer.from(`${HEADERS}${headers}\r\n`), Buffer.from(body)]);
  return { from: '<a@example.org>', to: ['<b@example.com>'], message, ...more };
}

/** Plays messages on one connection. */
export async function playAll(
  address: string,
  mails: readonly ClientMessage[],
  options: ClientOptions = {},
  peer: Parameters<MilterClient['connect']>[0] = {},
): Promise<MessageResult[]> {
  const client = new MilterClient(address, options);
  await client.connect(peer);
  const results: MessageResult[] = [];
  for (const each of mails) results.push(await client.send(each));
  await client.quit();
  return results;
}

export async function play(address: string, each: ClientMessage, options?: ClientOptions): Promise<MessageResult> {
  const [result] = await playAll(address, [each], options);
  return result as MessageResult;
}

/** The mail that makes the milter say something at a stage; the first two are not for a mail to say. */
function mailFor(stage: EditsStage, word: string): { each: ClientMessage; peer: { hostname: string; helo: string } } {
  const say = `${stage}-${word}`;
  const peer = { hostname: 'client.example.net', helo: 'client.example.net' };
  if (stage === 'connect') return { each: mail(''), peer: { ...peer, hostname: say } };
  if (stage === 'helo') return { each: mail(''), peer: { ...peer, helo: say } };
  if (stage === 'rcpt') return { each: mail('', undefined, { to: [`<${say}@example.com>`] }), peer };
  return { each: mail('', undefined, { from: `<${say}@example.org>` }), peer };
}

async function playWord(address: string, stage: EditsStage, word: string, options: ClientOptions) {
  const { each, peer } = mailFor(stage, word);
  const [first, second] = await playAll(address, [each, mail('')], options, peer);
  return { first: first as MessageResult, second: second as MessageResult };
}

/** Each edit that libmilter has, and what comes of it. */
async function everyEdit(t: Test, address: string, options: ClientOptions): Promise<void> {
  const edits = xDo(
    'add|X-Added|a value',
    'add|X-Folded|one\r\n\ttwo',
    'ins|0|X-First|on top',
    'ins|1|X-Second|below that',
    'chg|2|X-Twice|changed',
    'chg|1|x-gone',
    'chg|1|X-New|was not there',
    'addrcpt|<added@example.com>',
    'addrcpt|<more@example.com>|NOTIFY=NEVER',
    'delrcpt|<gone@example.com>',
    'from|<changed@example.org>|RET=HDRS',
    'progress',
    'body|new body,\r\n\tin lines of Unix',
    'quarantine|for a look',
  );
  const before = `X-Twice: one\r\nX-Gone: soon\r\nX-Twice: two\r\n${edits}`;
  const to = ['<b@example.com>', '<gone@example.com>'];
  const result = await play(address, mail(before, 'old body\r\n', { to }), options);
  const after =
    'X-First: on top\r\nX-Second: below that\r\n' +
    `${HEADERS}X-Twice: one\r\nX-Twice: changed\r\n${edits}` +
    'X-Added: a value\r\nX-Folded: one\r\n\ttwo\r\nX-New: was not there\r\n\r\n' +
    'new body,\r\n\tin lines of Unix\r\n';
  t.equal(result.message.toString(), after);
  t.match(result, {
    verdict: 'accept',
    stage: 'eob',
    quarantined: 'for a look',
    envelope: {
      from: '<changed@example.org>',
      to: ['<b@example.com>', '<added@example.com>', '<more@example.com>'],
    },
  });
  t.equal(
    result.modifications.map(({ type }) => type).join(' '),
    'addHeader addHeader insHeader insHeader chgHeader chgHeader chgHeader addRcpt addRcptPar delRcpt chgFrom replBody ' +
      'quarantine',
  );
  t.match(result.modifications[8], { address: '<more@example.com>', args: 'NOTIFY=NEVER' });
  t.match(result.modifications[10], { address: '<changed@example.org>', args: 'RET=HDRS' });
}

/** All of it, for one of the milters. */
export function editsTests(t: Test, start: StartEdits): void {
  t.test('every edit is made, in the order it was asked for', async (t) => {
    const address = await start(t);
    for (const like of LIKES) for (const version of [2, 6]) await everyEdit(t, address, { like, version });
  });

  t.test('headers and pieces of the body that are not answered change nothing', async (t) => {
    const address = await start(t, 'noreply');
    for (const like of LIKES) {
      await everyEdit(t, address, { like });
      const { message } = await play(address, mail(xDo('echo'), BODY), { like });
      t.ok(message.equals(mail(xDo('echo'), BODY).message));
    }
    await everyEdit(t, address, { version: 2 });
  });

  t.test('a body of any bytes, larger than a packet, gets there and back as it was', async (t) => {
    const address = await start(t);
    for (const like of LIKES) {
      for (const version of [2, 6]) {
        const each = mail(xDo('echo', 'size'), BODY);
        const { message, modifications } = await play(address, each, { like, version });
        const expected = mail(`${xDo('echo', 'size')}X-Size: ${BODY.length}\r\n`, BODY).message;
        t.ok(message.equals(expected), `like ${like}, version ${version}`);
        t.equal(modifications.filter(({ type }) => type === 'replBody').length, Math.ceil(BODY.length / 65_535));
      }
    }
  });

  t.test('a milter that has seen enough of a body is sent no more of it', async (t) => {
    const address = await start(t);
    const each = mail(xDo('size'), BODY, { from: '<body-skip@example.org>' });
    for (const like of LIKES) {
      const { message } = await play(address, each, { like });
      t.ok(message.equals(mail(`${xDo('size')}X-Size: 65535\r\n`, BODY).message));
    }
  });

  const VALUES = [
    ' one space',
    '  two spaces and some behind  ',
    ' folded\r\n  more\r\n\tand more',
    '\r\n folded at once',
    ' na\u00efve \u{1F4E8}',
    '',
    ` long${'\r\n\tand this is one of very many lines, all of them of one header'.repeat(800)}`,
  ];

  t.test('a header is handed over as it stands, without the space behind its colon', async (t) => {
    const address = await start(t);
    for (const like of LIKES) {
      for (const value of [...VALUES, 'no space']) {
        const headers = `X-Odd:${value}\r\n${xDo('copy|X-Odd')}`;
        const { message } = await play(address, mail(headers), { like });
        const copy = value.startsWith(' ') ? value : ` ${value}`;
        t.equal(message.toString(), mail(`${headers}X-Copy:${copy}\r\n`).message.toString(), value.slice(0, 40));
      }
    }
  });

  t.test('with the space, where the milter wants it', async (t) => {
    const address = await start(t, 'leadspc');
    for (const like of LIKES) {
      for (const value of [...VALUES, 'no space', '\ta tab']) {
        const headers = `X-Odd:${value}\r\n${xDo('copy|X-Odd')}`;
        const { message } = await play(address, mail(headers), { like });
        t.equal(message.toString(), mail(`${headers}X-Copy:${value}\r\n`).message.toString(), value.slice(0, 40));
      }
    }
  });

  t.test(
    'each verdict at each stage; the message after it is not concerned, unless it was the SMTP session',
    async (t) => {
      const address = await start(t);
      for (const like of LIKES) {
        for (const version of [2, 6]) {
          for (const stage of stages) {
            for (const [word, verdict] of Object.entries(VERDICTS)) {
              const ofSession = stage === 'connect' || stage === 'helo';
              // Version 2 knows no DATA, and nobody can drop a message before there is one.
              if ((stage === 'data' && version === 2) || (ofSession && word === 'discard')) continue;
              const { first, second } = await playWord(address, stage, word, { like, version });
              const decided = { verdict, stage: STAGES[stage] };
              t.match(first, decided, `${stage}-${word}, like ${like}, version ${version}`);
              t.strictSame(first.modifications, []);
              t.match(second, ofSession ? decided : { verdict: 'accept', stage: 'eob' });
            }
          }
        }
      }
    },
  );

  t.test("the milter's own words, on one line and on several, at each stage", async (t) => {
    const address = await start(t);
    for (const stage of stages) {
      const reply = await playWord(address, stage, 'reply', {});
      t.match(reply.first, {
        verdict: 'reject',
        stage: STAGES[stage],
        reply: { code: 550, enhanced: '5.7.1', lines: [`100% no at ${stage}`] },
      });
      const lines = await playWord(address, stage, 'lines', {});
      t.match(lines.first, {
        verdict: 'tempFail',
        stage: STAGES[stage],
        reply: { code: 451, enhanced: '4.7.1', lines: [`not now at ${stage}`, 'second line', 'third line'] },
      });
      const hangup = await playWord(address, stage, 'hangup', {});
      for (const result of [hangup.first, hangup.second]) {
        t.match(result, { verdict: 'tempFail', stage: STAGES[stage], reply: { code: 421, enhanced: '4.3.2' } });
      }
    }
  });

  t.test('a recipient that is refused gets nothing, the others do', async (t) => {
    const address = await start(t);
    const to = ['<b@example.com>', '<rcpt-reject@example.com>', '<rcpt-reply@example.com>', '<c@example.com>'];
    for (const like of LIKES) {
      const result = await play(address, mail(xDo('add|X-Seen|yes'), undefined, { to }), { like });
      t.match(result, { verdict: 'accept', stage: 'eob' });
      t.strictSame(result.envelope.to, ['<b@example.com>', '<c@example.com>']);
      t.match(result.message.toString(), 'X-Seen: yes\r\n');
    }
  });

  t.test(
    'many messages on a connection, of many connections at once, have nothing to do with each other',
    async (t) => {
      const address = await start(t);
      const whole = mail(xDo('echo', 'size'), BODY);
      const small = mail(xDo('size'), 'small\r\n');
      const from = (word: string): ClientMessage => ({ ...whole, from: `<${word}@example.org>` });
      const mails = [
        whole,
        small,
        from('mail-tempfail'),
        small,
        from('header-reject'),
        from('body-discard'),
        small,
        whole,
      ];
      const all = LIKES.flatMap((like) => [2, 3, 4, 6].map((version) => playAll(address, mails, { like, version })));
      for (const results of await Promise.all(all)) {
        t.strictSame(
          results.map(({ verdict, stage, message }) => {
            const [, size] = /\r\nX-Size: (\d+)\r\n/.exec(message.subarray(0, 1000).toString('latin1')) ?? [];
            return [verdict, stage, size];
          }),
          [
            ['accept', 'eob', String(BODY.length)],
            ['accept', 'eob', '7'],
            ['tempFail', 'mailFrom', undefined],
            ['accept', 'eob', '7'],
            ['reject', 'header', undefined],
            ['discard', 'body', undefined],
            ['accept', 'eob', '7'],
            ['accept', 'eob', String(BODY.length)],
          ],
        );
        t.ok(results.at(-1)?.message.subarray(-BODY.length).equals(BODY));
      }
    },
  );

  const macros = {
    mailFrom: { '{first}': 'one', '{other}': 'two' },
    eob: { '{last}': 'three', '{other}': undefined },
  };
  const asking = mail(xDo('macro|X-First|{first}', 'macro|X-Other|{other}', 'macro|X-Last|{last}'), undefined, {
    macros,
  });
  /** What came of them. */
  const known = ({ message }: MessageResult): string[] => {
    const text = message.toString();
    return ['First', 'Other', 'Last'].map((name) => new RegExp(`^X-${name}: (.*)\r`, 'm').exec(text)?.[1] ?? '');
  };

  t.test('macros are there from their stage on', async (t) => {
    const address = await start(t);
    for (const like of LIKES) {
      for (const version of [2, 6]) {
        t.strictSame(known(await play(address, asking, { like, version })), ['one', 'two', 'three']);
      }
    }
  });

  t.test('a milter that names the macros it wants gets those', async (t) => {
    const address = await start(t, 'symlist');
    for (const like of LIKES) t.strictSame(known(await play(address, asking, { like })), ['one', '(none)', 'three']);
  });
}
