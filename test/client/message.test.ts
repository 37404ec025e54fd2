// Messages of every shape: what the milter is shown of them, and that what it leaves alone comes out byte for byte.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Body } from '../../lib/client/body.js';
import { Message, MilterClient } from '../../lib/client/index.js';
import {
  createSession,
  MilterError,
  MilterProtocol,
  SMFIP_HDR_LEADSPC,
  SMFIP_MDS_1M,
  SMFIP_MDS_256K,
  SMFIP_ALLPROTOS,
  type Stage,
} from '../../lib/index.js';
import { agrees, fakeMilter } from '../helpers/fake-milter.js';

/** What a milter that changes nothing sees of a message, and what comes out. */
async function shown(message: string | Uint8Array, smfipOptions = 0) {
  const seen: string[] = [];
  const body: Buffer[] = [];
  class Watching extends MilterProtocol {
    override header(key: string, value: string) {
      seen.push(`${key}:${value}`);
    }
    override eoh() {
      seen.push('--');
    }
    override body(chunk: Buffer) {
      body.push(chunk);
    }
    override eob() {}
  }
  const client = new MilterClient(createSession(Watching, { smfipOptions }));
  await client.connect();
  const result = await client.send({ from: '', to: ['<b@example.com>'], message });
  await client.quit();
  return { seen, body: Buffer.concat(body), chunks: body.map(({ length }) => length), after: result.message, result };
}

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');

t.test('P87 headers are shown without one leading space, folds with LF, and come out as they were', async (t) => {
  const message = bytes(
    'A: one\r\nB:two\r\nC:  three\r\nD:\tfour\r\nE : five\r\nF:\r\n six\r\n\tseven\r\nG:\r\nH: a: b\r\n\r\nbody\r\n',
  );
  const { seen, after } = await shown(message);
  t.strictSame(seen, ['A:one', 'B:two', 'C: three', 'D:\tfour', 'E:five', 'F:\n six\n\tseven', 'G:', 'H:a: b', '--']);
  const passed = bytes(message.toString('latin1').replace('E :', 'E:')); // as both servers pass it on
  t.ok(after.equals(passed));
  const whole = await shown(message, SMFIP_HDR_LEADSPC);
  t.strictSame(whole.seen.slice(0, 5), ['A: one', 'B:two', 'C:  three', 'D:\tfour', 'E: five']);
  t.ok(whole.after.equals(passed));
});

t.test('P101 P11 8-bit text in headers and body, valid or not, comes out as it was', async (t) => {
  const message = Buffer.concat([
    Buffer.from('Subject: café 🎉\r\n', 'utf8'),
    bytes('X-Latin: caf\xe9\r\nX-\xe9: odd\r\n\r\n'),
    Buffer.from(Array.from({ length: 256 }, (_, i) => i)),
  ]);
  const { seen, body, after } = await shown(message);
  t.strictSame(seen, ['Subject:café 🎉', 'X-Latin:caf\udce9', 'X-\udce9:odd', '--']);
  t.equal(body.length, 256);
  t.ok(after.equals(message));
});

t.test('a file with LF line ends gets CRLF, one with CRLF is left alone', async (t) => {
  const lf = await shown('A: 1\n folded\nB: 2\n\nline\nline\n');
  t.strictSame(lf.seen, ['A:1\n folded', 'B:2', '--']);
  t.equal(lf.body.toString(), 'line\r\nline\r\n');
  t.equal(lf.after.toString(), 'A: 1\r\n folded\r\nB: 2\r\n\r\nline\r\nline\r\n');
  const mixed = await shown('A: 1\n\none\r\ntwo\nthree\r\n');
  t.equal(mixed.after.toString(), 'A: 1\r\n\r\none\r\ntwo\r\nthree\r\n', 'each bare LF, and no CRLF twice');
  const crlf = await shown('A: 1\r\nB: 2\n\r\nbare\nLF and\rCR\r\n');
  t.strictSame(crlf.seen, ['A:1', 'B:2', '--'], 'a bare LF ends a header');
  t.equal(crlf.after.toString(), 'A: 1\r\nB: 2\n\r\nbare\nLF and\rCR\r\n', 'and is kept');
});

