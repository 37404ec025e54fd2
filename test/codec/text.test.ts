// Bytes and strings without loss: valid UTF-8 as it reads, every other byte as a lone surrogate (as Python's PEP 383).
import * as fc from 'fast-check';
import t from 'tap';
import { decodeCommand, encodeReply, MilterError, toBytes, toText } from '../../lib/codec/index.js';
import { decodeText } from '../../lib/codec/text.js';
import { packet, str } from '../helpers/bytes.js';

/** Bytes as they come in mail: text, torn characters, Latin-1, and anything at all. */
const fragments = fc.oneof(
  fc.uint8Array({ maxLength: 8 }),
  fc.string({ unit: 'binary', maxLength: 8 }).map((text) => Buffer.from(text, 'utf8')),
  fc.constantFrom(
    ...['c3', 'e2 82', 'f0 9f 98', 'ed a0 80', 'ed bf bf', 'f4 90 80 80', 'c0 80', 'e0 80 80', 'f8 88 80 80 80']
      .concat(['ef bb bf', 'ef bf bd', 'ff fe', '80', 'bf', '00', 'f0 8f bf bf', 'fe', 'ff'])
      .map((digits) => Buffer.from(digits.replaceAll(' ', ''), 'hex')),
  ),
);
const anyBytes = fc.array(fragments, { maxLength: 12 }).map((parts) => Buffer.concat(parts));

/** The rule once more, in the slowest way: the first character that a strict decoder takes, else one byte. */
function textByHand(bytes: Buffer): string {
  const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let text = '';
  let at = 0;
  next: while (at < bytes.length) {
    for (let size = 1; size <= 4 && at + size <= bytes.length; size++) {
      try {
        text += strict.decode(bytes.subarray(at, at + size));
        at += size;
        continue next;
      } catch {
        // A longer piece may be a character.
      }
    }
    text += String.fromCharCode(0xdc00 + (bytes[at++] as number));
  }
  return text;
}

/** The bytes of a string by the rule, or undefined where there are none. */
function bytesByHand(text: string): Buffer | undefined {
  const parts: Buffer[] = [];
  for (const character of text) {
    const unit = character.charCodeAt(0);
    if (character.length === 2 || unit < 0xd800 || unit > 0xdfff) parts.push(Buffer.from(character, 'utf8'));
    else if (unit >= 0xdc80 && unit <= 0xdcff) parts.push(Buffer.of(unit & 0xff));
    else return undefined;
  }
  return Buffer.concat(parts);
}

t.test('P11 P12 toBytes(toText(bytes)) is bytes, for all bytes', async (t) => {
  fc.assert(
    fc.property(anyBytes, (bytes) => toBytes(toText(bytes)).equals(bytes)),
    { numRuns: 3000 },
  );
  for (let byte = 0; byte < 256; byte++) {
    const bytes = Buffer.of(byte);
    if (!toBytes(toText(bytes)).equals(bytes)) t.fail(`0x${byte.toString(16)}`);
  }
  const all = Buffer.from(Array.from({ length: 65_536 }, (_, i) => [i >> 8, i & 0xff]).flat());
  t.ok(toBytes(toText(all)).equals(all), 'all pairs of bytes, behind one another');
});

t.test('P11 toText() is valid UTF-8 as it reads, and each other byte by itself', async (t) => {
  fc.assert(
    fc.property(anyBytes, (bytes) => toText(bytes) === textByHand(bytes)),
    { numRuns: 2000 },
  );
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => toText(Buffer.from(text, 'utf8')) === text),
    { numRuns: 1000 },
  );
  t.equal(toText(Buffer.from('Grüße, 世界 😀')), 'Grüße, 世界 😀');
  t.equal(toText(Buffer.from('caf\xe9', 'latin1')), 'caf\udce9');
  t.equal(toText(Buffer.alloc(0)), '');
  t.equal(toText(Buffer.of(0xef, 0xbb, 0xbf, 0x41)), '\ufeffA', 'a byte order mark is a character like others');
  t.equal(toText(Buffer.of(0xef, 0xbf, 0xbd)), '\ufffd', 'so is U+FFFD');
  t.equal(toText(Buffer.of(0xed, 0xb2, 0x80)), '\udced\udcb2\udc80', 'a surrogate in UTF-8 is no UTF-8');
  t.equal(toText(Buffer.of(0xf0, 0x9f, 0x98, 0x80, 0x80)), '😀\udc80', 'an escape right behind a pair');
});

