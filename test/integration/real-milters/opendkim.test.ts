// OpenDKIM signs what the client plays, and a second one says whether the signature is that of the message that came out:
// a byte that was lost, added or moved on the way in or out breaks it. OpenDMARC judges by what that one says.
import t from 'tap';
import { MilterClient, type ClientOptions, type ClientPeer } from '../../../lib/client/index.js';
import { startOpendkim } from '../../helpers/opendkim.js';
import { startOpendmarc } from '../../helpers/opendmarc.js';
import { needs } from '../../helpers/real.js';

const STRANGER: ClientPeer = { hostname: 'client.example.net', address: '192.0.2.1' };

const OPTIONS: ClientOptions[] = [
  { like: 'postfix' },
  { like: 'sendmail' },
  { like: 'postfix', version: 2 },
  { like: 'sendmail', version: 2 },
];

const HEADERS =
  'Received: from client.example.net\r\n\tby mx.example.org;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n' +
  'From: A <a@example.org>\r\nTo: b@example.com\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n' +
  'Message-ID: <1@example.org>\r\n';

const message = (headers: string, body: string): Buffer => Buffer.from(`${HEADERS}${headers}\r\n${body}`, 'latin1');

/** Lines of 64 bytes: at the end of the first packet of a body, 65,535 bytes, CR and LF are in different ones. */
const LONG = 'a line of the body, of many, and all of them of the same length\r\n'.slice(1).repeat(3200);

const MESSAGES = {
  'a plain message': message('Subject: hello\r\n', 'body\r\n'),
  'bytes that are no ASCII': message(
    'Subject: na\xc3\xafve\r\nX-Latin: na\xefve\r\n',
    Array.from({ length: 128 }, (_, i) => String.fromCharCode(128 + i)).join('') + '\r\n',
  ),
  'long headers, folded in every way': message(
    'Subject:  two blanks and some behind  \r\nX-No-Space:value\r\nX-Tab:\tvalue\r\nX-Empty:\r\nX-At-Once:\r\n value\r\n' +
      `References: ${'<0123456789abcdefghijklmnopqrstuvwxyz@example.org>\r\n\t '.repeat(300)}<2@example.org>\r\n`,
    'body\r\n',
  ),
  'more than three packets of a body': message('Subject: long\r\n', LONG),
  'dots, and empty lines at both ends': message('Subject: dots\r\n', '\r\n.\r\n..\r\n.a\r\n\r\n.\r\n\r\n\r\n'),
  'no body': message('Subject: none\r\n', ''),
};

/** The names of all headers of a message. */
const headerNames = (bytes: Buffer): string[] => {
  const [head = ''] = bytes.toString('latin1').split('\r\n\r\n');
  return head.split(/\r\n(?![ \t])/).map((line) => line.slice(0, line.indexOf(':')));
};
/** OpenDKIM does not sign Received. */
const SIGNED = new Set(
  Object.values(MESSAGES)
    .flatMap(headerNames)
    .filter((name) => name !== 'Received'),
);

/** What is sure to break a signature. */
const TAMPERINGS: [what: string, change: (text: string) => string][] = [
  ['a letter of the body', (text) => text.replace(/body/, 'bodY')],
  ['a blank in a header', (text) => text.replace('Subject: ', 'Subject:  ')],
  ['a line more', (text) => `${text}more\r\n`],
  ['a second From, which is signed not to be there', (text) => `From: b@example.org\r\n${text}`],
];

/** Plays messages on one connection; resolves with what comes out. */
async function playAll(address: string, messages: readonly Buffer[], options: ClientOptions = {}, peer?: ClientPeer) {
  const client = new MilterClient(address, options);
  await client.connect(peer);
  const results = [];
  for (const message of messages) {
    results.push(await client.send({ from: '<a@example.org>', to: ['<b@example.com>'], message }));
  }
  await client.quit();
  return results;
}

const bytes = (results: ReadonlyArray<{ message: Buffer }>): Buffer[] => results.map(({ message }) => message);

/** The header on top of a message, unfolded. */
const firstHeader = (message: Buffer): string =>
  (/^.*?\r\n(?![ \t])/s.exec(message.toString('latin1')) as RegExpExecArray)[0].replaceAll(/\s+/g, ' ');