t.test('P77 P86 no body, no headers, nothing at all, no last line end', async (t) => {
  for (const [message, seen, body] of [
    ['A: 1\r\n\r\n', ['A:1', '--'], ''],
    ['A: 1\r\n', ['A:1', '--'], ''],
    ['A: 1', ['A:1', '--'], ''],
    ['A: 1\r\n folded', ['A:1\n folded', '--'], ''],
    ['\r\nbody\r\n', ['--'], 'body\r\n'],
    ['\r\n', ['--'], ''],
    ['', ['--'], ''],
    ['A: 1\r\n\r\nno end', ['A:1', '--'], 'no end'],
  ] as const) {
    const { result, ...rest } = await shown(message);
    t.strictSame(rest.seen, seen, JSON.stringify(message));
    t.equal(rest.body.toString(), body);
    t.equal(rest.after.toString(), message);
    const bodies = result.steps.filter(({ stage }: { stage: Stage }) => stage === 'body').length;
    t.equal(bodies, body === '' ? 0 : 1, 'no chunk for an empty body');
  }
});

t.test('a header or a body behind an unfinished line begins a line of its own', async (t) => {
  for (const [message, after] of [
    ['A: 1', 'A: 1\r\nX: y\r\n\r\nnew\r\n'],
    ['A: 1\r\n', 'A: 1\r\nX: y\r\n\r\nnew\r\n'],
    ['', 'X: y\r\n\r\nnew\r\n'],
  ]) {
    class Adding extends MilterProtocol {
      override eob() {
        this.addHeader('X', 'y');
        this.replBody('new');
      }
    }
    const client = new MilterClient(createSession(Adding, { smfifOptions: 3 }));
    await client.connect();
    const result = await client.send({ from: '', to: ['b'], message: message! });
    t.equal(result.message.toString(), after);
  }
});

t.test('P86 a large body goes in pieces of the largest size, and comes out as it was', async (t) => {
  const body = Buffer.alloc(200_000, 'line\r\n');
  const message = Buffer.concat([bytes('A: 1\r\n\r\n'), body]);
  const whole = await shown(message);
  t.strictSame(whole.chunks, [65_535, 65_535, 65_535, 3_395]);
  t.ok(whole.body.equals(body));
  t.ok(whole.after.equals(message));
  const exact = await shown(Buffer.concat([bytes('\r\n'), body.subarray(0, 65_535)]));
  t.strictSame(exact.chunks, [65_535], 'and none is empty');
  for (const [bit, size] of [
    [SMFIP_MDS_256K, 262_143],
    [SMFIP_MDS_1M, 1_048_575],
  ] as const) {
    const { stream, heard } = fakeMilter({ negotiate: agrees(6, 0, bit) });
    const client = new MilterClient(stream, { protocol: SMFIP_ALLPROTOS | bit });
    await client.connect();
    await client.send({ from: '', to: ['b'], message: Buffer.concat([bytes('\r\n'), Buffer.alloc(size + 1)]) });
    t.strictSame(
      heard.flatMap((each) => (each.type === 'body' ? [each.chunk.length] : [])),
      [size, 1],
    );
  }
});

t.test('a body in pieces of any size is copied once at most, and there may be any number of them', async (t) => {
  const pieces = Array.from({ length: 5 }, (_, i) => Buffer.alloc(60_000, i));
  const body = Body.of(...pieces);
  const chunks: Buffer[] = [];
  for await (const chunk of body.chunks(65_535)) {
    chunks.push(chunk);
    for (const piece of body.pieces.slice(chunks.length)) {
      t.ok(
        pieces.some(({ buffer }) => buffer === piece.buffer),
        'what waits is still what came',
      );
    }
  }
  t.strictSame(
    chunks.map(({ length }) => length),
    [65_535, 65_535, 65_535, 65_535, 37_860],
  );
  t.ok(Buffer.concat(chunks).equals(Buffer.concat(pieces)));
  const large = Body.of(Buffer.alloc(65_535 + 10));
  for await (const chunk of large.chunks(65_535)) t.ok(chunk.length > 0);
  t.not(large.pieces[1]!.buffer, large.pieces[0]!.buffer, 'a small rest does not hold on to all');
  const many = Message.of(
    [],
    Array.from({ length: 200_000 }, () => Buffer.from('x')),
  );
  t.equal(many.body.length, 200_000);
});

t.test('P9 a header above 64 KiB is sent as Postfix does, and refused as Sendmail does', async (t) => {
  const message = `Long: ${'x'.repeat(100_000)}\r\n\r\nbody`;
  const { seen, after } = await shown(message);
  t.equal(seen[0]?.length, 100_005);
  t.equal(after.toString(), message);
  const { stream, heard } = fakeMilter();
  const client = new MilterClient(stream, { like: 'sendmail' });
  await client.connect();
  await t.rejects(client.send({ from: '', to: ['b'], message }), {
    code: 'ERR_MILTER_PACKET_TOO_LARGE',
    packet: 'header',
  });
  t.equal(heard.at(-1)?.type, 'abort', 'the milter hears that the message is off');
  t.match(
    await client.send({ from: '', to: ['b'], message: 'A: 1\r\n\r\n' }),
    { verdict: 'accept' },
    'the next one is played',
  );
});

