// The document that says which test proves which statement, and the tool that keeps it true.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import {
  complaint,
  differences,
  numbersOf,
  readDocument,
  readTitles,
  REMEDY,
  rewrite,
  titlesIn,
  type Title,
} from './helpers/conformance.js';

await t.test('CONFORMANCE.md lists for each number the files whose titles have it', async (t) => {
  t.same(differences(await readDocument(), await readTitles()), [], `no differences; if there are: ${REMEDY}`);
});

await t.test('a title begins with numbers: one, several, ranges', (t) => {
  const cases: ReadonlyArray<readonly [title: string, numbers: number[]]> = [
    ['P5 a length', [5]],
    ['P2 P3 random packets', [2, 3]],
    ['P2, P3 and P7: packets', [2, 3, 7]],
    ['P1-P3 framing', [1, 2, 3]],
    ['P1–3 framing', [1, 2, 3]],
    ['P1 to P3 framing', [1, 2, 3]],
    ['P11 P42-P44 P55 every packet', [11, 42, 43, 44, 55]],
    ['P7-P7 one', [7]],
    ['P5 - 3 bytes are missing', [5]],
    ['P5 3 bytes are missing', [5]],
    ['P9-P3 backwards', []],
    ['P5', []],
    ['P5x a name', []],
    ['PROXY TCP4 1 2', []],
    ['as P5 says', []],
  ];
  for (const [title, numbers] of cases) t.same(numbersOf(title), numbers, title);
  t.end();
});

await t.test('titles are found wherever a test has them', (t) => {
  const source = `
    // 'P1 in a comment'
    t.test('P2 single quotes', () => {});
    t.test("P3 don't", () => {});
    t.test(
      \`P4 a template\`,
      () => {},
    );
    for (const name of ['a', 'b']) t.test(\`P5 a loop, \${name}\`, () => {});
    for (const [title, run] of [['P6 a table', () => 1]]) t.test(title, run);
    t.test('P7 ' + name, () => {});
    t.test('no number, and P8 is not at the beginning', () => {});
    t.skip('P9 left out', () => {});
    t.todo(\`P10 for \${later}\`);
    t.test('P11 half a test, as somebody types it', () => {`;
  t.same(titlesIn(source), [
    'P2 single quotes',
    "P3 don't",
    'P4 a template',
    'P5 a loop, ',
    'P6 a table',
    'P7 ',
    'P11 half a test, as somebody types it',
  ]);
  t.end();
});

await t.test('tests are looked for in all folders, helpers and the own examples left out', async (t) => {
  const folder = t.testdir({ 'a.test.ts': `t.test('P1 one')`, 'conformance.test.ts': `t.test('P2 an example')` });
  await mkdir(join(folder, 'deep', 'down'), { recursive: true });
  await writeFile(join(folder, 'deep', 'down', 'b.test.ts'), `t.test('P1 P3 two')`);
  await writeFile(join(folder, 'deep', 'helper.ts'), `t.test('P4 no test')`);
  const titles = await readTitles(folder);
  t.same(
    titles.toSorted((a, b) => a.file.localeCompare(b.file)),
    [
      { file: 'a.test.ts', title: 'P1 one' },
      { file: 'deep/down/b.test.ts', title: 'P1 P3 two' },
    ],
  );
});

const TITLES: readonly Title[] = [
  { file: 'codec/b.test.ts', title: 'P1-P2 both' },
  { file: 'codec/a.test.ts', title: 'P1 one' },
  { file: 'codec/a.test.ts', title: 'P1 again' },
];

const documentOf = (first: string, second: string, third: string): string => `# Numbers

| # | Side | Statement | Tests |
| --- | --- | --- | --- |
| P1 | C | Costs $& or $1. | ${first} |
| P2 | S M | Two. | ${second} |
| P3 | X | Three. | ${third} |
`;

const DOCUMENT = documentOf('old.test.ts', 'codec/b.test.ts', 'codec/a.test.ts');

await t.test('the column is made anew, the rest stays', (t) => {
  const written = rewrite(DOCUMENT, TITLES);
  t.equal(written, documentOf('codec/a.test.ts, codec/b.test.ts', 'codec/b.test.ts', 'not yet'));
  t.same(differences(written, TITLES), []);
  t.equal(rewrite(written, TITLES), written, 'a second time changes nothing');
  t.end();
});

await t.test('what is listed and what is covered must be the same', (t) => {
  t.same(differences(DOCUMENT, TITLES), [
    'P1 is covered by codec/a.test.ts, and the document does not list it',
    'P1 is covered by codec/b.test.ts, and the document does not list it',
    'P1 is listed with old.test.ts, where no title has it',
    'P3 is listed with codec/a.test.ts, where no title has it',
  ]);
  t.match(complaint(['P1 is wrong']), /disagree:\n  P1 is wrong\n.*conformance\.ts --write$/);
  t.end();
});

await t.test('numbers that do not exist, and ranges that run backwards, are named with their title', (t) => {
  const titles = [...TITLES, { file: 'x.test.ts', title: 'P3-P4 four' }, { file: 'y.test.ts', title: 'P2-P1 back' }];
  t.same(differences(rewrite(DOCUMENT, titles), titles), [
    'P4 does not exist: x.test.ts, "P3-P4 four"',
    'a range runs backwards: y.test.ts, "P2-P1 back"',
  ]);
  t.end();
});

await t.test('rows of the document are complete, in order and readable', (t) => {
  const without = DOCUMENT.replace(/\| P2 .*\n/, '');
  t.match(differences(without, []).join('\n'), /^P3 stands in the wrong place/);
  t.match(differences(`${DOCUMENT}| P4 | nobody | Four. | not yet |\n`, []).join('\n'), /cannot be read: \| P4 /);
  t.end();
});
