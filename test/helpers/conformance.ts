/**
 * Holds the last column of test/CONFORMANCE.md against the titles of the tests, which begin with the numbers they prove.
 *
 *   npx tsx test/helpers/conformance.ts            says where the two disagree
 *   npx tsx test/helpers/conformance.ts --write    makes the column anew
 *
 * A title is any string that begins with a number, wherever it stands in a test file: tests are made in loops and from
 * tables, too. One given to `t.skip()` or `t.todo()` proves nothing.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import ts from 'typescript';

const FOLDER = fileURLToPath(new URL('..', import.meta.url));
const DOCUMENT = join(FOLDER, 'CONFORMANCE.md');

/** What to do when document and titles disagree and the titles are right. */
export const REMEDY = 'npx tsx test/helpers/conformance.ts --write';

/** Says in its examples what is no proof. */
const OWN_TEST = 'conformance.test.ts';

/** What stands in the last column of a number that no title has. */
const NOT_YET = 'not yet';

// ---- titles ---------------------------------------------------------------------------------------------------------

/** A number or a range, as in `P5`, `P1-P3`, `P1–3` and `P1 to P3`. */
const ITEM = /P(\d+)(?:(?:[-–]P?|\s+(?:[-–]|to)\s+P)(\d+))?/;
const ITEMS = new RegExp(String.raw`^${ITEM.source}(?:(?:\s*[,;&+/]\s*|\s+(?:and\s+)?)${ITEM.source})*(?=[\s:.,])`);

/** The numbers that a title begins with; none for a string that is no title. A range that runs backwards is empty. */
export function numbersOf(title: string): number[] {
  const items = ITEMS.exec(title)?.[0].matchAll(new RegExp(ITEM, 'g')) ?? [];
  return [...items].flatMap(([, first, last = first]) => {
    const length = Math.max(0, Number(last) - Number(first) + 1);
    return Array.from({ length }, (_, i) => Number(first) + i);
  });
}

/** The titles in the source of a test. Of one that is put together while it runs, the text before the first gap. */
export function titlesIn(source: string): string[] {
  const titles: string[] = [];
  const look = (node: ts.Node): void => {
    if ((ts.isStringLiteralLike(node) || ts.isTemplateHead(node)) && ITEMS.test(node.text) && !isLeftOut(node)) {
      titles.push(node.text);
    }
    ts.forEachChild(node, look);
  };
  look(ts.createSourceFile('test.ts', source, ts.ScriptTarget.Latest, true));
  return titles;
}

function isLeftOut(title: ts.Node): boolean {
  const argument = ts.isTemplateHead(title) ? title.parent : title;
  const call = argument.parent;
  if (!ts.isCallExpression(call) || call.arguments[0] !== argument) return false;
  return ts.isPropertyAccessExpression(call.expression) && ['skip', 'todo'].includes(call.expression.name.text);
}

/** A title and the file it is in, named from the folder of the tests. */
export interface Title {
  readonly file: string;
  readonly title: string;
}

/** The titles of all tests below a folder. */
export async function readTitles(folder: string = FOLDER): Promise<Title[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => entry.isFile() && entry.name !== OWN_TEST)
    .filter((entry) => entry.name.endsWith('.test.ts') || entry.parentPath.endsWith(`${sep}suite`))
    .map((entry) => join(entry.parentPath, entry.name));
  const titles = files.map(async (path) => {
    const file = relative(folder, path).split(sep).join('/');
    return titlesIn(await readFile(path, 'utf8')).map((title) => ({ file, title }));
  });
  return (await Promise.all(titles)).flat();
}

/** The files that prove a number, in order. */
function filesOf(number: number, titles: readonly Title[]): string[] {
  const files = titles.filter(({ title }) => numbersOf(title).includes(number)).map(({ file }) => file);
  return [...new Set(files)].toSorted();
}

// ---- the document ---------------------------------------------------------------------------------------------------

