// ClamAV, with a signature of the test's own: what it finds is refused, held or dropped, as it was told.
import t from 'tap';
import { MilterClient, type ClientOptions, type MessageResult } from '../../../lib/client/index.js';
import { startClamav, VIRUS, VIRUS_NAME } from '../../helpers/clamav.js';
import { needs } from '../../helpers/real.js';

const LIKES = ['postfix', 'sendmail'] as const;

const HEADERS = 'From: a@example.org\r\nTo: b@example.com\r\nSubject: hello\r\nMessage-ID: <1@example.org>\r\n';
const CLEAN = `${HEADERS}X-Virus-Status: Clean, says the sender\r\n\r\nbody\r\n`;
const INFECTED = `${HEADERS}\r\nbody\r\n${VIRUS}\r\n`;

/** The virus begins in one packet of the body and ends in the next. */
const BETWEEN = `${HEADERS}\r\n${'0123456789abcdef'.repeat(4096).slice(0, 65_535 - 20)}${VIRUS}\r\n`;

const ATTACHED =
  `${HEADERS}MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary="=_b"\r\n\r\n` +
  '--=_b\r\nContent-Type: text/plain\r\n\r\nLook at this.\r\n\r\n--=_b\r\nContent-Type: application/octet-stream\r\n' +
  'Content-Disposition: attachment; filename="look.bin"\r\nContent-Transfer-Encoding: base64\r\n\r\n' +
  `${Buffer.from(`in front\0\x01\x02 ${VIRUS} behind`).toString('base64').replaceAll(/.{60}/g, '$&\r\n')}\r\n--=_b--\r\n`;

async function playAll(address: string, messages: readonly string[], options: ClientOptions = {}) {
  const client = new MilterClient(address, options);
  await client.connect({ hostname: 'client.example.net', address: '192.0.2.1' });
  const results: MessageResult[] = [];
  for (const message of messages) {
    results.push(await client.send({ from: '<a@example.org>', to: ['<b@example.com>'], message }));
  }
  await client.quit();
  return results;
}

t.test('ClamAV', needs('clamav'), async (t) => {
  const clamav = await startClamav(t);

  t.test('refuses what is infected, and says of the rest that it is clean', async (t) => {
    const address = await clamav.milter({
      OnInfected: 'Reject',
      RejectMsg: 'Infected_with_%v',
      AddHeader: 'Replace',
      ReportHostname: 'mx.example.org',
    });
    for (const options of LIKES.flatMap((like) => [2, 6].map((version) => ({ like, version })))) {
      const messages = [CLEAN, INFECTED, BETWEEN, ATTACHED, CLEAN];
      const [first, infected, between, attached, last] = await playAll(address, messages, options);
      for (const clean of [first!, last!]) {
        t.match(clean, { verdict: 'accept', stage: 'eob' });
        const text = clean.message.toString();
        t.match(text, /^X-Virus-Scanned: clamav-milter .* at mx\.example\.org\r\n/m);
        t.strictSame(text.match(/X-Virus-Status: .*/g), ['X-Virus-Status: Clean']);
        t.ok(text.endsWith('\r\n\r\nbody\r\n'));
      }
      for (const result of [infected, between, attached]) {
        t.match(result, {
          verdict: 'reject',
          stage: 'eob',
          reply: { code: 550, enhanced: '5.7.1', lines: [`Infected_with_${VIRUS_NAME}`] },
        });
        t.strictSame(result!.modifications, []);
      }
      t.strictSame(between!.message.toString(), BETWEEN);
    }
  });

  t.test('holds it', async (t) => {
    const address = await clamav.milter({ OnInfected: 'Quarantine', AddHeader: 'Add' });
    for (const like of LIKES) {
      const [infected, clean] = await playAll(address, [INFECTED, CLEAN], { like });
      t.match(infected, { verdict: 'accept', quarantined: 'quarantined by clamav-milter' });
      t.match(infected!.message.toString(), /^X-Virus-Status: Infected \(Test\.Ours\.UNOFFICIAL\)\r\n/m);
      t.match(clean, { verdict: 'accept', quarantined: undefined });
      t.strictSame(clean!.message.toString().match(/X-Virus-Status: .*/g), [
        'X-Virus-Status: Clean',
        'X-Virus-Status: Clean, says the sender',
      ]);
    }
  });

  t.test('drops it', async (t) => {
    const address = await clamav.milter({ OnInfected: 'Blackhole' });
    const [infected, clean] = await playAll(address, [INFECTED, CLEAN]);
    t.match(infected, { verdict: 'discard', stage: 'eob' });
    t.equal(clean?.verdict, 'accept');
    for (const result of [infected, clean]) t.strictSame(result!.modifications, []);
    t.strictSame(clean!.message.toString(), CLEAN);
  });
});

t.test('without a clamd, everything is to come again later', needs('clamav'), async (t) => {
  const clamav = await startClamav(t, { clamd: false });
  const address = await clamav.milter({});
  for (const like of LIKES) {
    const [result] = await playAll(address, [CLEAN], { like });
    t.equal(result?.verdict, 'tempFail');
    t.strictSame(result?.modifications, []);
    t.strictSame(result!.message.toString(), CLEAN);
  }
});
