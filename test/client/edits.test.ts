// What the client makes of the edits: the message and the envelope as they would be delivered, byte for byte.
import t from 'tap';
import { MilterClient, type ClientMessage, type ClientOptions, type MessageResult } from '../../lib/client/index.js';
import { createSession, MilterProtocol, SMFIF_ALLOPTS, SMFIP_HDR_LEADSPC, type Verdict } from '../../lib/index.js';
import { packet, u32 } from '../helpers/bytes.js';
import { agrees, fakeMilter } from '../helpers/fake-milter.js';

const HEADERS = 'A: 1\r\nB: 2\r\na: 3\r\nC:no space\r\nA: 4\r\n';

/** What becomes of a message that a milter answers with edits, then `c` or what is said. */
async function edited(
  edits: readonly Buffer[],
  mail: Partial<ClientMessage> = {},
  { final = packet('c'), agreed = 0, ...options }: ClientOptions & { final?: Buffer; agreed?: number } = {},
): Promise<MessageResult> {
  const { stream } = fakeMilter({ negotiate: agrees(6, 0x1ff, agreed), eob: Buffer.concat([...edits, final]) });
  const client = new MilterClient(stream, options);
  await client.connect();
  const result = await client.send({
    from: '<a@example.org>',
    to: ['<b@example.com>', 'bare@example.com'],
    message: `${HEADERS}\r\nbody\r\n`,
    ...mail,
  });
  await client.quit();
  return result;
}

const headersOf = ({ message }: MessageResult): string => message.toString('latin1').split('\r\n\r\n')[0]!;

const add = (name: string, value: string): Buffer => packet('h', name, value);
const insert = (index: number, name: string, value: string): Buffer => packet('i', u32(index), name, value);
const change = (index: number, name: string, value: string): Buffer => packet('m', u32(index), name, value);

t.test('P128 addHeader goes to the end, insHeader before the header of its index', async (t) => {
  const result = async (...edits: Buffer[]) => headersOf(await edited(edits, { message: 'A: 1\r\nB: 2\r\n\r\n' }));
  t.equal(await result(add('X', 'new')), 'A: 1\r\nB: 2\r\nX: new');
  t.equal(await result(insert(0, 'X', 'new')), 'X: new\r\nA: 1\r\nB: 2', '0 is the top, above the server’s own');
  t.equal(await result(insert(1, 'X', 'new')), 'X: new\r\nA: 1\r\nB: 2', '1 is below that');
  t.equal(await result(insert(2, 'X', 'new')), 'A: 1\r\nX: new\r\nB: 2');
  t.equal(await result(insert(3, 'X', 'new')), 'A: 1\r\nB: 2\r\nX: new');
  t.equal(await result(insert(0xffff_ffff, 'X', 'new')), 'A: 1\r\nB: 2\r\nX: new', 'too large is the end');
  t.equal(
    await result(insert(0, 'X', '1'), insert(0, 'Y', '2')),
    'Y: 2\r\nX: 1\r\nA: 1\r\nB: 2',
    'one after the other',
  );
});

t.test('P128 chgHeader counts the headers of a name from 1, in whatever case', async (t) => {
  const result = async (...edits: Buffer[]) => headersOf(await edited(edits));
  t.equal(
    await result(change(1, 'a', 'new')),
    'a: new\r\nB: 2\r\na: 3\r\nC:no space\r\nA: 4',
    'the name is the milter’s',
  );
  t.equal(await result(change(2, 'A', 'new')), 'A: 1\r\nB: 2\r\nA: new\r\nC:no space\r\nA: 4');
  t.equal(await result(change(0, 'A', 'new')), 'A: new\r\nB: 2\r\na: 3\r\nC:no space\r\nA: 4', '0 means 1');
  t.equal(await result(change(4, 'A', 'new')), `${HEADERS}A: new`, 'a missing one is added');
  t.equal(await result(change(1, 'X', 'new')), `${HEADERS}X: new`);
  t.equal(await result(change(1, 'A', '')), 'B: 2\r\na: 3\r\nC:no space\r\nA: 4', 'empty removes');
  t.equal(await result(change(9, 'A', '')), HEADERS.trimEnd(), 'a missing one cannot be removed');
});

t.test('P128 a removed header still counts in Sendmail, not in Postfix', async (t) => {
  const edits = [change(1, 'A', ''), change(2, 'A', ''), change(1, 'A', 'back')];
  t.equal(headersOf(await edited(edits)), 'B: 2\r\nA: back\r\nC:no space');
  t.equal(headersOf(await edited(edits, {}, { like: 'sendmail' })), 'A: back\r\nB: 2\r\nC:no space\r\nA: 4');
  const all = [change(3, 'A', ''), change(2, 'A', ''), change(1, 'A', '')];
  for (const like of ['postfix', 'sendmail'] as const) {
    t.equal(headersOf(await edited(all, {}, { like })), 'B: 2\r\nC:no space', `from the last to the first, ${like}`);
  }
});

t.test('P87 one space is put before a value, unless HDR_LEADSPC was agreed; folds become CRLF', async (t) => {
  const edits = [add('X', 'one\n\ttwo'), insert(0, 'Y', ''), change(1, 'B', ' z')];
  const message = 'B: 2\r\n\r\n';
  t.equal(headersOf(await edited(edits, { message })), 'Y: \r\nB:  z\r\nX: one\r\n\ttwo');
  t.equal(headersOf(await edited(edits, { message }, { agreed: SMFIP_HDR_LEADSPC })), 'Y:\r\nB: z\r\nX:one\r\n\ttwo');
});