/** Number, side, statement, files. */
const ROW = /^\| P(\d+) \| ([CSMX](?: [CSMX])*) \| (.+) \| ([^|]*) \|$/;

/** A row of the document. */
export interface Row {
  readonly number: number;
  readonly files: readonly string[];
}

/** The row that a line of the document is; undefined for every other line. */
export function rowOf(line: string): Row | undefined {
  const row = ROW.exec(line);
  if (row === null) return undefined;
  const files = (row[4] as string).split(', ').filter((file) => file !== NOT_YET);
  return { number: Number(row[1]), files };
}

/** The document with a last column that says what the titles say. */
export function rewrite(document: string, titles: readonly Title[]): string {
  const lines = document.split('\n').map((line) => {
    const row = rowOf(line);
    if (row === undefined) return line;
    const files = filesOf(row.number, titles).join(', ');
    return line.replace(/[^|]*\|$/, () => ` ${files === '' ? NOT_YET : files} |`);
  });
  return lines.join('\n');
}

// ---- the two of them ------------------------------------------------------------------------------------------------

/** Where document and titles disagree, a line for each; none where all is well. */
export function differences(document: string, titles: readonly Title[]): string[] {
  const lines = document.split('\n');
  const rows = lines.flatMap((line) => rowOf(line) ?? []);
  return [...badRows(lines, rows), ...badTitles(rows, titles), ...badColumn(rows, titles)];
}

function badRows(lines: readonly string[], rows: readonly Row[]): string[] {
  const unreadable = lines
    .filter((line) => /^\|\s*P\d/.test(line) && rowOf(line) === undefined)
    .map((line) => `the document has a row that cannot be read: ${line}`);
  const misplaced = rows
    .filter(({ number }, i) => number !== i + 1)
    .map(({ number }) => `P${number} stands in the wrong place of the document, or the one before it is missing`);
  return [...unreadable, ...misplaced.slice(0, 1)];
}

function badTitles(rows: readonly Row[], titles: readonly Title[]): string[] {
  const known = new Set(rows.map(({ number }) => number));
  return titles.flatMap(({ file, title }) => {
    const numbers = numbersOf(title);
    const where = `${file}, ${JSON.stringify(title)}`;
    if (numbers.length === 0) return [`a range runs backwards: ${where}`];
    return numbers.filter((number) => !known.has(number)).map((number) => `P${number} does not exist: ${where}`);
  });
}

function badColumn(rows: readonly Row[], titles: readonly Title[]): string[] {
  return rows.flatMap(({ number, files }) => {
    const proved = filesOf(number, titles);
    const missing = proved.filter((file) => !files.includes(file));
    const surplus = files.filter((file) => !proved.includes(file));
    return [
      ...missing.map((file) => `P${number} is covered by ${file}, and the document does not list it`),
      ...surplus.map((file) => `P${number} is listed with ${file}, where no title has it`),
    ];
  });
}

/** The differences as the tool prints them. */
export function complaint(found: readonly string[]): string {
  return [
    'test/CONFORMANCE.md and the titles of the tests disagree:',
    ...found.map((line) => `  ${line}`),
    `Mend the titles, or make the column anew: ${REMEDY}`,
  ].join('\n');
}

/** The document as it is. */
export function readDocument(): Promise<string> {
  return readFile(DOCUMENT, 'utf8');
}

async function main(write: boolean): Promise<void> {
  const titles = await readTitles();
  let document = await readDocument();
  if (write) {
    document = rewrite(document, titles);
    await writeFile(DOCUMENT, document);
  }
  const found = differences(document, titles);
  if (found.length > 0) {
    console.error(complaint(found));
    process.exitCode = 1;
    return;
  }
  const rows = document.split('\n').flatMap((line) => rowOf(line) ?? []);
  const covered = rows.filter(({ files }) => files.length > 0).length;
  console.log(`test/CONFORMANCE.md: ${covered} of ${rows.length} statements have a test`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main(process.argv.includes('--write'));
