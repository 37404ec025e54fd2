/** The limit of a decoder: adds up lengths and looks at nothing else. */
export function bareWalk(chunks: readonly Buffer[]): number {
  let count = 0;
  let skip = 0;
  const head = Buffer.alloc(4);
  let headBytes = 0;
  for (const chunk of chunks) {
    let at = 0;
    while (at < chunk.length) {
      if (skip > 0) {
        const step = Math.min(skip, chunk.length - at);
        at += step;
        skip -= step;
      } else if (headBytes === 0 && chunk.length - at >= 4) {
        skip = chunk.readUInt32BE(at);
        at += 4;
        count++;
      } else {
        head[headBytes++] = chunk[at++] as number;
        if (headBytes < 4) continue;
        skip = head.readUInt32BE(0);
        headBytes = 0;
        count++;
      }
    }
  }
  return count;
}