t.test('P127 the first piece of a body discards the old one, the others append', async (t) => {
  const body = (text: string): Buffer => packet('b', Buffer.from(text));
  const bodyOf = async (...edits: Buffer[]) => (await edited(edits)).message.toString().slice(HEADERS.length);
  t.equal(await bodyOf(), '\r\nbody\r\n');
  t.equal(await bodyOf(body('one'), body('two\r\n')), '\r\nonetwo\r\n');
  t.equal(await bodyOf(add('X', 'y'), body('one'), body('two')), 'X: y\r\n\r\nonetwo\r\n', 'the last line is ended');
  t.equal(await bodyOf(body('a\nb\r'), body('\nc')), '\r\na\r\nb\r\nc\r\n', 'each bare LF becomes CRLF');
  t.equal(await bodyOf(packet('b')), '\r\n', 'an empty piece makes an empty body');
  const { message } = await edited([body('new')], { message: 'A: 1' });
  t.equal(message.toString(), 'A: 1\r\n\r\nnew\r\n', 'a message that had none gets the empty line before it');
});

t.test('P119 P121 a body of several packets and all other edits, with one final reply', async (t) => {
  const long = Buffer.alloc(200_004, 'abcdefghij\r\n');
  class Replacing extends MilterProtocol {
    override eob() {
      this.addHeader('X', 'y');
      this.replBody(long);
    }
  }
  const client = new MilterClient(createSession(Replacing, { smfifOptions: SMFIF_ALLOPTS }));
  await client.connect();
  const { message, modifications } = await client.send({ from: '', to: ['b'], message: 'A: 1\r\n\r\nold' });
  t.ok(message.equals(Buffer.concat([Buffer.from('A: 1\r\nX: y\r\n\r\n'), long])));
  t.strictSame(
    modifications.map(({ type }) => type),
    ['replBody', 'replBody', 'replBody', 'replBody', 'addHeader'],
  );
});

t.test('P129 a recipient is removed by its bare address, whoever wrote brackets', async (t) => {
  const to = async (...edits: Buffer[]) => (await edited(edits)).envelope.to;
  t.strictSame(await to(packet('-', 'b@example.com')), ['bare@example.com']);
  t.strictSame(await to(packet('-', '<bare@example.com>')), ['<b@example.com>']);
  t.strictSame(await to(packet('-', '<B@example.com>')), ['<b@example.com>', 'bare@example.com'], 'case counts');
  t.strictSame(await to(packet('+', 'c@example.com'), packet('2', '<d@example.com>', 'NOTIFY=NEVER')), [
    '<b@example.com>',
    'bare@example.com',
    'c@example.com',
    '<d@example.com>',
  ]);
  t.strictSame(
    await to(packet('+', '<bare@example.com>'), packet('2', 'b@example.com')),
    ['<b@example.com>', 'bare@example.com'],
    'nobody gets it twice',
  );
});

t.test('the sender is changed, the null sender included; the last change counts', async (t) => {
  const from = async (...edits: Buffer[]) => (await edited(edits)).envelope.from;
  t.equal(await from(packet('e', '<c@example.org>', 'RET=HDRS')), '<c@example.org>');
  t.equal(await from(packet('e', '<c@example.org>'), packet('e', '<>')), '<>');
});

t.test('a quarantine keeps its reason, and the message is accepted', async (t) => {
  t.match(await edited([packet('q', 'odd')]), { verdict: 'accept', quarantined: 'odd' });
  t.equal('quarantined' in (await edited([])), false);
});

t.test('P130 edits before a refusal are as if they had never been', async (t) => {
  const edits = [add('X', 'y'), packet('b', Buffer.from('new')), packet('-', 'b@example.com'), packet('q', 'odd')];
  for (const [verdict, final] of [
    ['reject', packet('r')],
    ['tempFail', packet('t')],
    ['discard', packet('d')],
    ['reject', packet('y', '550 no')],
    ['tempFail', packet('y', '421 later')],
    ['tempFail', packet('4')],
  ] as const) {
    const result = await edited(edits, {}, { final });
    t.match(result, { verdict, stage: 'eob', modifications: [] });
    t.equal(result.message.toString(), `${HEADERS}\r\nbody\r\n`);
    t.strictSame(result.envelope, { from: '<a@example.org>', to: ['<b@example.com>', 'bare@example.com'] });
    t.notOk('quarantined' in result);
  }
  for (const final of [packet('c'), packet('a')]) {
    t.equal((await edited(edits, {}, { final })).modifications.length, 4, 'continue and accept both accept');
  }
});

t.test('P69 the edits of one message are not seen in the next', async (t) => {
  let count = 0;
  class Counting extends MilterProtocol {
    override eob(): Verdict | void {
      this.addHeader('X-Count', String(++count));
      if (count === 2) return 'reject';
    }
  }
  const client = new MilterClient(createSession(Counting, { smfifOptions: SMFIF_ALLOPTS }));
  await client.connect();
  const message = Buffer.from('A: 1\r\n\r\nbody');
  const sent = async () => headersOf(await client.send({ from: '', to: ['b'], message }));
  t.strictSame([await sent(), await sent(), await sent()], ['A: 1\r\nX-Count: 1', 'A: 1', 'A: 1\r\nX-Count: 3']);
  t.equal(message.toString(), 'A: 1\r\n\r\nbody', 'what was given in is left alone');
});