t.test('what is no header is refused before anything is sent, with the number of its line', async (t) => {
  const { stream, heard } = fakeMilter();
  const client = new MilterClient(stream);
  await client.connect();
  const said = heard.length;
  for (const [message, words] of [
    [
      'A: 1\r\n folded\r\nno colon here\r\nB: 2\r\n\r\n',
      /^Line 3 of the message is no header, it has no name and colon: "no colon here\\r\\n"/,
    ],
    [': no name\r\n\r\n', /^Line 1 .* no name and colon/],
    [' begins with a fold: 1\r\n\r\n', /^Line 1 .* no name and colon/],
    ['A: 1\n\tfolded\n\tagain\nno colon\n', /^Line 4 /],
    ['A: 1\r\nno\r\n colon: here\r\n', /^Line 2 /],
    ['A: a\0b\r\n\r\n', /^Line 1 .* it holds a NUL/],
  ] as const) {
    await t.rejects(client.send({ from: '', to: ['b'], message }), { code: 'ERR_MILTER_ARGUMENT', message: words });
  }
  await t.rejects(client.send({ from: '', to: ['b'], message: 7 as unknown as string }), {
    code: 'ERR_MILTER_ARGUMENT',
    message: 'The message must be a Buffer, a string or a stream of them, got 7',
  });
  await t.rejects(client.send({ from: '', to: [], message: '' }), {
    code: 'ERR_MILTER_ARGUMENT',
    message: /to is empty/,
  });
  t.equal(heard.length, said);
  t.match(await client.send({ from: '', to: ['b'], message: new Uint8Array(bytes('A: 1\n')) }), { verdict: 'accept' });
});

t.test('an address that no packet can carry costs the message, not the connection', async (t) => {
  const { stream, heard } = fakeMilter();
  const client = new MilterClient(stream);
  await client.connect();
  await t.rejects(client.send({ from: '', to: ['a', 'b\0'], message: '' }), {
    code: 'ERR_MILTER_VALUE',
    message: /NUL/,
  });
  t.equal(heard.at(-1)?.type, 'abort');
  t.match(await client.send({ from: '', to: ['a'], message: '' }), { verdict: 'accept' });
});

t.test('Message: its headers can be found by name and number', async (t) => {
  const message = Message.parse('A: 1\r\nb: 2\r\na: 3\r\n\r\n');
  t.strictSame([message.find('a', 1), message.find('A', 2), message.find('B', 0), message.find('a', 3)], [0, 2, 1, -1]);
});

// A folder of messages can be played whole: MILTER_CORPUS names it.

/** Without what Postfix drops before a milter hears of it: message_drop_headers, and spaces before a colon. */
function asPostfixTakes(text: string): string {
  const end = /(?<=^|\n)\r?\n/.exec(text)?.index ?? text.length;
  const head = text
    .slice(0, end)
    .replaceAll(/^(?:bcc|content-length|resent-bcc|return-path)[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*/gim, '')
    .replaceAll(/^([^\s:][^:\r\n]*?)[ \t]+:/gm, '$1:');
  return head + text.slice(end);
}

const corpus = process.env['MILTER_CORPUS'];
const skip = corpus === undefined && 'MILTER_CORPUS names no folder of *.eml files: no collected mail was played';

t.test('P147 every message of a folder comes out byte for byte, but for what Postfix drops', { skip }, async (t) => {
  const files = readdirSync(corpus!, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.eml'));
  t.not(files.length, 0, `${corpus} has messages`);
  let refused = 0;
  for (const file of files.toSorted()) {
    const before = readFileSync(join(corpus!, file));
    const text = before.toString('latin1');
    const crlf = /^[^\n]*[^\r\n]\n|^\n/.test(text) ? text.replace(/(?<!\r)\n/g, '\r\n') : text;
    const expected = asPostfixTakes(crlf);
    try {
      const { after, body, seen } = await shown(before);
      t.ok(after.equals(bytes(expected)), file);
      t.ok(after.subarray(after.length - body.length).equals(body), `${file}: the milter has seen its body`);
      t.equal(seen.at(-1), '--');
    } catch (error) {
      if (!(error instanceof MilterError) || error.code !== 'ERR_MILTER_ARGUMENT') throw error;
      const line = crlf.split(/\r?\n/)[Number(/^Line (\d+)/.exec(error.message)?.[1]) - 1];
      t.match(line, /^([^:]*|[ \t:].*)$/, `${file} has a line without a colon among its headers`);
      refused++;
    }
  }
  t.comment(
    `${files.length - refused} of ${files.length} messages played; ${refused} have a line among their headers that is none`,
  );
});