t.test('P11 toBytes() is UTF-8, a byte for each escape, and an error for what stands for no byte', async (t) => {
  const anyUnits = fc
    .array(fc.oneof(fc.nat(0xffff), fc.integer({ min: 0xd800, max: 0xdfff }), fc.integer({ min: 0xdc80, max: 0xdcff })))
    .map((units) => String.fromCharCode(...units));
  fc.assert(
    fc.property(anyUnits, (text) => {
      const wanted = bytesByHand(text);
      try {
        const bytes = toBytes(text);
        return wanted !== undefined && wanted.equals(bytes);
      } catch (error) {
        return wanted === undefined && error instanceof MilterError && error.code === 'ERR_MILTER_TEXT';
      }
    }),
    { numRuns: 3000 },
  );
  for (const lone of ['\ud800', '\udbff', '\udc00', '\udc7f', '\udd00', '\udfff']) {
    for (const text of [lone, `a${lone}`, `${lone}b\udce9`, `\udce9${lone}`, `😀${lone}`]) {
      const name = `U+${lone.charCodeAt(0).toString(16).toUpperCase()}`;
      t.throws(() => toBytes(text), { code: 'ERR_MILTER_TEXT', message: `The lone surrogate ${name} stands for no` });
    }
  }
  t.strictSame(toBytes('\ud83d\ude00'), Buffer.of(0xf0, 0x9f, 0x98, 0x80), 'a proper pair is one character');
  t.strictSame(toBytes('\udc80\udcff'), Buffer.of(0x80, 0xff));
  t.strictSame(toBytes(''), Buffer.alloc(0));
});

t.test('Buffer.from() destroys what toBytes() keeps, which is why there is a toBytes()', async (t) => {
  const text = toText(Buffer.of(0xe9));
  t.strictSame(toBytes(text), Buffer.of(0xe9));
  t.strictSame(Buffer.from(text), Buffer.of(0xef, 0xbf, 0xbd));
  t.equal(JSON.parse(JSON.stringify(text)), text, 'JSON keeps it');
  t.equal(structuredClone(text), text, 'and so does a message to a worker');
});

t.test('P11 a part of a buffer, and a plain Uint8Array, read as their own bytes alone', async (t) => {
  const bytes = Buffer.from('é|caf\xe9|é', 'latin1');
  t.equal(decodeText(bytes, 2, 6), 'caf\udce9');
  t.equal(decodeText(bytes, 2, 5), 'caf');
  t.equal(decodeText(bytes, 3, 3), '');
  const plain = new Uint8Array([0x41, 0xc3, 0xa9, 0x42]).subarray(1, 3);
  t.equal(toText(plain), 'é');
  const torn = Buffer.from('é€😀');
  for (let at = 0; at <= torn.length; at++) {
    const [head, tail] = [toText(torn.subarray(0, at)), toText(torn.subarray(at))];
    t.ok(Buffer.concat([toBytes(head), toBytes(tail)]).equals(torn), `a character torn at ${at}`);
  }
});

t.test('P11 P12 P101 8-bit text goes through packets unharmed, wherever it stands', async () => {
  const noNul = anyBytes.map((bytes) => Buffer.from(bytes.filter((byte) => byte !== 0)));
  fc.assert(
    fc.property(noNul, noNul, noNul, (a, b, c) => {
      const command = decodeCommand(packet('D', Buffer.from('C'), str(a), str(b), str(c), str(a)));
      const header = encodeReply({ type: 'insHeader', index: 1, name: `X${toText(a)}`, value: toText(b) });
      return (
        command.type === 'macro' &&
        JSON.stringify(command.macros) ===
          JSON.stringify([
            [toText(a), toText(b)],
            [toText(c), toText(a)],
          ]) &&
        header.equals(packet('i', Buffer.of(0, 0, 0, 1), str(Buffer.concat([Buffer.from('X'), a])), str(b)))
      );
    }),
    { numRuns: 1000 },
  );
});
