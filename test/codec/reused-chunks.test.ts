// Reading from memory that is used again: nothing of a packet may be a view of it.
import t from 'tap';
import { commandParser, replyParser, type OddPacket } from '../../lib/codec/index.js';
import type { PacketBase } from '../../lib/codec/table.js';
import { cut, hex, packet } from '../helpers/bytes.js';
import { commands, replies } from '../helpers/packets.js';

const all = (fixtures: ReadonlyArray<{ hex: string }>): Buffer => Buffer.concat(fixtures.map((each) => hex(each.hex)));
const SIZES = [1, 2, 5, 7, 64, 1460, 100_000];

for (const lenient of [false, true]) {
  for (const { name, bytes, parser } of [
    { name: 'commands', bytes: all(commands), parser: commandParser },
    { name: 'replies', bytes: all(replies), parser: replyParser },
  ]) {
    t.test(
      `${name}, ${lenient ? 'lenient' : 'strict'}: what was read stays as it is when the memory changes`,
      async (t) => {
        const odd = lenient
          ? Buffer.concat([packet('~', Buffer.from('what')), packet('L', Buffer.from('no NUL'))])
          : '';
        const traffic = Buffer.concat([bytes, Buffer.from(odd)]);
        const plain: Array<PacketBase | OddPacket> = [];
        parser({ lenient }).parse(traffic, { packet: (each) => plain.push(each) });
        for (const size of SIZES) {
          const memory = Buffer.alloc(size);
          const got: Array<PacketBase | OddPacket> = [];
          const reader = parser({ lenient, reusedChunks: true });
          for (const piece of cut(traffic, size)) {
            piece.copy(memory);
            reader.parse(memory.subarray(0, piece.length), { packet: (each) => got.push(each) });
            memory.fill(0xff);
          }
          reader.end();
          t.strictSame(got, plain, `in pieces of ${size}`);
          const shared = got.filter(({ raw }) => raw?.buffer === memory.buffer);
          t.strictSame(shared, [], 'no view of it');
        }
      },
    );
  }
}

t.test('a packet that lies whole in such memory has no raw; a torn one, which was gathered, has', async (t) => {
  const seen: Array<Buffer | undefined> = [];
  const sink = { packet: ({ raw }: PacketBase) => seen.push(raw) };
  const bytes = packet('L', 'a', 'b');
  const parser = commandParser({ reusedChunks: true });
  parser.parse(bytes, sink);
  for (const piece of cut(bytes, 5)) parser.parse(piece, sink);
  t.strictSame(seen, [undefined, bytes]);
});