t.test('OpenDKIM', needs('opendkim'), async (t) => {
  const { signer, verifier } = await startOpendkim(t, [...SIGNED]);
  const originals = Object.values(MESSAGES);

  for (const options of OPTIONS) {
    t.test(`signs and verifies: ${JSON.stringify(options)}`, async (t) => {
      const signed = await playAll(signer, originals, options);
      const verified = await playAll(verifier, bytes(signed), options, STRANGER);
      for (const [i, what] of Object.keys(MESSAGES).entries()) {
        const [before, after] = [signed[i]!, verified[i]!];
        t.match(before, { verdict: 'accept', modifications: [{ type: 'insHeader', name: 'DKIM-Signature' }] }, what);
        t.equal(before.modifications.length, 1);
        const signature = firstHeader(before.message);
        t.match(signature, /^DKIM-Signature: v=1; .*c=simple\/simple; d=example\.org; s=test; /);
        const [, names = ''] = / h=(.*?);/.exec(signature) ?? [];
        const expected = [...headerNames(originals[i]!).filter((name) => SIGNED.has(name)), 'From'];
        t.strictSame(names.replaceAll(' ', '').split(':').sort(), expected.sort());
        // The rest is as it was, to the byte.
        t.ok(before.message.subarray(-originals[i]!.length).equals(originals[i]!));
        t.match(firstHeader(after.message), /^Authentication-Results: mx\.example\.org; dkim=pass /, what);
      }
    });
  }

  t.test('finds what was tampered with', async (t) => {
    const [signed] = await playAll(signer, [MESSAGES['a plain message']]);
    const text = signed!.message.toString('latin1');
    for (const like of ['postfix', 'sendmail'] as const) {
      const tampered = TAMPERINGS.map(([, change]) => Buffer.from(change(text), 'latin1'));
      const verified = await playAll(verifier, tampered, { like }, STRANGER);
      for (const [i, [what]] of TAMPERINGS.entries()) {
        t.match(firstHeader(verified[i]!.message), /^Authentication-Results: mx\.example\.org; dkim=fail /, what);
      }
    }
  });

  t.test('signs for its own network alone, by the address that CONNECT tells', async (t) => {
    const [result] = await playAll(signer, [MESSAGES['a plain message']], {}, STRANGER);
    t.equal(result?.verdict, 'accept');
    t.strictSame(result?.modifications, []);
    t.strictSame(result?.message, MESSAGES['a plain message']);
  });

  t.test('a file with the line ends of Unix is signed as it is sent', async (t) => {
    const file = Buffer.from(MESSAGES['a plain message'].toString('latin1').replaceAll('\r\n', '\n'), 'latin1');
    const signed = await playAll(signer, [file]);
    const [verified] = await playAll(verifier, bytes(signed), {}, STRANGER);
    t.match(firstHeader(verified!.message), 'dkim=pass');
  });

  t.test('what claims to be its own result is taken out, whichever of them it is', async (t) => {
    const forged = 'Authentication-Results: mx.example.org; dkim=pass header.d=example.org\r\n';
    const foreign = 'Authentication-Results: elsewhere.example.net; dkim=pass header.d=example.org\r\n';
    const original = message(`${forged}${foreign}${forged}Subject: hello\r\n`, 'body\r\n');
    for (const like of ['postfix', 'sendmail'] as const) {
      const [result] = await playAll(verifier, [original], { like }, STRANGER);
      const text = result!.message.toString('latin1');
      t.match(text, foreign);
      t.notMatch(text, forged, like);
      t.match(firstHeader(result!.message), /^Authentication-Results: mx\.example\.org; dkim=none/);
    }
  });
});

t.test('OpenDMARC', needs('opendkim', 'opendmarc'), async (t) => {
  const { signer, verifier } = await startOpendkim(t, [...SIGNED]);
  const address = await startOpendmarc(t, {
    'example.org': 'v=DMARC1; p=reject',
    'held.example.net': 'v=DMARC1; p=quarantine',
    'lax.example.net': 'v=DMARC1; p=none',
  });
  const verified = async (...messages: Buffer[]) => bytes(await playAll(verifier, messages, {}, STRANGER));
  const fromDomain = (domain: string): Buffer =>
    Buffer.from(MESSAGES['a plain message'].toString('latin1').replace('example.org>', `${domain}>`), 'latin1');

  t.test('lets pass what has a good signature, and refuses what has none', async (t) => {
    const [good, ...more] = bytes(await playAll(signer, Object.values(MESSAGES)));
    const bad = Buffer.from(good!.toString('latin1').replace('body', 'bodY'), 'latin1');
    for (const like of ['postfix', 'sendmail'] as const) {
      const messages = await verified(good!, bad, MESSAGES['a plain message'], ...more);
      const [passed, tampered, unsigned, ...others] = await playAll(address, messages, { like }, STRANGER);
      for (const result of [passed!, ...others]) {
        t.equal(result.verdict, 'accept');
        t.match(
          firstHeader(result.message),
          /^Authentication-Results: mx\.example\.org; dmarc=pass .*from=example\.org/,
        );
      }
      for (const result of [tampered, unsigned]) {
        t.match(result, {
          verdict: 'reject',
          stage: 'eob',
          reply: { code: 550, enhanced: '5.7.1', lines: [/rejected by DMARC policy for example\.org/] },
        });
        t.strictSame(result!.modifications, []);
      }
    }
  });

  t.test('holds, or lets pass, by the policy of the domain', async (t) => {
    const messages = await verified(...['held.example.net', 'lax.example.net', 'none.example.com'].map(fromDomain));
    const [held, lax, none] = await playAll(address, messages, {}, STRANGER);
    t.match(held, { verdict: 'accept', quarantined: /held\.example\.net/ });
    t.match(lax, { verdict: 'accept', quarantined: undefined });
    t.match(firstHeader(lax!.message), /dmarc=fail \(p=none /);
    t.match(none, { verdict: 'accept', quarantined: undefined });
    t.match(firstHeader(none!.message), /dmarc=none/);
  });
});
