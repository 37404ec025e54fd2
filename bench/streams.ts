/**
 * `npm run bench -- streams`: the same packets as in `codec`, through the Transforms: createDecoder() with a 'data'
 * listener behind it, createEncoder() with a Writable that drops everything.
 */
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createDecoder, createEncoder } from 'milter-stream';
import type { Group } from './lib/measure.js';
import { cut, decodeTraffic, encodeTraffic, label } from './lib/packets.js';
import { throughput } from './lib/throughput.js';

let seen = 0;

export const streams: Group = {
  name: 'streams',
  about: 'Transforms in this process, packets of one kind one behind the other',
  rounds: 5,
  seconds: 0.4,
  lines() {
    const decode = decodeTraffic().flatMap(({ packets: { name, bytes, amount }, chunkSizes }) =>
      chunkSizes.map((chunkSize) => {
        const chunks = cut(bytes, chunkSize);
        return throughput(label(name, chunkSize), 'decode, createDecoder()', async () => {
          const decoder = createDecoder();
          decoder.on('data', () => seen++);
          await pipeline(Readable.from(chunks, { objectMode: false }), decoder);
          return amount;
        });
      }),
    );
    const encode = encodeTraffic().map(({ name, reply, amount }) =>
      throughput(name, 'encode, createEncoder()', async () => {
        const drop = new Writable({ write: (_chunk, _encoding, done) => done() });
        await pipeline(Readable.from(Array.from({ length: amount.packets }, () => reply)), createEncoder(), drop);
        return amount;
      }),
    );
    return [...decode, ...encode];
  },
};
