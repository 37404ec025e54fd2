/**
 * What has changed between two texts, line by line. What is alike at both ends is left out of the search for the longest
 * common subsequence, whose table grows with the product of what remains: beyond a limit one is taken for gone and the
 * other for new.
 */

export interface Edit {
  readonly mark: ' ' | '-' | '+';
  readonly line: string;
}

/** Most cells of the table: 2,000 lines on either side. */
const MOST_CELLS = 4_000_000;

export function diffLines(before: readonly string[], after: readonly string[]): Edit[] {
  const most = Math.min(before.length, after.length);
  let head = 0;
  while (head < most && before[head] === after[head]) head++;
  let tail = 0;
  while (tail < most - head && before.at(-1 - tail) === after.at(-1 - tail)) tail++;
  const gone = before.slice(head, before.length - tail);
  const come = after.slice(head, after.length - tail);
  return [
    ...marked(' ', before.slice(0, head)),
    ...(gone.length * come.length > MOST_CELLS ? [...marked('-', gone), ...marked('+', come)] : compared(gone, come)),
    ...marked(' ', before.slice(before.length - tail)),
  ];
}

function marked(mark: Edit['mark'], lines: readonly string[]): Edit[] {
  return lines.map((line) => ({ mark, line }));
}

function compared(a: readonly string[], b: readonly string[]): Edit[] {
  // common[i, j]: how long the longest common subsequence is of what a has from i on, and b from j on.
  const width = b.length + 1;
  const common = new Uint32Array((a.length + 1) * width);
  const at = (i: number, j: number): number => common[i * width + j] as number;
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i * width + j] = a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const edits: Edit[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const [old, young] = [a[i] as string, b[j] as string];
    if (i < a.length && j < b.length && old === young) {
      edits.push({ mark: ' ', line: old });
      i++;
      j++;
    } else if (j === b.length || (i < a.length && at(i + 1, j) >= at(i, j + 1))) {
      edits.push({ mark: '-', line: old });
      i++;
    } else {
      edits.push({ mark: '+', line: young });
      j++;
    }
  }
  return edits;
}
