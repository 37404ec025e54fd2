/**
 * `npm run bench -- codec`: how many packets a second the codec's pure functions read and write, beside a bare walk over
 * the frames (the limit) and two other protocols' libraries on packets of like size.
 */
import { commandParser, encodeReply } from 'milter-stream/codec';
import { bareWalk } from './lib/bare-walk.js';
import type { Group, Line } from './lib/measure.js';
import { otherLines } from './lib/others.js';
import { cut, decodeTraffic, encodeTraffic, label, type Packets } from './lib/packets.js';
import { throughput } from './lib/throughput.js';

/** Whatever comes out is counted, so that the work cannot be optimised away. */
let seen = 0;
const sink = {
  packet(): void {
    seen++;
  },
};

function decodeLines({ name, bytes, amount }: Packets, chunkSize: number): Line[] {
  const chunks = cut(bytes, chunkSize);
  return [
    throughput(label(name, chunkSize), 'bare frame walk (limit)', () => {
      seen += bareWalk(chunks);
      return amount;
    }),
    throughput(label(name, chunkSize), 'decode, pure', () => {
      const parser = commandParser();
      for (const chunk of chunks) parser.parse(chunk, sink);
      return amount;
    }),
  ];
}

/** The libraries of other protocols stand below the traffic they are to be compared with. */
function besideTheirLikes(lines: Line[], others: Line[]): Line[] {
  const traffics = new Set(lines.map(({ traffic }) => traffic));
  return [...traffics].flatMap((traffic) => [...lines, ...others].filter((line) => line.traffic === traffic));
}

export const codec: Group = {
  name: 'codec',
  about: 'pure functions in this process, packets of one kind one behind the other',
  rounds: 5,
  seconds: 0.4,
  lines() {
    const decode = decodeTraffic().flatMap(({ packets, chunkSizes }) =>
      chunkSizes.flatMap((chunkSize) => decodeLines(packets, chunkSize)),
    );
    const encode = encodeTraffic().map(({ name, reply, amount }) =>
      throughput(name, 'encode, pure', () => {
        for (let i = 0; i < amount.packets; i++) seen += encodeReply(reply).length;
        return amount;
      }),
    );
    return [
      ...besideTheirLikes(
        decode,
        otherLines(() => seen++),
      ),
      ...encode,
    ];
  },
};
